"""An endpoint for posts, in a process of its own. It does as little as possible, so that only the sender is measured.

It responds to each request with 200 and API Gateway's headers, and checks nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

from bench.measure import environment
from tests.support.management_server import write_certificate

ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: Sat, 23 Nov 2024 22:13:20 GMT\r\nContent-Length: 0\r\nConnection: keep-alive\r\n"
    b"x-amzn-RequestId: c6af9ac6-7b61-11e6-9a41-93e8deadbeef\r\n\r\n"
)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


class Received(NamedTuple):
    """What the endpoint received since it started."""

    posts: int
    size: int
    """In bytes, without TLS."""


class Endpoint:
    """A running endpoint.

    Attributes:
        url: the URL to post to, as `callback_url`.
        trusted: a file with its certificate; empty without TLS.
    """

    def __init__(self, process: subprocess.Popen[str], scheme: str) -> None:
        self._process = process
        self.trusted = ""
        self.url = f"{scheme}://localhost:{self._line()}/live"

    def received(self) -> Received:
        """What it has received so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        return Received(*(int(word) for word in self._line().split()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextlib.contextmanager
def tls_endpoint() -> Iterator[Endpoint]:
    """An endpoint with TLS, which this process trusts while the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, trusted = write_certificate(Path(folder, "localhost.pem")), Path(folder, "trusted.pem")
        # awscrt does not accept a certificate file that contains a key.
        trusted.write_bytes(certificate.read_bytes().partition(b"-----END PRIVATE KEY-----\n")[2])
        with environment({"AWS_CA_BUNDLE": str(trusted)}), endpoint(certificate) as server:
            server.trusted = str(trusted)
            yield server


@contextlib.contextmanager
def endpoint(certificate: Path | None = None) -> Iterator[Endpoint]:
    """An endpoint on loopback that ends with the block; with TLS if there is a certificate with its key."""
    command = [sys.executable, "-m", "bench.endpoint", *([str(certificate)] if certificate else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Endpoint(process, "https" if certificate else "http")
        finally:
            process.kill()


class _Link(asyncio.Protocol):
    posts, size = 0, 0

    def __init__(self) -> None:
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        _Link.size += len(data)
        self._pending += data
        while True:
            head, complete, rest = self._pending.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            size = int(length[1]) if length else 0
            if not complete or len(rest) < size:
                return
            self._pending = rest[size:]
            _Link.posts += 1
            self._transport.write(ANSWER)


async def _serve(certificate: str | None) -> None:
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Link, "127.0.0.1", 0, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Each line is a request for the counts. The input ends with the parent.
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(_Link.posts, _Link.size, flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1] if len(sys.argv) > 1 else None))
