"""Complete services in processes of their own: ours, as `presence run` starts it, and Socket.IO with its Redis adapter.

Both are put under the load of `presence load`: the same simulated clients, changes and statistics.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import subprocess
import tempfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import redis

from bench.processes import cpu, cpu_between
from cli import process_limits
from cli.home import Home
from cli.identity_provider import IdentityProvider
from cli.target import Target
from load.clients import SimulatedClients
from load.presence_protocol import PresenceProtocol
from load.protocol import Received, WireProtocol
from load.statistics import Statistics
from local.elasticache import RedisServer
from shared.settings import Settings
from shared.store import Store
from tests.support.metrics import Counts
from tests.support.presence_run import descendants, presence_run

PEERS = Path(__file__).parent / "peers"
NODES = 2
"""Processes of Socket.IO, one for each core; the adapter connects them."""
HEARTBEAT = 30.0
"""Seconds between heartbeats, in both services."""
TTL = 3600
"""Seconds for which tokens are valid."""
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Service:
    """A running service.

    Attributes:
        name: its name in the table.
        protocol: how clients talk to it.
        main: the process that holds the sockets (one of them, for Socket.IO).
        pids: all its processes, including Redis.
        make_contacts: lets pairs of users see each other.
    """

    name: str
    protocol: WireProtocol
    main: int
    pids: Callable[[], set[int]]
    make_contacts: Callable[[Pairs], Awaitable[None]]


@contextlib.contextmanager
def ours() -> Iterator[Service]:
    """`presence run`, with a Redis beside it."""
    with (
        RedisServer.start() as server,
        tempfile.TemporaryDirectory() as folder,
        presence_run(Path(folder), "--redis", server.url) as run,
    ):
        target = Target(Home(Path(folder) / ".presence"), {})

        async def make_contacts(pairs: Pairs) -> None:
            with redis.Redis.from_url(server.url) as client, client.pipeline(transaction=False) as pipeline:
                key = Store(client, Settings(redis_url=server.url), Counts()).key
                for first, second in pairs:
                    for viewer, seen in ((first, second), (second, first)):
                        pipeline.sadd(key("contacts", seen), viewer)
                        pipeline.sadd(key("sees", viewer), seen)
                pipeline.execute()
            async with target.backend() as backend:
                await backend.set_graph_loaded()
                contacts = await backend.contacts(pairs[0][0])  # The service reads what was written.
                assert contacts == {other for pair in pairs if pairs[0][0] in pair for other in pair} - {pairs[0][0]}

        yield Service(
            "presence run",
            PresenceProtocol(run.run.ws_url, target.identity_provider(), TTL),
            run.process.pid,
            lambda: {server.pid, run.process.pid, *run.children()},
            make_contacts,
        )


@contextlib.contextmanager
def socketio() -> Iterator[Service]:
    """`peers/socketio.mjs` in `NODES` processes, with a Redis of the same binary."""
    secret = secrets.token_urlsafe(48)
    with RedisServer.start() as server, contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(_node(server.url, secret)) for _ in range(NODES)]
        ports = [_line(node) for node in nodes]

        async def make_contacts(pairs: Pairs) -> None:
            with redis.Redis.from_url(server.url) as client, client.pipeline(transaction=False) as pipeline:
                for first, second in pairs:
                    pipeline.sadd(f"contacts:{first}", second)
                    pipeline.sadd(f"contacts:{second}", first)
                pipeline.execute()

        yield Service(
            "Socket.IO with Redis",
            SocketIo(ports, IdentityProvider(secret, "query")),
            nodes[0].pid,
            lambda: {server.pid, *(node.pid for node in nodes), *descendants(nodes[0].pid)},
            make_contacts,
        )


@contextlib.contextmanager
def _node(redis_url: str, secret: str) -> Iterator[subprocess.Popen[str]]:
    command = ["node", "socketio.mjs", redis_url]
    environment = {**os.environ, "SECRET": secret, "NODE_ENV": "production"}
    with subprocess.Popen(
        command, cwd=PEERS, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        try:
            yield node
        finally:
            node.kill()


def _line(node: subprocess.Popen[str]) -> str:
    assert node.stdout is not None
    line = node.stdout.readline().strip()
    assert line, "Node.js or its packages are missing: `make bench` installs them"
    return line


class SocketIo:
    """The `WireProtocol` of `peers/socketio.mjs`."""

    def __init__(self, ports: Sequence[str], tokens: IdentityProvider) -> None:
        self._ports, self._tokens = ports, tokens
        self._rng = random.Random()

    def handshake(self, user: str, device: str) -> tuple[str, Sequence[str]]:
        """The URL of a handshake. Users are spread over the servers."""
        port = self._ports[zlib.crc32(user.encode()) % len(self._ports)]
        query = {"EIO": "4", "transport": "websocket", "token": self._tokens.token(user, TTL), "deviceId": device}
        return f"ws://127.0.0.1:{port}/socket.io/?{urlencode(query)}", ()

    def conversation(self, now: float) -> _SocketIoConversation:
        """The protocol on a connection that has just opened."""
        return _SocketIoConversation(now)


class _SocketIoConversation:
    """Socket.IO's packets: `40` joins, `42[event, data]` is an event, `2` a ping, and `3` its pong."""

    def __init__(self, now: float) -> None:
        self.is_live = False
        self._beat_at = now + HEARTBEAT
        self._pending = ["40"]

    @property
    def wake_at(self) -> float:
        return 0.0 if self._pending else self._beat_at

    def due(self, now: float) -> list[str]:
        due, self._pending = self._pending, []
        if now >= self._beat_at:
            self._beat_at = now + HEARTBEAT
            due.append('42["heartbeat",{"active":true}]')
        return due

    def receive(self, text: str, now: float) -> Received:  # noqa: ARG002 - the protocol has no deadlines
        if text == "2":
            self._pending.append("3")
        if text.startswith("40"):
            self._pending.append('42["sync"]')
        if not text.startswith("42"):
            return Received(text[:2], error=text if text.startswith("44") else "")
        name, data = json.loads(text[2:])
        if name == "presence_snapshot":
            self.is_live = True
            return Received(name, _shown(data["users"]))
        return Received(name, _shown([data]) if name != "presence_self" else ())

    def change(self, number: int) -> str:
        status = "busy" if number % 2 else "online"
        change = {"status": status, "customStatus": {"text": str(number)}, "n": number}
        return "42" + json.dumps(["presence_update", change])


