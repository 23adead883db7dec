"""A storm: a thousand people who all see each other come online within ten seconds, evenly.

It is the service's own code, with real posts to an endpoint on loopback; time is the benchmark's, so that ten seconds
are ten seconds on any machine, and the sweeper looks ten times in each of them. A viewer's frames are counted until all
that was held back is told; snapshots that answer a `sync` are not among them. Each is told of 999 others, and the
benchmark sees to it that each is shown all of them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean

from bench.endpoint import endpoint
from bench.environment import PATIENT, Sandbox, connection, sandbox
from bench.measure import spent
from bench.report import Amount, Row, Scale, Target
from local.elasticache import RedisServer
from shared.delivery import Frame
from shared.presence import Connection

COMING = 100
"""People who come each second."""
LOOK = 0.1
"""Seconds between two looks of the sweeper at who is due."""
SETTLED = 3.0
"""Seconds after which everything that was held back is told."""


class Viewers:
    """What each connection was sent: how many frames, and whom they showed."""

    def __init__(self) -> None:
        self.frames: Counter[str] = Counter()
        self.shown: defaultdict[str, set[str]] = defaultdict(set)
        self.posted = 0

    def take(self, frames: Sequence[Frame]) -> None:
        """Count what is posted."""
        self.posted += len(frames)
        for frame in frames:
            told = json.loads(frame.data)
            self.frames[frame.connection_id] += told["type"] not in ("presence_snapshot", "presence_self")
            records = [*told.get("users", ()), *told.get("events", ()), told]
            self.shown[frame.connection_id] |= {
                record["userId"] for record in records if record.get("status") == "online"
            }


def run(scale: Scale) -> list[Row]:
    """One storm."""
    people = [connection(f"person{number:04d}", f"Conn{number:011d}=") for number in range(scale.pick(100, 1000))]
    with RedisServer.start() as server, endpoint() as posts, sandbox(server.url, posts.url, **PATIENT) as running:
        _befriend(running, [person.user_id for person in people])
        running.rest()
        with _recorded(running) as viewers:
            cpu = spent(lambda: _storm(running, people)).cpu
        assert posts.received().posts == viewers.posted
    everybody = {person.user_id for person in people}
    for person in people:
        missing = everybody - viewers.shown[person.id] - {person.user_id}
        assert not missing, f"{person.user_id} is not shown {missing}"
    frames, others = [viewers.frames[person.id] for person in people], len(people) - 1
    what = f"{len(people):,} mutual contacts online within {len(people) / COMING:g} s: frames of a viewer"
    at_once = "one for each"
    return [
        Row(
            f"{what}, at most",
            Amount(max(frames)),
            at_once,
            Amount(others),
            max(frames) / others,
            Target("≤", 20, of="ours"),
        ),
        Row(f"{what}, on average", Amount(mean(frames)), at_once, Amount(others), mean(frames) / others),
        Row("the same: CPU of the functions for each who comes", Amount(cpu / len(people) * 1000, "ms")),
    ]


def _storm(running: Sandbox, people: Sequence[Connection]) -> None:
    """Everybody comes, and all that is held back meanwhile is told when it is time."""
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


def _pass_until(running: Sandbox, began: int, seconds: float) -> None:
    running.rest((began + round(seconds * 1000) - running.clock.now) / 1000)


@contextmanager
def _recorded(running: Sandbox) -> Iterator[Viewers]:
    """What is posted, by the real pusher, while the block lasts."""
    viewers, post = Viewers(), running._pusher.post

    def record(frames: Sequence[Frame], *within: float) -> set[str]:
        viewers.take(frames)
        return post(frames, *within)

    running._pusher.post = record  # type: ignore[method-assign,assignment] # the real one, and a recorder
    try:
        yield viewers
    finally:
        running._pusher.post = post  # type: ignore[method-assign]


def _befriend(running: Sandbox, users: Sequence[str]) -> None:
    """Let all see each other: written as the service would, which takes minutes for half a million pairs."""
    for user in users:
        others = [other for other in users if other != user]
        for kind in ("contacts", "sees"):
            running.client.sadd(running.store.key(kind, user), *others)
    told = running.service.get_user_contacts(users[-1])
    assert len(told["viewers"]) == len(told["sees"]) == len(users) - 1
