"""Four mutual contacts on a bench, each with a client that follows the protocol's rules, and what they should see."""

from __future__ import annotations

import json
from functools import partial

from shared.connection import Connection
from shared.delivery import Post
from shared.messages import Sync
from tests.model.client import Client
from tests.support.service import Bench

USERS = ("alice", "bob", "carol", "dave")


class Crowd:
    """Four mutual contacts, each with a client that follows the protocol."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.clients = {user: Client() for user in USERS}
        self.connections: dict[str, Connection] = {}
        self.chosen = dict.fromkeys(USERS, "online")
        self.numbers: dict[str, int] = {}
        bench.pusher.deliver = self.deliver

    def deliver(self, frame: Post) -> None:
        """Hand a frame to the client that owns its connection."""
        for user, connection in self.connections.items():
            if connection.id == frame.connection_id:
                self.clients[user].receive(json.loads(frame.data), self.bench.clock())

    def tell_graph(self) -> None:
        """Load the graph as the application's backend does: everybody is everybody's contact."""
        for user in USERS:
            self.bench.service.contacts.change(user, USERS)
        self.bench.service.contacts.set_graph_loaded(True)

    def open(self, *users: str) -> None:
        """Connect these users, or all."""
        for user in users or USERS:
            self.connections[user] = self.bench.connection(user, device=f"{user}-phone")
            self.bench.service.set_user_online(self.connections[user])
            self.bench.service.sync(self.connections[user], Sync(action="sync"))

    def choose(self, user: str, status: str) -> None:
        """A user chooses a status."""
        self.chosen[user] = status
        self.numbers[user] = self.numbers.get(user, 0) + 1
        self.bench.update(self.connections[user], status=status, n=self.numbers[user])

    def beat(self) -> None:
        """Send one heartbeat from every connected user."""
        for user, connection in self.connections.items():
            self.catch_up(user)
            self.bench.beat(connection, status=self.chosen[user], n=self.numbers.get(user), seq=self.clients[user].seq)

    def catch_up(self, *users: str) -> None:
        """Send the `sync` that the clients of these users, or of all, owe."""
        for user in users or tuple(self.connections):
            connection = self.connections[user]
            self.clients[user].catch_up(self.bench.clock(), partial(self._sync, connection))

    def _sync(self, connection: Connection, seq: int | None) -> None:
        self.bench.service.sync(connection, Sync(action="sync", seq=seq))

    def check_screens(self) -> None:
        """Every connected user is shown what the service would answer, right or not."""
        self.catch_up()
        for viewer in self.connections:
            shown = {user: self.clients[viewer].status(user) for user in USERS if user != viewer}
            served = {user: status for user, status in self.served(viewer).items() if user != viewer}
            assert shown == served, viewer

    def others(self, user: str) -> list[Client]:
        """The clients of the other connected users."""
        return [self.clients[viewer] for viewer in self.connections if viewer != user]

    def expected(self) -> dict[str, str]:
        """The right status of each user."""
        return {user: self.chosen[user] if user in self.connections else "offline" for user in USERS}

    def shown(self, viewer: str) -> dict[str, str]:
        """What a viewer's client shows of the others, with the viewer's own right status added."""
        own = {viewer: self.expected()[viewer]}
        return {user: self.clients[viewer].status(user) for user in USERS if user != viewer} | own

    def served(self, viewer: str) -> dict[str, str]:
        """What the service returns when this viewer queries."""
        return {user: self.bench.sees(viewer, user)["status"] for user in USERS}

    def check(self) -> None:
        """Every connected user is served and shown the right status of everybody."""
        for viewer in self.connections:
            assert self.served(viewer) == self.expected(), viewer
            assert self.shown(viewer) == self.expected(), viewer
