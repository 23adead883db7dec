"""Delivery when there is not enough time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import fakeredis
import pytest

from shared.commands import FindTargets
from shared.delivery import Post
from shared.messages import Heartbeat, PresenceUpdate
from shared.presence import PresenceService
from shared.settings import Settings
from shared.upkeep import Upkeep
from tests.support.service import AnyCommand, Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A service on fakeredis, whose graph is loaded, and whose users share one bucket."""
    bench = Bench(fakeredis.FakeRedis(), Settings(buckets=1))
    yield bench
    bench.close()


class SlowPusher:
    """The bench's pusher on a bad day: two concurrent posts take four seconds, and posts not begun in time are lost."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def post(self, frames: Sequence[Post], within: float = math.inf) -> set[str]:
        in_time = frames[: 2 * math.ceil(within / 4)]
        self._bench.clock.advance(min(4 * math.ceil(len(in_time) / 2), within))
        return self._bench.pusher.post(in_time)

    def close(self, connection_ids: Iterable[str], within: float = math.inf) -> None:
        self._bench.pusher.close(connection_ids)


@pytest.fixture
def slow(bench: Bench) -> PresenceService:
    """The service over the bench's state, with the slow pusher."""
    return PresenceService(bench.store, SlowPusher(bench), bench.settings, bench.clock, bench.metrics)


def test_a_change_during_an_event_is_posted_in_the_remaining_time(bench: Bench, slow: PresenceService) -> None:
    """A claim ends while it is being announced: its end is posted in the remaining time, long before the lease ends."""
    bench.service.contacts.change("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.sweep(3)
    began = bench.clock()
    claim = {"status": "busy", "scope": "user", "until": began + 2000}
    slow.update_user_status(alice, PresenceUpdate.model_validate({"action": "presence_update", **claim}))
    assert [change["status"] for change in bench.pusher.changes(bob.id)][-2:] == ["busy", "online"]
    assert bench.clock() - began == bench.settings.push_budget * 1000


def test_neighbors_are_settled_in_the_rest_of_a_heartbeats_time(bench: Bench, slow: PresenceService) -> None:
    """A heartbeat whose response took long announces its neighbors' changes in the remaining time, and not beyond."""
    bench.service.contacts.change("carol", ["bob"])
    bench.open("carol")
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.live(70, alice, bob)
    bench.clock.advance(6)
    began = bench.clock()
    slow.update_heartbeat(alice, Heartbeat(action="heartbeat", seq=1))
    assert [change["type"] for change in bench.pusher.changes(bob.id)][-1:] == ["user_offline"]
    assert bench.clock() - began == bench.settings.push_budget * 1000


def test_a_change_that_was_not_posted_is_not_reported(bench: Bench) -> None:
    """A function's time ends before it posts a change: the change stays due, and is announced after its lease."""
    bench.service.contacts.change("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.sweep(3)

    def stall(commands: list[AnyCommand], _now: int) -> None:
        bench.clock.advance(6 if isinstance(commands[0], FindTargets) else 0)

    bench.pusher.clear()
    bench.on_round_trip = stall
    bench.update(alice, status="busy")
    assert bench.pusher.changes(bob.id) == []
    bench.on_round_trip = lambda _requests, _now: None
    bench.sweep(6)
    assert [change["status"] for change in bench.pusher.changes(bob.id)] == ["busy"]


def test_a_sweep_without_time_for_all_users_leaves_the_rest_due(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three users go offline and there is time to announce two: the third is announced when its lease has ended."""
    monkeypatch.setattr("shared.delivery.FAN_OUT", 2)
    viewers = []
    for user in ("alice", "carol", "erin"):
        friends = [f"{user}-{relation}" for relation in ("friend", "sister")]
        bench.service.contacts.change(user, friends)
        bench.open(user)
        viewers += [bench.open(friend) for friend in friends]
    bench.live(70, *viewers)
    bench.pusher.clear()
    bench.clock.advance(6)

    def announced() -> int:
        return sum(len(bench.pusher.changes(viewer.id)) for viewer in viewers)

    bench.sweep(upkeep=Upkeep(bench.store, SlowPusher(bench), bench.settings, bench.clock, bench.metrics))
    assert announced() == 4
    bench.sweep(bench.settings.announce_lease)
    assert announced() == 6
