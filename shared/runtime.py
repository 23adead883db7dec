"""What every handler has: settings, a log, metrics, and `@entrypoint`, which does not parse, inject or retry.

What handlers that use the service have besides is in `environment.py`, so that the authorizer imports neither Redis
nor the fan-out.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger

from shared.delivery import Unavailable
from shared.metrics import Metrics
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.auth import Authenticator

Handler = Callable[[Any, Any], Any]

logger = Logger(service=os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "presence"))


@functools.cache
def settings() -> Settings:
    """The settings of this environment, with its secrets read."""
    given = Settings.from_env()
    secrets = {
        "jwt_secret": given.jwt_secret_arn and _secret(given.jwt_secret_arn),
        "redis_url": given.redis_url_arn and _secret(given.redis_url_arn),
    }
    return given.model_copy(update={name: value for name, value in secrets.items() if value})


def _secret(arn: str) -> str:
    import boto3  # Lambda's own; a tenth of a second that only the start of an environment pays

    secret: str = boto3.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    return secret


@functools.cache
def metrics() -> Metrics:
    """The metrics of this environment."""
    deployment = os.environ.get("POWERTOOLS_SERVICE_NAME", "Presence")
    return Metrics(deployment, os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "presence"))


@functools.cache
def authenticator(kind: type[Authenticator]) -> Authenticator:
    """What verifies tokens in this environment.

    A handler that verifies tokens passes the class: its module imports cryptography, a third of a start. It is not
    imported here when it is first needed: where functions share a process, only imports at the start find an
    environment's own copy.
    """
    return kind(settings())


def now_ms() -> int:
    """The time, in ms since the epoch."""
    return time.time_ns() // 1_000_000


def pseudonym(user_id: str) -> str:
    """A user id for the log: the same for the same user, and not reversible without the key."""
    return hashlib.blake2b(user_id.encode(), key=settings().log_key.encode()[:64], digest_size=8).hexdigest()


def entrypoint(handler: Handler) -> Handler:
    """Log and measure a handler.

    An error goes on to Lambda, which logs it and lets API Gateway answer without a stack trace. `Unavailable` does so
    without an entry of its own: the store has counted it.
    """

    @functools.wraps(handler)
    def handle(event: Any, context: Any) -> Any:
        about = event.get("requestContext", {})
        logger.set_correlation_id(about.get("requestId"))
        logger.append_keys(connection=about.get("connectionId"), route=about.get("routeKey"))
        try:
            return handler(event, context)
        except Unavailable:
            raise
        except Exception:
            logger.exception("event failed", user=user_of(event))
            metrics().count("Errors")
            raise
        finally:
            metrics().flush()

    return handle


def user_of(event: Any) -> str | None:
    """The pseudonym of an event's user, where it has one."""
    try:
        return pseudonym(event["requestContext"]["authorizer"]["userId"])
    except (KeyError, TypeError):
        return None
