"""One WebSocket on a real socket: quotas, ends and cuts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import websockets
from websockets.frames import Frame, Opcode

from local.apigateway.websocket_connection import Cuts
from shared.routes import WEBSOCKET_ROUTES
from tests.support.local_gateway import (
    PATIENCE,
    Gateway,
    WarpedLoop,
    closed,
    connected,
    crash,
    raw_handshake,
    reason_of,
    received,
    running_gateway,
    the_connection,
)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """A gateway with the service's own routes."""
    async with running_gateway() as running:
        yield running


# Quotas


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"\x00", 1003),
        ("x" * (32 * 1024 + 1), 1009),
        (["x" * 32 * 1024] * 4 + ["x"], 1009),
        ([b"a", b"b"], 1003),
    ],
)
async def test_a_message_past_the_quotas_closes_the_connection(gateway: Gateway, message: Any, code: int) -> None:
    """A binary frame closes with 1003, a frame over 32 KB or a message over 128 KB with 1009."""
    async with connected(gateway) as client:
        with contextlib.suppress(websockets.ConnectionClosed):
            await client.send(message)
        assert (await closed(client))[0] == code
    assert reason_of(await gateway.functions.event("disconnect"))[0] == code
    assert {name for name, _ in gateway.functions.events} == {"authorize", "connect", "disconnect"}


@pytest.mark.parametrize("message", ["ä" * 16 * 1024, ["x" * 32 * 1024] * 4, ["", "", "x", ""]])
async def test_a_message_within_the_quotas_arrives_whole(gateway: Gateway, message: Any) -> None:
    """A frame of 32 KB, and a message of 128 KB in several frames, are within the quotas."""
    async with connected(gateway) as client:
        await client.send(message)
        assert (await gateway.functions.event("query"))["body"] == "".join(message)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([Frame(Opcode.TEXT, b"\xff")], 1007),
        ([Frame(Opcode.TEXT, "ä".encode()[:1], fin=False), Frame(Opcode.CONT, b"x")], 1007),
        ([Frame(Opcode.CONT, b"x")], 1002),
        ([Frame(Opcode.CLOSE, b"\x03")], 1002),
    ],
)
async def test_what_breaks_the_protocol_closes_the_connection(gateway: Gateway, frames: list[Frame], code: int) -> None:
    """Text that is no UTF-8 closes with 1007, what is no WebSocket with 1002."""
    reader, writer = await raw_handshake(gateway)
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"".join(frame.serialize(mask=True) for frame in frames))
        assert (await reader.readexactly(4))[2:] == code.to_bytes(2)
        await reader.read()
    writer.close()
    assert reason_of(await gateway.functions.event("disconnect"))[0] == code


async def test_a_message_cut_through_the_middle_of_a_character_arrives_whole(gateway: Gateway) -> None:
    """Frames may end anywhere, even inside a character."""
    reader, writer = await raw_handshake(gateway)
    await reader.readuntil(b"\r\n\r\n")
    first, second = "ä".encode()[:1], "ä".encode()[1:]
    for frame in (Frame(Opcode.TEXT, first, fin=False), Frame(Opcode.PING, b"p"), Frame(Opcode.CONT, second)):
        writer.write(frame.serialize(mask=True))
    assert (await gateway.functions.event("query"))["body"] == "ä"
    assert await reader.readexactly(3) == b"\x8a\x01p"
    writer.close()


async def test_the_client_may_send_before_the_handshake_is_complete(gateway: Gateway) -> None:
    """Bytes that arrive with the handshake are not lost."""
    _, writer = await raw_handshake(gateway)
    writer.write(Frame(Opcode.TEXT, b'{"action":"heartbeat"}').serialize(mask=True))
    await gateway.functions.event("heartbeat")
    writer.close()


async def test_a_client_with_another_codec_is_served_as_well(gateway: Gateway) -> None:
    """Aiohttp's client, which shares no code with the gateway's codec, sends, receives, pings and closes."""
    async with aiohttp.ClientSession() as session, session.ws_connect(gateway.websocket_url) as client:
        await client.send_str('{"action":"heartbeat"}')
        await gateway.functions.event("heartbeat")
        the_connection(gateway).send("ä".encode() * 40_000)
        async with asyncio.timeout(PATIENCE):
            assert await client.receive_str() == "ä" * 40_000
        await client.ping()
        await client.close(code=4000, message=b"bye")
    assert reason_of(await gateway.functions.event("disconnect")) == (4000, "bye")


# The end of a connection


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (1000, "", (1000, "")),
        (1001, "", (1001, "")),
        (4321, "why nöt", (4321, "why nöt")),
    ],
)
async def test_a_clients_code_and_reason_are_forwarded(
    gateway: Gateway, code: int, reason: str, expected: tuple[int, str]
) -> None:
    """`$disconnect` contains them, and the client gets them back."""
    async with connected(gateway) as client:
        await client.close(code, reason)
        assert client.close_code == code
    assert reason_of(await gateway.functions.event("disconnect")) == expected


async def test_a_close_without_a_code_is_1005(gateway: Gateway) -> None:
    """`$disconnect` has AWS's reason for it."""
    reader, writer = await raw_handshake(gateway)
    await reader.readuntil(b"\r\n\r\n")
    writer.write(Frame(Opcode.CLOSE, b"").serialize(mask=True))
    event = await gateway.functions.event("disconnect")
    assert reason_of(event) == (1005, "Client-side close frame status not set")
    async with asyncio.timeout(PATIENCE):
        assert await reader.read() == b"\x88\x00"
    writer.close()


