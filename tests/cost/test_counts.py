"""The cost model's counts match a run of the real functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

import pytest

from cost.assumptions import BUSY_METRICS, IDLE_METRICS
from cost.counts import Counts, count
from cost.workload import Workload
from local.elasticache import RedisServer
from tests.support.counted_hour import Counted, Socket, World, play


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A real server."""
    with RedisServer.start() as server:
        yield server


def people(here: World, count: int) -> list[str]:
    """Users who are all contacts of each other, each in a bucket of its own."""
    found: dict[int, str] = {}
    for number in range(1000):
        found.setdefault(here.environment.store.bucket_of(f"user{number}"), f"user{number}")
    users = [found[bucket] for bucket in sorted(found)][:count]
    for user in users:
        here.environment.service.contacts.change(user, [other for other in users if other != user])
    return users


def check(counted: Counted, counts: Sequence[Counts], contacts: int, *, settling: float = 0.0) -> None:
    """Compare what was counted with the sum of the model's counts.

    The number of settled users may differ by a share of `settling`. The sweeper's looks may differ by three percent,
    because the model assumes that users become due at random times.
    """
    assert counted.messages.total() == pytest.approx(sum(part.messages("socket") for part in counts))
    assert counted.posts.total() == pytest.approx(sum(part.posts for part in counts))
    invocations = added(part.invocations("socket") for part in counts)
    assert counted.invocations == pytest.approx({name: times for name, times in invocations.items() if times})
    assert counted.scripts_in_redis == counted.calls.total(), "Redis ran exactly the scripts that the store sent"
    tolerance = {"settling": settling, "looks": 0.03}
    for reason, expected in added(part.round_trips for part in counts).items():
        assert counted.round_trips[reason] == pytest.approx(expected, rel=tolerance.get(reason, 1e-9)), reason
    for reason, expected in added(part.calls(contacts) for part in counts).items():
        assert counted.calls[reason] == pytest.approx(expected, rel=tolerance.get(reason, 1e-9)), reason
    assert counted.round_trips.keys() <= {*counts[0].round_trips, "check"}


