"""Erasing a user: contacts get one ordinary offline, and no data about the user remains, whatever fails on the way."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contacts import StillAnnouncing
from tests.support.service import Bench


def kept(bench: Bench, user: str) -> set[str]:
    """The kinds of keys that contain the user in their name or content."""
    redis, found = bench.client, set()
    for name in redis.scan_iter():
        read: dict[Any, Any] = {b"hash": redis.hgetall, b"set": redis.smembers, b"string": redis.get}
        content = read.get(redis.type(name), lambda key: redis.zrange(key, 0, -1))(name)
        if user in name.decode() or user in str(content):
            found.add(name.decode().split(":")[2])
    return found


def erase(bench: Bench, user: str) -> int:
    """Erase a user as a backend does, repeating the call until it succeeds; returns the number of retries."""
    for tries in range(5):
        try:
            bench.service.contacts.erase_user(user)
        except StillAnnouncing:
            bench.sweep(12)  # a lease runs out
        else:
            return tries
    raise AssertionError("the erasure never succeeds")


@pytest.mark.parametrize("at", range(1, 12))
def test_an_interrupted_erasure_can_be_repeated(bench: Bench, at: int) -> None:
    """The function dies after step `at`; a repeated call finishes, and contacts' screens change once."""
    bench.service.contacts.change("alice", ["bob", "carol"])
    bench.service.contacts.set_privacy("carol", blocks=["alice"])
    bob, _alice, _phone = bench.open("bob"), bench.open("alice"), bench.open("alice", device="phone")
    bench.sweep(5)
    bench.pusher.clear()
    with bench.killed(at):
        bench.service.contacts.erase_user("alice")
    erase(bench, "alice")
    bench.sweep(3)
    told = bench.pusher.changes(bob.id, "alice")
    assert {event["type"] for event in told} == {"user_offline"}
    records = [{name: value for name, value in event.items() if name not in ("type", "seq", "prev")} for event in told]
    assert all(record == records[0] for record in records), "one that was repeated after a crash changes no screen"
    assert kept(bench, "alice") == {"user"}
    assert bench.sees("bob", "alice") == {"userId": "alice", "status": "offline"}
    bench.sweep(86_400)
    assert bench.service.inspect_user("bob")["devices"] == []


def test_pending_changes_are_sent_before_the_user_is_erased(bench: Bench) -> None:
    """Changes that wait for a viewer's window are sent during the erasure, because the record cannot be read later."""
    bench.service.contacts.change("bob", ["alice", "carol"])
    bob, alice, carol = (bench.open(user) for user in ("bob", "alice", "carol"))
    bench.sweep(5)
    bench.make_changes_wait(carol)
    bench.pusher.clear()
    bench.update(alice, status="busy")
    assert bench.pusher.changes(bob.id, "alice") == []
    assert erase(bench, "alice") == 0
    assert [event["status"] for event in bench.pusher.changes(bob.id, "alice")] == ["offline"]


def test_erasing_a_hidden_user_notifies_nobody(bench: Bench) -> None:
    """A viewer who saw the user as offline gets no frame."""
    bench.service.contacts.change("alice", ["bob"])
    bob, _ = bench.open("bob"), bench.open("alice")
    bench.service.contacts.set_privacy("alice", invisible=True)
    bench.sweep(5)
    bench.pusher.clear()
    erase(bench, "alice")
    bench.sweep(5)
    assert bench.pusher.changes(bob.id) == []


def test_a_user_with_many_contacts_is_erased_in_bounded_calls(bench: Bench) -> None:
    """Thousands of contacts take no more round trips than one contact, and each script call is bounded."""
    counts = []
    for number in (1, 2500):
        bench.service.contacts.change("alice", [f"contact{place}" for place in range(number)])
        bench.open("alice")
        bench.sweep(5)
        with bench.counted() as stages:
            erase(bench, "alice")
        counts.append(len(stages))
        assert kept(bench, "alice") == {"user"}
    assert counts[1] <= counts[0] + 1


def test_a_late_message_leaves_nothing_after_a_minute(bench: Bench) -> None:
    """A message after the erasure is refused; this is remembered for a minute, the erasure date for a day."""
    alice = bench.open("alice")
    assert erase(bench, "alice") == 0
    bench.beat(alice)
    assert kept(bench, "alice") == {"user", "due"}
    bench.sweep(62)
    assert kept(bench, "alice") == {"user"}
    key = bench.store.key("user", "alice")
    assert bench.client.hkeys(key) == [b"erased"]
    assert 0 < bench.client.ttl(key) <= 86_400
