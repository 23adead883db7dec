"""What both of API Gateway's APIs share: ids, times, the request as it came, and quotas of a request.

Nothing here knows a route, or how one of the two APIs shows a request to its functions.
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
"""Seconds that a function has to answer (the same)."""


class IntegrationTimeout(FunctionError):
    """The function did not answer in time; it may still be running."""


class Integration:
    """Invokes functions on behalf of an API, which waits `timeout` seconds for the answer and no longer."""

    def __init__(self, invoker: Invoker, timeout: float) -> None:
        self._invoker = invoker
        self._timeout = timeout

    async def invoke(self, name: str, event: dict[str, Any]) -> Any:
        """As `Invoker.invoke`, and `IntegrationTimeout` when the time is over."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._invoker.invoke(name, event)
        except TimeoutError:
            raise IntegrationTimeout("Integration.Timeout", f"no answer within {self._timeout:g} s") from None


def new_id() -> str:
    """An id as API Gateway makes them for connections, messages and requests: 16 characters, base64url, ending `=`."""
    return base64.urlsafe_b64encode(secrets.token_bytes(11)).decode()


def new_trace_id() -> str:
    """A value for `X-Amzn-Trace-Id`."""
    return f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)}"


def request_time(seconds: float) -> str:
    """A time in the form that events carry: `11/Nov/2024:11:35:24 +0000`."""
    return time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(seconds))


def split_target(request: web.Request) -> tuple[str, str]:
    """Path and query of a request exactly as they came: percent-encoding is part of a signature."""
    path, _, query = request.raw_path.partition("?")
    return path, query


def host(request: web.Request) -> str:
    """The domain name that the client asked for, port included."""
    return request.headers.get("Host", "")


def forwarded(request: web.Request) -> dict[str, str]:
    """The headers that API Gateway adds, true for this machine: plain HTTP, and the port that was asked for."""
    return {
        "X-Amzn-Trace-Id": new_trace_id(),
        "X-Forwarded-For": request.remote or "",
        "X-Forwarded-Port": host(request).rpartition(":")[2] if ":" in host(request) else "80",
        "X-Forwarded-Proto": "http",
    }
