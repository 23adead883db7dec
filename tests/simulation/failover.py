"""How long screens are wrong after a failover that loses the last seconds: `python -m tests.simulation.failover`.

Under virtual time, on a real server whose replica stopped receiving some seconds ago: a crowd whose members change all
the time, each with a client that follows the rules and beats on schedule. After the failover nothing changes any more,
so that every difference between a screen and what the service would answer is the loss's.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from functools import partial

from shared.connection import Connection
from shared.delivery import Post
from shared.messages import StatusChange, Sync
from shared.settings import Settings
from tests.model.client import Client
from tests.support.nodes import Nodes
from tests.support.service import Bench

CONTACTS = 10
CHANGES = 100
"""Changes a second before the failover."""
LOST = 5
"""Seconds that are lost."""
STEP = 0.5
"""Seconds between two looks at the screens."""
BEAT = 30.0
"""Seconds between two heartbeats of a client."""


class Crowd:
    """People in circles of mutual contacts."""

    def __init__(self, bench: Bench, count: int, seed: int) -> None:
        self.bench, self.rng = bench, random.Random(seed)
        self.users = [f"user{number}" for number in range(count)]
        self.clients = {user: Client() for user in self.users}
        self.connections: dict[str, Connection] = {}
        self.owners: dict[str, str] = {}
        self.beats = {user: self.rng.uniform(0, BEAT) for user in self.users}
        self.frames = 0
        bench.pusher.deliver = self._deliver
        for start in range(0, count, CONTACTS + 1):
            circle = self.users[start : start + CONTACTS + 1]
            for place, user in enumerate(circle):
                bench.service.contacts.change(user, circle[place + 1 :])
        for user in self.users:
            self.open(user)

    def open(self, user: str) -> None:
        """Connect."""
        self.connections[user] = connection = self.bench.connection(user)
        self.owners[connection.id] = user
        self.bench.service.set_user_online(connection)
        self._sync(connection, self.clients[user].seq)

    def circle(self, user: str) -> list[str]:
        """The contacts of a user."""
        place = self.users.index(user)
        start = place - place % (CONTACTS + 1)
        return [other for other in self.users[start : start + CONTACTS + 1] if other != user]

    def change(self) -> None:
        """Somebody chooses a status, leaves, or comes back."""
        user = self.rng.choice(self.users)
        if user not in self.connections:
            self.open(user)
        elif self.rng.random() < 0.1:
            self.bench.service.leave(user, self.connections.pop(user).id)
        else:
            status = self.rng.choice(["online", "busy", "away"])
            self.bench.service.set_status(user, StatusChange.model_validate({"scope": "user", "status": status}))

    def live(self, seconds: float) -> None:
        """Time passes: clients send what is due."""
        self.bench.sweep(seconds)
        for user, connection in self.connections.items():
            self.clients[user].catch_up(self.bench.clock(), partial(self._sync, connection))
            self.beats[user] -= seconds
            if self.beats[user] <= 0:
                self.beats[user] = BEAT * self.rng.uniform(0.9, 1.1)
                self.bench.beat(connection, seq=self.clients[user].seq)

    def wrong(self, users: Sequence[str]) -> set[str]:
        """Those whose screens differ from what the service would answer."""
        return {user for user in users if self._is_wrong(user)}

    def _is_wrong(self, user: str) -> bool:
        records = self.bench.service.get_bulk_presence(user, self.circle(user))
        return any(self.clients[user].status(record["userId"]) != record["status"] for record in records)

    def _sync(self, connection: Connection, seq: int | None) -> None:
        self.bench.service.sync(connection, Sync(action="sync", seq=seq))

    def _deliver(self, post: Post) -> None:
        user = self.owners[post.connection_id]
        self.frames += 1
        self.clients[user].receive(json.loads(post.data), self.bench.clock())


def main(count: int, seed: int) -> None:
    """Print how many screens are wrong at the failover, and how long each was."""
    with Nodes(1) as nodes:
        bench = Bench(nodes.client, Settings(rate_burst=1000), connect=nodes.connect)
        crowd = Crowd(bench, count, seed)
        for _ in range(130):
            crowd.live(STEP)
        nodes.fork(0)
        for _ in range(LOST * CHANGES):
            crowd.change()
            crowd.live(1 / CHANGES)
        nodes.fail_over(0)
        live = list(crowd.connections)
        wrong, before, lasted = crowd.wrong(live), crowd.frames, dict[str, float]()
        at_once, elapsed = len(wrong), 0.0
        while wrong and elapsed < 120:
            crowd.live(STEP)
            elapsed += STEP
            still = crowd.wrong(sorted(wrong))
            lasted |= dict.fromkeys(wrong - still, elapsed)
            wrong = still
        times = sorted(lasted.values()) or [0.0]
        middle, most, last = times[len(times) // 2], times[int(len(times) * 0.9)], times[-1]
        for line in (
            f"{len(live)} clients with {CONTACTS} contacts each; {LOST} s lost, with {CHANGES} changes a second",
            f"wrong screens at the failover: {at_once}; still wrong after 120 s: {len(wrong)}",
            f"right after: median {middle} s, 90 % {most} s, last {last} s",
            f"frames meanwhile: {(crowd.frames - before) / len(live):.1f} a client",
        ):
            print(line)  # noqa: T201
        bench.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, int(sys.argv[2]) if len(sys.argv) > 2 else 1)
