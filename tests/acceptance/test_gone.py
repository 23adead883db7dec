"""What a 410 (the socket is gone) changes, and what it must not."""

from __future__ import annotations

from shared.delivery import Post
from tests.support.service import Bench


def test_17_gone_removes_exactly_that_connection(bench: Bench) -> None:
    """Line 17: one of two sockets is gone: that connection ends, the other stays, and contacts get nothing."""
    bench.service.contacts.change("alice", ["bob"])
    alice, phone, laptop = bench.open("alice"), bench.open("bob", device="phone"), bench.open("bob", device="laptop")
    bench.sweep(6)
    bench.pusher.gone.add(phone.id)
    bench.pusher.clear()
    with bench.counted() as stages:
        bench.update(alice, status="busy")
    assert [device["connectionId"] for device in bench.service.inspect_user("bob")["devices"]] == [laptop.id]
    assert len(stages) <= 4
    bench.live(30, alice, laptop)
    assert bench.pusher.changes(alice.id) == []
    assert bench.sees("alice", "bob")["status"] == "online"


def test_17_a_user_whose_only_socket_is_gone_is_offline_after_the_grace(bench: Bench) -> None:
    """Line 17: a user's only socket is gone: the user is offline after the grace, with one event."""
    bench.service.contacts.change("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.sweep(6)
    bench.pusher.gone.add(bob.id)
    bench.pusher.clear()
    bench.update(alice, status="busy")
    bench.sweep(9)
    assert bench.pusher.changes(alice.id) == []
    bench.sweep(2)
    assert [change["type"] for change in bench.pusher.changes(alice.id)] == ["user_offline"]


def test_17_a_410_extends_no_deadline_and_does_not_change_last_seen(bench: Bench) -> None:
    """Line 17: a 410 shortly before the TTL: the user is still offline at the TTL, last seen at the last heartbeat."""
    bench.service.contacts.change("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    beaten = bench.clock()
    bench.live(60, alice)
    bench.sweep(12)
    bench.pusher.gone.add(bob.id)
    bench.pusher.clear()
    bench.update(alice, status="busy")
    bench.sweep(3.1)
    [change] = bench.pusher.changes(alice.id)
    assert (change["type"], change["lastSeen"]) == ("user_offline", beaten)


def test_17_a_410_affects_only_the_connection_that_was_posted_to(bench: Bench) -> None:
    """Line 17: a 410 changes neither a connection that may still be opening nor the one that came after it."""
    bench.service.contacts.change("alice", ["bob"])
    alice, young = bench.open("alice"), bench.open("bob", device="phone")
    bench.sweep(4)
    bench.pusher.gone.add(young.id)
    bench.update(alice, status="busy")
    assert [device["connectionId"] for device in bench.service.inspect_user("bob")["devices"]] == [young.id]
    bench.pusher.gone.discard(young.id)

    bench.sweep(5)
    after: list[str] = []

    def reconnect(frame: Post) -> None:
        bench.pusher.deliver = lambda _frame: None
        after.append(bench.open("bob", device="phone").id)

    bench.pusher.gone.add(young.id)
    bench.pusher.deliver = reconnect  # bob is back on a new socket before the 410 of the old one is reported
    bench.update(alice, status="away")
    assert [device["connectionId"] for device in bench.service.inspect_user("bob")["devices"]] == after


def test_17_a_410_cascades_into_nothing(bench: Bench) -> None:
    """Line 17: one announcement finds fifty sockets gone: one more round trip removes them, with no further posts."""
    users = [f"user{number}" for number in range(50)]
    bench.service.contacts.change("alice", users)
    alice = bench.open("alice")
    connections = [bench.open(user) for user in users]
    bench.sweep(10)
    bench.pusher.gone.update(connection.id for connection in connections)
    bench.pusher.clear()
    with bench.counted() as stages:
        bench.update(alice, status="busy")
    assert len(stages) <= 4
    assert [frame["type"] for frame in bench.pusher.to(alice.id)] == ["presence_self"]
    assert all(bench.service.inspect_user(user)["devices"] == [] for user in users)


def test_17_a_heartbeat_revives_a_connection_after_a_false_410(bench: Bench) -> None:
    """Line 17: a connection sends a heartbeat after a false 410: it is live with its status, and there is no event."""
    bench.service.contacts.change("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.update(bob, status="busy")
    bench.sweep(6)
    bench.pusher.gone.add(bob.id)
    bench.update(alice, status="busy")
    bench.pusher.gone.discard(bob.id)
    bench.pusher.clear()
    bench.sweep(8)
    bench.beat(bob)
    bench.live(30, alice, bob)
    assert bench.pusher.changes(alice.id) == []
    assert bench.sees("alice", "bob")["status"] == "busy"
