"""What a user chooses for a time ends on time, once, and what was before it returns."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.messages import CustomStatus, StatusChange
from tests.support.service import Bench

everywhere = pytest.mark.parametrize("client", ["fakeredis", "redis"], indirect=True)


def timed(bench: Bench, kind: str, until: int) -> dict[str, Any]:
    """An update that ends at a time: a claim of busy, or a custom status."""
    if kind == "claim":
        return {"status": "busy", "scope": "user", "until": until}
    return {"customStatus": {"text": "Lunch", "emoji": "🍜", "until": until}}


def shown(record: Any, kind: str) -> Any:
    """What of a record tells that it has not ended."""
    return record["status"] if kind == "claim" else record["customStatus"] and record["customStatus"]["text"]


@everywhere
@pytest.mark.parametrize("kind", ["claim", "custom status"])
def test_25_it_ends_to_the_millisecond_on_read(bench: Bench, kind: str) -> None:
    """Whoever reads sees a timed status until the millisecond of its end, and from then on what was before it."""
    bench.service.set_contacts("alice", ["bob"])
    alice = bench.open("alice")
    bench.update(alice, status="away")
    before = shown(bench.sees("bob", "alice"), kind)
    until = bench.clock() + 20_000
    bench.update(alice, **timed(bench, kind, until))
    while bench.clock() < until - 1:
        assert shown(bench.sees("bob", "alice"), kind) != before
        bench.clock.now = min(bench.clock() + 3_333, until - 1)
    assert shown(bench.sees("bob", "alice"), kind) != before
    bench.clock.advance(0.001)
    assert shown(bench.sees("bob", "alice"), kind) == before
    assert bench.service.inspect_user("alice")["claim"] is None


@pytest.mark.parametrize("kind", ["claim", "custom status"])
@pytest.mark.parametrize("after", [3, 59.7, 301])
def test_25_it_ends_on_time_for_those_who_are_told(bench: Bench, kind: str, after: float) -> None:
    """Contacts are told of the end in one frame within two seconds of it, and what was before returns."""
    bench.service.set_contacts("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.update(alice, status="away")
    bench.sweep(1)
    before = bench.sees("bob", "alice")
    until = bench.clock() + round(after * 1000)
    bench.update(alice, **timed(bench, kind, until))
    bench.sweep(1)
    bench.pusher.clear()
    at: list[int] = []
    bench.pusher.deliver = lambda frame: at.append(bench.clock()) if frame.connection_id == bob.id else None
    bench.live(after - 1 + 2, alice, bob)
    [change] = bench.pusher.changes(bob.id)
    assert change["type"] == "presence_status"
    assert (change["status"], change["customStatus"]) == (before["status"], before["customStatus"])
    assert until <= at[0] <= until + 2_000
    own = [frame for frame in bench.pusher.to(alice.id) if frame["type"] == "presence_self"]
    assert len(own) == 1
    assert (own[0]["self"]["claim"], own[0]["self"]["customStatus"]) == (None, None)


@pytest.mark.parametrize("kind", ["claim", "custom status"])
def test_25_two_sweepers_end_it_once(bench: Bench, kind: str) -> None:
    """Two sweepers and a heartbeat come upon the same end at the same moment: it is announced once."""
    bench.service.set_contacts("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    until = bench.clock() + 10_000
    bench.update(alice, **timed(bench, kind, until))
    bench.sweep(9)
    bench.pusher.clear()
    bench.clock.now = until
    other = bench.sweeper()
    nested: list[str] = []

    def meanwhile(frame: Any) -> None:
        if not nested:
            nested.append("")
            bench.sweep(0, upkeep=other)
            bench.beat(alice)

    bench.pusher.deliver = meanwhile
    bench.sweep(0)
    bench.sweep(0, upkeep=other)
    bench.live(30, alice, bob)
    assert len(bench.pusher.changes(bob.id)) == 1


@everywhere
def test_25_a_newer_claim_is_not_ended_by_the_older_ones_time(bench: Bench) -> None:
    """A claim is made longer before it ends: the first end passes without effect."""
    bench.service.set_contacts("alice", ["bob"])
    alice = bench.open("alice")
    bench.update(alice, status="busy", scope="user", until=bench.clock() + 5_000)
    bench.update(alice, status="busy", scope="user", until=bench.clock() + 50_000)
    bench.clock.advance(6)
    assert bench.sees("bob", "alice")["status"] == "busy"
    bench.update(alice, status="away", scope="user")
    bench.clock.advance(50)
    assert bench.sees("bob", "alice")["status"] == "away", "the last one has no end"


@everywhere
def test_25_what_returns_is_what_the_devices_say_by_then(bench: Bench) -> None:
    """A device chose another status under the claim: when the claim ends, that is what contacts see."""
    bench.service.set_contacts("alice", ["bob"])
    alice = bench.open("alice")
    bench.update(alice, status="busy", scope="user", until=bench.clock() + 5_000)
    bench.update(alice, status="away")
    assert bench.sees("bob", "alice")["status"] == "busy"
    bench.clock.advance(5)
    assert bench.sees("bob", "alice")["status"] == "away"


@everywhere
def test_25_a_claim_shows_only_while_a_device_lives(bench: Bench) -> None:
    """A claim makes nobody appear who is gone, and is there again when the user comes back before its end."""
    bench.service.set_contacts("alice", ["bob"])
    bench.service.set_status("alice", StatusChange(status="busy", scope="user", until=bench.clock() + 100_000))
    assert bench.sees("bob", "alice")["status"] == "offline"
    alice = bench.open("alice")
    assert bench.sees("bob", "alice")["status"] == "busy"
    bench.service.leave("alice", alice.id)
    assert bench.sees("bob", "alice")["status"] == "offline"
    bench.open("alice")
    assert bench.sees("bob", "alice")["status"] == "busy"


def test_26_a_custom_status_is_readable_while_offline_until_its_end(bench: Bench) -> None:
    """Its owner is offline: contacts read the custom status all the same, and its end is one frame."""
    bench.service.set_contacts("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    until = bench.clock() + 300_000
    bench.update(alice, customStatus={"text": "On holiday", "until": until})
    bench.service.leave("alice", alice.id)
    bench.live(290, bob)
    record = bench.sees("bob", "alice")
    assert record["status"] == "offline"
    assert record["customStatus"] == {"text": "On holiday", "emoji": "", "until": until}
    bench.pusher.clear()
    bench.live(30, bob)
    [change] = bench.pusher.changes(bob.id)
    assert (change["type"], change["status"], change["customStatus"]) == ("presence_status", "offline", None)
    assert change["lastSeen"] == record["lastSeen"], "the end of a status is no sign of life"


@everywhere
def test_26_one_may_be_chosen_for_somebody_who_is_offline(bench: Bench) -> None:
    """The backend sets a custom status for a user who is offline: contacts are told, and see an offline user."""
    bench.service.set_contacts("alice", ["bob"])
    bob = bench.open("bob")
    change = StatusChange(customStatus=CustomStatus(text="Back on Monday"))
    bench.service.set_status("alice", change)
    [told] = bench.pusher.changes(bob.id)
    assert (told["type"], told["status"], told["customStatus"]["text"]) == (
        "presence_status",
        "offline",
        "Back on Monday",
    )


HIDINGS: dict[str, dict[str, Any]] = {
    "invisible": {"invisible": True},
    "hide": {"hide_from": ["bob"]},
    "block": {"blocks": ["bob"]},
}


@pytest.mark.parametrize("way", HIDINGS)
def test_26_a_frozen_custom_status_still_ends_at_its_time(bench: Bench, way: str) -> None:
    """A viewer from whom its owner hides keeps the custom status as it was, until its end, whatever the owner does."""
    bench.service.set_contacts("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    until = bench.clock() + 100_000
    bench.update(alice, customStatus={"text": "Until four", "until": until})
    bench.service.set_privacy("alice", **HIDINGS[way])
    bench.update(alice, customStatus={"text": "secret", "until": until + 500_000})
    bench.sweep(2)
    bench.pusher.clear()
    bench.live(97, alice, bob)
    record = bench.sees("bob", "alice")
    assert record["customStatus"] == {"text": "Until four", "emoji": "", "until": until}
    assert bench.pusher.changes(bob.id) == []
    bench.clock.now = until - 1
    assert bench.sees("bob", "alice")["customStatus"] is not None
    bench.clock.now = until
    assert bench.sees("bob", "alice")["customStatus"] is None
    bench.live(3, alice, bob)
    [change] = bench.pusher.changes(bob.id)
    assert (change["status"], change["customStatus"]) == ("offline", None)
    assert change["rev"] > record["rev"]
    assert "secret" not in json.dumps(bench.pusher.to(bob.id))


@everywhere
def test_26_the_record_is_kept_for_a_month_after_the_user_was_last_seen(bench: Bench) -> None:
    """A user's record lives as long as the retention says, and what the application gave for ever."""
    alice = bench.open("alice")
    bench.beat(alice)
    assert 29 * 86_400 < bench.client.ttl(bench.store.key("user", "alice")) <= 30 * 86_400
    for kind in ("contacts", "hidden", "settings", "sees"):
        assert bench.client.ttl(bench.store.key(kind, "alice")) < 0
