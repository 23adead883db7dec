"""Ways to post to connections, for comparison: ours, boto3, AWS's Common Runtime (`awscrt`) and aiohttp.

Each is a context manager that takes the callback URL and gives a function that posts frames. The function returns when
all are answered, and raises if one was not answered with 200. All sign each post, keep their connections open, and keep
to the rate limit of `shared/push.py`, each fan-out with a full burst.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from io import BytesIO
from itertools import repeat
from typing import Any, cast
from urllib.parse import quote, urlsplit

import aiohttp
import boto3
import yarl
from awscrt import auth, http, io
from botocore.config import Config

from shared.delivery import Post
from shared.http_client import RESPONSE_TIMEOUT, HttpClient
from shared.push import BURST, MAX_IN_FLIGHT, POSTS_PER_SECOND, Pusher, RateLimiter
from shared.settings import Settings
from shared.sigv4 import HeaderSigner, Signer

PostAll = Callable[[Sequence[Post]], None]

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
    "AWS_SESSION_TOKEN": "IQoJb3JpZ2luX2VjEXAMPLE" * 16,  # about as long as one of Lambda's
    "AWS_REGION": "eu-central-1",
    "AWS_DEFAULT_REGION": "eu-central-1",
}
CHANGE = (
    b'{"type":"presence_status","seq":1732400000123,"prev":1732399987654,"userId":"u0000123","status":"busy",'
    b'"customStatus":null,"deviceType":"web","lastSeen":null}'
)
"""A frame that announces a change."""


class Counts:
    """Metrics that are kept in memory."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter."""
        self.counts[name] = self.counts.get(name, 0) + amount

    def time(self, name: str, ms: float) -> None:
        """Ignored: durations are measured from outside."""


@contextlib.contextmanager
def push(url: str, client: HttpClient | None = None) -> Iterator[PostAll]:
    """`shared/push.py`, with its own HTTP client unless another is given."""
    metrics = Counts()
    pusher = Pusher(Settings(callback_url=url, push_budget=60, announce_lease=120), metrics)
    pusher._client = client

    def post(frames: Sequence[Post]) -> None:
        before = metrics.counts.get("PostsSent", 0)
        pusher.post(frames)
        assert metrics.counts["PostsSent"] - before == len(frames), metrics.counts

    yield post
    pusher.shutdown()


@contextlib.contextmanager
def push_over_aiohttp(url: str) -> Iterator[PostAll]:
    """`shared/push.py` with aiohttp in place of `shared/http_client.py`: all else is the same code."""
    with push(url, cast("HttpClient", AiohttpClient(url))) as post:
        yield post


@contextlib.contextmanager
def aiohttp_workers(url: str) -> Iterator[PostAll]:
    """The library alone, with our signatures: as many workers as we have posts in flight."""
    client, loop, endpoint = AiohttpClient(url), asyncio.new_event_loop(), urlsplit(url)

    async def work(frames: Iterator[Post], signer: HeaderSigner, limit: RateLimiter) -> None:
        for frame in frames:
            if wait := limit.reserve(time.monotonic()):
                await asyncio.sleep(wait)
            path = _path(endpoint.path, frame)
            status = await client.request("POST", path, signer.headers("POST", path, frame.data), frame.data)
            assert status == 200, status

    async def work_together(frames: Sequence[Post]) -> None:
        signer = HeaderSigner(Signer("execute-api", os.environ, datetime.now(UTC)), endpoint.netloc)
        left, limit = iter(frames), RateLimiter(POSTS_PER_SECOND, BURST)
        await asyncio.gather(*(work(left, signer, limit) for _ in range(MAX_IN_FLIGHT)))

    yield lambda frames: loop.run_until_complete(work_together(frames))
    loop.run_until_complete(client.close())
    loop.close()


