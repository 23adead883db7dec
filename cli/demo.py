"""Serves the demo page and the operator's view, and the few calls that the page cannot make as a user.

It is a part of `presence run` and for this machine only, because its caller can become any user. It is never packaged
or deployed, listens on the loopback interface, and accepts calls only from pages that it served. The pages are in
`client/demo/`; everything else they do goes through the service's two APIs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import web

from cli.backend import Backend
from cli.errors import UserError
from cli.home import Run
from cli.identity_provider import IdentityProvider
from local.apigateway.websocket_api import WebSocketApi
from local.cloudwatch import Metrics
from local.iam import KeyPair

CLIENT = Path(__file__).resolve().parent.parent / "client"
CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PEOPLE = ("alice", "bob", "carol", "dave", "erin")
"""The users that the page offers. They are contacts of each other."""
LONGEST_TOKEN = 3600
"""The longest validity of a token made here, in seconds. A negative one makes an expired token."""
SAMPLE_EVERY = 1.0
"""Seconds between two samples of the number of open connections."""
OPEN_CONNECTIONS = "OpenConnections"


class Demo:
    """Handles requests below `/demo`, and redirects `/` there.

    Args:
        run: the URLs of the service, and what it requires of tokens.
        keys: sign calls as the application's backend.
        websocket_api: the API whose connections the page can cut.
        metrics: the numbers of the operator's view.
        own_redis: whether the Redis was started for this run. In any other Redis, contacts are not changed.
    """

    def __init__(
        self, run: Run, keys: KeyPair, websocket_api: WebSocketApi, metrics: Metrics, *, own_redis: bool
    ) -> None:
        self._run, self._keys = run, keys
        self._websocket_api, self._metrics = websocket_api, metrics
        self._own_redis = own_redis
        self._introducing, self._introduced = asyncio.Lock(), False
        self._files = {
            f"/{file.relative_to(CLIENT)}": file
            for file in (*CLIENT.glob("*.js"), *CLIENT.glob("demo/*"))
            if file.suffix in CONTENT_TYPES
        }
        self._calls = {
            ("POST", "/demo/token"): self._token,
            ("POST", "/demo/contacts"): self._contacts,
            ("POST", "/demo/lose"): self._lose,
            ("GET", "/demo/metrics"): self._metrics_report,
        }
        port = run.url.rpartition(":")[2]
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    @contextlib.asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        """Sample the number of open connections while the block lasts."""

        async def sample() -> None:
            while True:
                self._metrics.gauge(OPEN_CONNECTIONS, len(self._websocket_api.connections))
                await asyncio.sleep(SAMPLE_EVERY)

        task = asyncio.create_task(sample())
        try:
            yield
        finally:
            task.cancel()

    def owns(self, request: web.Request) -> bool:
        """Whether a request is for the demo, not for the service."""
        return request.path in ("/", "/demo") or request.path.startswith("/demo/") or request.path in self._files

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle a request that this owns."""
        if (call := self._calls.get((request.method, request.path))) is not None:
            return await self._respond(request, call)
        if request.method not in ("GET", "HEAD"):
            return _problem(HTTPStatus.NOT_FOUND, "there is no such call")
        if request.path in ("/", "/demo"):
            query = f"?{request.rel_url.raw_query_string}" if request.query_string else ""
            return web.Response(status=HTTPStatus.FOUND, headers={"Location": f"/demo/{query}"})
        file = self._files.get("/demo/index.html" if request.path == "/demo/" else request.path)
        return _problem(HTTPStatus.NOT_FOUND, "there is no such file") if file is None else self._file(request, file)

    def _file(self, request: web.Request, file: Path) -> web.Response:
        headers = {
            "Cache-Control": "no-cache",
            "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            f"connect-src 'self' ws://{request.host}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        content_type = CONTENT_TYPES[file.suffix]
        return web.Response(body=file.read_bytes(), content_type=content_type, charset="utf-8", headers=headers)

    async def _respond(self, request: web.Request, call: Any) -> web.Response:
        # Without this check, a foreign page whose host name resolves to this machine would have the same origin.
        if request.host not in self._hosts:
            return _problem(HTTPStatus.FORBIDDEN, f"use {self._run.url}, not {request.host}")
        if request.method == "POST" and request.headers.get("Origin") != f"http://{request.host}":
            return _problem(HTTPStatus.FORBIDDEN, "only the demo page may make this call")
        try:
            body = await request.json() if request.method == "POST" else {}
            return web.json_response(await call(body), headers={"Cache-Control": "no-store"})
        except (ValueError, KeyError, TypeError):
            return _problem(HTTPStatus.BAD_REQUEST, "the body is not valid for this call")
        except UserError as error:
            return _problem(HTTPStatus.CONFLICT, str(error))

    # The calls. Their bodies and responses are JSON.

    async def _token(self, body: dict[str, Any]) -> dict[str, Any]:
        """`{"user", "ttl"}`: a token of a user, valid for `ttl` seconds, and where the service looks for it."""
        if not self._run.jwt_secret:
            raise UserError("tokens come from the identity provider at PRESENCE_JWKS_URL; none can be made here")
        run = self._run
        provider = IdentityProvider(run.jwt_secret, run.token_source, issuer=run.jwt_issuer, audience=run.jwt_audience)
        token = provider.token(str(body["user"]), min(int(body["ttl"]), LONGEST_TOKEN))
        return {"token": token, "tokenSource": run.token_source}

    async def _contacts(self, _: dict[str, Any]) -> dict[str, Any]:
        """Let `PEOPLE` see each other, unless they have other contacts; `made` is whether this did so."""
        async with self._introducing, Backend.open(self._run.url, self._keys.credentials, self._run.region) as backend:
            health = await backend.health()
            if self._own_redis and not self._introduced:  # Only once: later changes are intended.
                self._introduced = await self._introduce(backend)
            return {"made": self._introduced, "graph": health["graph"]}

    async def _introduce(self, backend: Backend) -> bool:
        known = {user: await backend.contacts(user) for user in PEOPLE}
        if any(others - set(PEOPLE) for others in known.values()):
            return False  # A loaded graph contains users of these names.
        for place, user in enumerate(PEOPLE[:-1]):
            if missing := [other for other in PEOPLE[place + 1 :] if other not in known[user]]:
                await backend.set_contacts(user, missing, mutual=True)
        return True

    async def _lose(self, body: dict[str, Any]) -> dict[str, Any]:
        """`{"connectionId"}`: cut a connection as a network failure does, without a close frame or `$disconnect`."""
        connection_id = body["connectionId"]
        found = connection_id in self._websocket_api.connections
        if found:
            self._websocket_api.lose(connection_id)
        return {"lost": found}

    async def _metrics_report(self, _: dict[str, Any]) -> dict[str, Any]:
        """The metrics; see `Metrics.report`."""
        return self._metrics.report()


def _problem(status: HTTPStatus, detail: str) -> web.Response:
    """An error in the format of the service's HTTP API."""
    problem = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    return web.Response(status=status, text=json.dumps(problem), content_type="application/problem+json")
