"""A token issuer on loopback, as a verifier sees it: the keys that it publishes over HTTP.

It signs nothing; tests hold the private keys.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class Issuer:
    """`with Issuer(keys) as issuer`: publishes `issuer.document` at `issuer.url`, and counts the requests."""

    def __init__(self, keys: list[dict[str, Any]]) -> None:
        self.document: object = {"keys": keys}
        self.fetches = 0
        self.status = 200
        self.silent = False
        """Whether it accepts requests and never responds, until it stops."""
        self._stopping = threading.Event()
        self._httpd = _Httpd(("127.0.0.1", 0), _Handler)
        self._httpd.issuer = self
        self._thread = threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._httpd.server_port}/jwks.json"

    def stop(self) -> None:
        """Afterwards nothing listens."""
        self._stopping.set()
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Httpd(ThreadingHTTPServer):
    issuer: Issuer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up waiting is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Httpd

    def do_GET(self) -> None:
        issuer = self.server.issuer
        issuer.fetches += 1
        if issuer.silent:
            issuer._stopping.wait(timeout=30)
        body = json.dumps(issuer.document).encode()
        self.send_response(issuer.status)
        if 300 <= issuer.status < 400:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read `fetches`, not a log."""
