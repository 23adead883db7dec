"""What a client owes the service, with a clock that the test moves; and that it stays connected, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
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
from load.session import ANSWER_PATIENCE, HOLE_PATIENCE, SILENCE, Link, Session, Silent
from load.state import Change, ClientState

SEQ = 1000
SECRET = "a secret of the tests, which is long enough"
PATIENCE = 5.0


def own(*, every: float = 30, life: float = 6600, **fields: Any) -> dict[str, Any]:
    """What the service says of oneself; its clock is far from any clock of ours. Seconds."""
    device = {"connectionId": "K1=", "connectedAt": 5_000_000}
    return {
        "userId": "bob",
        "connectionId": "K1=",
        "devices": [device],
        "heartbeatEvery": every * 1000,
        "rotateAt": device["connectedAt"] + life * 1000,  # type: ignore[operator]
        **fields,
    }


def snapshot(seq: int = SEQ, id: str | None = None, **of_self: Any) -> dict[str, Any]:
    """One that knows alice."""
    alice = {"userId": "alice", "status": "online", "rev": 1}
    return {
        "type": "presence_snapshot",
        **({} if id is None else {"id": id}),
        "seq": seq,
        "part": 1,
        "parts": 1,
        "resumed": False,
        "self": own(**of_self),
        "users": [alice],
    }


def event(seq: int, rev: int = 2, status: str = "busy") -> dict[str, Any]:
    """Alice changed."""
    return {"type": "presence_status", "seq": seq, "userId": "alice", "status": status, "rev": rev}


class Earliest(random.Random):
    """Chance that always takes the smallest number."""

    def uniform(self, a: float, b: float) -> float:
        return a


@pytest.fixture
def session() -> Session:
    """One that has synced at 0 and been answered at once."""
    session = Session(ClientState(), Earliest(), 0.0)
    session.due(0.0)
    session.receive(snapshot(), 0.0)
    return session


def test_the_first_message_is_sync() -> None:
    """A client without a past asks for everything."""
    assert Session(ClientState(), Earliest(), 0.0).due(0.0) == [{"action": "sync", "id": "sync-1"}]


def test_a_later_connection_says_what_it_knows_and_replaces() -> None:
    """A client that comes back names its last number and the connection that is no more."""
    state = ClientState()
    state.receive(snapshot())
    sync = Session(state, Earliest(), 0.0, "K1=").due(0.0)
    assert sync == [{"action": "sync", "id": "sync-1", "seq": SEQ, "replaces": "K1="}]


@pytest.mark.parametrize("answers", ["sync-3", "heartbeat-2"])
def test_a_service_that_lost_its_last_seconds_is_believed(answers: str) -> None:
    """An answer whose number is behind the question's begins anew, also on a connection that lives."""
    state = ClientState()
    session = Session(state, Earliest(), 0.0)
    session.due(0.0)
    session.receive(snapshot(id="sync-1"), 0.0)
    session.due(30.0)
    session.receive(event(SEQ + 2), 31.0)
    session.due(33.0)
    session.receive(snapshot(SEQ - 5, id="somebody's"), 33.0)
    assert (state.seq, state.users["alice"]["rev"]) == (SEQ, 2)
    session.receive(snapshot(SEQ - 5, id=answers), 34.0)
    assert (state.seq, state.users["alice"]["rev"]) == (SEQ - 5, 1)


def test_it_beats_as_often_as_the_service_wants(session: Session) -> None:
    """A heartbeat is due `heartbeatEvery` after the last message, and says that nobody touched a key."""
    assert session.wake_at == 30
    assert session.due(29.9) == []
    assert session.due(30) == [{"action": "heartbeat", "id": "heartbeat-2", "active": False, "seq": SEQ}]
    assert session.wake_at == 60


def test_a_hole_is_given_two_seconds(session: Session) -> None:
    """A frame that is only late costs nothing; one that is missing after two seconds is asked for, once."""
    session.receive(event(SEQ + 2), 1.0)
    assert session.wake_at == 1.0 + HOLE_PATIENCE
    session.receive(event(SEQ + 1), 1.5)
    assert session.wake_at == 30
    session.receive(event(SEQ + 4), 5.0)
    assert session.due(5.0 + HOLE_PATIENCE) == [{"action": "sync", "id": "sync-2", "seq": SEQ + 2}]
    assert session.due(5.1 + HOLE_PATIENCE) == []


