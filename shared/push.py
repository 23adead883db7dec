"""Fan-out: posts frames to open connections through API Gateway's management API (`@connections`).

CPU is what a push costs, so this is the standard library alone: asyncio over kept-alive HTTP/1.1 connections burns
about a tenth of what boto3 does per post (docs/decisions/0010). The loop runs only inside a call, so in a sandbox that
is frozen between two events nothing is under way. Sixteen requests are in flight at once, each on a connection of its
own. A post that is not answered soon gives its place to the next one, and whoever hung a moment ago is served last and
briefly, so that clients that hang hold up nobody else, however many they are.

Nothing about presence belongs here: who is told, and what, is decided before. What could not be delivered is counted
and forgotten, since a client that misses a frame sees the hole in `seq` and asks.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import random
import re
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast
from urllib.parse import quote, urlsplit

from shared.delivery import Frame, Meter
from shared.settings import Settings, SettingsError
from shared.sigv4 import ALGORITHM, Signer

LINKS = 16
"""Posts under way at once, each on a connection of its own: enough to hide the endpoint's latency, and few enough to
open at once. Only when posts take long there are more, at most `LINKS * (1 + ANSWER_TIMEOUT / SOON)`."""
CONNECT_TIMEOUT = 1.0
"""Seconds for TCP and TLS together."""
ANSWER_TIMEOUT = 1.0
"""Seconds. A post to a client that vanished without a word may hang; a healthy one takes milliseconds."""
SOON = 0.25
"""Seconds after which a post no longer keeps others waiting, and all that those have who hung within `HUNG_FOR`."""
HUNG_FOR = 60.0
"""Seconds for which it is remembered that a client hung: about as long as a dead one is still posted to."""
IDLE_LIMIT = 20.0
"""Seconds after which an unused connection is not trusted: what lies between may have forgotten it."""
REFUSALS = 3
"""Failures to connect after which a call that has no connection at all takes the endpoint for unreachable."""
FIRST_BACKOFF, LAST_BACKOFF = 0.1, 1.0
"""Seconds before a post is retried: doubling from the first to the last, each shortened at random by up to half."""
POSTS_PER_SECOND, BURST = 2000.0, 200.0
"""The pace of one sandbox. An account shares 10,000 requests/s among all its WebSocket clients and all posts
(Amazon API Gateway quotas): a storm in one sandbox must leave the others, and the clients, most of them."""

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\b")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*(?:\r\n|\Z)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close\b", re.IGNORECASE)

_logger = logging.getLogger(__name__)


class Pusher:
    """Posts frames to connections, and closes connections, without raising for any that cannot be reached.

    Counts `PostsSent`, `PostsGone` (connections), `PostsThrottled` (answers 429, retried), `PostsFailed`,
    `ConnectionsClosed` and `ClosesFailed`; `PostTime` is one fan-out, in ms.

    Credentials and region come from Lambda's environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    `AWS_SESSION_TOKEN` if there is one, `AWS_REGION`), read anew at each call. `AWS_CA_BUNDLE` names a file of
    certificates to trust in place of the system's, as for AWS's own tools.

    For one thread at a time, and not from inside a running event loop: a sandbox handles one event at a time.
    `clock` (monotonic, seconds) is asked how long a connection was idle, and how long ago a client hung.
    """

    def __init__(self, settings: Settings, meter: Meter, clock: Callable[[], float] = time.monotonic) -> None:
        self._endpoint = urlsplit(settings.callback_url.rstrip("/"))
        self._host = self._endpoint.hostname or ""
        self._budget = settings.push_budget
        self._meter = meter
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tls: ssl.SSLContext | None = None
        self._permits = asyncio.Semaphore(LINKS)
        self._idle: list[_Link] = []
        self._hung: dict[str, float] = {}  # connection id → when; the one that was tried last comes last
        self._pace = _Pace(POSTS_PER_SECOND, BURST)

    def post(self, frames: Sequence[Frame], within: float = math.inf) -> set[str]:
        """Post all frames concurrently, those of one connection in their order; returns the connections that are gone.

        Gone (410) is final. 429, 5xx and lost connections are retried with jitter. A post that hangs or is refused in
        any other way is not: neither gets better by repetition. Those that hung lately come after the others. After
        `push_budget` seconds, or `within` if that is less, what is left is given up.

        Raises:
            SettingsError: `callback_url` is no URL to post to.
            KeyError: the environment has no credentials or no region.
        """
        queues: dict[str, list[bytes]] = {}
        for frame in frames:
            queues.setdefault(frame.connection_id, []).append(frame.data)
        if not queues:
            return set()
        started = time.perf_counter()
        fan_out = self._run("POST", queues, within)
        self._meter.time("PostTime", (time.perf_counter() - started) * 1000)
        self._meter.count("PostsSent", fan_out.done)  # 0 as well, which is what an alarm must hear
        self._count("PostsGone", len(fan_out.gone))
        self._count("PostsThrottled", fan_out.trouble["429"])
        self._count("PostsFailed", len(frames) - fan_out.done - fan_out.moot)
        return fan_out.gone

    def close(self, connection_ids: Iterable[str], within: float = math.inf) -> None:
        """Close connections, each of which then has its `$disconnect`; one that is gone counts as closed.

        It ends when `post` would.

        Raises:
            SettingsError, KeyError: as `post` does.
        """
        queues = {connection_id: [b""] for connection_id in connection_ids}
        if not queues:
            return
        fan_out = self._run("DELETE", queues, within)
        self._count("ConnectionsClosed", fan_out.done + fan_out.moot)
        self._count("ClosesFailed", len(queues) - fan_out.done - fan_out.moot)

    def shutdown(self) -> None:
        """Let go of the connections and the loop, for good. A sandbox needs no such thing: it is ended as a whole."""
        if self._loop is not None:
            self._loop.run_until_complete(self._drop_idle())
            self._loop.close()

    def _count(self, name: str, amount: int) -> None:
        if amount:
            self._meter.count(name, amount)

    def _run(self, method: str, queues: Mapping[str, Sequence[bytes]], within: float) -> _FanOut:
        if self._endpoint.scheme not in ("http", "https") or not self._host:
            raise SettingsError("callback_url must be the URL of the WebSocket API's stage, https://HOST/STAGE")
        if self._endpoint.scheme == "https" and self._tls is None:
            self._tls = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        signer = Signer("execute-api", os.environ, datetime.now(UTC))
        fan_out = _FanOut(method, _Requests(self._endpoint.netloc, self._endpoint.path, signer))
        self._loop.run_until_complete(self._send_all(fan_out, queues, min(self._budget, within)))
        return fan_out

    async def _send_all(self, fan_out: _FanOut, queues: Mapping[str, Sequence[bytes]], within: float) -> None:
        # The loop stood still since the last call: let it hear first which links their peer has closed meanwhile.
        await asyncio.sleep(0)
        ends = time.monotonic() + within
        self._hung = {id: at for id, at in self._hung.items() if self._clock() - at < HUNG_FOR}
        hung = {id: queues[id] for id in self._hung if id in queues}
        await self._send_side_by_side(fan_out, {id: queues[id] for id in queues if id not in hung}, within)
        await self._send_side_by_side(fan_out, hung, min(SOON, ends - time.monotonic()))
        failed = sum(map(len, queues.values())) - fan_out.done - fan_out.moot
        if failed:
            _logger.warning("%d %s requests failed: %s", failed, fan_out.method, dict(fan_out.trouble))

    async def _send_side_by_side(self, fan_out: _FanOut, queues: Mapping[str, Sequence[bytes]], within: float) -> None:
        if not queues:
            return
        tasks = [asyncio.create_task(self._send_in_order(fan_out, *queue)) for queue in queues.items()]
        _, late = await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_EXCEPTION)
        for task in late:
            task.cancel()
            fan_out.trouble["given up"] += 1
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, _UnreachableError):
                fan_out.trouble[str(result)] += 1
            elif isinstance(result, Exception):
                raise result

    async def _send_in_order(self, fan_out: _FanOut, connection_id: str, bodies: Sequence[bytes]) -> None:
        for index, body in enumerate(bodies):
            try:
                status = await self._send(fan_out, connection_id, body)
            except TimeoutError:
                fan_out.trouble["no answer"] += 1
                self._hung[connection_id] = self._clock()
                return  # what follows would hang as well
            self._hung.pop(connection_id, None)
            if status == 410:
                fan_out.gone.add(connection_id)
                fan_out.moot += len(bodies) - index
                return
            if 200 <= status < 300:
                fan_out.done += 1

    async def _send(self, fan_out: _FanOut, connection_id: str, body: bytes) -> int:
        """Send one request, again if that may help; returns the status of the first answer that is final."""
        backoff = FIRST_BACKOFF
        while True:
            try:
                await self._permits.acquire()
                with _Place(self._permits):
                    if connection_id in self._hung:  # the next time it is others' turn first
                        self._hung[connection_id] = self._hung.pop(connection_id)
                    if wait := self._pace.reserve(time.monotonic()):
                        await asyncio.sleep(wait)
                    status = await self._exchange(fan_out, fan_out.requests.write(fan_out.method, connection_id, body))
            except ConnectionError as error:
                fan_out.trouble[str(error)] += 1
            else:
                if status >= 300 and status != 410:
                    fan_out.trouble[str(status)] += 1
                if status != 429 and status < 500:
                    return status
            await asyncio.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
            backoff = min(2 * backoff, LAST_BACKOFF)

    async def _exchange(self, fan_out: _FanOut, request: bytes) -> int:
        link = self._take() or await self._open(fan_out)
        fan_out.at_work += 1
        try:
            status = await link.exchange(request)
        finally:
            fan_out.at_work -= 1
        link.used_at = self._clock()
        if link.is_open:
            self._idle.append(link)
        return status

    def _take(self) -> _Link | None:
        """The link used last, so that those nobody needs grow old."""
        while self._idle:
            link = self._idle.pop()
            if link.is_open and self._clock() - link.used_at <= IDLE_LIMIT:
                return link
            link.drop()
        return None

    async def _open(self, fan_out: _FanOut) -> _Link:
        loop = asyncio.get_running_loop()
        port = self._endpoint.port or (443 if self._tls else 80)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, link = await loop.create_connection(_Link, self._host, port, ssl=self._tls)
        except OSError as error:  # a refusal, a timeout, an untrusted certificate, a name that does not resolve
            fan_out.refusals += 1
            hope = self._idle or fan_out.at_work or fan_out.refusals < REFUSALS
            raise (ConnectionError if hope else _UnreachableError)(f"no connection: {type(error).__name__}") from error
        return link

    async def _drop_idle(self) -> None:
        for link in self._idle:
            link.drop()
        self._idle.clear()
        for _ in range(2):  # a dropped connection is closed in the loop's next turn, through TLS in the one after
            await asyncio.sleep(0)
        await asyncio.get_running_loop().shutdown_default_executor()


@dataclass
class _FanOut:
    """One call: what it sends with, and what has come of it so far."""

    method: str
    requests: _Requests
    done: int = 0
    gone: set[str] = field(default_factory=set)
    moot: int = 0
    """Bodies that were not delivered because their connection is gone."""
    refusals: int = 0
    """Failures to connect."""
    at_work: int = 0
    """Requests that wait for their answer."""
    trouble: Counter[str] = field(default_factory=Counter)
    """Everything that went wrong, retried or not, by status or reason."""


class _UnreachableError(Exception):
    """Nobody answers at the endpoint; to go on would only use up the budget."""


class _Place:
    """A permit that was acquired, given back at the end, or before: whoever is not done soon goes on without."""

    def __init__(self, permits: asyncio.Semaphore) -> None:
        self._permits, self._held = permits, True
        self._timer = asyncio.get_running_loop().call_later(SOON, self._give_back)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._give_back()

    def _give_back(self) -> None:
        if self._held:
            self._held = False
            self._permits.release()


class _Pace:
    """Spaces out requests: `rate` per second, of which `burst` may come at once after a pause."""

    def __init__(self, rate: float, burst: float) -> None:
        self._interval = 1 / rate
        self._credit = burst / rate
        self._next = 0.0

    def reserve(self, now: float) -> float:
        """Take the next place; returns the seconds to wait for it."""
        place = max(self._next, now - self._credit)
        self._next = place + self._interval
        return max(0.0, place - now)


class _Requests:
    """Writes signed requests to one stage, all as of one moment. They have no query.

    Those of a fan-out share key, date and headers, so each costs three hashes.
    """

    def __init__(self, host: str, stage_path: str, signer: Signer) -> None:
        self._signer = signer
        signed = {"host": host, "x-amz-date": signer.moment}
        if signer.token:
            signed["x-amz-security-token"] = signer.token
        self._names = ";".join(signed)
        self._canonical = "".join(f"{name}:{value}\n" for name, value in signed.items())
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
        self._path = f"{stage_path}/@connections/"
        self._canonical_path = quote(self._path)

    def write(self, method: str, connection_id: str, body: bytes) -> bytes:
        """A whole HTTP/1.1 request about a connection. The id ends in `=`, which a path carries as `%3D`."""
        quoted = quote(connection_id, safe="")
        content = hashlib.sha256(body).hexdigest()
        # The canonical path is encoded once more than the one sent, as for every service but S3.
        path = self._canonical_path + quoted.replace("%", "%25")
        signature = self._signer.sign(f"{method}\n{path}\n\n{self._canonical}\n{self._names}\n{content}")
        return (
            f"{method} {self._path}{quoted} HTTP/1.1\r\n{self._headers}"
            f"authorization: {ALGORITHM} Credential={self._signer.credential}, "
            f"SignedHeaders={self._names}, Signature={signature}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode() + body


class _Link(asyncio.Protocol):
    """One HTTP/1.1 connection to the endpoint. Of an answer it wants the status alone, and reads past the body.

    An answer whose end is not plain to see (chunked, or until the peer closes) ends the connection instead: the
    status has come by then, and a new connection costs less than code for a case that API Gateway does not send.
    """

    _transport: asyncio.Transport
    used_at: float
    """When its last answer came, by the pusher's clock."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[int] | None = None
        self._received = b""

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent, as far as is known."""
        return not self._transport.is_closing()

    def drop(self) -> None:
        """End the connection, without a farewell."""
        self._transport.abort()

    async def exchange(self, request: bytes) -> int:
        """Send a request; returns the status of its answer.

        Raises:
            ConnectionError: the connection ended first.
            TimeoutError: no answer came in time; the connection is dropped.
        """
        loop = asyncio.get_running_loop()
        self._answer = answer = asyncio.Future[int](loop=loop)
        self._received = b""
        timer = loop.call_later(ANSWER_TIMEOUT, self._fail, TimeoutError())
        self._transport.write(request)
        try:
            return await answer
        finally:
            timer.cancel()
            self._answer = None
            if answer.cancelled():  # what may still come would be taken for the next request's answer
                self.drop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop, before `create_connection` returns."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop with the next piece of an answer."""
        if self._answer is None or self._answer.done():
            self.drop()  # nobody asked
            return
        self._received += data
        head, complete, body = self._received.partition(b"\r\n\r\n")
        if not complete:
            return
        line = _STATUS.match(head)
        if line is None:
            self._fail(ConnectionError("no HTTP"))
            return
        status, length = int(line[1]), _LENGTH.search(head)
        size = int(length[1]) if length else 0 if status == 204 else -1
        if len(body) < size:
            return
        if len(body) != size or _CLOSE.search(head):
            self._transport.close()
        self._answer.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop when the connection has ended, by whichever side."""
        self._fail(ConnectionError(f"connection lost: {type(exc).__name__}" if exc else "connection closed"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.drop()
