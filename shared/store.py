"""Keys and script calls: the one way to the state in Redis (or Valkey, or a cluster of either).

A *stage* is one round trip: per node one pipeline, holding one script call per bucket, all nodes at once. What the
script does is in `presence.lua`; nothing here decides anything about presence.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from binascii import crc32
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import (
    ClusterError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from shared.delivery import Meter, Request, Unavailable
from shared.frames import Answer
from shared.settings import Settings, SettingsError
from shared.sigv4 import Signer

KINDS = ("user", "contacts", "sees", "hidden", "settings", "tell", "pending")
"""The kinds of keys that a user has, in the order in which the script expects them."""
FACTS = ("contacts", "hidden", "settings")
"""The kinds that hold what the application or the user gave, and that nothing else could bring back."""

TIMEOUT = 1.0
"""Seconds to wait for Redis: a stage takes about a millisecond, so whoever waits longer waits for nothing."""
BREATH = 1.0
"""Seconds after a failure in which no call is tried, so that a fleet of sandboxes does not wait in line."""
MOST_DOUBLINGS = 5
"""How often that pause doubles, at most, while signing in to ElastiCache leads nowhere: it throttles sign-ins."""
TOKEN_LIFE = 900
"""Seconds in which a connection must have signed in with its IAM token; AWS takes none that is good for longer."""
MOST_PER_CALL = 250
"""Requests in one script call: a script holds up everybody else on its node."""

_FAILURES = (RedisError, RedisClusterException, OSError)
_NOT_NOW = re.compile(r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY)\b")
"""Redis's own words for a state that it is in and that passes; Redis 6 puts them inside the error of a script."""
_OPTIONS: dict[str, Any] = {
    "socket_timeout": TIMEOUT,
    "socket_connect_timeout": TIMEOUT,
    "protocol": 2,
    "driver_info": None,  # telling Redis our library's name would cost a new connection two round trips
    # A frozen sandbox may wake up with a connection that the server has closed: try that once more, at once.
    # A time-out is not tried again: the server may have done the work, and we have waited long enough.
    "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
}


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _script(settings: Settings) -> str:
    """`presence.lua` with its settings before it, as constants, so that no call has to carry or parse them."""
    rank = ",".join(f"{status}={3 - place}" for place, status in enumerate(settings.status_priority))
    values = {
        "device_ttl": _ms(settings.device_ttl),
        "away_after": _ms(settings.away_after),
        "grace": _ms(settings.grace),
        "announce_lease": _ms(settings.announce_lease),
        "retention": _ms(settings.retention),
        "rate_every": max(1, round(1000 / settings.rate_limit)),
        "rate_burst": settings.rate_burst,
        "max_contacts": settings.max_contacts,
        "max_devices": settings.max_devices,
        "buckets": settings.buckets,
    }
    table = ",".join(f"{name}={value}" for name, value in values.items())
    return f"local S={{{table},rank={{{rank}}}}}\n" + files("shared").joinpath("presence.lua").read_text("utf-8")


class _IamTokens(redis.CredentialProvider):
    """Signs connections in to ElastiCache: each with a token of its own, by the credentials of that moment.

    Source: Amazon ElastiCache User Guide, "Authenticating with IAM". A name with `.serverless.` in it is a serverless
    cache's, as AWS's own drivers have it.

    Attributes:
        unanswered: the tokens given since Redis last answered a stage.
    """

    def __init__(self, settings: Settings) -> None:
        self.unanswered = 0
        self._user, self._cache = settings.redis_iam_user, settings.redis_iam_cache.lower()
        self._query = {"Action": "connect", "User": self._user}
        if ".serverless." in (urlsplit(settings.redis_url).hostname or ""):
            self._query["ResourceType"] = "ServerlessCache"

    def get_credentials(self) -> tuple[str, str]:
        self.unanswered += 1
        signer = Signer("elasticache", os.environ, datetime.now(UTC))
        return self._user, signer.presign(self._cache, self._query, TOKEN_LIFE)


class _Call(NamedTuple):
    """One script call: the requests of one bucket, and where their answers belong."""

    bucket: int
    keys: list[str]
    body: str
    places: list[int]


