"""Keys and script calls: the one way to the state in Redis (or Valkey, or a cluster of either).

A *round trip* is one pipeline for each node, with one script call for each bucket (or for each 250 commands of one),
on all nodes at the same time. What the scripts do is in `lua/`; nothing here decides anything about presence.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from binascii import crc32
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from secrets import randbits
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import (
    AskError,
    ClusterDownError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.retry import Retry

from shared.cluster import Answer, Router
from shared.commands import Command, SignedOut, TooManyCalls
from shared.delivery import Metrics, Unavailable
from shared.elasticache import IamTokens
from shared.responses import Response, Unreadable
from shared.script import Script, script_for
from shared.settings import Settings, SettingsError

_logger = logging.getLogger(__name__)

KINDS = ("user", "contacts", "sees", "hidden", "settings", "tell", "pending")
"""The kinds of keys that a user has, in the order in which the scripts expect them."""
FACTS = ("contacts", "hidden", "settings")
"""The kinds that hold what the application or the user gave, and that nothing else could restore."""

TIMEOUT = 1.0
"""Seconds to wait for Redis. A round trip takes about a millisecond, so a longer wait would not help."""
PAUSE = 1.0
"""Seconds after a node's failure in which it is not asked, so that a fleet of environments does not wait in line."""
MAX_PER_CALL = 250
"""Commands in one script call: a script delays everybody else on its node."""

_FAILURES = (RedisError, RedisClusterException, OSError)
_NOT_NOW = re.compile(r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY)\b|non local key")
"""Redis's own words for a state that passes; Redis 6 puts them inside the error of a script."""
_OF_A_SLOT = (AskError, ClusterDownError, SlotNotCoveredError, TryAgainError)
"""Errors about one slot (a `MovedError` is an `AskError`): they say nothing about the node's other slots."""
_TEXTS = ("none", "first", "each")
"""Which calls carry their script's text, in each try. "each": the first call may have been refused with its text."""
_OPTIONS: dict[str, Any] = {
    "socket_timeout": TIMEOUT,
    "socket_connect_timeout": TIMEOUT,
    "protocol": 2,
    "driver_info": None,  # sending Redis our library's name would cost a new connection two round trips
    # A frozen environment may wake up with a connection that the server has closed: try that once more, immediately.
    # A time-out is not retried: the server may have done the work, and we have waited long enough.
    "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
}

AnyResponse = TypeVar("AnyResponse", bound=Response)


def _random() -> int:
    return randbits(48)


class _Call(NamedTuple):
    """One script call: the commands of one bucket, and where their responses belong."""

    bucket: int
    script: Script
    keys: list[str]
    body: str
    places: list[int]


def request_of(command: Command[Any]) -> dict[str, Any]:
    """A command as the script gets it."""
    given = ((name, getattr(command, name)) for name in command.sent)
    return {
        "user": command.user,
        "command": command.name,
        **{name: value for name, value in given if value is not None},
    }


