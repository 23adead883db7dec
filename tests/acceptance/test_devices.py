"""Several devices of one user: which changes contacts see, and which they do not."""

from __future__ import annotations

import pytest

from tests.support.service import Bench

everywhere = pytest.mark.parametrize("client", ["fakeredis", "redis"], indirect=True)


@pytest.mark.parametrize("device", ["", "phone"])
def test_07_only_the_first_and_last_connection_are_events(bench: Bench, device: str) -> None:
    """Line 7: adding a connection, or closing all but one, is no event; closing the last one is one event."""
    bench.service.contacts.change("alice", ["bob"])
    bob = bench.open("bob")
    first, *others = [bench.open("alice", device=device, device_type="mobile") for _ in range(5)]
    bench.sweep(2)
    assert [change["type"] for change in bench.pusher.changes(bob.id, "alice")] == ["user_online"]
    bench.pusher.clear()

    for place, connection in enumerate(others):
        if place % 2:
            bench.service.set_user_offline("alice", connection.id)
        else:
            bench.service.leave("alice", connection.id)
        bench.live(30, first, bob)
    bench.open("alice", device=device, device_type="web")
    bench.live(30, first, bob)
    bench.sweep(46)  # the connection just opened goes silent
    bench.beat(first)
    bench.beat(bob)
    assert bench.pusher.changes(bob.id) == []

    bench.service.set_user_offline("alice", first.id)
    bench.live(60, bob)
    assert [change["type"] for change in bench.pusher.changes(bob.id)] == ["user_offline"]


@pytest.mark.parametrize("devices", [("phone", "laptop"), ("laptop", "laptop"), ("", "")])
def test_08_an_active_and_an_idle_device_never_flicker(bench: Bench, devices: tuple[str, str]) -> None:
    """Line 8: one active and one idle device, same deviceId or not: contacts see no transition in ten minutes."""
    bench.service.contacts.change("alice", ["bob"])
    bob = bench.open("bob")
    used, idle = (bench.open("alice", device=device) for device in devices)
    bench.sweep(2)
    bench.pusher.clear()
    for _ in range(40):
        bench.sweep(7.5)
        bench.beat(used, active=True)
        bench.sweep(7.5)
        bench.beat(idle, active=False)
        bench.beat(bob)
        assert bench.sees("bob", "alice")["status"] == "online"
    assert bench.pusher.changes(bob.id) == []
    assert [frame for frame in bench.pusher.to(used.id) if frame["type"] == "presence_self"] == []


def test_09_a_dead_devices_status_ends_with_its_ttl(bench: Bench) -> None:
    """Line 9: a busy device goes silent: at its TTL the other device's status returns, in one frame."""
    bench.service.contacts.change("alice", ["bob"])
    bob = bench.open("bob")
    phone, laptop = bench.open("alice", device="phone"), bench.open("alice", device="laptop")
    bench.update(laptop, status="away")
    bench.update(phone, status="busy")
    bench.sweep(2)
    died = bench.clock()
    assert bench.sees("bob", "alice")["status"] == "busy"
    bench.pusher.clear()

    bench.live(60, laptop, bob)
    assert bench.sees("bob", "alice")["status"] == "busy"
    bench.live(20, laptop, bob)
    assert bench.clock() - died == 80_000
    assert [(c["type"], c["status"]) for c in bench.pusher.changes(bob.id)] == [("presence_status", "away")]


@pytest.mark.parametrize("closed", ["disconnect", "gone", "silently"])
def test_09_a_busy_device_is_still_busy_after_a_reconnect(bench: Bench, closed: str) -> None:
    """Line 9: a busy device loses its socket and reconnects within the grace: still busy, and contacts get nothing."""
    bench.service.contacts.change("alice", ["bob"])
    bob, phone = bench.open("bob"), bench.open("alice", device="phone")
    bench.update(phone, status="busy")
    bench.sweep(8)
    bench.pusher.clear()
    if closed == "disconnect":
        bench.service.set_user_offline("alice", phone.id)
    elif closed == "gone":
        bench.pusher.gone.add(phone.id)
        bench.update(bob, status="busy")
    bench.sweep(9)
    again = bench.open("alice", device="phone")
    bench.live(120, again, bob)
    assert bench.pusher.changes(bob.id) == []
    assert bench.sees("bob", "alice")["status"] == "busy"


