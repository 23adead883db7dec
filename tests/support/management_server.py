"""A management API on loopback whose responses the test decides: real sockets, real HTTP/1.1, and TLS on request.

It knows nothing about connections or presence, and checks no signature.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True)
class Received:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    link: int
    """The client's port, which identifies the socket."""
    at: float
    """When all of it had arrived, by `time.monotonic`."""

    @property
    def connection_id(self) -> str:
        return unquote(self.path.rpartition("/")[2])


Answer = Callable[[Received], "int | Sequence[bytes] | None"]
"""Returns a status, or a whole response in pieces, or None to close the socket instead. It may block."""


class ManagementServer:
    """`with ManagementServer() as server`: `server.requests` lists the requests, `server.answer` decides the responses.

    With the `port` of a server that has stopped, it takes that server's place.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.requests: list[Received] = []
        self.answer: Answer = lambda received: 204 if received.method == "DELETE" else 200
        self.links: set[int] = set()
        """The client's port of every socket that ever connected."""
        self.stopping = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._httpd = _Httpd(("127.0.0.1", port), _Handler)
        self._httpd.management = self
        if tls is not None:
            # The handshake happens in the thread of each socket: a slow client must not delay the others.
            self._httpd.socket = tls.wrap_socket(self._httpd.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._httpd.server_port
        self.host = f"localhost:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}/live"
        self._thread = threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.01})

    def hang(self, received: Received) -> None:
        """A response that never comes: it blocks until the server stops."""
        self.stopping.wait(timeout=30)

    def posted(self, connection_id: str) -> list[bytes]:
        """The bodies posted to one connection, in order of arrival."""
        return [received.body for received in self.requests if received.connection_id == connection_id]

    def close_links(self) -> None:
        """Close every kept-alive socket, as an endpoint does after a long idle time."""
        for connected in list(self._sockets):
            with suppress(OSError):  # the client closed it first
                connected.shutdown(socket.SHUT_RDWR)

    def refuse_links(self) -> None:
        """Accept no more sockets; those that are open still get responses."""
        self._httpd.shutdown()
        self._httpd.socket.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._httpd.shutdown()
        self.close_links()
        self._httpd.server_close()
        self._thread.join()


def write_certificate(path: Path) -> Path:
    """Write a key and a self-signed certificate for this machine into one PEM file; returns its path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    address = x509.IPAddress(IPv4Address("127.0.0.1"))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(pem))
    return path


class _Httpd(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64
    management: ManagementServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignored: clients that disconnect halfway are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Httpd

    def setup(self) -> None:
        super().setup()
        self.server.management.links.add(self.client_address[1])
        self.server.management._sockets.add(self.connection)

    def finish(self) -> None:
        self.server.management._sockets.discard(self.connection)
        super().finish()

    def do_POST(self) -> None:
        management = self.server.management
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        received = Received(self.command, self.path, headers, body, self.client_address[1], time.monotonic())
        management.requests.append(received)
        answer = management.answer(received)
        if answer is None:
            self.close_connection = True
        elif not isinstance(answer, int):
            for piece in answer:
                self.wfile.write(piece)
        else:
            self.send_response(answer)
            if answer != 204:
                self.send_header("Content-Length", "0")
            self.end_headers()

    do_DELETE = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read `requests`, not a log."""