async def test_a_message_right_before_the_close_is_invoked(gateway: Gateway) -> None:
    """A message in the same packet as the close frame counts, like an application's `leave`."""
    reader, writer = await raw_handshake(gateway)
    await reader.readuntil(b"\r\n\r\n")
    frames = [Frame(Opcode.TEXT, b'{"action":"leave"}'), Frame(Opcode.CLOSE, b"\x03\xe8"), Frame(Opcode.TEXT, b"late")]
    writer.write(b"".join(frame.serialize(mask=True) for frame in frames))
    assert (await gateway.functions.event("query"))["body"] == '{"action":"leave"}'
    await gateway.functions.event("disconnect")
    assert len(gateway.functions.events_of("query")) == 1
    writer.close()


async def test_an_error_frame_for_a_closing_client_is_dropped() -> None:
    """An invalid message and the close frame in the same packet end normally."""
    async with running_gateway(routes=tuple(route for route in WEBSOCKET_ROUTES if route.key != "$default")) as gateway:
        reader, writer = await raw_handshake(gateway)
        await reader.readuntil(b"\r\n\r\n")
        frames = [Frame(Opcode.TEXT, b"no route"), Frame(Opcode.CLOSE, b"\x03\xe8")]
        writer.write(b"".join(frame.serialize(mask=True) for frame in frames))
        assert reason_of(await gateway.functions.event("disconnect")) == (1000, "")
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b"\x88\x02\x03\xe8"
        writer.close()


@pytest.mark.parametrize("rudely", [True, False])
async def test_a_lost_socket_is_1006(gateway: Gateway, rudely: bool) -> None:
    """A socket that is reset, or ends without a close frame, is 1006."""
    reader, writer = await raw_handshake(gateway)
    await reader.readuntil(b"\r\n\r\n")
    if rudely:
        writer.transport.abort()
    else:
        writer.close()
    assert reason_of(await gateway.functions.event("disconnect")) == (1006, "")
    assert gateway.websocket_api.connections == {}


async def test_a_failed_disconnect_is_lost(gateway: Gateway) -> None:
    """As in AWS; other connections continue."""
    gateway.functions.answers["disconnect"] = crash()
    async with connected(gateway) as other:
        async with connected(gateway):
            pass
        await gateway.functions.event("disconnect")
        await other.send('{"action":"heartbeat"}')
        await gateway.functions.event("heartbeat")


# Cuts


def test_a_connection_is_cut_after_ten_minutes_without_a_message() -> None:
    """Messages in either direction put the idle cut off, pings do not; `$disconnect` follows."""

    async def ten_minutes(clock: WarpedLoop) -> None:
        async with running_gateway() as gateway, connected(gateway, ping_interval=None) as client:
            clock.warp(599)
            await client.send("from the client")
            await gateway.functions.event("query")
            clock.warp(599)
            assert the_connection(gateway).send(b'"to the client"')
            assert await received(client) == "to the client"
            clock.warp(599)
            await (await client.ping())
            assert len(gateway.websocket_api.connections) == 1
            clock.warp(1)
            assert await closed(client) == (1001, "Going away")
            assert reason_of(await gateway.functions.event("disconnect")) == (1001, "Going away")

    WarpedLoop.run(ten_minutes)


def test_a_connection_is_cut_after_two_hours() -> None:
    """The hard cut comes two hours after the handshake, however active the connection."""

    async def two_hours(clock: WarpedLoop) -> None:
        async with running_gateway() as gateway, connected(gateway, ping_interval=None) as client:
            for number in range(1, 13):
                clock.warp(599)
                await client.send("still here")
                await gateway.functions.event("query", number)
            clock.warp(12)
            assert await closed(client) == (1001, "Going away")

    WarpedLoop.run(two_hours)


def test_both_cuts_can_be_set() -> None:
    """Demonstrations and tests use shorter ones."""

    async def short(clock: WarpedLoop) -> None:
        async with running_gateway(cuts=Cuts(idle=5, hard=8)) as gateway:
            for message, cut in ((None, 5), ("once", 4)):
                async with connected(gateway, ping_interval=None) as client:
                    clock.warp(4)
                    if message:
                        await client.send(message)
                        await gateway.functions.event("query")
                    await (await client.ping())
                    assert len(gateway.websocket_api.connections) == 1
                    clock.warp(cut)
                    assert await closed(client) == (1001, "Going away")

    WarpedLoop.run(short)


def test_a_client_that_ignores_the_close_is_cut() -> None:
    """For functions the connection has ended; its socket has ten seconds to close."""

    async def silent(clock: WarpedLoop) -> None:
        async with running_gateway() as gateway:
            reader, writer = await raw_handshake(gateway)
            await reader.readuntil(b"\r\n\r\n")
            connection = the_connection(gateway)
            connection.close(1001, "Going away")
            assert gateway.websocket_api.connections == {}
            writer.write(Frame(Opcode.TEXT, b'{"action":"heartbeat"}').serialize(mask=True))
            assert reason_of(await gateway.functions.event("disconnect")) == (1001, "Going away")
            assert not connection.closed.done()
            clock.warp(10)
            async with asyncio.timeout(PATIENCE):
                await connection.closed
            assert gateway.functions.events_of("heartbeat") == []
            writer.transport.abort()

    WarpedLoop.run(silent)
