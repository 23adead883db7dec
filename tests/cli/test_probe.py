"""A connection that waits for responses: they arrive, or the error says what did not."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from cli.errors import UserError
from cli.identity_provider import IdentityProvider
from cli.probe import Probe, status_without_token
from tests.support.local_gateway import running_gateway

PATIENCE = 10.0
TOKENS = IdentityProvider("a secret of the tests, which is long enough", "query")

Script = Callable[[ServerConnection], Awaitable[None]]


@contextlib.asynccontextmanager
async def probe_of(script: Script, patience: float = PATIENCE) -> AsyncIterator[Probe]:
    """A probe of alice, at a scripted service."""
    async with (
        serve(script, "127.0.0.1", 0) as server,
        Probe.open(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", "alice", TOKENS, patience) as probe,
    ):
        yield probe


async def send(socket: ServerConnection, **frame: Any) -> None:
    """Send a frame."""
    await socket.send(json.dumps(frame))


async def test_a_response_is_complete_with_all_its_parts() -> None:
    """In whatever order they arrive; other frames are ignored. A snapshot has `self` in its first part."""

    async def script(socket: ServerConnection) -> None:
        assert json.loads(await socket.recv()) == {"action": "sync"}
        await send(socket, type="user_online", userId="bob")
        await send(socket, type="presence_snapshot", part=2, parts=2)
        await send(socket, type="presence_snapshot", part=1, parts=2, self={"status": "online"})
        assert json.loads(await socket.recv()) == {"action": "get_presence", "userIds": ["bob", "carol"]}
        for part, user in ((2, "carol"), (1, "bob")):
            await send(socket, type="presence", part=part, parts=2, users=[{"userId": user}])
        await socket.wait_closed()

    async with probe_of(script) as probe:
        assert (await probe.sync())["self"] == {"status": "online"}
        assert await probe.query("bob", "carol") == [{"userId": "bob"}, {"userId": "carol"}]


async def test_a_missing_frame_is_named() -> None:
    """A silent service is one line, after the timeout."""

    async def script(socket: ServerConnection) -> None:
        await socket.wait_closed()

    async with probe_of(script, patience=0.05) as probe:
        with pytest.raises(UserError, match=r"alice did not receive a snapshot within 0\.05 s"):
            await probe.sync()
        with pytest.raises(UserError, match=r"the connection of alice was not closed within 0\.05 s"):
            await probe.until_closed()


@pytest.mark.parametrize(
    "frame", [{"type": "error", "message": "presence is unavailable"}, {"message": "presence is unavailable"}]
)
async def test_an_error_ends_the_wait(frame: dict[str, Any]) -> None:
    """The error contains the message of the service or of API Gateway."""

    async def script(socket: ServerConnection) -> None:
        await send(socket, **frame)
        await socket.wait_closed()

    async with probe_of(script) as probe:
        with pytest.raises(UserError, match="alice received an error: presence is unavailable"):
            await probe.sync()


async def test_a_closed_connection_is_an_error() -> None:
    """Closed or cut, while waiting and while sending."""
    ended = asyncio.Event()

    async def close(socket: ServerConnection) -> None:
        await socket.close(1001)
        ended.set()

    async with probe_of(close) as probe:
        await asyncio.wait_for(ended.wait(), PATIENCE)
        for _ in range(2):
            with pytest.raises(UserError, match="the connection of alice was closed with 1001"):
                await probe.sync()
        await probe.until_closed()

    async def cut(socket: ServerConnection) -> None:
        socket.transport.abort()

    async with probe_of(cut) as probe:
        with pytest.raises(UserError, match="the connection of alice was cut"):
            await probe.expect(lambda _: True, "word")


async def test_a_refused_handshake_is_one_line() -> None:
    """An unreachable service and a wrong token are errors with the URL."""

    def refuse(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(HTTPStatus.FORBIDDEN, "no")

    async def script(_: ServerConnection) -> None:
        """Nobody gets here."""

    async with serve(script, "127.0.0.1", 0, process_request=refuse) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(UserError, match=f"{url} refuses the token"):
            async with Probe.open(url, "alice", TOKENS, PATIENCE):
                pass
    with pytest.raises(UserError, match=f"nothing answers at {url}"):
        async with Probe.open(url, "alice", TOKENS, PATIENCE):
            pass
    with pytest.raises(UserError, match=f"nothing answers at {url}"):
        await status_without_token(url, "query")


@pytest.mark.parametrize("token_source", ["query", "subprotocol"])
async def test_without_a_token_a_gateway_refuses(token_source: Any) -> None:
    """Wherever the token is expected, a handshake without one returns 401."""
    async with running_gateway(token_source=token_source) as gateway:
        url = gateway.websocket_url.partition("?")[0]
        assert await status_without_token(url, token_source) == 401
        assert gateway.functions.events == []


async def test_a_handshake_without_a_token_may_be_accepted() -> None:
    """A service without an authorizer switches protocols."""

    async def script(socket: ServerConnection) -> None:
        await socket.wait_closed()

    async with serve(script, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await status_without_token(url, "subprotocol") == 101
