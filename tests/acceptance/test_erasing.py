"""Erasing a user: whatever happens on the way, contacts get one ordinary offline and nothing of the user is left."""

from __future__ import annotations

from typing import Any

import pytest

from shared.presence import StillTelling
from tests.support.service import Bench


def kept(bench: Bench, user: str) -> set[str]:
    """The kinds of keys in whose name or content a user is found, but for connections that are remembered as closed."""
    redis, found = bench.client, set()
    for name in redis.scan_iter():
        read: dict[Any, Any] = {b"hash": redis.hgetall, b"set": redis.smembers, b"string": redis.get}
        content = read.get(redis.type(name), lambda key: redis.zrange(key, 0, -1))(name)
        if user in name.decode() or user in str(content):
            found.add(name.decode().split(":")[2])
    return found


def erase(bench: Bench, user: str) -> int:
    """Erase as a backend does, which asks again until it is done; gives how often it had to."""
    for tries in range(5):
        try:
            bench.service.erase_user(user)
        except StillTelling:
            bench.sweep(12)  # a lease runs out
        else:
            return tries
    raise AssertionError("it is never done")


@pytest.mark.parametrize("at", range(1, 12))
def test_erasing_may_be_cut_short_anywhere(bench: Bench, at: int) -> None:
    """The function dies after its step number `at`; asked again it ends, and nobody is told twice or not at all."""
    bench.service.set_contacts("alice", ["bob", "carol"])
    bench.service.set_privacy("carol", blocks=["alice"])
    bob, _alice, _phone = bench.open("bob"), bench.open("alice"), bench.open("alice", device="phone")
    bench.sweep(5)
    bench.pusher.clear()
    with bench.killed(at):
        bench.service.erase_user("alice")
    erase(bench, "alice")
    bench.sweep(3)
    told = bench.pusher.changes(bob.id, "alice")
    assert {event["type"] for event in told} == {"user_offline"}
    assert len({event["rev"] for event in told}) == 1  # said again after a death, and a client drops what it has
    assert kept(bench, "alice") == {"user"}
    assert bench.sees("bob", "alice") == {"userId": "alice", "status": "offline"}
    bench.sweep(86_400)
    assert bench.service.inspect_user("bob")["devices"] == []


def test_who_waits_for_a_window_is_told_before_the_user_is_gone(bench: Bench) -> None:
    """What was to be told of the user later is told now, since later nothing could be read."""
    bench.service.set_contacts("bob", ["alice", "carol"])
    bob, alice, carol = (bench.open(user) for user in ("bob", "alice", "carol"))
    bench.sweep(5)
    bench.crowd(carol)
    bench.pusher.clear()
    bench.update(alice, status="busy")
    assert bench.pusher.changes(bob.id, "alice") == []
    assert erase(bench, "alice") == 0
    assert [event["status"] for event in bench.pusher.changes(bob.id, "alice")] == ["offline"]


def test_a_hidden_user_is_erased_without_a_word(bench: Bench) -> None:
    """Whoever saw an offline user is told nothing."""
    bench.service.set_contacts("alice", ["bob"])
    bob, _ = bench.open("bob"), bench.open("alice")
    bench.service.set_privacy("alice", invisible=True)
    bench.sweep(5)
    bench.pusher.clear()
    erase(bench, "alice")
    bench.sweep(5)
    assert bench.pusher.changes(bob.id) == []


def test_a_user_with_many_contacts_is_erased_in_bounded_calls(bench: Bench) -> None:
    """Thousands of contacts take no more round trips than one, and no script call holds more than its share."""
    counts = []
    for number in (1, 2500):
        bench.service.set_contacts("alice", [f"contact{place}" for place in range(number)])
        bench.open("alice")
        bench.sweep(5)
        with bench.counted() as stages:
            erase(bench, "alice")
        counts.append(len(stages))
        assert kept(bench, "alice") == {"user"}
    assert counts[1] <= counts[0] + 1


def test_of_a_straggler_who_was_refused_nothing_is_left_after_a_minute(bench: Bench) -> None:
    """A message that comes after the erasing is refused, which is remembered for a minute; the date stays for a day."""
    alice = bench.open("alice")
    assert erase(bench, "alice") == 0
    bench.beat(alice)
    assert kept(bench, "alice") == {"user", "due"}
    bench.sweep(62)
    assert kept(bench, "alice") == {"user"}
    key = bench.store.key("user", "alice")
    assert bench.client.hkeys(key) == [b"erased"]
    assert 0 < bench.client.ttl(key) <= 86_400
