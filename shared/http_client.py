"""HTTP/1.1 client: kept-alive connections to one endpoint. Sends a request, returns the status of its response.

It opens connections, reuses them, times out, checks certificates, and drops connections that were idle for too long.
Response headers and bodies are read only to find where a response ends.

Not here: what is posted, how many requests are in flight, how fast, what is retried (`push.py`), and signatures
(`sigv4.py`). docs/decisions/0010 has the reasons for not using a library.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import SplitResult

CONNECT_TIMEOUT = 1.0
"""Seconds for TCP and TLS together."""
RESPONSE_TIMEOUT = 1.0
"""Seconds from the request to the end of its response. API Gateway takes milliseconds, unless the client that it
delivers to vanished without closing its connection."""
IDLE_LIMIT = 20.0
"""Seconds after which an idle connection is not reused: a load balancer in between may have dropped it silently."""

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\b")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*(?:\r\n|\Z)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close\b", re.IGNORECASE)


class ConnectError(ConnectionError):
    """No connection could be opened: refused, timed out, untrusted certificate, or unknown host name."""


class HttpClient:
    """A connection pool for one endpoint. It has no upper bound: the caller limits how many requests are in flight.

    Args:
        endpoint: scheme (`http` or `https`), host and port; the path is ignored.
        ca_file: PEM file of certificates to trust instead of the system's.
        clock: monotonic, in seconds; measures how long a connection was idle.

    Raises:
        OSError: `ca_file` cannot be read.
    """

    def __init__(
        self, endpoint: SplitResult, ca_file: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tls = ssl.create_default_context(cafile=ca_file) if endpoint.scheme == "https" else None
        self._host, self._port = endpoint.hostname or "", endpoint.port or (443 if self._tls else 80)
        self._host_header = endpoint.netloc
        self._clock = clock
        self._idle: list[_Connection] = []  # the one used last comes last
        self._in_use = 0

    @property
    def has_connections(self) -> bool:
        """Whether any connection is open, idle or in use, as far as is known."""
        return bool(self._idle) or self._in_use > 0

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Send one request, on an idle connection if there is one; returns the status of its response.

        Args:
            method: `POST`, `DELETE`, ...
            path: percent-encoded, with the query if there is one.
            headers: beside `Host` and `Content-Length`, which the client adds.
            body: may be empty.

        Raises:
            ConnectError: no connection could be opened; nothing was sent.
            ConnectionError: the connection ended before the response did. The request may have been processed.
            TimeoutError: no response within `RESPONSE_TIMEOUT`. Likewise.
        """
        connection = self._take_idle() or await self._open()
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"{method} {path} HTTP/1.1\r\nhost: {self._host_header}\r\n{lines}content-length: {len(body)}\r\n\r\n"
        self._in_use += 1
        try:
            status = await connection.exchange(head.encode() + body)
        finally:
            self._in_use -= 1
        connection.used_at = self._clock()
        if connection.is_open:
            self._idle.append(connection)
        return status

    async def notice_closed(self) -> None:
        """Find out which idle connections the peer closed while the event loop was not running."""
        for _ in range(3):  # turns of the loop: it polls the sockets, reads the end of a connection, closes a TLS one
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Close all idle connections, and the thread that looked up host names."""
        for connection in self._idle:
            connection.drop()
        self._idle.clear()
        for _ in range(2):  # the loop closes a dropped connection in its next turn, a TLS connection in the one after
            await asyncio.sleep(0)
        await asyncio.get_running_loop().shutdown_default_executor()

    def _take_idle(self) -> _Connection | None:
        """The connection used last, so that surplus connections age and are dropped."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and self._clock() - connection.used_at <= IDLE_LIMIT:
                return connection
            connection.drop()
        return None

    async def _open(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        except OSError as error:  # TimeoutError and ssl.SSLError are OSErrors as well
            raise ConnectError(f"no connection: {type(error).__name__}") from error
        return connection


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, for one request at a time.

    A response whose end cannot be known from `Content-Length` (chunked, or ended by the peer's close) closes the
    connection. Its status is known by then, and API Gateway sends no such response.
    """

    _transport: asyncio.Transport
    used_at: float
    """When its last response ended, by the client's clock."""

    def __init__(self) -> None:
        self._response: asyncio.Future[int] | None = None
        self._received = b""

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent, as far as is known."""
        return not self._transport.is_closing()

    def drop(self) -> None:
        """Close at once, without TLS's closing handshake."""
        self._transport.abort()

    async def exchange(self, request: bytes) -> int:
        """Send a request; returns the status of its response. Raises like `HttpClient.request`."""
        loop = asyncio.get_running_loop()
        self._response = response = asyncio.Future[int](loop=loop)
        self._received = b""
        timer = loop.call_later(RESPONSE_TIMEOUT, self._fail, TimeoutError())
        self._transport.write(request)
        try:
            return await response
        finally:
            timer.cancel()
            self._response = None
            if response.cancelled():  # a late response must not be taken for the response to the next request
                self.drop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop calls this before `create_connection` returns."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """The loop calls this with the next piece of a response."""
        if self._response is None or self._response.done():
            self.drop()  # no request is waiting
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
        self._response.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        """The loop calls this when either side has closed the connection."""
        self._fail(ConnectionError(f"connection lost: {type(exc).__name__}" if exc else "connection closed"))

    def _fail(self, error: Exception) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(error)
        self.drop()