class Store:
    """Runs requests in the script, grouped by bucket; safe to use from several threads.

    With `redis_iam_user` it signs in by IAM, with the credentials that Lambda keeps in the environment. `AWS_CA_BUNDLE`
    names a file of certificates to trust besides the system's.

    Args:
        client: the Redis to use; None for the one at `settings.redis_url`, which is looked up with the first call.
        settings: the service's settings.
        meter: what is counted.
        monotonic: the time in seconds, for pauses.

    Raises from every method:
        Unavailable: Redis cannot be reached, is too slow, refuses us, or failed less than a second ago.
        SettingsError: the store was laid out by a release or with a bucket count that does not fit this one.
    """

    def __init__(
        self,
        client: redis.Redis | RedisCluster | None,
        settings: Settings,
        meter: Meter,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._meter, self._monotonic = client, meter, monotonic
        self._kind: type[redis.Redis | RedisCluster] = RedisCluster if settings.redis_cluster else redis.Redis
        self._url, self._options = settings.redis_url, _OPTIONS.copy()
        self._iam = _IamTokens(settings) if settings.redis_iam_user else None
        if self._iam:
            self._options["credential_provider"] = self._iam
        if urlsplit(self._url).scheme == "rediss":
            self._options["ssl_ca_certs"] = os.environ.get("AWS_CA_BUNDLE")
        self.buckets = settings.buckets
        self._text = _script(settings)
        self._sha = sha1(self._text.encode(), usedforsecurity=False).hexdigest()
        self._refuse_until = 0.0
        self._threads = ThreadPoolExecutor(8, "redis-node")  # starts no thread before a cluster needs one

    @classmethod
    def connect(cls, settings: Settings, meter: Meter) -> Store:
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
        store = cls(None, settings, meter)
        if not settings.redis_cluster:
            store._opened()
        return store

    def close(self) -> None:
        """Give the connections back."""
        if isinstance(self._client, RedisCluster):
            for node in self._nodes():  # which redis-py's own `close` leaves open
                node.connection_pool.disconnect()
        elif self._client:
            self._client.close()
        self._threads.shutdown(wait=False)

    def bucket_of(self, user: str) -> int:
        """The bucket in which all keys of a user live."""
        return crc32(user.encode()) % self.buckets

    def key(self, kind: str, user: str) -> str:
        """The key that holds this kind of thing about a user."""
        return f"presence:{{{self.bucket_of(user)}}}:{kind}:{user}"

    def call(self, requests: Sequence[Request], now: int) -> list[Answer]:
        """Run requests at `now` (ms), in one stage; the answers come in the order of the requests.

        Requests of one bucket run in one script call and so at one moment, in their order.
        """
        if not requests:
            return []
        calls = self._group(requests)
        answers: list[Answer] = [{}] * len(requests)
        for call, body in zip(calls, self._stage(calls, now), strict=True):
            for place, answer in zip(call.places, json.loads(body), strict=True):
                answers[place] = answer or {}
        return answers

    def users(self, cursor: str, count: int = 100, kinds: Sequence[str] = FACTS) -> tuple[set[str], str]:
        """One slice of the users of whom one of these kinds is kept, and the cursor of the next ("" begins and ends).

        Of about `count` keys, on one node. Raises IndexError where the cursor leads nowhere.

        A user may come in more than one slice.
        """
        node, position = (int(part) for part in (cursor or "0-0").split("-"))
        try:
            clients = self._nodes()
            following, keys = cast(
                "tuple[int, list[bytes]]", clients[node].scan(position, match="presence:*", count=count)
            )
        except _FAILURES as error:
            raise self._failed(error) from error
        found = (key.decode().split(":", 3) for key in keys)
        ids = {parts[3] for parts in found if len(parts) == 4 and parts[2] in kinds}
        if following == 0:
            node += 1
        return ids, f"{node}-{following}" if node < len(clients) else ""

    def eviction_policy(self) -> str | None:
        """What Redis forgets when its memory is full, like `volatile-lru`; None where it does not say.

        A serverless cache need not, and a user may not be allowed to ask. Of several nodes it is the worst policy.
        """
        try:
            told = (node.info("memory").get("maxmemory_policy") for node in self._nodes())
            # `allkeys-…`, which takes what should be kept, comes first in the alphabet.
            return min((str(policy) for policy in told if policy), default=None)
        except ResponseError:
            return None
        except _FAILURES as error:
            raise self._failed(error) from error

    def _opened(self) -> redis.Redis | RedisCluster:
        if self._client is None:
            self._client = self._kind.from_url(self._url, **self._options)
        return self._client

    def _nodes(self) -> list[redis.Redis]:
        client = self._opened()
        if isinstance(client, RedisCluster):
            primaries = client.get_primaries()  # type: ignore[no-untyped-call]
            primaries.sort(key=lambda node: node.name)
            return [client.get_redis_connection(node) for node in primaries]
        return [client]

    def _group(self, requests: Sequence[Request]) -> list[_Call]:
        grouped: dict[int, list[list[int]]] = {}
        for place, request in enumerate(requests):
            bucket = self.bucket_of(request.user) if request.bucket is None else request.bucket
            chunks = grouped.setdefault(bucket, [[]])
            if len(chunks[-1]) == MOST_PER_CALL:
                chunks.append([])
            chunks[-1].append(place)
        return [
            self._compose(bucket, [requests[place] for place in places], places)
            for bucket, chunks in grouped.items()
            for places in chunks
        ]

    def _compose(self, bucket: int, requests: Iterable[Request], places: list[int]) -> _Call:
        prefix = f"presence:{{{bucket}}}:"
        keys = [f"{prefix}meta", f"{prefix}due"]
        bodies = []
        for request in requests:
            keys += [f"{prefix}{kind}:{request.user}" for kind in KINDS]
            bodies.append({"user": request.user, "verb": request.verb, **request.args})
        return _Call(bucket, keys, json.dumps(bodies, ensure_ascii=False, separators=(",", ":")), places)

    def _stage(self, calls: list[_Call], now: int) -> list[bytes]:
        if self._monotonic() < self._refuse_until:
            raise Unavailable("Redis failed a moment ago")
        began = time.perf_counter()
        try:
            client = self._opened()
            if isinstance(client, RedisCluster):
                results = self._on_cluster(client, calls, now)
            else:
                results = self._on_node(client, calls, now)
            for result in results:
                if isinstance(result, Exception):
                    raise result
            if self._iam:
                self._iam.unanswered = 0
        except _FAILURES as error:
            raise self._failed(error) from error
        finally:
            self._meter.time("RedisTime", (time.perf_counter() - began) * 1000)
        return results

    def _failed(self, error: Exception) -> Exception:
        """What an error means: a store of another layout, a fault of ours, or a Redis that is away."""
        text = str(error)
        if isinstance(error, ResponseError) and "PRESENCE " in text:
            sentence = text.partition("PRESENCE ")[2].partition(" script: ")[0]  # Redis adds where it was raised
            return SettingsError(sentence.splitlines()[0].strip())
        if type(error) is ResponseError and "script" in text.lower() and not _NOT_NOW.search(text):
            return error
        self._refuse_until = self._monotonic() + self._pause()
        self._meter.count("RedisFailures")
        if isinstance(self._client, redis.Redis):  # after a failover the same name is another server's
            self._client.connection_pool.disconnect(inuse_connections=False)
        return Unavailable(f"Redis: {type(error).__name__}: {error}")

    def _pause(self) -> float:
        """How long no call is tried, in seconds. Tokens that led to nothing make it longer, and different everywhere.

        ElastiCache refuses to sign in whom it throttles, with the words that it has for every trouble before that: a
        fleet that came back each second would keep the throttle alive.
        """
        if not self._iam or not self._iam.unanswered:
            return BREATH
        longest: float = BREATH * 2 ** min(self._iam.unanswered, MOST_DOUBLINGS)
        return longest * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing

    def _on_node(self, client: redis.Redis, calls: list[_Call], now: int) -> list[Any]:
        """Run calls on one node, in one pipeline; a script that the node does not know is sent and run again.

        Where a call failed, its error stands in the place of its answer.
        """
        results = self._pipeline(client, calls, now)
        unknown = [place for place, result in enumerate(results) if isinstance(result, NoScriptError)]
        if unknown:
            again = self._pipeline(client, [calls[place] for place in unknown], now, unknown=True)
            for place, result in zip(unknown, again, strict=True):
                results[place] = result
        return results

    def _pipeline(self, client: redis.Redis, calls: list[_Call], now: int, *, unknown: bool = False) -> list[Any]:
        """Run calls in one round trip; a script that is `unknown` there travels with the first of them."""
        if len(calls) == 1:  # most events; a pipeline would take redis-py twice the time
            try:
                return [self._run(client, calls[0], now, unknown=unknown)]
            except ResponseError as error:
                return [error]
        pipeline = client.pipeline(transaction=False)
        for place, call in enumerate(calls):
            self._run(pipeline, call, now, unknown=unknown and place == 0)
        return pipeline.execute(raise_on_error=False)

    def _run(self, client: redis.Redis, call: _Call, now: int, *, unknown: bool) -> Any:
        run, script = (client.eval, self._text) if unknown else (client.evalsha, self._sha)
        return run(script, len(call.keys), *call.keys, now, call.body)

    def _on_cluster(self, cluster: RedisCluster, calls: list[_Call], now: int) -> list[Any]:
        """Run calls on the nodes that hold their buckets, all nodes at once.

        redis-py's own cluster pipeline refuses EVALSHA, so calls are grouped by node here. Those whose slot has moved,
        or whose node has gone, are run once more where the cluster says that they belong by then.
        """
        results: list[Any] = [None] * len(calls)
        todo = list(range(len(calls)))
        for last_try in (False, True):
            by_node: dict[Any, list[int]] = {}
            for place in todo:
                node = cluster.get_node_from_key(calls[place].keys[0])  # type: ignore[no-untyped-call]
                if node is None:
                    raise ClusterError(f"no node holds bucket {calls[place].bucket}")
                by_node.setdefault(node, []).append(place)
            running = []
            for node, places in by_node.items():
                client, batch = cluster.get_redis_connection(node), [calls[place] for place in places]
                running.append((places, self._threads.submit(self._on_node, client, batch, now)))
            for places, future in running:
                try:
                    answers = future.result()
                except redis.ConnectionError as error:
                    answers = [error] * len(places)
                for place, answer in zip(places, answers, strict=True):
                    results[place] = answer
            todo = [place for place in todo if isinstance(results[place], (MovedError, redis.ConnectionError))]
            if not todo or last_try:
                break
            cluster.nodes_manager.initialize()
        return results