def _shown(records: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(record["userId"], int(record["customStatus"]["text"])) for record in records if record["customStatus"]]


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of one load."""

    rate: float
    """The planned changes a second."""
    statistics: Statistics
    cpu: float
    """CPU seconds of all processes of the service, from the first change until all were delivered."""

    @property
    def cpu_per_delivery(self) -> float:
        """In seconds."""
        return self.cpu / (self.statistics.delivered or 1)


class Load:
    """Lets connected clients make changes."""

    def __init__(self, service: Service, clients: SimulatedClients) -> None:
        self._service, self._clients = service, clients

    async def run(self, rate: float, seconds: float) -> Measured:
        """Make `rate` changes a second, for some seconds."""
        statistics = Statistics()
        self._clients.record_in(statistics)
        before = cpu(self._service.pids())
        await self._clients.change(rate, seconds, 0, _quiet)
        await self._clients.drain()
        return Measured(rate, statistics, cpu_between(before, cpu(self._service.pids())))


@contextlib.asynccontextmanager
async def clients_at(
    service: Service, contacts: Sequence[Sequence[int]], connect_rate: float
) -> AsyncIterator[tuple[Load, Statistics]]:
    """Connected clients that know their contacts' states, and the statistics of connecting."""
    process_limits.collect_garbage_rarely()  # in this process, not in the service
    users = [f"u{place:06d}" for place in range(len(contacts))]
    await service.make_contacts([(users[a], users[b]) for a, others in enumerate(contacts) for b in others if a < b])
    statistics = Statistics()
    clients = SimulatedClients(service.protocol, users, contacts, 1, statistics, random.Random(1))
    async with clients.running():
        await clients.connect(connect_rate, _quiet)
        yield Load(service, clients), statistics


def _quiet(_done: float, _whole: float) -> None:
    """Shows no progress."""
