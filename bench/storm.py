"""A storm: a thousand users who all see each other come online within ten seconds, evenly.

It runs the service's own code, with real posts to an endpoint on loopback. The benchmark controls the clock, so ten
seconds are ten seconds on any machine, and the sweeper looks ten times a second. The frames of a viewer are counted
until all delayed changes are sent; snapshots, which respond to a `sync`, are not counted. Each user sees 999 others,
and the benchmark checks that each user's frames contain all of them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean

from bench.endpoint import endpoint
from bench.environment import PATIENT, Environment, connection, warm_environment
from bench.measure import spent
from bench.report import Amount, Row, Scale, Target
from local.elasticache import RedisServer
from shared.connection import Connection
from shared.delivery import Post

COMING = 100
"""Users who come online each second."""
LOOK = 0.1
"""Seconds between two looks of the sweeper."""
SETTLED = 3.0
"""Seconds after which all delayed changes are sent."""


class Viewers:
    """The frames that each connection received: their number, and the users in them."""

    def __init__(self) -> None:
        self.frames: Counter[str] = Counter()
        self.shown: defaultdict[str, set[str]] = defaultdict(set)
        self.posted = 0

    def take(self, frames: Sequence[Post]) -> None:
        """Count posted frames."""
        self.posted += len(frames)
        for frame in frames:
            data = json.loads(frame.data)
            self.frames[frame.connection_id] += data["type"] not in ("presence_snapshot", "presence_self")
            records = [*data.get("users", ()), *data.get("events", ()), data]
            self.shown[frame.connection_id] |= {
                record["userId"] for record in records if record.get("status") == "online"
            }


def run(scale: Scale) -> list[Row]:
    """One storm."""
    people = [connection(f"person{number:04d}", f"Conn{number:011d}=") for number in range(scale.pick(100, 1000))]
    with (
        RedisServer.start() as server,
        endpoint() as posts,
        warm_environment(server.url, posts.url, **PATIENT) as running,
    ):
        _make_contacts(running, [person.user_id for person in people])
        running.advance()
        with _recorded(running) as viewers:
            cpu = spent(lambda: _storm(running, people)).cpu
        assert posts.received().posts == viewers.posted
    everybody = {person.user_id for person in people}
    for person in people:
        missing = everybody - viewers.shown[person.id] - {person.user_id}
        assert not missing, f"{person.user_id} does not see {missing}"
    frames, others = [viewers.frames[person.id] for person in people], len(people) - 1
    what = f"{len(people):,} mutual contacts online within {len(people) / COMING:g} s: frames of a viewer"
    baseline = "one for each"
    return [
        Row(
            f"{what}, at most",
            Amount(max(frames)),
            baseline,
            Amount(others),
            max(frames) / others,
            Target("≤", 20, of="ours"),
        ),
        Row(f"{what}, on average", Amount(mean(frames)), baseline, Amount(others), mean(frames) / others),
        Row("the same: CPU of the functions for each arrival", Amount(cpu / len(people) * 1000, "ms")),
    ]


def _storm(running: Environment, people: Sequence[Connection]) -> None:
    """All users come online, and the sweeper sends delayed changes when they are due."""
    began, look = running.clock.now, 0.0
    for place, person in enumerate(people):
        at = place / COMING
        while look <= at:
            _pass_until(running, began, look)
            running.sweep()
            look += LOOK
        _pass_until(running, began, at)
        running.open(person)
    while look <= len(people) / COMING + SETTLED:
        _pass_until(running, began, look)
        running.sweep()
        look += LOOK


def _pass_until(running: Environment, began: int, seconds: float) -> None:
    running.advance((began + round(seconds * 1000) - running.clock.now) / 1000)


@contextmanager
def _recorded(running: Environment) -> Iterator[Viewers]:
    """Record what the real pusher posts while the block lasts."""
    viewers, post = Viewers(), running._pusher.post

    def record(frames: Sequence[Post], *within: float) -> set[str]:
        viewers.take(frames)
        return post(frames, *within)

    running._pusher.post = record  # type: ignore[method-assign,assignment] # the real one with a recorder
    try:
        yield viewers
    finally:
        running._pusher.post = post  # type: ignore[method-assign]


def _make_contacts(running: Environment, users: Sequence[str]) -> None:
    """Let all users see each other. Keys are written directly: the service takes minutes for half a million pairs."""
    for user in users:
        others = [other for other in users if other != user]
        for kind in ("contacts", "sees"):
            running.client.sadd(running.store.key(kind, user), *others)
    contacts = running.service.get_user_contacts(users[-1])
    assert len(contacts["viewers"]) == len(contacts["sees"]) == len(users) - 1
