"""API Gateway's WebSocket API on a laptop: handshakes, routes, and the functions behind them.

It behaves as API Gateway's documentation and captured events show. Where AWS documents nothing, a comment names the
choice. Sockets are in `websocket_connection.py`, events in `websocket_events.py`, and `@connections` in
`management_api.py`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import time
from collections.abc import Callable, Coroutine, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from websockets.utils import accept_key

from local.apigateway import gateway, websocket_events
from local.apigateway.authorizer import HandshakeRefused, TokenSource, authorize, check_identity_source
from local.apigateway.faults import Faults
from local.apigateway.management_api import ManagementApi
from local.apigateway.websocket_connection import ABNORMAL, Connection, Cuts
from local.apigateway.websocket_events import STAGE, Client, Handshake
from local.awslambda.invocation import FunctionError, Invoker, Throttled
from local.iam import SignatureVerifier
from shared.routes import WebSocketRoute

URL_LIMIT = 4096
"""Characters of a handshake's URL (API Gateway's quota)."""


class WebSocketApi:
    """One deployed WebSocket API: stage `live`, route selection expression `$request.body.action`.

    Clients connect to `/live`; functions post to `/live/@connections/{id}`, signed with the verifier's key pair.

    Args:
        invoker: runs the functions.
        verifier: checks the signatures of calls to `@connections`.
        routes: which message invokes which function, including `$connect` and `$disconnect`. Without a `$default`, a
            message that matches no route gets a Forbidden frame.
        authorizer: the function that is invoked before `$connect`.
        token_source: the authorizer's identity source.
        cuts: when the gateway closes connections.
        integration_timeout: seconds within which a function must respond.
        faults: faults to inject.
        clock: seconds since the epoch, for events; cuts use the event loop's time.
    """

    def __init__(
        self,
        invoker: Invoker,
        verifier: SignatureVerifier,
        *,
        routes: Iterable[WebSocketRoute],
        authorizer: str,
        token_source: TokenSource,
        cuts: Cuts | None = None,
        integration_timeout: float = gateway.INTEGRATION_TIMEOUT,
        faults: Faults | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.connections: dict[str, Connection] = {}
        """Open connections by id, from the response of `$connect` until the connection's end."""
        self.faults = faults or Faults()
        self._integration = gateway.Integration(invoker, integration_timeout)
        self._region = verifier.region
        self._routes = {route.key: route.function for route in routes}
        self._authorizer = authorizer
        self._token_source = token_source
        self._cuts = cuts or Cuts()
        self._clock = clock
        self._management = ManagementApi(self.connections, verifier, self.faults, clock)
        self._invocations: set[asyncio.Task[None]] = set()
        self._closed = False

    @staticmethod
    def owns(request: web.Request) -> bool:
        """Whether a request on the shared port is for this API."""
        segments = unquote(gateway.split_target(request)[0]).split("/")[1:3]
        return segments[:1] == [STAGE] or "@connections" in segments or _asks_for_websocket(request)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle a request that this API owns. For a handshake, this returns when its WebSocket has ended."""
        path = unquote(gateway.split_target(request)[0])
        prefix = f"/{STAGE}/@connections/"
        if path.startswith(prefix):
            return await self._management.handle(request, path.removeprefix(prefix))
        connection_id, request_id = gateway.new_id(), gateway.new_id()
        try:
            if path != f"/{STAGE}":
                raise HandshakeRefused(403, "Forbidden")
            key = _websocket_key(request)
            client, subprotocol = await self._connect(request, connection_id, request_id)
        except HandshakeRefused as refused:
            return web.json_response(
                {"message": refused.message, "connectionId": connection_id, "requestId": request_id},
                status=refused.status,
                headers={"x-amzn-ErrorType": "ForbiddenException"} if refused.status == 403 else {},
            )
        return await self._open(request, client, key, subprotocol)

    def lose(self, connection_id: str) -> None:
        """Let a connection vanish: its socket is cut, posts to it return 410, and `$disconnect` is never invoked."""
        self.connections.pop(connection_id).abort()

    async def close(self) -> None:
        """Close all connections with 1001 and cancel running invocations. `$disconnect` is not invoked."""
        self._closed = True
        for invocation in self._invocations:
            invocation.cancel()
        connections = list(self.connections.values())
        self.connections.clear()
        for connection in connections:
            connection.leave()
        await asyncio.gather(*self._invocations, return_exceptions=True)

    # The handshake

    async def _connect(self, request: web.Request, connection_id: str, request_id: str) -> tuple[Client, str | None]:
        """Invoke the authorizer, then `$connect`. Returns the client and the subprotocol that `$connect` chose."""
        handshake = Handshake.read(request)
        check_identity_source(self._token_source, handshake)
        now = self._clock()
        client = Client(
            connection_id=connection_id,
            connected_at=int(now * 1000),
            domain_name=gateway.host(request),
            source_ip=request.remote or "",
            user_agent=request.headers.get("User-Agent"),
        )
        event = websocket_events.authorizer_event(client, handshake, self._region, request_id, now)
        asked_at = time.monotonic()
        principal = await authorize(self._integration, self._authorizer, event)
        client.authorizer = {**principal, "integrationLatency": round((time.monotonic() - asked_at) * 1000)}
        try:
            answer = await self._integration.invoke(
                self._routes["$connect"],
                websocket_events.connect_event(client, handshake, request_id, self._clock()),
            )
        except Throttled:
            raise HandshakeRefused(429, "Too Many Requests") from None
        except FunctionError:
            raise HandshakeRefused(502, "Internal server error") from None
        return client, _accepted(answer)

    async def _open(
        self, request: web.Request, client: Client, key: str, subprotocol: str | None
    ) -> web.StreamResponse:
        """Respond with 101, and serve the socket until it is closed."""
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept_key(key)}
        if subprotocol is not None:
            headers["Sec-WebSocket-Protocol"] = subprotocol
        response = web.StreamResponse(status=101, headers=headers)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
        transport = request.transport
        if transport is None or transport.is_closing():
            # The client vanished during $connect: the function needs its $disconnect too.
            self._disconnected(client, *ABNORMAL)
            return response
        connection = Connection(client, transport, self._cuts, self._on_message, self._on_end)
        self.connections[client.connection_id] = connection
        # aiohttp passes the bytes of an upgraded connection to any object with the two methods of a WebSocket parser.
        request.protocol.set_parser(connection)  # type: ignore[arg-type]
        request.protocol.keep_alive(False)
        await connection.closed
        return response

    # An open connection

    def _on_message(self, connection: Connection, text: str) -> None:
        route_key = _select_route(text, self._routes)
        request_id = gateway.new_id()
        if route_key is None:
            self._send_error(connection, "Forbidden", request_id)
            return
        event = websocket_events.message_event(connection.client, route_key, text, request_id, self._clock())
        # In parallel: AWS does not promise an order of a connection's messages either.
        self._start(self._invoke(connection, self._routes[route_key], event, request_id))

    async def _invoke(self, connection: Connection, function: str, event: dict[str, Any], request_id: str) -> None:
        """Invoke a message's function. Its response is dropped, because no route has a route response."""
        try:
            await self._integration.invoke(function, event)
        except (FunctionError, Throttled):
            self._send_error(connection, "Internal server error", request_id)

    def _send_error(self, connection: Connection, message: str, request_id: str) -> None:
        frame = {"message": message, "connectionId": connection.client.connection_id, "requestId": request_id}
        connection.send(json.dumps(frame).encode())

    def _on_end(self, connection: Connection, code: int, reason: str) -> None:
        if self.connections.pop(connection.client.connection_id, None) is not None:
            self._disconnected(connection.client, code, reason)

    def _disconnected(self, client: Client, code: int, reason: str) -> None:
        if not self.faults.strikes(self.faults.drop_disconnects):
            event = websocket_events.disconnect_event(client, code, reason, gateway.new_id(), self._clock())
            self._start(self._notify(self._routes["$disconnect"], event))

    async def _notify(self, function: str, event: dict[str, Any]) -> None:
        try:
            await self._integration.invoke(function, event)
        except (FunctionError, Throttled):
            return  # Best effort, as in AWS: the service must detect a lost $disconnect itself.

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if self._closed:
            work.close()
            return
        task = asyncio.create_task(work)
        # The event loop keeps only weak references to tasks.
        self._invocations.add(task)
        task.add_done_callback(self._invocations.discard)


