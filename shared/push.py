"""Fan-out: posts frames to open connections through API Gateway's management API (`@connections`).

It decides the order of posts, how many are in flight, how fast they go out, what is retried and after which backoff,
what happens to clients that hang, when a fan-out gives up, and what is counted. A frame that cannot be delivered is
counted and dropped: the client sees the gap in `seq` and asks for a snapshot.

Not here: presence (who is notified of what is decided before), HTTP (`http_client.py`), signatures (`sigv4.py`).

The event loop runs only inside a call. Nothing is pending while Lambda freezes the execution environment.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from shared.delivery import Metrics, Post
from shared.http_client import ConnectError, HttpClient
from shared.settings import Settings, SettingsError
from shared.sigv4 import HeaderSigner, Signer

MAX_IN_FLIGHT = 16
"""Posts in flight, each on an HTTP connection of its own: enough to hide the endpoint's latency, and few enough to open
together. Posts slower than `SLOW_AFTER` do not count, so the true maximum is
`MAX_IN_FLIGHT * (1 + http_client.RESPONSE_TIMEOUT / SLOW_AFTER)`."""
SLOW_AFTER = 0.25
"""Seconds after which a post no longer counts as in flight. Also the time limit for all posts to clients that hung
within `HUNG_MEMORY`, which come last. So clients that hang, however many, do not delay the others."""
HUNG_MEMORY = 60.0
"""Seconds for which a client counts as hanging: about as long as a dead client still gets posts."""
MAX_CONNECT_FAILURES = 3
"""Failures to connect after which a call without any HTTP connection gives up: the endpoint is unreachable."""
FIRST_BACKOFF, LAST_BACKOFF = 0.1, 1.0
"""Seconds before a retry: doubled from the first to the last, each shortened at random by up to half (jitter)."""
POSTS_PER_SECOND, BURST = 2000.0, 200.0
"""The rate limit of one execution environment. An account has 10,000 requests/s for all its WebSocket clients and all
posts together (Amazon API Gateway quotas): a storm in one environment must leave most of them to the others."""

_logger = logging.getLogger(__name__)


class Pusher:
    """Posts frames to connections, and closes connections. A connection that cannot be reached raises nothing.

    Counts `PostsSent`, `PostsGone` (connections), `PostsThrottled` (responses 429, retried), `PostsFailed`,
    `ConnectionsClosed` and `ClosesFailed`; `PostTime` is the duration of one fan-out in ms.

    Credentials and region are read from Lambda's environment at each call (`AWS_ACCESS_KEY_ID`,
    `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` if there is one, `AWS_REGION`). `AWS_CA_BUNDLE` names a file of
    certificates to trust instead of the system's, as in AWS's own tools.

    Not thread-safe, and not to be called inside a running event loop: Lambda sends an environment one event at a time.
    `clock` (monotonic, seconds) measures how long an HTTP connection was idle, and how long ago a client hung.
    """

    def __init__(self, settings: Settings, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._endpoint = urlsplit(settings.callback_url.rstrip("/"))
        self._path = f"{self._endpoint.path}/@connections/"
        self._budget = settings.push_budget
        self._metrics = metrics
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: HttpClient | None = None
        self._permits = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._hung: dict[str, float] = {}  # connection id → when it hung; the one tried last comes last
        self._rate_limit = RateLimiter(POSTS_PER_SECOND, BURST)

    def post(self, posts: Sequence[Post], within: float = math.inf) -> set[str]:
        """Post all frames concurrently, those of one connection in order; returns the connections that are gone.

        A response 410 means gone, which is final. 429, 5xx and lost HTTP connections are retried. Other refusals and
        posts that hang are not, since a retry would not help. What is not delivered within `push_budget` seconds, or
        `within` if that is less, is given up.

        Raises:
            SettingsError: `callback_url` is no URL to post to.
            KeyError: the environment has no credentials or no region.
        """
        queues: dict[str, list[bytes]] = {}
        for post in posts:
            queues.setdefault(post.connection_id, []).append(post.data)
        if not queues:
            return set()
        started = time.perf_counter()
        fan_out = self._run("POST", queues, within)
        self._metrics.time("PostTime", (time.perf_counter() - started) * 1000)
        self._metrics.count("PostsSent", fan_out.delivered)  # 0 as well: an alarm needs the data point
        self._count("PostsGone", len(fan_out.gone))
        self._count("PostsThrottled", fan_out.errors["429"])
        self._count("PostsFailed", len(posts) - fan_out.delivered - fan_out.skipped)
        return fan_out.gone

    def close(self, connection_ids: Iterable[str], within: float = math.inf) -> None:
        """Close connections; API Gateway then sends each one's `$disconnect`. One that is gone counts as closed.

        Retries and limits are those of `post`.

        Raises:
            SettingsError, KeyError: as `post` does.
        """
        queues = {connection_id: [b""] for connection_id in connection_ids}
        if not queues:
            return
        fan_out = self._run("DELETE", queues, within)
        self._count("ConnectionsClosed", fan_out.delivered + fan_out.skipped)
        self._count("ClosesFailed", len(queues) - fan_out.delivered - fan_out.skipped)

    def shutdown(self) -> None:
        """Release the HTTP connections and the event loop. Lambda does not need it: it ends the whole environment."""
        if self._loop is not None:
            if self._client is not None:
                self._loop.run_until_complete(self._client.close())
            self._loop.close()

    def _count(self, name: str, amount: int) -> None:
        if amount:
            self._metrics.count(name, amount)

    def _run(self, method: str, queues: Mapping[str, Sequence[bytes]], within: float) -> _FanOut:
        if self._endpoint.scheme not in ("http", "https") or not self._endpoint.hostname:
            raise SettingsError("callback_url must be the URL of the WebSocket API's stage, https://HOST/STAGE")
        if self._client is None:
            self._client = HttpClient(self._endpoint, os.environ.get("AWS_CA_BUNDLE"), self._clock)
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        signer = HeaderSigner(Signer("execute-api", os.environ, datetime.now(UTC)), self._endpoint.netloc)
        fan_out = _FanOut(method, self._client, signer)
        self._loop.run_until_complete(self._send_all(fan_out, queues, min(self._budget, within)))
        return fan_out

    async def _send_all(self, fan_out: _FanOut, queues: Mapping[str, Sequence[bytes]], within: float) -> None:
        await fan_out.client.notice_closed()
        deadline = time.monotonic() + within
        self._hung = {id: at for id, at in self._hung.items() if self._clock() - at < HUNG_MEMORY}
        hung = {id: queues[id] for id in self._hung if id in queues}
        await self._send_concurrently(fan_out, {id: queues[id] for id in queues if id not in hung}, within)
        await self._send_concurrently(fan_out, hung, min(SLOW_AFTER, deadline - time.monotonic()))
        failed = sum(map(len, queues.values())) - fan_out.delivered - fan_out.skipped
        if failed:
            _logger.warning("%d %s requests failed: %s", failed, fan_out.method, dict(fan_out.errors))

    async def _send_concurrently(self, fan_out: _FanOut, queues: Mapping[str, Sequence[bytes]], within: float) -> None:
        if not queues:
            return
        tasks = [asyncio.create_task(self._send_in_order(fan_out, *queue)) for queue in queues.items()]
        _, late = await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_EXCEPTION)
        for task in late:
            task.cancel()
            fan_out.errors["given up"] += 1
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, _UnreachableError):
                fan_out.errors[str(result)] += 1
            elif isinstance(result, Exception):
                raise result

    async def _send_in_order(self, fan_out: _FanOut, connection_id: str, bodies: Sequence[bytes]) -> None:
        for index, body in enumerate(bodies):
            try:
                status = await self._send(fan_out, connection_id, body)
            except TimeoutError:
                fan_out.errors["no answer"] += 1
                self._hung[connection_id] = self._clock()
                return  # the next frames would hang as well
            self._hung.pop(connection_id, None)
            if status == 410:
                fan_out.gone.add(connection_id)
                fan_out.skipped += len(bodies) - index
                return
            if 200 <= status < 300:
                fan_out.delivered += 1

    async def _send(self, fan_out: _FanOut, connection_id: str, body: bytes) -> int:
        """Send one request, with retries; returns the status of the first response that is final."""
        path = self._path + quote(connection_id, safe="")  # an id ends in `=`, which a path carries as `%3D`
        backoff = FIRST_BACKOFF
        while True:
            try:
                await self._permits.acquire()
                with _Permit(self._permits):
                    if connection_id in self._hung:  # moves to the end: next time the others are tried first
                        self._hung[connection_id] = self._hung.pop(connection_id)
                    if wait := self._rate_limit.reserve(time.monotonic()):
                        await asyncio.sleep(wait)
                    headers = fan_out.signer.headers(fan_out.method, path, body)
                    status = await fan_out.client.request(fan_out.method, path, headers, body)
            except ConnectionError as error:
                if isinstance(error, ConnectError):
                    fan_out.connect_failures += 1
                    if fan_out.connect_failures >= MAX_CONNECT_FAILURES and not fan_out.client.has_connections:
                        raise _UnreachableError(str(error)) from error
                fan_out.errors[str(error)] += 1
            else:
                if status >= 300 and status != 410:
                    fan_out.errors[str(status)] += 1
                if status != 429 and status < 500:
                    return status
            await asyncio.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
            backoff = min(2 * backoff, LAST_BACKOFF)


@dataclass
class _FanOut:
    """One call: what it sends with, and its results so far."""

    method: str
    client: HttpClient
    signer: HeaderSigner
    delivered: int = 0
    gone: set[str] = field(default_factory=set)
    skipped: int = 0
    """Bodies that were not delivered because their connection is gone."""
    connect_failures: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Every failed attempt, retried or not, by status or reason."""


class _UnreachableError(Exception):
    """The endpoint accepts no connections: more attempts would only use up the budget."""


class _Permit:
    """One of `MAX_IN_FLIGHT` permits, already acquired. Released when the block ends, or after `SLOW_AFTER`."""

    def __init__(self, permits: asyncio.Semaphore) -> None:
        self._permits, self._held = permits, True
        self._timer = asyncio.get_running_loop().call_later(SLOW_AFTER, self._release)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._release()

    def _release(self) -> None:
        if self._held:
            self._held = False
            self._permits.release()


class RateLimiter:
    """A token bucket that assigns start times: `rate` requests per second, and `burst` together after a pause."""

    def __init__(self, rate: float, burst: float) -> None:
        self._interval = 1 / rate
        self._credit = burst / rate
        self._next = 0.0

    def reserve(self, now: float) -> float:
        """Take the next token; returns the seconds to wait before using it."""
        start = max(self._next, now - self._credit)
        self._next = start + self._interval
        return max(0.0, start - now)