class AiohttpClient:
    """What `shared.http_client.HttpClient` does, by aiohttp; switched off is what a post does not need."""

    has_connections = True
    _session: aiohttp.ClientSession | None = None

    def __init__(self, url: str) -> None:
        endpoint = urlsplit(url)
        self._origin = f"{endpoint.scheme}://{endpoint.netloc}"
        self._tls = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Send one request; returns the status of its response."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_IN_FLIGHT, ssl=self._tls, keepalive_timeout=60),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                timeout=aiohttp.ClientTimeout(total=RESPONSE_TIMEOUT),
            )
        url = yarl.URL(self._origin + path, encoded=True)
        async with self._session.request(method, url, data=body, headers=headers) as response:
            await response.read()
            return response.status

    async def notice_closed(self) -> None:
        """As in `HttpClient`."""
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Close all connections, and the thread that looked up host names."""
        if self._session is not None:
            await self._session.close()
        await asyncio.get_running_loop().shutdown_default_executor()


@contextlib.contextmanager
def boto3_threads(url: str) -> Iterator[PostAll]:
    """boto3 with as many threads as we have posts in flight."""
    client, lock = _boto3_client(url), threading.Lock()

    def one(frame: Post, limit: RateLimiter) -> None:
        with lock:
            wait = limit.reserve(time.monotonic())
        if wait:
            time.sleep(wait)
        client.post_to_connection(ConnectionId=frame.connection_id, Data=frame.data)

    with ThreadPoolExecutor(MAX_IN_FLIGHT) as threads:
        yield lambda frames: list(threads.map(one, frames, repeat(RateLimiter(POSTS_PER_SECOND, BURST)))).clear()
    client.close()


@contextlib.contextmanager
def boto3_loop(url: str) -> Iterator[PostAll]:
    """boto3, one post after the other, which never reaches the rate limit."""
    client = _boto3_client(url)

    def post(frames: Sequence[Post]) -> None:
        for frame in frames:
            client.post_to_connection(ConnectionId=frame.connection_id, Data=frame.data)

    yield post
    client.close()


def _boto3_client(url: str) -> Any:
    return boto3.client("apigatewaymanagementapi", endpoint_url=url, config=Config(max_pool_connections=MAX_IN_FLIGHT))


def _path(stage_path: str, frame: Post) -> str:
    return f"{stage_path}/@connections/{quote(frame.connection_id, safe='')}"


@contextlib.contextmanager
def common_runtime(url: str) -> Iterator[PostAll]:
    """The library alone: its own loop in a thread, its own signer, as many connections as we have posts in flight."""
    endpoint, connect = urlsplit(url), _common_runtime_connector(url)
    opening = [connect() for _ in range(MAX_IN_FLIGHT)]
    connections = [connection.result(timeout=10) for connection in opening]
    provider = auth.AwsCredentialsProvider.new_static(
        *(os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
    )
    yield lambda frames: _CommonRuntimePost(endpoint.netloc, endpoint.path, provider, frames).over(connections)
    for connection in connections:
        connection.close().result(timeout=10)


@contextlib.contextmanager
def push_over_common_runtime(url: str) -> Iterator[PostAll]:
    """`shared/push.py` with `awscrt` in place of `shared/http_client.py`: all else is the same code."""
    with push(url, cast("HttpClient", CommonRuntimeClient(url))) as post:
        yield post


class CommonRuntimeClient:
    """What `shared.http_client.HttpClient` does, by `awscrt`."""

    has_connections = True

    def __init__(self, url: str) -> None:
        self._host, self._connect = urlsplit(url).netloc, _common_runtime_connector(url)
        self._idle: list[Any] = []

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Send one request; returns the status of its response."""
        connection = self._idle.pop() if self._idle else await asyncio.wrap_future(self._connect())
        lines = http.HttpHeaders([("host", self._host), *headers.items(), ("content-length", str(len(body)))])
        stream = connection.request(http.HttpRequest(method, path, lines, BytesIO(body)))
        stream.activate()
        async with asyncio.timeout(RESPONSE_TIMEOUT):
            status: int = await asyncio.wrap_future(stream.completion_future)
        self._idle.append(connection)
        return status

    async def notice_closed(self) -> None:
        """Nothing to do: awscrt's thread notices."""

    async def close(self) -> None:
        """Close all connections."""
        for connection in self._idle:
            await asyncio.wrap_future(connection.close())


