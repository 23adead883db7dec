"""The local gateway on a real port, with functions whose results the test scripts.

Used by the tests of everything in `local/apigateway`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import websockets
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from websockets.asyncio.client import ClientConnection

from local.apigateway.authorizer import TokenSource
from local.apigateway.faults import Faults
from local.apigateway.http_api import HttpApi
from local.apigateway.server import HOST, serve
from local.apigateway.websocket_api import WebSocketApi
from local.apigateway.websocket_connection import Connection, Cuts
from local.awslambda.invocation import FunctionError
from local.iam import KeyPair, SignatureVerifier
from shared.routes import AUTHORIZER, HTTP_ROUTES, WEBSOCKET_ROUTES, HttpRoute, WebSocketRoute

REGION = "eu-central-1"
PATIENCE = 10.0
"""Seconds that a test waits for what normally happens immediately."""

Event = dict[str, Any]
Answer = Callable[[Event], Awaitable[Any]]


def allow(**context: Any) -> Event:
    """An authorizer's result that lets every client in."""
    statement = {"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": "*"}
    return {
        "principalId": "alice",
        "policyDocument": {"Version": "2012-10-17", "Statement": [statement]},
        "context": context,
    }


class ScriptedFunctions:
    """An `Invoker` whose functions return what `answers` holds for them. It records every event.

    An entry of `answers` is a value, an exception to raise, or a coroutine function of the event.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"authorize": allow(), "connect": {"statusCode": 200}}
        self.events: list[tuple[str, Event]] = []
        self._happened = asyncio.Condition()

    async def invoke(self, name: str, event: Event) -> Any:
        async with self._happened:
            self.events.append((name, event))
            self._happened.notify_all()
        answer = self.answers.get(name, {"statusCode": 200})
        if isinstance(answer, Exception):
            raise answer
        return await answer(event) if callable(answer) else answer

    def events_of(self, name: str) -> list[Event]:
        return [event for function, event in self.events if function == name]

    async def event(self, name: str, number: int = 1) -> Event:
        """The `number`th event that function `name` received; waits for it."""
        async with asyncio.timeout(PATIENCE), self._happened:
            await self._happened.wait_for(lambda: len(self.events_of(name)) >= number)
        return self.events_of(name)[number - 1]


@dataclass
class Gateway:
    """A running gateway and everything a test needs to talk to it."""

    port: int
    functions: ScriptedFunctions
    websocket_api: WebSocketApi
    keys: KeyPair
    faults: Faults

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def websocket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/live?token=t"

    def signed(self, method: str, url: str, body: bytes = b"", **headers: str) -> dict[str, str]:
        """The headers of a request signed by botocore with the gateway's key pair."""
        return sign(self.keys, method, url, body, headers=headers)


def sign(
    keys: KeyPair,
    method: str,
    url: str,
    body: bytes = b"",
    *,
    region: str = REGION,
    service: str = "execute-api",
    token: str | None = None,
    headers: dict[str, str] | None = None,
) -> dict[str, str]:
    """The headers of a request signed by botocore, `Host` included."""
    host = url.split("/")[2]
    request = AWSRequest(method, url, {"Host": host, **(headers or {})}, body)
    SigV4Auth(Credentials(keys.access_key_id, keys.secret_access_key, token), service, region).add_auth(request)
    return dict(request.headers.items())


@contextlib.asynccontextmanager
async def running_gateway(
    *,
    routes: tuple[WebSocketRoute, ...] = WEBSOCKET_ROUTES,
    http_routes: tuple[HttpRoute, ...] = HTTP_ROUTES,
    token_source: TokenSource = "query",
    cors_origins: tuple[str, ...] = (),
    cuts: Cuts | None = None,
    integration_timeout: float = 29.0,
) -> AsyncIterator[Gateway]:
    """Both APIs on a free port of this machine."""
    functions, keys, faults = ScriptedFunctions(), KeyPair.create(), Faults()
    verifier = SignatureVerifier(keys, REGION)
    websocket_api = WebSocketApi(
        functions,
        verifier,
        routes=routes,
        authorizer=AUTHORIZER,
        token_source=token_source,
        cuts=cuts,
        integration_timeout=integration_timeout,
        faults=faults,
    )
    http_api = HttpApi(
        functions, verifier, routes=http_routes, cors_origins=cors_origins, integration_timeout=integration_timeout
    )
    with socket.create_server((HOST, 0)) as listener:
        async with serve(websocket_api, http_api, listener):
            yield Gateway(listener.getsockname()[1], functions, websocket_api, keys, faults)


def crash(message: str = "division by zero", error_type: str = "ZeroDivisionError") -> FunctionError:
    """The error that invoking a function raises when its handler raised one."""
    return FunctionError(error_type, message)


# Clients


@contextlib.asynccontextmanager
async def connected(gateway: Gateway, url: str = "", **options: Any) -> AsyncIterator[ClientConnection]:
    """A client of the `websockets` library."""
    async with websockets.connect(url or gateway.websocket_url, **options) as client:
        yield client


@contextlib.asynccontextmanager
async def identified(gateway: Gateway, **options: Any) -> AsyncIterator[tuple[ClientConnection, str]]:
    """A client and its connection id."""
    async with connected(gateway, **options) as client:
        event = await gateway.functions.event("connect", len(gateway.functions.events_of("connect")))
        yield client, event["requestContext"]["connectionId"]


async def received_text(client: ClientConnection) -> str | bytes:
    """The client's next frame, as text or bytes."""
    async with asyncio.timeout(PATIENCE):
        return await client.recv()


async def received(client: ClientConnection) -> Any:
    """The client's next frame, parsed."""
    return json.loads(await received_text(client))


async def closed(client: ClientConnection) -> tuple[int | None, str | None]:
    """The code and the reason of the client's close frame."""
    async with asyncio.timeout(PATIENCE):
        await client.wait_closed()
    return client.close_code, client.close_reason


async def refusal(gateway: Gateway, path: str = "/live?token=t", **options: Any) -> tuple[int, Event]:
    """The status and the body with which a handshake is refused."""
    async with aiohttp.ClientSession() as session:
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        } | options.pop("headers", {})
        async with session.get(gateway.url + path, headers=headers, **options) as response:
            return response.status, json.loads(await response.text())


def the_connection(gateway: Gateway) -> Connection:
    """The gateway's only open connection."""
    (connection,) = gateway.websocket_api.connections.values()
    return connection


def reason_of(event: Event) -> tuple[int, str]:
    """The close code and the reason in a `$disconnect` event."""
    context = event["requestContext"]
    return context["disconnectStatusCode"], context["disconnectReason"]


async def exchange(gateway: Gateway) -> None:
    """A whole HTTP exchange: after it the gateway has processed what happened on sockets before."""
    async with aiohttp.ClientSession() as session, session.get(gateway.url + "/v1/nothing") as response:
        assert response.status == 404


async def raw_handshake(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A socket on which a handshake was sent and no response was read yet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"GET /live?token=t HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    return reader, writer


class WarpedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time a test advances: timers fire as if the time had passed, sockets work as usual."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead = 0.0

    @classmethod
    def run(cls, scenario: Callable[[Self], Awaitable[None]]) -> None:
        """Run a scenario, which gets its loop."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, cls)
            await scenario(loop)

        with asyncio.Runner(loop_factory=cls) as runner:
            runner.run(main())

    def time(self) -> float:
        return super().time() + self._ahead

    def warp(self, seconds: float) -> None:
        """Advance the time without waiting. Not within `asyncio.timeout`, which would expire."""
        self._ahead += seconds
