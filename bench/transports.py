"""The ways to post to connections that are compared: ours, boto3 in threads and in a loop, and AWS's Common Runtime.

Each is a function that posts frames and returns when all are answered; it raises when one was not answered with 200.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
from awscrt import auth, http, io
from botocore.config import Config

from shared.delivery import Frame
from shared.push import MAX_IN_FLIGHT, Pusher
from shared.settings import Settings

Post = Callable[[Sequence[Frame]], None]

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
    "AWS_SESSION_TOKEN": "IQoJb3JpZ2luX2VjEXAMPLE" * 16,  # about as long as one of Lambda's
    "AWS_REGION": "eu-central-1",
    "AWS_DEFAULT_REGION": "eu-central-1",
}
CHANGE = (
    b'{"type":"presence_status","seq":1732400000123,"userId":"u0000123","status":"busy","customStatus":null,'
    b'"deviceType":"web","lastSeen":null,"rev":1732400000042}'
)
"""A frame that tells of a change."""


class Counts:
    """A meter that adds up."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter."""
        self.counts[name] = self.counts.get(name, 0) + amount

    def time(self, name: str, ms: float) -> None:
        """How long something took is measured from outside."""


@contextlib.contextmanager
def push(url: str) -> Iterator[Post]:
    """`shared/push.py`."""
    meter = Counts()
    pusher = Pusher(Settings(callback_url=url, push_budget=60, announce_lease=120), meter)

    def post(frames: Sequence[Frame]) -> None:
        before = meter.counts.get("PostsSent", 0)
        pusher.post(frames)
        assert meter.counts["PostsSent"] - before == len(frames), meter.counts

    yield post
    pusher.shutdown()


@contextlib.contextmanager
def boto3_threads(url: str) -> Iterator[Post]:
    """boto3 with as many threads as we have connections."""
    client = _boto3_client(url)

    def one(frame: Frame) -> None:
        client.post_to_connection(ConnectionId=frame.connection_id, Data=frame.data)

    with ThreadPoolExecutor(MAX_IN_FLIGHT) as threads:
        yield lambda frames: list(threads.map(one, frames)).clear()
    client.close()


@contextlib.contextmanager
def boto3_loop(url: str) -> Iterator[Post]:
    """boto3, one post after the other."""
    client = _boto3_client(url)

    def post(frames: Sequence[Frame]) -> None:
        for frame in frames:
            client.post_to_connection(ConnectionId=frame.connection_id, Data=frame.data)

    yield post
    client.close()


def _boto3_client(url: str) -> Any:
    return boto3.client("apigatewaymanagementapi", endpoint_url=url, config=Config(max_pool_connections=MAX_IN_FLIGHT))


@contextlib.contextmanager
def common_runtime(url: str) -> Iterator[Post]:
    """`awscrt` with nothing around it: its own loop in a thread, its own signer, as many connections as we have."""
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
    opening = [http.HttpClientConnection.new(host, port, bootstrap, None, tls) for _ in range(MAX_IN_FLIGHT)]
    links = [link.result(timeout=10) for link in opening]
    provider = auth.AwsCredentialsProvider.new_static(
        *(os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
    )
    yield lambda frames: _CommonRuntimePost(endpoint.netloc, endpoint.path, provider, frames).over(links)
    for link in links:
        link.close().result(timeout=10)


class _CommonRuntimePost:
    """One fan-out: each link sends the next frame when its last one was answered."""

    def __init__(self, host: str, path: str, provider: Any, frames: Sequence[Frame]) -> None:
        self._host, self._path = host, path
        self._frames, self._left = iter(frames), len(frames)
        self._failure: BaseException | None = None
        self._done = threading.Event()
        self._signing = auth.AwsSigningConfig(
            credentials_provider=provider, region=os.environ["AWS_REGION"], service="execute-api"
        )

    def over(self, links: Sequence[Any]) -> None:
        for link in links:
            self._next(link)
        self._done.wait()
        if self._failure:
            raise self._failure

    def _next(self, link: Any) -> None:
        frame = next(self._frames, None)  # callbacks come in one thread, that of the loop, after the first of each link
        if frame is None:
            return
        headers = http.HttpHeaders([("host", self._host), ("content-length", str(len(frame.data)))])
        path = f"{self._path}/@connections/{quote(frame.connection_id, safe='')}"
        request = http.HttpRequest("POST", path, headers, BytesIO(frame.data))
        signed = auth.aws_sign_request(request, self._signing)
        signed.add_done_callback(lambda signed: self._send(link, signed))

    def _send(self, link: Any, signed: Future[Any]) -> None:
        try:
            stream = link.request(signed.result())
            stream.completion_future.add_done_callback(lambda answer: self._answered(link, answer))
            stream.activate()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._fail(error)

    def _answered(self, link: Any, answer: Future[int]) -> None:
        try:
            if answer.result() != 200:
                raise ConnectionError(f"answered with {answer.result()}")
        except BaseException as error:  # noqa: BLE001 - likewise
            self._fail(error)
        self._left -= 1
        if self._left == 0:
            self._done.set()
        else:
            self._next(link)

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._done.set()


TRANSPORTS: Mapping[str, Callable[[str], contextlib.AbstractContextManager[Post]]] = {
    "push.py": push,
    f"boto3, {MAX_IN_FLIGHT} threads": boto3_threads,
    "boto3, bare loop": boto3_loop,
    "awscrt, bare": common_runtime,
}
