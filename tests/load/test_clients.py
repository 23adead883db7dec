"""Simulated clients against a scripted server: deliveries are counted as shown, lost or withdrawn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from load.clients import SimulatedClients
from load.errors import LoadError
from load.protocol import Received, Reconnect
from load.statistics import Statistics

LISTS = [[1], [0]]
"""Two users who see each other."""


class FakeConversation:
    """A minimal protocol: `{user: number}` shows contacts, and the first such frame makes it live."""

    def __init__(self, now: float, life: float) -> None:
        self.is_live = False
        self.wake_at = now + life

    def due(self, now: float) -> list[str]:
        if now >= self.wake_at:
            raise Reconnect("old")
        return []

    def receive(self, text: str, now: float) -> Received:
        self.is_live = True
        return Received("shown", list(json.loads(text).items()))

    def change(self, number: int) -> str:
        return str(number)


class FakeProtocol:
    """The protocol of `FakeConversation`; its connections last `life` seconds."""

    def __init__(self, url: str, life: float = 1e9) -> None:
        self.url, self.life = url, life

    def handshake(self, user: str, device: str) -> tuple[str, Sequence[str]]:
        return f"{self.url}/{user}", ()

    def conversation(self, now: float) -> FakeConversation:
        return FakeConversation(now, self.life)


class Contacts:
    """Sends each user the other's changes, every `every`th one, and the last one that was sent to a new connection."""

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.told: dict[str, int] = {}
        self.sockets: dict[str, ServerConnection] = {}

    async def handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        user = socket.request.path.strip("/")
        other = "b" if user == "a" else "a"
        self.sockets[user] = socket
        await socket.send(json.dumps({other: self.told.get(other, 0)}))
        async for word in socket:
            if int(word) % self.every == 0:
                self.told[user] = int(word)
                with contextlib.suppress(ConnectionClosed):
                    await self.sockets[other].send(json.dumps({user: int(word)}))


@contextlib.asynccontextmanager
async def serving(contacts: Contacts) -> AsyncIterator[tuple[Server, str]]:
    """A running server, and its URL."""
    async with serve(contacts.handle, "127.0.0.1", 0) as server:
        yield server, f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@contextlib.asynccontextmanager
async def two_clients(url: str, statistics: Statistics, life: float = 1e9) -> AsyncIterator[SimulatedClients]:
    """Two connected users."""
    clients = SimulatedClients(FakeProtocol(url, life), ["a", "b"], LISTS, 1, statistics, random.Random(7))
    async with clients.running():
        await clients.connect(1000, lambda *_: None)
        yield clients


async def change(clients: SimulatedClients, count: int, churn: float = 0) -> None:
    """Make this number of changes in half a second."""
    await clients.change(2 * count, 0.5, churn, lambda *_: None)


async def until(happened: Callable[[], bool]) -> None:
    """Run the loop until something has happened."""
    while not happened():  # noqa: ASYNC110 - what happens in a crowd sets no event
        await asyncio.sleep(0)


async def test_everything_that_arrives_is_delivered() -> None:
    """One delivery for each change, since each user has one contact."""
    statistics = Statistics()
    async with serving(Contacts()) as (_, url), two_clients(url, statistics) as clients:
        await change(clients, 20)
        await clients.drain()
        assert (
            statistics.changes,
            statistics.expected,
            statistics.delivered,
            statistics.superseded,
            statistics.outstanding,
        ) == (
            20,
            20,
            20,
            0,
            0,
        )
        assert statistics.opened == 2
        assert all(0 < latency < 5 for latency in statistics.latencies)


async def test_a_later_state_delivers_the_earlier_ones() -> None:
    """Of four changes of a user only the fourth is sent: it delivers all of them, and nothing is lost."""
    statistics = Statistics()
    async with serving(Contacts(every=4)) as (_, url), two_clients(url, statistics) as clients:
        await change(clients, 16)
        await clients.drain()
        assert (statistics.delivered, statistics.superseded, statistics.outstanding) == (16, 12, 0)


async def test_changes_that_do_not_arrive_are_lost() -> None:
    """The last three of seven changes of each user are not sent."""
    statistics = Statistics()
    async with serving(Contacts(every=4)) as (_, url), two_clients(url, statistics) as clients:
        await change(clients, 14)
        await clients.drain(0.2)
        assert (statistics.expected, statistics.delivered, statistics.report()["deliveries"]["lost"]) == (14, 8, 6)


async def test_deliveries_to_a_closed_connection_are_withdrawn() -> None:
    """Deliveries on their way to a connection that ended are neither delivered nor lost."""
    statistics = Statistics()
    contacts = Contacts(every=1000)
    async with serving(contacts) as (_, url), two_clients(url, statistics) as clients:
        await change(clients, 10)
        await contacts.sockets["a"].close(4000)
        await until(lambda: bool(statistics.closed))
        assert (statistics.closed["4000"], statistics.withdrawn, statistics.outstanding) == (1, 5, 5)


async def test_churn_is_not_loss() -> None:
    """Closed connections reconnect, and the sums add up."""
    statistics = Statistics()
    async with serving(Contacts()) as (_, url), two_clients(url, statistics) as clients:
        await change(clients, 30, churn=8)
        await clients.drain()
        await until(lambda: clients.live == 2)
        assert statistics.opened > 2
        assert not statistics.closed
        assert statistics.expected == statistics.delivered + statistics.withdrawn


async def test_a_connection_is_replaced_when_its_protocol_says_so() -> None:
    """For example after a rotation, or when the service does not respond."""
    statistics = Statistics()
    async with serving(Contacts()) as (_, url), two_clients(url, statistics, life=0.1) as clients:
        await until(lambda: statistics.opened >= 4)
        assert statistics.closed["old"] >= 2
        assert clients.size == 2


async def test_a_service_that_is_gone_ends_the_load() -> None:
    """The load ends when no client is connected and none can connect."""
    statistics = Statistics()
    async with serving(Contacts()) as (server, url), two_clients(url, statistics) as clients:
        server.close()
        with pytest.raises(LoadError, match="nothing answers at ws://"):
            await clients.change(10, 60, 0, lambda *_: None)


async def test_a_refused_token_ends_the_load() -> None:
    """The other clients do not try."""

    async def refuse(socket: ServerConnection, _: object) -> object:
        return socket.respond(403, "no")

    async with serve(Contacts().handle, "127.0.0.1", 0, process_request=refuse) as server:  # type: ignore[arg-type]
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        with pytest.raises(LoadError, match="refuses the token"):
            async with two_clients(url, Statistics()):
                pass