class Store:
    """Runs commands in the scripts, grouped by bucket; safe to use from several threads.

    With `redis_iam_user` it signs in with IAM, with the credentials that Lambda keeps in the environment.
    `AWS_CA_BUNDLE` names a file of certificates to trust besides the system's.

    Args:
        client: the Redis to use; None for the one at `settings.redis_url`, whose name is resolved with the first call.
        settings: the service's settings.
        metrics: what is counted.
        monotonic, sleep: the time in seconds, for pauses, and what waits.
        random: gives random integers, from which scripts make tokens.

    Raises from `call`, `users` and `eviction_policy`:
        Unavailable: Redis cannot be reached, is too slow, refuses us, or failed less than a second ago. In a cluster:
            the node of one of the buckets, or the bucket is moving to another node.
        SettingsError: the store was laid out by a release or with a bucket count that does not fit this one.
    """

    def __init__(
        self,
        client: redis.Redis | RedisCluster | None,
        settings: Settings,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        random: Callable[[], int] = _random,
    ) -> None:
        self._client, self._metrics, self._monotonic, self._sleep = client, metrics, monotonic, sleep
        self._random = random
        self._kind: type[redis.Redis | RedisCluster] = RedisCluster if settings.redis_cluster else redis.Redis
        self._url, self._options = settings.redis_url, _OPTIONS.copy()
        self._iam = IamTokens(settings) if settings.redis_iam_user else None
        if self._iam:
            self._options["credential_provider"] = self._iam
        if urlsplit(self._url).scheme == "rediss":
            self._options["ssl_ca_certs"] = os.environ.get("AWS_CA_BUNDLE")
        self.buckets = settings.buckets
        self._settings = settings
        self._scripts: dict[frozenset[str], Script] = {}  # by the names of the commands in a call
        self._refuse_until: dict[str, float] = {}  # by node, from its failure to its next answer; "" is the only node
        self._router: Router | None = None
        self._threads = ThreadPoolExecutor(8, "redis-node")  # starts no thread before a cluster needs one

    @classmethod
    def connect(cls, settings: Settings, metrics: Metrics) -> Store:
        """A store on `settings.redis_url`; nothing is sent before the first call.

        Raises:
            SettingsError: the URL is not one of Redis, or not one for IAM.
        """
        url = urlsplit(settings.redis_url)
        if url.scheme not in ("redis", "rediss", "unix"):
            raise SettingsError("redis_url must begin with redis://, rediss:// or unix://")
        if settings.redis_iam_user and url.scheme != "rediss":
            raise SettingsError("redis_url must begin with rediss:// if redis_iam_user is given: IAM needs TLS")
        if settings.redis_iam_user and "@" in url.netloc:
            raise SettingsError("redis_url must name no user and no password if redis_iam_user is given")
        store = cls(None, settings, metrics)
        if not settings.redis_cluster:
            store._opened()
        return store

    def close(self) -> None:
        """Give the connections back."""
        if isinstance(self._client, RedisCluster):
            for node in self._client.get_nodes():  # type: ignore[no-untyped-call]
                if node.redis_connection:  # redis-py's own `close` leaves them open
                    node.redis_connection.connection_pool.disconnect()
        elif self._client:
            self._client.close()
        self._threads.shutdown(wait=False)

    def bucket_of(self, user: str) -> int:
        """The bucket that has all keys of a user."""
        return crc32(user.encode()) % self.buckets

    def key(self, kind: str, user: str) -> str:
        """The key of this kind of a user."""
        return f"presence:{{{self.bucket_of(user)}}}:{kind}:{user}"

    def call(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse]:
        """Run commands at `now` (ms), in one round trip; the responses come in the order of the commands.

        Commands of one bucket run in their order; up to 250 of them in one script call, and so at one moment.

        Raises:
            Unreadable: a record cannot be read, and nothing can stand for the response. Others may have run.
            SignedOut: a command carries the time of a token that is no longer valid. Others may have run.
            TooManyCalls: such a command's user makes too many calls. Others may have run.
            Unavailable: of at least one bucket. Commands of other buckets have run.
        """
        responses = []
        for response in self.call_each(commands, now):
            if isinstance(response, Unavailable):
                raise response
            responses.append(response)
        return responses

    def call_each(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse | Unavailable]:
        """As `call`, but a command whose bucket is unavailable gets that as its response, and the others go on."""
        if not commands:
            return []
        calls = self._group(commands)
        responses: list[Any] = [None] * len(commands)
        for call, body in zip(calls, self._run_all(calls, now), strict=True):
            if isinstance(body, Unavailable):
                for place in call.places:
                    responses[place] = body
                continue
            for place, answer in zip(call.places, json.loads(body), strict=True):
                fields: dict[str, Any] = answer or {}  # an empty one may come as a list
                if fields.get("result") == "signed_out":
                    raise SignedOut
                if fields.get("result") == "too_many_calls":
                    raise TooManyCalls(fields["wait"])
                responses[place] = self._response(commands[place], fields)
        return responses

    def _response(self, command: Command[Any], fields: dict[str, Any]) -> Response:
        """The response of a command, or what stands for it where it failed."""
        reason = fields.get("failed")
        if reason is None:
            try:
                return command.response.decode(fields)
            except (TypeError, AttributeError, KeyError) as error:  # what was stored has not the shape of a response
                reason = repr(error)
        self._metrics.count("RecordsFailed")
        _logger.error("a record cannot be read: %s: %s", command.name, reason)
        response = command.response.of_failed(command.user, reason)
        if response is None:
            raise Unreadable(f"{command.name}: {reason}")
        return response

    def users(self, cursor: str, count: int = 100, kinds: Sequence[str] = FACTS) -> tuple[set[str], str]:
        """One slice of the users who have keys of these kinds, and the cursor of the next ("" begins and ends).

        The slice is about `count` keys, on one node. A user may be in more than one slice.

        Raises:
            IndexError: the cursor is not valid.
        """
        node, position = (int(part) for part in (cursor or "0-0").split("-"))
        nodes = self._nodes()
        name, client = nodes[node]
        try:
            following, keys = cast("tuple[int, list[bytes]]", client.scan(position, match="presence:*", count=count))
        except _FAILURES as error:
            self._leave_alone(name)
            raise self._meaning(error) from error
        found = (key.decode().split(":", 3) for key in keys)
        ids = {parts[3] for parts in found if len(parts) == 4 and parts[2] in kinds}
        if following == 0:
            node += 1
        return ids, f"{node}-{following}" if node < len(nodes) else ""

    def eviction_policy(self) -> str | None:
        """What Redis evicts when its memory is full, like `volatile-lru`; None where that is not known.

        A serverless cache need not report it, and a user may not be allowed to ask. Of several nodes: the worst policy
        of those that answer.
        """
        policies, failures = [], []
        for name, node in self._nodes():
            try:
                policies.append(node.info("memory").get("maxmemory_policy"))
            except ResponseError:
                return None
            except _FAILURES as error:
                self._leave_alone(name)
                failures.append(self._meaning(error))
        if not policies:
            raise failures[0]
        # `allkeys-…`, which may evict facts, comes first in the alphabet.
        return min((str(policy) for policy in policies if policy), default=None)

    def _opened(self) -> redis.Redis | RedisCluster:
        if self._client is None:
            self._client = self._kind.from_url(self._url, **self._options)
        return self._client

    def _routed(self, cluster: RedisCluster) -> Router:
        if self._router is None:
            self._router = Router(
                cluster,
                self._on_node,
                self._refuse_until,
                self._threads,
                self._monotonic,
                self._sleep,
            )
        return self._router

    def _nodes(self) -> list[tuple[str, redis.Redis]]:
        """(name, client) of each node with buckets."""
        try:
            client = self._opened()
        except _FAILURES as error:
            self._leave_alone("")
            raise self._meaning(error) from error
        if isinstance(client, RedisCluster):
            primaries = client.get_primaries()  # type: ignore[no-untyped-call]
            primaries.sort(key=lambda node: node.name)
            return [(node.name, client.get_redis_connection(node)) for node in primaries]
        return [("", client)]

    def _group(self, commands: Sequence[Command[Any]]) -> list[_Call]:
        grouped: dict[int, list[list[int]]] = {}
        for place, command in enumerate(commands):
            bucket = self.bucket_of(command.user) if command.bucket is None else command.bucket
            chunks = grouped.setdefault(bucket, [[]])
            if len(chunks[-1]) == MAX_PER_CALL:
                chunks.append([])
            chunks[-1].append(place)
        return [
            self._compose(bucket, [commands[place] for place in places], places)
            for bucket, chunks in grouped.items()
            for places in chunks
        ]

    def _compose(self, bucket: int, commands: Sequence[Command[Any]], places: list[int]) -> _Call:
        prefix = f"presence:{{{bucket}}}:"
        keys = [f"{prefix}meta", f"{prefix}due"]
        requests, names = [], set()
        # Commands about the bucket alone get no keys of users: keys that are never there could not move with the slot.
        about_users = any(command.bucket is None for command in commands)
        for command in commands:
            if about_users:
                keys += [f"{prefix}{kind}:{command.user}" for kind in KINDS]
            requests.append(request_of(command))
            names.add(command.name)
        body = json.dumps(requests, ensure_ascii=False, separators=(",", ":"))
        wanted = frozenset(names)
        if wanted not in self._scripts:
            self._scripts[wanted] = script_for(wanted, self._settings)
        return _Call(bucket, self._scripts[wanted], keys, body, places)

    def _run_all(self, calls: list[_Call], now: int) -> list[bytes | Unavailable]:
        began = time.perf_counter()
        answers = self._ask(calls, now)
        self._metrics.time("RedisTime", (time.perf_counter() - began) * 1000)
        answered = {node for node, answer in answers if isinstance(answer, bytes)}
        errors = [(node, answer) for node, answer in answers if not isinstance(answer, bytes | Unavailable)]
        failed = {node for node, error in errors if not self._is_ours(error) and not isinstance(error, _OF_A_SLOT)}
        if answered and self._iam:
            self._iam.unanswered = 0
        for node in answered - failed:
            self._refuse_until.pop(node, None)
        for node in failed:
            self._leave_alone(node)
        if errors:
            self._metrics.count("RedisFailures")
        return [answer if isinstance(answer, bytes | Unavailable) else self._meaning(answer) for _, answer in answers]

    def _ask(self, calls: list[_Call], now: int) -> list[Answer]:
        if self._monotonic() < self._refuse_until.get("", 0.0):
            return [("", Unavailable("Redis failed a moment ago"))] * len(calls)
        try:
            client = self._opened()
        except _FAILURES as error:
            return [("", error)] * len(calls)
        if isinstance(client, RedisCluster):
            return self._routed(client).run(calls, now)
        return [("", answer) for answer in self._on_node(client, calls, now)]

    def _is_ours(self, error: Exception) -> bool:
        """Whether an error shows a fault of ours, or a store of another layout: asking again would not help."""
        text = str(error)
        if isinstance(error, ResponseError) and "PRESENCE " in text:
            return True
        return type(error) is ResponseError and "script" in text.lower() and not _NOT_NOW.search(text)

    def _meaning(self, error: Exception) -> Unavailable:
        """What an error means to the caller.

        Raises:
            SettingsError: the store has another layout.
            ResponseError: a fault of ours.
        """
        text = str(error)
        if isinstance(error, ResponseError) and "PRESENCE " in text:
            sentence = text.partition("PRESENCE ")[2].partition(" script: ")[0]  # Redis adds where it was raised
            raise SettingsError(sentence.splitlines()[0].strip()) from error
        if self._is_ours(error):
            raise error
        unavailable = Unavailable(f"Redis: {type(error).__name__}: {error}")
        unavailable.__cause__ = error
        return unavailable

    def _leave_alone(self, node: str) -> None:
        """A node failed: do not ask it for a while, and then not through the connections there are.

        After a failover the same name may be another server's.
        """
        self._refuse_until[node] = self._monotonic() + (self._iam.pause(PAUSE) if self._iam else PAUSE)
        client = self._client
        if isinstance(client, RedisCluster):
            known = client.get_node(node_name=node)  # type: ignore[no-untyped-call]
            client = known.redis_connection if known else None
        if client:
            client.connection_pool.disconnect(inuse_connections=False)

    def _on_node(
        self, client: redis.Redis, calls: Sequence[_Call], now: int, asking: bool = False
    ) -> list[bytes | Exception]:
        """Run calls on one node, in one pipeline; scripts that the node does not know are sent and run again.

        Where a call failed, its error takes the place of its response. `asking` runs them on a node that is still
        importing their slot.
        """
        results: list[Any] = [None] * len(calls)
        left = list(range(len(calls)))
        for texts in _TEXTS:
            try:
                answers = self._pipeline(client, [calls[place] for place in left], now, texts, asking=asking)
            except _FAILURES as error:
                answers = [error] * len(left)
            for place, answer in zip(left, answers, strict=True):
                results[place] = answer
            left = [place for place in left if isinstance(results[place], NoScriptError)]
            if not left:
                break
        return results

    def _pipeline(
        self, client: redis.Redis, calls: Sequence[_Call], now: int, texts: str, *, asking: bool
    ) -> list[Any]:
        """Run calls in one round trip, with the text of their scripts for the calls that `texts` names."""
        if len(calls) == 1 and not asking:  # most events; a pipeline would take redis-py twice the time
            try:
                return [self._run(client, calls[0], now, unknown=texts != "none")]
            except ResponseError as error:
                return [error]
        pipeline = client.pipeline(transaction=False)
        sent: set[str] = set()
        for call in calls:
            if asking:
                pipeline.execute_command("ASKING")  # type: ignore[no-untyped-call]
            unknown = texts == "each" or (texts == "first" and call.script.sha not in sent)
            self._run(pipeline, call, now, unknown=unknown)
            sent.add(call.script.sha)
        answers = pipeline.execute(raise_on_error=False)
        return answers[1::2] if asking else answers

    def _run(self, client: redis.Redis, call: _Call, now: int, *, unknown: bool) -> Any:
        run, script = (client.eval, call.script.text) if unknown else (client.evalsha, call.script.sha)
        return run(script, len(call.keys), *call.keys, now, call.body, self._random())
