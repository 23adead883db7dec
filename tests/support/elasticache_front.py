"""Stands in for ElastiCache: TLS 1.3 and sign-in by IAM, in front of a real Redis server on loopback.

A token is verified with botocore's signer. After the sign-in everything goes to the server; the front neither reads
nor changes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ssl
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

HOST = "localhost"
LIFE = timedelta(minutes=15)
UPSTREAM = ("presence", "password of the user behind the front")
"""The server's user as which the front signs in accepted clients, and the password."""


class SignIn(NamedTuple):
    """The first command of a connection, if it was AUTH with a user and a token."""

    user: str
    token: str


class ElastiCacheFront:
    """`with ElastiCacheFront(...) as front`: a cache at `front.url`.

    Attributes:
        sign_ins: every AUTH that came first on a connection, in order.
        firsts: the name of each connection's first command.
        refusal: the error that every sign-in gets, unless it is "".
    """

    def __init__(
        self, backend: int, certificate: Path, *, user: str, cache: str, environ: Mapping[str, str], serverless: bool
    ) -> None:
        self.sign_ins: list[SignIn] = []
        self.firsts: list[str] = []
        self.refusal = ""
        self.port = 0
        self._backend, self._environ = backend, environ
        self._wanted = {"Action": "connect", "User": user, "X-Amz-Expires": "900", "X-Amz-SignedHeaders": "host"}
        if serverless:
            self._wanted["ResourceType"] = "ServerlessCache"
        self._user, self._cache = user, cache
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self._tls.load_cert_chain(certificate)
        self._writers: set[StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    @property
    def url(self) -> str:
        return f"rediss://{HOST}:{self.port}/0"

    def cut(self) -> None:
        """End every connection without notice, as ElastiCache does twelve hours after the sign-in."""
        done = threading.Event()

        def abort() -> None:
            for writer in self._writers:
                writer.transport.abort()
            self._loop.call_soon(done.set)

        self._loop.call_soon_threadsafe(abort)
        assert done.wait(5)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        # Suppresses the loop's error log about clients that hang up during the handshake: tests have such clients.
        self._loop.set_exception_handler(lambda _loop, _context: None)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                refused = self._judge(await _command(reader))
                if refused:
                    writer.write(f"-{refused}\r\n".encode())
                    await writer.drain()
                else:
                    await self._pass_on(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _pass_on(self, reader: StreamReader, writer: StreamWriter) -> None:
        behind, upstream = await asyncio.open_connection("127.0.0.1", self._backend)
        try:
            parts = ("AUTH", *UPSTREAM)
            upstream.write(f"*{len(parts)}\r\n".encode() + b"".join(f"${len(p)}\r\n{p}\r\n".encode() for p in parts))
            async with asyncio.TaskGroup() as both:  # the client gets the server's own response to AUTH
                both.create_task(_pump(reader, upstream))
                both.create_task(_pump(behind, writer))
        finally:
            upstream.close()

    def _judge(self, command: list[str]) -> str:
        """The error with which the first command of a connection is refused; "" if it is accepted."""
        self.firsts.append(command[0].upper())
        if self.firsts[-1] != "AUTH" or len(command) != 3:
            return "NOAUTH Authentication required."
        self.sign_ins.append(SignIn(*command[1:]))
        if self.refusal:
            return self.refusal
        right = command[1] == self._user and self._verify(command[2])
        return "" if right else "WRONGPASS invalid username-password pair or user is disabled."

    def _verify(self, token: str) -> bool:
        unsigned, _, signature = token.rpartition("&X-Amz-Signature=")
        url = urlsplit("http://" + unsigned)
        query = dict(parse_qsl(url.query, strict_parsing=True))
        if (url.netloc, url.path) != (self._cache, "/") or not self._wanted.items() <= query.items():
            return False
        if query.keys() - self._wanted.keys() - {"X-Amz-Security-Token"} != {
            "X-Amz-Algorithm",
            "X-Amz-Credential",
            "X-Amz-Date",
        }:
            return False
        date = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if not timedelta(seconds=-2) < datetime.now(UTC) - date < LIFE:
            return False
        session = self._environ.get("AWS_SESSION_TOKEN")
        credentials = Credentials(self._environ["AWS_ACCESS_KEY_ID"], self._environ["AWS_SECRET_ACCESS_KEY"], session)
        auth = SigV4QueryAuth(credentials, "elasticache", self._environ["AWS_REGION"], expires=900)
        request = AWSRequest("GET", url.geturl())
        request.context = {"timestamp": query["X-Amz-Date"]}
        if query["X-Amz-Credential"] != auth.scope(request) or query.get("X-Amz-Security-Token") != session:
            return False
        expected = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
        return hmac.compare_digest(expected, signature)


async def _command(reader: StreamReader) -> list[str]:
    """One command, as a client writes it: an array of bulk strings."""
    count = int((await reader.readline())[1:])
    parts = []
    for _ in range(count):
        length = int((await reader.readline())[1:])
        parts.append((await reader.readexactly(length + 2))[:-2].decode())
    return parts


async def _pump(source: StreamReader, sink: StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()
