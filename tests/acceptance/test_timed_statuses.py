"""A claim or custom status ends on time and once, and the status before it returns."""

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
    """The part of a record that shows whether the timed status is still in effect."""
    return record["status"] if kind == "claim" else record["customStatus"] and record["customStatus"]["text"]


@everywhere
@pytest.mark.parametrize("kind", ["claim", "custom status"])
def test_25_a_read_shows_the_end_to_the_millisecond(bench: Bench, kind: str) -> None:
    """Line 25: a read shows a timed status until the millisecond of its end, and the previous status from then on."""
    bench.service.contacts.change("alice", ["bob"])
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
def test_25_the_end_is_announced_within_two_seconds(bench: Bench, kind: str, after: float) -> None:
    """Line 25: contacts get one frame within two seconds of the end, and the previous status returns."""
    bench.service.contacts.change("alice", ["bob"])
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
def test_25_two_sweepers_end_a_status_once(bench: Bench, kind: str) -> None:
    """Line 25: two sweepers and a heartbeat find the same end at the same moment: it is announced once."""
    bench.service.contacts.change("alice", ["bob"])
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
    """Line 25: a claim is extended before it ends: the first end has no effect."""
    bench.service.contacts.change("alice", ["bob"])
    alice = bench.open("alice")
    bench.update(alice, status="busy", scope="user", until=bench.clock() + 5_000)
    bench.update(alice, status="busy", scope="user", until=bench.clock() + 50_000)
    bench.clock.advance(6)
    assert bench.sees("bob", "alice")["status"] == "busy"
    bench.update(alice, status="away", scope="user")
    bench.clock.advance(50)
    assert bench.sees("bob", "alice")["status"] == "away", "the last claim has no end"


@everywhere
def test_25_after_a_claim_the_current_device_status_returns(bench: Bench) -> None:
    """Line 25: a device chooses another status during the claim: when the claim ends, contacts see that status."""
    bench.service.contacts.change("alice", ["bob"])
    alice = bench.open("alice")
    bench.update(alice, status="busy", scope="user", until=bench.clock() + 5_000)
    bench.update(alice, status="away")
    assert bench.sees("bob", "alice")["status"] == "busy"
    bench.clock.advance(5)
    assert bench.sees("bob", "alice")["status"] == "away"


@everywhere
def test_25_a_claim_shows_only_while_a_device_is_live(bench: Bench) -> None:
    """Line 25: a claim does not make an offline user visible; it applies again if the user returns before its end."""
    bench.service.contacts.change("alice", ["bob"])
    bench.service.set_status("alice", StatusChange(status="busy", scope="user", until=bench.clock() + 100_000))
    assert bench.sees("bob", "alice")["status"] == "offline"
    alice = bench.open("alice")
    assert bench.sees("bob", "alice")["status"] == "busy"
    bench.service.leave("alice", alice.id)
    assert bench.sees("bob", "alice")["status"] == "offline"
    bench.open("alice")
    assert bench.sees("bob", "alice")["status"] == "busy"


def test_26_a_custom_status_is_readable_while_offline_until_its_end(bench: Bench) -> None:
    """Line 26: contacts can read an offline user's custom status until its end, which is one frame."""
    bench.service.contacts.change("alice", ["bob"])
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
    assert change["lastSeen"] == record["lastSeen"], "the end of a status changed lastSeen"


@everywhere
def test_26_the_backend_can_set_an_offline_users_custom_status(bench: Bench) -> None:
    """Line 26: the backend sets an offline user's custom status: contacts get one frame; the user stays offline."""
    bench.service.contacts.change("alice", ["bob"])
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
def test_26_a_frozen_custom_status_still_ends_on_time(bench: Bench, way: str) -> None:
    """Line 26: a viewer from whom the user hides keeps the custom status of that moment until its `until`."""
    bench.service.contacts.change("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    until = bench.clock() + 100_000
    bench.update(alice, customStatus={"text": "Until four", "until": until})
    bench.service.contacts.set_privacy("alice", **HIDINGS[way])
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
    assert "secret" not in json.dumps(bench.pusher.to(bob.id))


@everywhere
def test_26_a_record_expires_after_the_retention(bench: Bench) -> None:
    """Line 26: a user's record expires after the retention; what the application stored never expires."""
    alice = bench.open("alice")
    bench.beat(alice)
    assert 29 * 86_400 < bench.client.ttl(bench.store.key("user", "alice")) <= 30 * 86_400
    for kind in ("contacts", "hidden", "settings", "sees"):
        assert bench.client.ttl(bench.store.key(kind, "alice")) < 0