def test_after_long_silence_it_asks_and_then_gives_up(session: Session) -> None:
    """Two minutes without a frame, and five seconds without an answer, and nobody is there."""
    for beat in (30, 60, 90):
        session.due(beat)
    assert session.wake_at == SILENCE
    assert [message["action"] for message in session.due(SILENCE)] == ["sync"]
    assert session.wake_at == SILENCE + ANSWER_PATIENCE
    with pytest.raises(Silent):
        session.due(SILENCE + ANSWER_PATIENCE)


def test_an_answer_ends_the_wait(session: Session) -> None:
    """A service that answers is not silent."""
    session.due(30)
    session.due(SILENCE)
    session.receive(snapshot(), SILENCE + 1)
    assert session.due(SILENCE + ANSWER_PATIENCE) == []


@pytest.mark.parametrize("frame", [{"type": "error", "retryAfter": 1000}, {"message": "Internal server error"}])
def test_a_failure_makes_the_picture_stale_until_it_is_mended(session: Session, frame: dict[str, Any]) -> None:
    """After an error the client asks again, later each time, and what it shows is stale meanwhile."""
    session.receive({**frame, "message": "no"}, 10.0)
    assert session.link == Link("stale", "no")
    again = 10 + frame.get("retryAfter", 0) / 1000
    assert session.wake_at == again
    assert session.due(again) == [{"action": "sync", "id": "sync-2", "seq": SEQ}]
    session.receive(snapshot(), 12.0)
    assert session.link == Link("live")


def test_failures_are_asked_about_less_and_less() -> None:
    """The time from which chance takes a part doubles with each failure, up to thirty seconds."""
    asked: list[float] = []

    class Recorder(random.Random):
        def uniform(self, a: float, b: float) -> float:
            asked.append(b)
            return b

    session = Session(ClientState(), Recorder(), 0.0)
    for _ in range(7):
        session.receive({"message": "Internal server error"}, 0.0)
    assert asked == [1, 2, 4, 8, 16, 30, 30]


def test_it_goes_over_to_a_new_connection_in_time() -> None:
    """When to rotate is reckoned from the service's own clock, and comes early by a random part of a tenth."""
    for seed in range(20):
        session = Session(ClientState(), random.Random(seed), 100.0)
        session.receive(snapshot(life=6600), 100.0)
        assert 100 + 0.9 * 6600 <= session.rotate_at <= 100 + 6600


def test_a_token_that_ends_at_once_makes_no_storm() -> None:
    """A connection is used for a second at least."""
    session = Session(ClientState(), Earliest(), 100.0)
    session.receive(snapshot(life=0), 100.0)
    assert session.rotate_at == 101


# On real sockets

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


class Told:
    """What a client told, and a way to wait for it."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.links: list[Link] = []
        self._news = asyncio.Event()

    def change(self, change: Change) -> None:
        self.changes.append(change)
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
    """One that the services of these tests would trust."""
    return IdentityProvider(SECRET, **{"token_source": "query", **options})


def first_of(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """What `$connect` chooses: the protocol's name, and not the token after it."""
    return offered[0] if offered else None


@contextlib.asynccontextmanager
async def client_of(script: Script, identity_provider: IdentityProvider | None = None) -> AsyncIterator[Told]:
    """A client of a scripted service, which reconnects without waiting; it has left when the block has ended."""
    told, service = Told(), Service(script)
    async with serve(service.handle, "127.0.0.1", 0, select_subprotocol=first_of) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"
        client = Client(url, "bob", identity_provider or provider(), ClientState(), told.change, told.link, Earliest())
        running = asyncio.create_task(client.run())
        try:
            yield told
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
    assert service.failures == []


async def test_it_says_who_it_is_and_closes_at_the_end() -> None:
    """A handshake carries a token of the user and one device; at the end the socket is closed in order."""
    codes: list[int | None] = []

    async def script(peer: Peer, _: int) -> None:
        claims = jwt.decode(peer.query["token"], SECRET, ["HS256"])
        assert claims["sub"] == "bob"
        assert peer.query["v"] == "1"
        assert peer.query["deviceType"] == "desktop"
        assert await peer.hear() == {"action": "sync", "id": "sync-1"}
        await peer.say(snapshot())
        await peer.socket.wait_closed()
        codes.append(peer.socket.close_code)

    async with client_of(script) as told:
        await told.until(lambda: bool(told.changes))
    assert told.links == [Link("live")]
    assert [change.after for change in told.changes] == [{"userId": "alice", "status": "online", "rev": 1}]
    assert codes == [1000]