def _asks_for_websocket(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _websocket_key(request: web.Request) -> str:
    """The client's key, if the handshake is valid by RFC 6455, section 4.2.1."""
    if request.method != "GET" or not _asks_for_websocket(request):
        raise HandshakeRefused(426, "Upgrade Required")
    if len(request.raw_path) > URL_LIMIT:
        raise HandshakeRefused(414, "Request-URI Too Long")
    key = request.headers.get("Sec-WebSocket-Key", "")
    try:
        right = len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        right = False
    if not right or request.headers.get("Sec-WebSocket-Version") != "13":
        raise HandshakeRefused(400, "Bad Request")
    return key


def _accepted(answer: Any) -> str | None:
    """The subprotocol in the response of `$connect`, if it accepts the client and chooses one.

    Raises:
        HandshakeRefused: with the response's status if that is not 2xx, or 502 if the response is invalid.
    """
    match answer:
        case {"statusCode": int(status), "headers": dict(headers)} if 200 <= status < 300:
            return next((value for name, value in headers.items() if name.lower() == "sec-websocket-protocol"), None)
        case {"statusCode": int(status)} if 200 <= status < 300:
            return None
        case {"statusCode": int(status)} if 300 <= status < 600:
            raise HandshakeRefused(status, _message(status))
        case _:
            raise HandshakeRefused(502, "Internal server error")


def _message(status: int) -> str:
    if status >= 500:
        return "Internal server error"
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return str(status)


def _select_route(text: str, routes: dict[str, str]) -> str | None:
    """The key of a message's route: `$request.body.action`, else `$default`, or None if there is no `$default`."""
    try:
        action = json.loads(text)["action"]
    except (ValueError, KeyError, TypeError, RecursionError):
        action = None
    # A message cannot select $connect or $disconnect.
    if isinstance(action, str) and action in routes and not action.startswith("$"):
        return action
    return "$default" if "$default" in routes else None