def added(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of several counts, by name."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


class Client:
    """A device that stays connected and sends a heartbeat every thirty seconds from its first connection on."""

    def __init__(self, here: World, user: str, device: str) -> None:
        self._here, self._user, self._device = here, user, device
        self.socket: Socket | None = None

    async def open(self) -> None:
        """Connect for the first time, or replace the connection before the old one ends."""
        self.socket = await self._here.open(self._user, self._device, self.socket)

    async def send(self, message: dict[str, Any], function: str) -> None:
        """Send a message through the current connection."""
        assert self.socket
        await self._here.send(self.socket, message, function)

    async def beat(self) -> None:
        """Send a heartbeat as a client that missed nothing."""
        await self.send({"action": "heartbeat"}, "heartbeat")

    async def close(self) -> None:
        """Leave, as a closed page does."""
        assert self.socket
        await self._here.close(self.socket)
        self.socket = None


def stays(here: World, client: Client, after: float, seconds: float) -> None:
    """Connect a client in the half minute before a scenario is counted, and let it send heartbeats until the end.

    It connects at the time of its last heartbeat before the count, so its deadlines are those of a long connection.
    """
    here.at(after, client.open)
    for number in range(1, round(seconds / 30) + 1):
        here.at(after + 30 * number, client.beat)


def test_a_quiet_half_hour(server: RedisServer) -> None:
    """Only heartbeats: they postpone deadlines, deadlines pass, and the sweeper settles users."""

    async def scenario(here: World) -> Counted:
        for place, user in enumerate(people(here, 6)):
            stays(here, Client(here, user, "laptop"), 1.25 + 2.5 * place, 1800)
        await here.live(30)
        here.begin()
        return await here.live(1800)

    counted = play(server.url, scenario)
    quiet = Workload(users=6, contacts=5, changes_per_hour=0, connection_minutes=inf)
    check(counted, [count(quiet, 0.5)], 5)


def test_an_idle_stack(server: RedisServer) -> None:
    """Without users, only the sweeper runs; it reads the due sets once a second."""

    async def scenario(here: World) -> Counted:
        await here.live(60)
        here.begin()
        return await here.live(300)

    counted = play(server.url, scenario)
    check(counted, [count(Workload(users=0), 5 / 60)], 50)
    assert counted.metrics == set(IDLE_METRICS)


def test_changes_and_rotated_connections(server: RedisServer) -> None:
    """Four users with two devices each change twelve times an hour; a connection lasts a quarter of an hour."""
    hours = 0.5

    async def scenario(here: World) -> Counted:
        users = people(here, 4)
        for place, user in enumerate(users):
            clients = [Client(here, user, device) for device in ("laptop", "phone")]
            for turn, client in enumerate(clients):
                stays(here, client, 1.25 + 2.5 * place + 0.5 * turn, 3600 * hours)
                for quarter in (1, 2):
                    here.at(30 + 900 * quarter - 300 + 20 * place + 5 * turn, client.open)
            for number in range(6):
                change = {"action": "presence_update", "status": ("busy", "online")[number % 2], "scope": "user"}
                here.at(30 + 300 * number + 40 * place + 7, partial(clients[0].send, change, "update"))
        await here.live(30)
        here.begin()
        return await here.live(3600 * hours)

    counted = play(server.url, scenario)
    lively = Workload(users=4, contacts=3, devices=2, changes_per_hour=12, connection_minutes=15)
    # Other messages postpone deadlines too, so fewer users are settled by the sweeper.
    check(counted, [count(lively, hours)], 3, settling=0.15)
    assert counted.metrics <= set(BUSY_METRICS)


def test_sessions(server: RedisServer) -> None:
    """A user connects two devices, stays ten minutes, changes once and leaves, twice; three contacts are notified."""
    hours, sessions = 0.5, 2

    async def scenario(here: World) -> Counted:
        alice, *contacts = people(here, 4)
        for place, user in enumerate(contacts):
            for turn, device in enumerate(("laptop", "phone")):
                stays(here, Client(here, user, device), 1.25 + 2.5 * place + 0.5 * turn, 3600 * hours)
        for session in range(sessions):
            start = 30 + 100.4 + 800 * session
            for turn, device in enumerate(("laptop", "phone")):
                client = Client(here, alice, device)
                here.at(start + 0.1 * turn, client.open)
                for number in range(20):
                    here.at(start + 15.2 + turn + 30 * number, client.beat)
                if turn:
                    busy = {"action": "presence_update", "status": ("busy", "away")[session % 2], "scope": "user"}
                    here.at(start + 300, partial(client.send, busy, "update"))
                here.at(start + 600 + 0.1 * turn, client.close)
        await here.live(30)
        here.begin()
        return await here.live(3600 * hours)

    counted = play(server.url, scenario)
    watching = Workload(users=3, contacts=3, devices=2, changes_per_hour=0, connection_minutes=inf)
    coming = Workload(
        users=1,
        contacts=3,
        devices=2,
        hours_online=24 * sessions * (10 / 60) / hours,
        sessions_per_day=24 * sessions / hours,
        changes_per_hour=6,
    )
    parts = [count(watching, hours), replace(count(coming, hours), looks=0, sweeps=0)]
    check(counted, parts, 3, settling=0.05)  # a session is not as long as a whole number of deadlines
    assert counted.metrics <= set(BUSY_METRICS)


def test_a_larger_snapshot_has_more_frames() -> None:
    """A snapshot that does not fit into one frame of 32 KB has several, and each is a billed message."""
    few, many = (count(Workload(sessions_per_day=1, contacts=contacts)) for contacts in (50, 500))
    assert many.snapshots == 3 * few.snapshots == 3 * few.arrivals
