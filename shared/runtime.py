"""What a warm sandbox holds: one service, one log, one meter; and `@entrypoint`, which every handler wears.

`@entrypoint` logs, measures and turns errors into answers. It does not parse, inject or retry.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import Metrics, MetricUnit

from shared.delivery import Unavailable
from shared.events import Event, body_of, connection_of
from shared.messages import MessageRefused, id_of
from shared.presence import PresenceService
from shared.push import Pusher
from shared.settings import Settings
from shared.store import Store
from shared.upkeep import Upkeep

if TYPE_CHECKING:
    from shared.auth import Authenticator

Handler = Callable[[Any, Any], Any]

FLUSH_SECONDS = 5.0
"""How often a sandbox writes its numbers at most: a line for each event would cost more than the event."""
MOST_VALUES = 99
"""Values of one metric that one line may hold. The embedded metric format takes 100, and at that Powertools writes a
line at once, before the others have come to it."""

logger = Logger(service=os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "presence"))


class Meter:
    """Counts and durations, added up in the sandbox and written as one metric line every few seconds.

    Their one dimension is the deployment, since each further value of a dimension is billed as a metric of its own; the
    line also names the function, for whoever searches the log. What a sandbox has not written when it is taken away is
    lost: at most a few seconds of one sandbox's numbers.
    """

    def __init__(self, deployment: str, function: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._metrics, self._function = Metrics(namespace="Presence", service=deployment), function
        self._monotonic, self._flushed = monotonic, monotonic()
        self._counts: Counter[str] = Counter()
        self._times: defaultdict[str, list[float]] = defaultdict(list)

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter."""
        self._counts[name] += amount  # type: ignore[assignment]

    def time(self, name: str, ms: float) -> None:
        """Note how long something took, in ms."""
        if len(self._times[name]) < MOST_VALUES:
            self._times[name].append(ms)

    def flush(self) -> None:
        """Write what has come together, if it is time."""
        now = self._monotonic()
        if now - self._flushed < FLUSH_SECONDS or not (self._counts or self._times):
            return
        self._flushed = now
        for name, amount in self._counts.items():
            self._metrics.add_metric(name=name, unit=MetricUnit.Count, value=amount)
        for name, values in self._times.items():
            for value in values:
                self._metrics.add_metric(name=name, unit=MetricUnit.Milliseconds, value=round(value, 3))
        self._counts.clear()
        self._times.clear()
        self._metrics.add_metadata(key="function", value=self._function)
        self._metrics.flush_metrics()


@functools.cache
def settings() -> Settings:
    """The settings of this sandbox, its secrets read."""
    given = Settings.from_env()
    secrets = {
        "jwt_secret": given.jwt_secret_arn and _secret(given.jwt_secret_arn),
        "redis_url": given.redis_url_arn and _secret(given.redis_url_arn),
    }
    return given.model_copy(update={name: value for name, value in secrets.items() if value})


def _secret(arn: str) -> str:
    import boto3  # Lambda's own; a tenth of a second that only the start of a sandbox pays

    secret: str = boto3.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    return secret


@functools.cache
def meter() -> Meter:
    """The meter of this sandbox."""
    deployment = os.environ.get("POWERTOOLS_SERVICE_NAME", "Presence")
    return Meter(deployment, os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "presence"))


@functools.cache
def store() -> Store:
    """The state, as this sandbox reaches it."""
    return Store.connect(settings(), meter())


@functools.cache
def pusher() -> Pusher:
    """What reaches clients from this sandbox."""
    return Pusher(settings(), meter())


@functools.cache
def service() -> PresenceService:
    """The service of this sandbox; made at its first event, kept while it is warm."""
    return PresenceService(store(), pusher(), settings(), now_ms, meter())


@functools.cache
def upkeep() -> Upkeep:
    """The upkeep of this sandbox."""
    return Upkeep(store(), pusher(), settings(), now_ms, meter())


@functools.cache
def authenticator(kind: type[Authenticator]) -> Authenticator:
    """What verifies tokens in this sandbox.

    Whoever verifies tokens brings the class: with it comes cryptography, a third of a start. It is not imported in here
    when it is first needed, since where functions share a process only imports of a start find the sandbox's own copy.
    """
    return kind(settings())


def now_ms() -> int:
    """The time, in ms since the epoch."""
    return time.time_ns() // 1_000_000


def pseudonym(user_id: str) -> str:
    """A user id as logs may hold it: the same for the same user, and no way back without the key."""
    return hashlib.blake2b(user_id.encode(), key=settings().log_key.encode()[:64], digest_size=8).hexdigest()


def entrypoint(handler: Handler) -> Handler:
    """Log, measure and answer errors of a handler.

    A message that was refused, or that came while the state cannot be reached, is answered with an `error` frame. Any
    other error goes on to Lambda, which logs it and lets API Gateway answer without a stack trace.
    """

    @functools.wraps(handler)
    def handle(event: Event, context: Any) -> Any:
        about = event.get("requestContext", {})
        logger.set_correlation_id(about.get("requestId"))
        logger.append_keys(connection=about.get("connectionId"), route=about.get("routeKey"))
        try:
            return handler(event, context)
        except (MessageRefused, Unavailable) as error:
            if about.get("eventType") != "MESSAGE":
                raise
            _answer(event, error)
            return {"statusCode": 200}
        except Exception:
            logger.exception("event failed", user=_who(event))
            meter().count("Errors")
            raise
        finally:
            meter().flush()

    return handle


def _answer(event: Event, error: MessageRefused | Unavailable) -> None:
    if isinstance(error, Unavailable):
        logger.warning("unavailable", user=_who(event), reason=str(error))
        error = MessageRefused(
            "unavailable", "presence is unavailable; try again", id=id_of(body_of(event)), retry_after=error.retry_after
        )
    meter().count("MessagesRefused")
    service().reply(event["requestContext"]["connectionId"], error.frame())


def _who(event: Event) -> str | None:
    try:
        return pseudonym(connection_of(event).user_id)
    except (KeyError, TypeError):
        return None
