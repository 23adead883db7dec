"""What becomes of work for which there is not enough time."""

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
    """The bench's pusher on a bad day: two posts at once take four seconds, and those not begun in time are lost."""

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
    """The service, over the bench's state, with that pusher."""
    return PresenceService(bench.store, SlowPusher(bench), bench.settings, bench.clock, bench.metrics)


def test_what_comes_up_while_an_event_posts_has_the_rest_of_its_time(bench: Bench, slow: PresenceService) -> None:
    """A claim ends while it is being told: its end is told in the time that is left, long before the lease ends."""
    bench.service.contacts.change("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.sweep(3)
    began = bench.clock()
    claim = {"status": "busy", "scope": "user", "until": began + 2000}
    slow.update_user_status(alice, PresenceUpdate.model_validate({"action": "presence_update", **claim}))
    assert [change["status"] for change in bench.pusher.changes(bob.id)][-2:] == ["busy", "online"]
    assert bench.clock() - began == bench.settings.push_budget * 1000


def test_helping_a_neighbour_has_the_rest_of_a_heartbeats_time(bench: Bench, slow: PresenceService) -> None:
    """A heartbeat whose answer took long tells of its neighbours' changes in the time that is left, and not beyond."""
    bench.service.contacts.change("carol", ["bob"])
    bench.open("carol")
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.live(70, alice, bob)
    bench.clock.advance(6)
    began = bench.clock()
    slow.update_heartbeat(alice, Heartbeat(action="heartbeat", seq=1))
    assert [change["type"] for change in bench.pusher.changes(bob.id)][-1:] == ["user_offline"]
    assert bench.clock() - began == bench.settings.push_budget * 1000


def test_what_there_was_no_time_to_post_is_not_reported(bench: Bench) -> None:
    """A function's time is over before it has posted a change: the change stays due, and is told after its lease."""
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


def test_a_sweep_that_cannot_tell_of_all_in_time_leaves_the_rest_due(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three users end at once and there is time to tell of two: the third is told when its lease is over."""
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

    def told() -> int:
        return sum(len(bench.pusher.changes(viewer.id)) for viewer in viewers)

    bench.sweep(upkeep=Upkeep(bench.store, SlowPusher(bench), bench.settings, bench.clock, bench.metrics))
    assert told() == 4
    bench.sweep(bench.settings.announce_lease)
    assert told() == 6
