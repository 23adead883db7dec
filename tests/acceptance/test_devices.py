"""Several devices, one person: what contacts see, and what they must not see."""

from __future__ import annotations

import pytest

from tests.support.service import Bench

everywhere = pytest.mark.parametrize("client", ["fakeredis", "redis"], indirect=True)


@pytest.mark.parametrize("device", ["", "phone"])
def test_07_only_the_first_and_the_last_of_many_connections_are_events(bench: Bench, device: str) -> None:
    """Adding a connection, or closing all but one of them, tells contacts nothing; closing the last tells them once."""
    bench.service.set_contacts("alice", ["bob"])
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
    bench.sweep(46)  # the one just opened falls silent
    bench.beat(first)
    bench.beat(bob)
    assert bench.pusher.changes(bob.id) == []

    bench.service.set_user_offline("alice", first.id)
    bench.live(60, bob)
    assert [change["type"] for change in bench.pusher.changes(bob.id)] == ["user_offline"]


@pytest.mark.parametrize("devices", [("phone", "laptop"), ("laptop", "laptop"), ("", "")])
def test_08_an_active_and_an_idle_device_never_flicker(bench: Bench, devices: tuple[str, str]) -> None:
    """One device in use and one lying about, with one deviceId or two: in ten minutes contacts see no transition."""
    bench.service.set_contacts("alice", ["bob"])
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


def test_09_a_busy_device_that_dies_takes_its_status_with_it(bench: Bench) -> None:
    """A device that chose busy falls silent: with its TTL the status of the other device returns, in one frame."""
    bench.service.set_contacts("alice", ["bob"])
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
def test_09_a_busy_device_that_reconnects_is_still_busy(bench: Bench, closed: str) -> None:
    """A busy device loses its socket and comes back within the grace: it is still busy, and nobody was told."""
    bench.service.set_contacts("alice", ["bob"])
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
    """A new connection takes over from one of its own device, and never from another device of the user."""
    phone = bench.open("alice", device="phone")
    bench.update(phone, status="busy")
    laptop = bench.open("alice", device="laptop")
    bench.service.set_user_offline("alice", phone.id)
    own = {device["connectionId"]: device["status"] for device in bench.service.inspect_user("alice")["devices"]}
    assert own == {laptop.id: "online"}
    phone = bench.open("alice", device="phone")
    own = {device["connectionId"]: device["status"] for device in bench.service.inspect_user("alice")["devices"]}
    assert own == {laptop.id: "online", phone.id: "busy"}


def test_10_a_user_is_away_when_no_device_was_used_for_five_minutes(bench: Bench) -> None:
    """Inactivity is the person's, not a device's: away comes when all devices are idle, and any activity ends it."""
    bench.service.set_contacts("alice", ["bob"])
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


def test_10_activity_on_one_device_keeps_another_from_looking_idle(bench: Bench) -> None:
    """A laptop lies idle while a phone, on which the user chose away, is in use: the person is there, so online."""
    bench.service.set_contacts("alice", ["bob"])
    laptop, phone = bench.open("alice", device="laptop"), bench.open("alice", device="phone")
    bench.update(phone, status="away")
    for _ in range(20):
        bench.sweep(30)
        bench.beat(laptop, active=False)
        bench.beat(phone, active=True)
        assert bench.sees("bob", "alice")["status"] == "online"


@everywhere
def test_10_exactly_away_is_seen_on_read_before_anybody_was_told(bench: Bench) -> None:
    """A reader sees away from the very millisecond in which five minutes have passed."""
    bench.service.set_contacts("alice", ["bob"])
    alice = bench.open("alice")
    bench.beat(alice)
    for _ in range(4):
        bench.clock.advance(60)
        bench.beat(alice, active=False)
    bench.clock.advance(59.999)
    assert bench.sees("bob", "alice")["status"] == "online"
    bench.clock.advance(0.001)
    assert bench.sees("bob", "alice")["status"] == "away"


def test_10_a_chosen_away_stays_until_the_user_says_otherwise(bench: Bench) -> None:
    """An away that the user chose does not end because a key was pressed."""
    bench.service.set_contacts("alice", ["bob"])
    alice = bench.open("alice")
    bench.update(alice, status="away")
    bench.live(120, alice, active=True)
    assert bench.sees("bob", "alice")["status"] == "away"
    bench.update(alice, status="online")
    assert bench.sees("bob", "alice")["status"] == "online"


def test_10_busy_is_never_downgraded_by_idleness(bench: Bench) -> None:
    """Who is busy stays busy for as long as the device lives, however long nobody touched it."""
    bench.service.set_contacts("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice")
    bench.update(alice, status="busy")
    bench.sweep(2)
    bench.pusher.clear()
    bench.live(1200, alice, bob, active=False)
    assert bench.pusher.changes(bob.id) == []
    assert bench.sees("bob", "alice")["status"] == "busy"
