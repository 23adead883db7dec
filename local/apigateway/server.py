"""The server of both APIs, on one port of the loopback interface.

On AWS each API has a domain name of its own. Here, the WebSocket API gets handshakes and requests for the stage `live`
or for `@connections`. The HTTP API gets all other requests, except those for a site that shares the port.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Protocol

from aiohttp import web

from local.apigateway import gateway
from local.apigateway.http_api import HttpApi
from local.apigateway.websocket_api import WebSocketApi

HOST = "127.0.0.1"
BACKLOG = 4096
"""Connections that may wait to be accepted: after a restart, ten thousand clients reconnect together."""
LINE_LIMIT = 64 * 1024
"""Bytes of a request line or a header that are read: above API Gateway's quotas, so that there can be a response."""
SHUTDOWN_TIMEOUT = 2.0
"""Seconds within which requests must end when the server stops."""


class Site(Protocol):
    """Another site on the same port."""

    def owns(self, request: web.Request) -> bool:
        """Whether a request is for this site."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle a request that this site owns."""


@contextlib.asynccontextmanager
async def serve(
    websocket_api: WebSocketApi, http_api: HttpApi, listener: socket.socket, site: Site | None = None
) -> AsyncIterator[None]:
    """Serve both APIs, and a site if there is one, while the block runs. `listener` is bound to `HOST`."""

    async def dispatch(request: web.Request) -> web.StreamResponse:
        if websocket_api.owns(request):
            return await websocket_api.handle(request)
        if site is not None and site.owns(request):
            return await site.handle(request)
        return await http_api.handle(request)

    async def close(_: web.Application) -> None:
        await websocket_api.close()

    # One byte more, because releases of aiohttp differ in whether a body of exactly the limit is allowed.
    app = web.Application(client_max_size=gateway.BODY_LIMIT + 1)
    app.router.add_route("*", "/{path:(?s:.*)}", dispatch)  # (?s) also matches a percent-encoded line break.
    app.on_shutdown.append(close)
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # A body is signed, and forwarded, as it was sent.
        max_line_size=LINE_LIMIT,
        max_field_size=LINE_LIMIT,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        yield
    finally:
        await runner.cleanup()
