"""`@connections`: how functions post to open WebSockets (POST), inspect them (GET) and close them (DELETE).

Responses follow AWS's model `apigatewaymanagementapi`, including the empty body of a 410. Requests must be signed with
the local key pair.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from aiohttp import web

from local.apigateway import gateway
from local.apigateway.faults import Faults
from local.apigateway.websocket_connection import MESSAGE_LIMIT, Connection
from local.iam import SignatureRefused, SignatureVerifier

CONNECTION_ID = re.compile(r"[A-Za-z0-9_-]{15}=")
CLOSED_NORMALLY = (1000, "Connection Closed Normally")
"""The code and reason in the `$disconnect` event after a DELETE."""


class ManagementApi:
    """Serves `@connections` for a mapping of ids to connections, which it only reads."""

    def __init__(
        self,
        connections: Mapping[str, Connection],
        verifier: SignatureVerifier,
        faults: Faults,
        clock: Callable[[], float],
    ) -> None:
        self._connections = connections
        self._verifier = verifier
        self._faults = faults
        self._clock = clock

    async def handle(self, request: web.Request, connection_id: str) -> web.Response:
        """Handle a call for a connection; `connection_id` is percent-decoded."""
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _error(413, "PayloadTooLargeException", "Message too long")
        try:
            self._verifier.verify(request.method, request.raw_path, request.headers, body)
        except SignatureRefused as refused:
            return _error(403, refused.error_type, refused.message)
        if len(body) > MESSAGE_LIMIT:
            return _error(413, "PayloadTooLargeException", "Message too long")
        if not CONNECTION_ID.fullmatch(connection_id):
            return _error(400, "BadRequestException", f"Invalid connectionId: {connection_id}")
        connection = self._connections.get(connection_id)
        match request.method:
            case "POST":
                return await self._post(connection_id, connection, body)
            case "GET":
                return self._get(connection)
            case "DELETE":
                return self._delete(connection)
            case _:
                return _error(403, "MissingAuthenticationTokenException", "Missing Authentication Token")

    async def _post(self, connection_id: str, connection: Connection | None, text: bytes) -> web.Response:
        faults = self._faults
        if connection_id in faults.hang_posts_to:
            await asyncio.sleep(gateway.INTEGRATION_TIMEOUT)
        if faults.strikes(faults.throttle_posts):
            return _error(429, "LimitExceededException", "Rate exceeded")
        if connection is None:
            return _gone()
        if not faults.strikes(faults.drop_posts) and not connection.send(text):
            return _error(429, "LimitExceededException", "The client reads too slowly")
        return _response(200)

    def _get(self, connection: Connection | None) -> web.Response:
        if connection is None:
            return _gone()
        client = connection.client
        return web.json_response(
            {
                "connectedAt": _iso(client.connected_at / 1000),
                "identity": client.identity,
                "lastActiveAt": _iso(self._clock() - connection.idle_for),
            },
            headers={"x-amzn-RequestId": gateway.new_id()},
        )

    def _delete(self, connection: Connection | None) -> web.Response:
        if connection is None:
            return _gone()
        connection.close(*CLOSED_NORMALLY)
        return _response(204)


def _response(status: int) -> web.Response:
    return web.Response(status=status, headers={"x-amzn-RequestId": gateway.new_id()})


def _error(status: int, error_type: str, message: str) -> web.Response:
    return web.json_response(
        {"message": message},
        status=status,
        headers={"x-amzn-ErrorType": error_type, "x-amzn-RequestId": gateway.new_id()},
    )


def _gone() -> web.Response:
    return web.Response(status=410, headers={"x-amzn-ErrorType": "GoneException", "x-amzn-RequestId": gateway.new_id()})


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
