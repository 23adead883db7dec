"""API Gateway's WebSocket side on a laptop: handshakes, routes, and the functions behind them.

What it answers and when is API Gateway's behaviour as its documentation and captured events show it; where AWS
documents nothing, the choice is named where it is made. Sockets are `websocket_connection.py`'s matter, events are
`websocket_events.py`'s, and `@connections` is `management_api.py`'s. Nothing here knows what a function does.
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
        invoker: what runs the functions.
        verifier: checks signatures of calls to `@connections`.
        routes: which message wakes which function, `$connect` and `$disconnect` included. Without a `$default` a
            message that fits no route is answered with a Forbidden frame.
        authorizer: the function asked before `$connect`.
        token_source: where the authorizer's identity source is.
        cuts: when connections are closed from this side.
        integration_timeout: seconds that a function has to answer.
        faults: what shall go wrong.
        clock: seconds since the epoch, for events; cuts go by the event loop's time.
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
        """Open connections by id. One is here from the moment its `$connect` was answered until its end."""
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
        """Whether a request on the port that both APIs share is for this one."""
        segments = unquote(gateway.split_target(request)[0]).split("/")[1:3]
        return segments[:1] == [STAGE] or "@connections" in segments or _asks_for_websocket(request)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer any request that this API owns; a handshake is answered when its WebSocket is over."""
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
        """Let a connection vanish: its socket is cut, posts to it are Gone, and no `$disconnect` is ever invoked."""
        self.connections.pop(connection_id).abort()

    async def close(self) -> None:
        """Close all connections with 1001 and give up on the functions still running; no `$disconnect` is invoked."""
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
        """Ask the authorizer, then `$connect`; the client and the subprotocol that `$connect` chose."""
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
        """Answer 101 and serve the socket until it is gone."""
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept_key(key)}
        if subprotocol is not None:
            headers["Sec-WebSocket-Protocol"] = subprotocol
        response = web.StreamResponse(status=101, headers=headers)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
        transport = request.transport
        if transport is None or transport.is_closing():
            # $connect said yes to a client that had gone: the function must hear of its end too.
            self._disconnected(client, *ABNORMAL)
            return response
        connection = Connection(client, transport, self._cuts, self._on_message, self._on_end)
        self.connections[client.connection_id] = connection
        # aiohttp hands over the bytes of an upgraded connection to whatever has a WebSocket parser's two methods.
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
        # Never one after the other: AWS promises no order among one connection's messages either.
        self._start(self._answer(connection, self._routes[route_key], event, request_id))

    async def _answer(self, connection: Connection, function: str, event: dict[str, Any], request_id: str) -> None:
        """Invoke a message's function. What it answers goes nowhere: no route has a route response."""
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
            self._start(self._tell(self._routes["$disconnect"], event))

    async def _tell(self, function: str, event: dict[str, Any]) -> None:
        try:
            await self._integration.invoke(function, event)
        except (FunctionError, Throttled):
            return  # Best effort, as in AWS: a lost $disconnect is found by its function's own means.

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if self._closed:
            work.close()
            return
        task = asyncio.create_task(work)
        # The event loop itself keeps no strong reference to a task.
        self._invocations.add(task)
        task.add_done_callback(self._invocations.discard)


def _asks_for_websocket(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _websocket_key(request: web.Request) -> str:
    """The client's key of a handshake that RFC 6455 section 4.2.1 accepts."""
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
    """The subprotocol in `$connect`'s answer, if it says yes: it is echoed only if it is there.

    Raises:
        HandshakeRefused: with the answer's own status if that is not 2xx; 502 if it is no answer at all.
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
    """The key of a message's route: `$request.body.action`, else `$default`; None if there is no `$default`."""
    try:
        action = json.loads(text)["action"]
    except (ValueError, KeyError, TypeError, RecursionError):
        action = None
    # $connect and $disconnect are routes that no message can ask for.
    if isinstance(action, str) and action in routes and not action.startswith("$"):
        return action
    return "$default" if "$default" in routes else None
