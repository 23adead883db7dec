"""A client stays connected, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from cli.client import Client
from cli.errors import UserError
from cli.identity_provider import IdentityProvider
from load.session import Link
from load.state import Change, State, changes
from tests.support.chance import Earliest
from tests.support.frames import SEQ, event, resumed, snapshot

SECRET = "a secret of the tests, which is long enough"
PATIENCE = 5.0


Script = Callable[["Peer", int], Awaitable[None]]


class Peer:
    """The service's end of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        request = socket.request
        assert request is not None
        self.query = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            message: dict[str, Any] = json.loads(await self.socket.recv())
        return message

    async def say(self, frame: dict[str, Any]) -> None:
        await self.socket.send(json.dumps(frame))


class Service:
    """A service whose connections do what a script says; it remembers failures of the script."""

    def __init__(self, script: Script) -> None:
        self._script, self._count = script, 0
        self.failures: list[BaseException] = []

    async def handle(self, socket: ServerConnection) -> None:
        self._count += 1
        try:
            await self._script(Peer(socket), self._count)
        except BaseException as error:
            self.failures.append(error)
            raise


class Recorder:
    """Records what a client reports, and can wait for it."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.links: list[Link] = []
        self._news = asyncio.Event()

    def state(self, before: State, after: State) -> None:
        self.changes += changes(before, after)
        self._news.set()

    def link(self, link: Link) -> None:
        self.links.append(link)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await self._news.wait()
                self._news.clear()


def provider(**options: Any) -> IdentityProvider:
    """A provider whose tokens the service of these tests would accept."""
    return IdentityProvider(SECRET, **{"token_source": "query", **options})


def first_of(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The choice of `$connect`: the protocol's name, not the token after it."""
    return offered[0] if offered else None


@contextlib.asynccontextmanager
async def client_of(script: Script, identity_provider: IdentityProvider | None = None) -> AsyncIterator[Recorder]:
    """A client of a scripted service, which reconnects without waiting and disconnects with the block."""
    told, service = Recorder(), Service(script)
    async with serve(service.handle, "127.0.0.1", 0, select_subprotocol=first_of) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"
        client = Client(url, "bob", identity_provider or provider(), told.state, told.link, Earliest())
        running = asyncio.create_task(client.run())
        try:
            yield told
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
    assert service.failures == []


async def test_it_identifies_itself_and_closes_at_the_end() -> None:
    """A handshake carries a token of the user and a device; at the end the socket closes normally."""
    codes: list[int | None] = []

    async def script(peer: Peer, _: int) -> None:
        claims = jwt.decode(peer.query["token"], SECRET, ["HS256"])
        assert claims["sub"] == "bob"
        assert peer.query["v"] == "2"
        assert peer.query["deviceType"] == "desktop"
        assert await peer.hear() == {"action": "sync"}
        await peer.say(snapshot())
        await peer.socket.wait_closed()
        codes.append(peer.socket.close_code)

    async with client_of(script) as told:
        await told.until(lambda: bool(told.changes))
    assert told.links == [Link("live")]
    assert [change.after for change in told.changes] == [{"userId": "alice", "status": "online"}]
    assert codes == [1000]


async def test_the_token_may_be_a_subprotocol() -> None:
    """If the service accepts tokens as a subprotocol, the URL contains none."""
    offered: list[str] = []

    async def script(peer: Peer, _: int) -> None:
        assert "token" not in peer.query
        assert peer.socket.request is not None
        offered.extend(peer.socket.request.headers["Sec-WebSocket-Protocol"].split(", "))
        await peer.hear()
        await peer.say(snapshot())
        await peer.socket.wait_closed()

    async with client_of(script, provider(token_source="subprotocol")) as told:
        await told.until(lambda: bool(told.links))
    assert offered[0] == "presence.v2"
    assert jwt.decode(offered[1], SECRET, ["HS256"])["sub"] == "bob"


async def test_it_sends_heartbeats() -> None:
    """The client sends heartbeats while nothing happens."""
    beats: list[dict[str, Any]] = []

    async def script(peer: Peer, _: int) -> None:
        await peer.hear()
        await peer.say(snapshot(every=0.02))
        beats.extend([await peer.hear(), await peer.hear()])
        await peer.say(event(SEQ, 1500))
        await peer.socket.wait_closed()

    async with client_of(script) as told:
        await told.until(lambda: len(told.changes) == 2)
    assert beats == [{"action": "heartbeat", "active": False, "seq": SEQ}] * 2


async def test_it_reconnects_after_a_cut() -> None:
    """The new connection resumes where the last one ended, on the same device."""
    devices: list[str] = []

    async def script(peer: Peer, number: int) -> None:
        devices.append(peer.query["deviceId"])
        sync = await peer.hear()
        if number == 1:
            await peer.say(snapshot())
            peer.socket.transport.abort()
        else:
            assert sync == {"action": "sync", "seq": SEQ, "replaces": "K1="}
            await peer.say(resumed())
            await peer.socket.wait_closed()

    async with client_of(script) as told:
        await told.until(lambda: len(told.links) == 3)
    assert [link.state for link in told.links] == ["live", "lost", "live"]
    assert len(told.changes) == 1
    assert devices[0] == devices[1]


async def test_rotation_leaves_no_gap() -> None:
    """The new connection opens and names the old one before that closes; no change of the link is reported."""
    order: list[str] = []
    rotated = asyncio.Event()

    async def script(peer: Peer, number: int) -> None:
        sync = await peer.hear()
        if number == 1:
            await peer.say(snapshot(life=0))
            await peer.socket.wait_closed()
            order.append("closed")
        else:
            assert sync == {"action": "sync", "seq": SEQ, "replaces": "K1="}
            order.append("synced")
            await peer.say(resumed())
            await peer.say(event(SEQ, 1500))
            rotated.set()
            await peer.socket.wait_closed()

    async with client_of(script) as told:
        await asyncio.wait_for(rotated.wait(), PATIENCE)
        await told.until(lambda: len(told.changes) == 2)
    assert order == ["synced", "closed"]
    assert told.links == [Link("live")]


async def test_an_unreachable_service_is_an_error() -> None:
    """The first connection is not retried; only a lost one is."""
    async with serve(Service(lambda *_: asyncio.sleep(0)).handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
    told = Recorder()
    client = Client(f"ws://127.0.0.1:{port}/live", "bob", provider(), told.state, told.link)
    with pytest.raises(UserError, match=f"nothing answers at ws://127.0.0.1:{port}/live"):
        await client.run()


@pytest.mark.parametrize(
    ("status", "words"), [(HTTPStatus.FORBIDDEN, "refuses the token"), (HTTPStatus.BAD_GATEWAY, "answers 502")]
)
async def test_a_refused_handshake_is_an_error(status: HTTPStatus, words: str) -> None:
    """A wrong token and a broken service have different errors."""

    def refuse(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(status, "no")

    told = Recorder()
    async with serve(Service(lambda *_: asyncio.sleep(0)).handle, "127.0.0.1", 0, process_request=refuse) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"
        with pytest.raises(UserError, match=words):
            await Client(url, "bob", provider(), told.state, told.link).run()
