"""A connection that asks: what it waits for comes, or it is said what did not."""

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
    """A probe of alice, at a service that does what a script says."""
    async with (
        serve(script, "127.0.0.1", 0) as server,
        Probe.open(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", "alice", TOKENS, patience) as probe,
    ):
        yield probe


async def say(socket: ServerConnection, **frame: Any) -> None:
    """Send a frame."""
    await socket.send(json.dumps(frame))


async def test_a_snapshot_is_there_when_all_its_parts_are() -> None:
    """Parts that come before the last, and other frames, are let go."""

    async def script(socket: ServerConnection) -> None:
        assert json.loads(await socket.recv()) == {"action": "sync"}
        await say(socket, type="user_online", userId="bob")
        for part in (1, 2):
            await say(socket, type="presence_snapshot", part=part, parts=2)
        await socket.wait_closed()

    async with probe_of(script) as probe:
        assert (await probe.sync())["part"] == 2


async def test_what_does_not_come_is_named() -> None:
    """A service that is silent is one line, after all patience."""

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
    """What the service, or API Gateway itself, says is wrong is what is told."""

    async def script(socket: ServerConnection) -> None:
        await say(socket, **frame)
        await socket.wait_closed()

    async with probe_of(script) as probe:
        with pytest.raises(UserError, match="alice received an error: presence is unavailable"):
            await probe.sync()


async def test_a_connection_that_ends_is_said_to_have_ended() -> None:
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
    """Nobody there, or a token of somebody else: said by address."""

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
    """Wherever tokens are looked for, a handshake that has none there is answered 401."""
    async with running_gateway(token_source=token_source) as gateway:
        url = gateway.websocket_url.partition("?")[0]
        assert await status_without_token(url, token_source) == 401
        assert gateway.functions.events == []


async def test_who_is_let_in_without_a_token_is_told_so() -> None:
    """A service without a doorkeeper switches protocols."""

    async def script(socket: ServerConnection) -> None:
        await socket.wait_closed()

    async with serve(script, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await status_without_token(url, "subprotocol") == 101