async def test_the_token_may_travel_as_a_subprotocol() -> None:
    """Where the service takes tokens as a subprotocol, none is in the URL."""
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
    assert offered[0] == "presence.v1"
    assert jwt.decode(offered[1], SECRET, ["HS256"])["sub"] == "bob"


async def test_it_beats_without_being_asked() -> None:
    """While nothing happens the client says that it is there."""
    beats: list[dict[str, Any]] = []

    async def script(peer: Peer, _: int) -> None:
        await peer.hear()
        await peer.say(snapshot(every=0.02))
        beats.extend([await peer.hear(), await peer.hear()])
        await peer.say(event(SEQ + 1))
        await peer.socket.wait_closed()

    async with client_of(script) as told:
        await told.until(lambda: len(told.changes) == 2)
    expected = [{"action": "heartbeat", "id": f"heartbeat-{n}", "active": False, "seq": SEQ} for n in (2, 3)]
    assert beats == expected


async def test_it_comes_back_after_a_cut() -> None:
    """A lost connection is made anew; it continues where the last one ended, on the same device."""
    devices: list[str] = []

    async def script(peer: Peer, number: int) -> None:
        devices.append(peer.query["deviceId"])
        sync = await peer.hear()
        if number == 1:
            await peer.say(snapshot())
            peer.socket.transport.abort()
        else:
            assert sync == {"action": "sync", "id": "sync-1", "seq": SEQ, "replaces": "K1="}
            await peer.say({**snapshot(), "resumed": True, "users": []})
            await peer.socket.wait_closed()

    async with client_of(script) as told:
        await told.until(lambda: len(told.links) == 3)
    assert [link.state for link in told.links] == ["live", "lost", "live"]
    assert len(told.changes) == 1
    assert devices[0] == devices[1]


async def test_rotation_leaves_no_moment_between() -> None:
    """The new connection is open, and has named the old one, before the old one closes; nothing is told about it."""
    order: list[str] = []
    rotated = asyncio.Event()

    async def script(peer: Peer, number: int) -> None:
        sync = await peer.hear()
        if number == 1:
            await peer.say(snapshot(life=0))
            await peer.socket.wait_closed()
            order.append("closed")
        else:
            assert sync == {"action": "sync", "id": "sync-1", "seq": SEQ, "replaces": "K1="}
            order.append("synced")
            await peer.say({**snapshot(), "resumed": True, "users": []})
            await peer.say(event(SEQ + 1))
            rotated.set()
            await peer.socket.wait_closed()

    async with client_of(script) as told:
        await asyncio.wait_for(rotated.wait(), PATIENCE)
        await told.until(lambda: len(told.changes) == 2)
    assert order == ["synced", "closed"]
    assert told.links == [Link("live")]


async def test_nobody_there_is_said_at_once() -> None:
    """Whoever starts a client before the service is told so; only a connection that was lost is tried again."""
    async with serve(Service(lambda *_: asyncio.sleep(0)).handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
    told = Told()
    client = Client(f"ws://127.0.0.1:{port}/live", "bob", provider(), ClientState(), told.change, told.link)
    with pytest.raises(UserError, match=f"nothing answers at ws://127.0.0.1:{port}/live"):
        await client.run()


@pytest.mark.parametrize(
    ("status", "words"), [(HTTPStatus.FORBIDDEN, "refuses the token"), (HTTPStatus.BAD_GATEWAY, "answers 502")]
)
async def test_a_refused_handshake_is_said_at_once(status: HTTPStatus, words: str) -> None:
    """A wrong secret and a service that is ill are told apart."""

    def refuse(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(status, "no")

    told = Told()
    async with serve(Service(lambda *_: asyncio.sleep(0)).handle, "127.0.0.1", 0, process_request=refuse) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"
        with pytest.raises(UserError, match=words):
            await Client(url, "bob", provider(), ClientState(), told.change, told.link).run()