def _common_runtime_connector(url: str) -> Callable[[], Future[Any]]:
    """Opens connections to the endpoint of a URL, all in one thread of awscrt's."""
    endpoint = urlsplit(url)
    host, port = endpoint.hostname or "", endpoint.port or 443
    group = io.EventLoopGroup(1)
    bootstrap = io.ClientBootstrap(group, io.DefaultHostResolver(group))
    tls = None
    if endpoint.scheme == "https":
        options = io.TlsContextOptions()
        options.override_default_trust_store_from_path(None, os.environ["AWS_CA_BUNDLE"])
        tls = io.ClientTlsContext(options).new_connection_options()
        tls.set_server_name(host)
    return lambda: cast("Future[Any]", http.HttpClientConnection.new(host, port, bootstrap, None, tls))


class _CommonRuntimePost:
    """One fan-out. A connection sends the next frame when its last one was answered.

    Callbacks run in one thread, that of awscrt's loop, which must not sleep: a post that has to wait for the rate
    limit is started by the calling thread.
    """

    def __init__(self, host: str, path: str, provider: Any, frames: Sequence[Post]) -> None:
        self._host, self._path = host, path
        self._limit = RateLimiter(POSTS_PER_SECOND, BURST)
        self._frames, self._left = iter(frames), len(frames)
        self._failure: BaseException | None = None
        self._waiting: queue.SimpleQueue[tuple[float, Any, Post] | None] = queue.SimpleQueue()
        """Posts to start, each with its time by `time.monotonic`, in order; then None: all are done, or one failed."""
        self._signing = auth.AwsSigningConfig(
            credentials_provider=provider, region=os.environ["AWS_REGION"], service="execute-api"
        )

    def over(self, connections: Sequence[Any]) -> None:
        for connection in connections:
            self._next(connection)
        while waiting := self._waiting.get():
            start, connection, frame = waiting
            time.sleep(max(0.0, start - time.monotonic()))
            self._sign(connection, frame)
        if self._failure:
            raise self._failure

    def _next(self, connection: Any) -> None:
        frame = next(self._frames, None)
        if frame is None:
            return
        now = time.monotonic()
        if wait := self._limit.reserve(now):
            self._waiting.put((now + wait, connection, frame))
        else:
            self._sign(connection, frame)

    def _sign(self, connection: Any, frame: Post) -> None:
        headers = http.HttpHeaders([("host", self._host), ("content-length", str(len(frame.data)))])
        request = http.HttpRequest("POST", _path(self._path, frame), headers, BytesIO(frame.data))
        signed = auth.aws_sign_request(request, self._signing)
        signed.add_done_callback(lambda signed: self._send(connection, signed))

    def _send(self, connection: Any, signed: Future[Any]) -> None:
        try:
            stream = connection.request(signed.result())
            stream.completion_future.add_done_callback(lambda response: self._answered(connection, response))
            stream.activate()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._fail(error)

    def _answered(self, connection: Any, response: Future[int]) -> None:
        try:
            if response.result() != 200:
                raise ConnectionError(f"answered with {response.result()}")
        except BaseException as error:  # noqa: BLE001 - likewise
            self._fail(error)
        self._left -= 1
        if self._left == 0:
            self._waiting.put(None)
        else:
            self._next(connection)

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._waiting.put(None)


TRANSPORTS: Mapping[str, Callable[[str], contextlib.AbstractContextManager[PostAll]]] = {
    "push.py": push,
    f"boto3, {MAX_IN_FLIGHT} threads": boto3_threads,
    "boto3, bare loop": boto3_loop,
    "awscrt, bare": common_runtime,
    "aiohttp, bare": aiohttp_workers,
    "push.py over aiohttp": push_over_aiohttp,
    "push.py over awscrt": push_over_common_runtime,
}
