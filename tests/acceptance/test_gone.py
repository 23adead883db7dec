"""What a post that finds a socket gone (410) may change, and what it must not."""

from __future__ import annotations

from shared.delivery import Frame
from tests.support.service import Bench


def test_17_gone_removes_exactly_that_connection(bench: Bench) -> None:
    """A post finds one of two sockets gone: that connection ends, the other stays, and nobody is told anything."""
    bench.service.set_contacts("alice", ["bob"])
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


def test_17_the_last_connection_gone_is_offline_after_the_grace(bench: Bench) -> None:
    """A post finds a user's only socket gone: after the grace the user is offline, with one event."""
    bench.service.set_contacts("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.sweep(6)
    bench.pusher.gone.add(bob.id)
    bench.pusher.clear()
    bench.update(alice, status="busy")
    bench.sweep(9)
    assert bench.pusher.changes(alice.id) == []
    bench.sweep(2)
    assert [change["type"] for change in bench.pusher.changes(alice.id)] == ["user_offline"]


def test_17_gone_lengthens_nobodys_life_and_is_no_sign_of_it(bench: Bench) -> None:
    """A post finds a socket gone shortly before its TTL runs out: offline at the TTL, last seen at the last beat."""
    bench.service.set_contacts("alice", ["bob"])
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


def test_17_gone_counts_only_for_the_connection_that_was_posted_to(bench: Bench) -> None:
    """A 410 says nothing about a connection that may still be opening, nor about the one that came after it."""
    bench.service.set_contacts("alice", ["bob"])
    alice, young = bench.open("alice"), bench.open("bob", device="phone")
    bench.sweep(4)
    bench.pusher.gone.add(young.id)
    bench.update(alice, status="busy")
    assert [device["connectionId"] for device in bench.service.inspect_user("bob")["devices"]] == [young.id]
    bench.pusher.gone.discard(young.id)

    bench.sweep(5)
    after: list[str] = []

    def reconnect(frame: Frame) -> None:
        bench.pusher.deliver = lambda _frame: None
        after.append(bench.open("bob", device="phone").id)

    bench.pusher.gone.add(young.id)
    bench.pusher.deliver = reconnect  # bob is back on a new socket before the 410 of the old one is reported
    bench.update(alice, status="away")
    assert [device["connectionId"] for device in bench.service.inspect_user("bob")["devices"]] == after


def test_17_gone_cascades_into_nothing(bench: Bench) -> None:
    """Fifty sockets are found gone in one announcement: one more stage removes them, and nothing is posted for it."""
    users = [f"user{number}" for number in range(50)]
    bench.service.set_contacts("alice", users)
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


def test_17_a_socket_wrongly_found_gone_may_speak_again(bench: Bench) -> None:
    """A connection whose posts answered 410 sends a heartbeat: it lives, with its status, and no transition."""
    bench.service.set_contacts("alice", ["bob"])
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
