"""What API Gateway's two APIs have in common: ids, times, parts of a request, and quotas.

Routes and events are not here.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from typing import Any

from aiohttp import web

from local.awslambda.invocation import FunctionError, Invoker

HEADERS_LIMIT = 10_240
"""Bytes of request line and headers together (API Gateway's quota for HTTP APIs)."""
BODY_LIMIT = 10 * 1024 * 1024
"""Bytes of a request's body (the same)."""
INTEGRATION_TIMEOUT = 29.0
"""Seconds within which a function must respond (the same)."""


class IntegrationTimeout(FunctionError):
    """The function did not respond in time; it may still be running."""


class Integration:
    """Invokes functions for an API, which waits at most `timeout` seconds for the response."""

    def __init__(self, invoker: Invoker, timeout: float) -> None:
        self._invoker = invoker
        self._timeout = timeout

    async def invoke(self, name: str, event: dict[str, Any]) -> Any:
        """As `Invoker.invoke`, but raises `IntegrationTimeout` after the timeout."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._invoker.invoke(name, event)
        except TimeoutError:
            raise IntegrationTimeout("Integration.Timeout", f"no response within {self._timeout:g} s") from None


def new_id() -> str:
    """An id as API Gateway makes them for connections, messages and requests: 16 characters, base64url, ending `=`."""
    return base64.urlsafe_b64encode(secrets.token_bytes(11)).decode()


def new_trace_id() -> str:
    """A value for `X-Amzn-Trace-Id`."""
    return f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)}"


def request_time(seconds: float) -> str:
    """A time in the form of events: `11/Nov/2024:11:35:24 +0000`."""
    return time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(seconds))


def split_target(request: web.Request) -> tuple[str, str]:
    """Path and query of a request as received: percent-encoding is part of a signature."""
    path, _, query = request.raw_path.partition("?")
    return path, query


def host(request: web.Request) -> str:
    """The domain name in the request, including the port."""
    return request.headers.get("Host", "")


def forwarded(request: web.Request) -> dict[str, str]:
    """The headers that API Gateway adds, with this machine's values: plain HTTP, and the port in the request."""
    return {
        "X-Amzn-Trace-Id": new_trace_id(),
        "X-Forwarded-For": request.remote or "",
        "X-Forwarded-Port": host(request).rpartition(":")[2] if ":" in host(request) else "80",
        "X-Forwarded-Proto": "http",
    }