@everywhere
def test_09_status_and_idle_time_are_inherited_per_device(bench: Bench) -> None:
    """Line 9: a new connection inherits status and idle time from its own device only, never from another one."""
    phone = bench.open("alice", device="phone")
    bench.update(phone, status="busy")
    laptop = bench.open("alice", device="laptop")
    bench.service.set_user_offline("alice", phone.id)
    own = {device["connectionId"]: device["status"] for device in bench.service.inspect_user("alice")["devices"]}
    assert own == {laptop.id: "online"}
    phone = bench.open("alice", device="phone")
    own = {device["connectionId"]: device["status"] for device in bench.service.inspect_user("alice")["devices"]}
    assert own == {laptop.id: "online", phone.id: "busy"}


def test_10_a_user_is_away_when_all_devices_are_idle(bench: Bench) -> None:
    """Line 10: the user is away when every device has been idle for five minutes; activity on any device ends it."""
    bench.service.contacts.change("alice", ["bob"])
    bob = bench.open("bob")
    phone = bench.open("alice", device="phone")
    bench.live(120, phone, bob, active=False)
    laptop = bench.open("alice", device="laptop")
    bench.beat(laptop, active=True)
    used = bench.clock()
    bench.pusher.clear()

    bench.live(270, phone, laptop, bob, active=False)
    assert bench.pusher.changes(bob.id) == []
    bench.live(31, phone, laptop, bob, active=False)
    assert [change["status"] for change in bench.pusher.changes(bob.id)] == ["away"]
    assert bench.clock() - used <= 302_000

    bench.beat(phone, active=True)
    assert [change["status"] for change in bench.pusher.changes(bob.id)] == ["away", "online"]


def test_10_activity_on_one_device_counts_for_all(bench: Bench) -> None:
    """Line 10: an idle laptop does not look away while a phone with a chosen away is in use: the user is online."""
    bench.service.contacts.change("alice", ["bob"])
    laptop, phone = bench.open("alice", device="laptop"), bench.open("alice", device="phone")
    bench.update(phone, status="away")
    for _ in range(20):
        bench.sweep(30)
        bench.beat(laptop, active=False)
        bench.beat(phone, active=True)
        assert bench.sees("bob", "alice")["status"] == "online"


@everywhere
def test_10_a_read_shows_away_to_the_millisecond(bench: Bench) -> None:
    """Line 10: a read shows away from the exact millisecond after five minutes, before any announcement."""
    bench.service.contacts.change("alice", ["bob"])
    alice = bench.open("alice")
    bench.beat(alice)
    for _ in range(4):
        bench.clock.advance(60)
        bench.beat(alice, active=False)
    bench.clock.advance(59.999)
    assert bench.sees("bob", "alice")["status"] == "online"
    bench.clock.advance(0.001)
    assert bench.sees("bob", "alice")["status"] == "away"


def test_10_activity_does_not_end_a_chosen_away(bench: Bench) -> None:
    """Line 10: an away that the user chose stays until the user chooses another status."""
    bench.service.contacts.change("alice", ["bob"])
    alice = bench.open("alice")
    bench.update(alice, status="away")
    bench.live(120, alice, active=True)
    assert bench.sees("bob", "alice")["status"] == "away"
    bench.update(alice, status="online")
    assert bench.sees("bob", "alice")["status"] == "online"


def test_10_busy_is_never_downgraded_by_idleness(bench: Bench) -> None:
    """Line 10: a busy user stays busy while the device is live, however long it is idle."""
    bench.service.contacts.change("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice")
    bench.update(alice, status="busy")
    bench.sweep(2)
    bench.pusher.clear()
    bench.live(1200, alice, bob, active=False)
    assert bench.pusher.changes(bob.id) == []
    assert bench.sees("bob", "alice")["status"] == "busy"
