"""The one port of a laptop on which both of API Gateway's APIs are served, on the loopback interface only.

On AWS each has a domain name of its own; here a request goes to the WebSocket API if it asks for a WebSocket, for the
stage `live` or for `@connections`, and to the HTTP API otherwise, unless it is for another site that is served too.
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
"""Connections that may wait to be accepted: ten thousand clients come back at once after a restart."""
LINE_LIMIT = 64 * 1024
"""Bytes of a request line or a header that are read: past API Gateway's quotas, so that they can be answered."""
SHUTDOWN_TIMEOUT = 2.0
"""Seconds that requests in progress have to end when the server stops."""


class Site(Protocol):
    """What else is served on the port."""

    def owns(self, request: web.Request) -> bool:
        """Whether a request is for it."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer any request that it owns."""


@contextlib.asynccontextmanager
async def serve(
    websocket_api: WebSocketApi, http_api: HttpApi, listener: socket.socket, site: Site | None = None
) -> AsyncIterator[None]:
    """Serve both APIs while the block runs, and perhaps a site, on a socket that is bound to `HOST`."""

    async def dispatch(request: web.Request) -> web.StreamResponse:
        if websocket_api.owns(request):
            return await websocket_api.handle(request)
        if site is not None and site.owns(request):
            return await site.handle(request)
        return await http_api.handle(request)

    async def close(_: web.Application) -> None:
        await websocket_api.close()

    # One byte more: releases of aiohttp differ in whether the limit itself is allowed.
    app = web.Application(client_max_size=gateway.BODY_LIMIT + 1)
    app.router.add_route("*", "/{path:(?s:.*)}", dispatch)  # A line break, percent-encoded, is a character too.
    app.on_shutdown.append(close)
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # A body is signed, and passed on, as it was sent.
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
