"""What a shaky network, a reload or a hasty user must not turn into events."""

from __future__ import annotations

from typing import Any

import pytest

from shared.delivery import Frame
from shared.messages import Heartbeat, PresenceUpdate, Sync
from shared.presence import Connection
from tests.support.service import Bench

everywhere = pytest.mark.parametrize("client", ["fakeredis", "redis"], indirect=True)


def statuses(bench: Bench, viewer: str, user_id: str) -> list[tuple[str, str]]:
    """What a viewer's connection was told of a user, as (type, status)."""
    return [(change["type"], change["status"]) for change in bench.pusher.changes(viewer, user_id)]


@pytest.mark.parametrize("away_for", [0, 0.2, 5, 9.9])
@pytest.mark.parametrize("device", ["", "browser"])
def test_11_a_reload_or_reconnect_within_the_grace_is_no_event(bench: Bench, device: str, away_for: float) -> None:
    """A page is reloaded or a socket comes back within the grace: contacts hear nothing, and it may happen often."""
    bench.service.set_contacts("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice", device=device)
    bench.sweep(2)
    bench.pusher.clear()
    for _ in range(5):
        bench.service.set_user_offline("alice", alice.id)
        bench.sweep(away_for)
        alice = bench.open("alice", device=device)
        bench.live(30, alice, bob)
    assert bench.pusher.changes(bob.id) == []
    assert bench.sees("bob", "alice")["status"] == "online"


@everywhere
def test_11_who_does_not_come_back_is_offline_after_the_grace_as_of_the_disconnect(bench: Bench) -> None:
    """A socket closed and nobody came back: offline exactly when the grace is over, last seen when it closed."""
    bench.service.set_contacts("alice", ["bob"])
    alice = bench.open("alice")
    bench.clock.advance(20)
    left = bench.clock()
    bench.service.set_user_offline("alice", alice.id)
    bench.clock.advance(9.999)
    assert bench.sees("bob", "alice")["status"] == "online"
    bench.clock.advance(0.001)
    record = bench.sees("bob", "alice")
    assert (record["status"], record["lastSeen"]) == ("offline", left)


@everywhere
def test_11_an_explicit_leave_has_no_grace(bench: Bench) -> None:
    """Who signs out is offline at once, and the socket is closed."""
    bench.service.set_contacts("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice")
    bench.clock.advance(2)
    bench.pusher.clear()
    bench.service.leave("alice", alice.id)
    assert statuses(bench, bob.id, "alice") == [("user_offline", "offline")]
    assert bench.pusher.closed == [alice.id]


@pytest.mark.parametrize("away_for", [0, 5, 9.9])
def test_11_a_polling_page_is_loaded_anew_within_the_grace(bench: Bench, away_for: float) -> None:
    """Its farewell asks for the grace, its first poll comes within it: contacts hear nothing, and busy stays busy."""
    bench.service.set_contacts("alice", ["bob"])
    bob, alice = bench.open("bob"), polling_device(bench)
    seq = bench.service.poll(alice, Heartbeat(action="heartbeat", status="busy"))["seq"]
    bench.sweep(2)
    bench.pusher.clear()
    for _ in range(3):
        bench.service.end_connection("alice", alice.id, 0, grace=True)
        bench.sweep(away_for)
        assert [device["status"] for device in poll(bench, alice)["self"]["devices"]] == ["busy"]
        bench.live(30, bob)
        poll(bench, alice, seq=seq)
    assert bench.pusher.changes(bob.id) == []
    assert bench.sees("bob", "alice")["status"] == "busy"


@everywhere
def test_11_a_polling_page_that_does_not_come_back_is_offline_after_the_grace(bench: Bench) -> None:
    """Offline when the grace is over, and not before; whoever polls after that begins anew."""
    bench.service.set_contacts("alice", ["bob"])
    alice = polling_device(bench)
    bench.service.poll(alice, Heartbeat(action="heartbeat", status="busy"))
    left = bench.clock()
    bench.service.end_connection("alice", alice.id, 0, grace=True)
    bench.clock.advance(9.999)
    assert bench.sees("bob", "alice")["status"] == "busy"
    bench.clock.advance(0.001)
    record = bench.sees("bob", "alice")
    assert (record["status"], record["lastSeen"]) == ("offline", left)
    poll(bench, alice)
    assert bench.sees("bob", "alice")["status"] == "online"


def polling_device(bench: Bench) -> Connection:
    """Alice's, not seen yet."""
    now = bench.clock() // 1000
    return Connection.of_polling_device(
        "alice", "browser", connected_at=bench.clock(), token_issued_at=now, token_expires_at=now + 3600
    )


def poll(bench: Bench, device: Connection, seq: int | None = None) -> dict[str, Any]:
    """One poll; without `seq` it is the first of a page."""
    return bench.service.poll(device, Heartbeat(action="heartbeat", seq=seq))


@everywhere
def test_11_a_leave_does_not_end_the_grace_of_another_connection(bench: Bench) -> None:
    """One device signs out while another is between two sockets: the user stays, as long as that grace lasts."""
    bench.service.set_contacts("alice", ["bob"])
    phone, laptop = bench.open("alice", device="phone"), bench.open("alice", device="laptop")
    bench.service.set_user_offline("alice", phone.id)
    bench.clock.advance(1)
    bench.service.leave("alice", laptop.id)
    assert bench.sees("bob", "alice")["status"] == "online"
    bench.clock.advance(9)
    assert bench.sees("bob", "alice")["status"] == "offline"


def test_11_one_lost_heartbeat_never_flips_a_status(bench: Bench) -> None:
    """Every second heartbeat is lost, for ten minutes: contacts hear nothing."""
    bench.service.set_contacts("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice")
    bench.sweep(2)
    bench.pusher.clear()
    for _ in range(10):
        bench.live(30, bob)
        bench.live(30, bob, alice)
        assert bench.sees("bob", "alice")["status"] == "online"
    assert bench.pusher.changes(bob.id) == []


@everywhere
def test_12_an_update_is_one_frame_and_never_offline_and_online(bench: Bench) -> None:
    """Each change of status is one frame to each viewer, and none of them says offline."""
    bench.service.set_contacts("alice", ["bob", "carol"])
    bob, carol, alice = bench.open("bob"), bench.open("carol"), bench.open("alice")
    bench.clock.advance(2)
    bench.pusher.clear()
    wanted = [("busy", "device"), ("away", "device"), ("busy", "user"), ("online", "user"), ("online", "device")]
    for status, scope in wanted:
        bench.clock.advance(2)
        bench.update(alice, status=status, scope=scope)
    # Ending the claim brings back the away of the device below it.
    expected = [("presence_status", status) for status in ("busy", "away", "busy", "away", "online")]
    for viewer in (bob, carol):
        assert statuses(bench, viewer.id, "alice") == expected


@everywhere
def test_12_status_and_custom_status_in_one_update_are_one_frame(bench: Bench) -> None:
    """An update of both status and custom status is one frame that holds both."""
    bench.service.set_contacts("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice")
    bench.clock.advance(2)
    bench.pusher.clear()
    bench.update(alice, status="busy", customStatus={"text": "In a call", "emoji": "☎️"})
    [change] = bench.pusher.changes(bob.id, "alice")
    assert change["status"] == "busy"
    assert change["customStatus"] == {"text": "In a call", "emoji": "☎️", "until": None}


@everywhere
def test_12_an_update_that_changes_nothing_sends_nothing(bench: Bench) -> None:
    """Saying again what is so already is told to nobody, oneself included."""
    bench.service.set_contacts("alice", ["bob"])
    alice, _bob = bench.open("alice"), bench.open("bob")
    bench.update(alice, status="busy", customStatus={"text": "In a call"})
    bench.sweep(2)
    bench.pusher.clear()
    bench.update(alice, status="busy", customStatus={"text": "In a call"})
    bench.update(alice, customStatus={"text": "In a call", "emoji": ""})
    bench.update(alice, status="busy")
    bench.beat(alice, status="away")
    assert bench.pusher.frames == []
    assert bench.sees("bob", "alice")["status"] == "busy"


@everywhere
def test_12_a_second_change_while_the_first_is_being_announced_goes_out_at_once(bench: Bench) -> None:
    """The user changes her mind while a slow function still posts the first change: the second does not wait for it."""
    bench.service.set_contacts("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice")
    bench.clock.advance(2)
    bench.pusher.clear()
    other = bench.sandbox()
    seen: list[list[tuple[str, str]]] = []

    def change_her_mind(frame: Frame) -> None:
        if frame.connection_id == bob.id and not seen:
            bench.clock.advance(0.5)
            seen.append([])
            other.update_user_status(alice, PresenceUpdate(action="presence_update", status="away"))
            seen[0] = statuses(bench, bob.id, "alice")

    bench.pusher.deliver = change_her_mind
    bench.update(alice, status="busy")
    assert seen == [[("presence_status", "busy"), ("presence_status", "away")]]
    revs = [change["rev"] for change in bench.pusher.changes(bob.id, "alice")]
    assert revs == sorted(set(revs))
    bench.sweep(30)
    assert statuses(bench, bob.id, "alice") == seen[0], "nothing is said twice once both were reported"


@everywhere
def test_12_of_changes_that_follow_while_one_is_posted_the_newest_is_never_lost(bench: Bench) -> None:
    """A change that another sandbox made while the first was being reported is told by whoever reports."""
    bench.service.set_contacts("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice")
    bench.clock.advance(2)
    bench.pusher.clear()
    other = bench.sandbox()

    def change_twice(frame: Frame) -> None:
        bench.pusher.deliver = lambda _frame: None
        with bench.killed(at=1):  # the other function dies right after its change was written and leased
            other.update_user_status(alice, PresenceUpdate(action="presence_update", status="away"))

    bench.pusher.deliver = change_twice
    bench.update(alice, status="busy")
    bench.live(12, alice, bob)
    assert statuses(bench, bob.id, "alice") == [("presence_status", "busy"), ("presence_status", "away")]


@everywhere
def test_12_ones_own_devices_stay_in_step_with_one_frame_each(bench: Bench) -> None:
    """A change on one device is one `presence_self` on each of the user's devices, as each of them sees it."""
    phone, laptop = bench.open("alice", device="phone"), bench.open("alice", device="laptop")
    bench.clock.advance(2)
    bench.pusher.clear()
    bench.update(phone, status="busy", scope="user", n=1)
    for connection, applied in ((phone, 1), (laptop, 0)):
        [frame] = bench.pusher.to(connection.id)
        assert frame["type"] == "presence_self"
        assert frame["self"]["connectionId"] == connection.id
        assert frame["self"]["claim"] == {"status": "busy", "until": None}
        assert frame["self"]["n"] == {"status": 0, "claim": applied, "customStatus": 0}


@everywhere
def test_12_every_update_that_is_applied_is_shown_to_ones_own_devices(bench: Bench) -> None:
    """An update that changes nothing over all devices is a frame to one's own, and one that is ignored is none."""
    bench.service.set_contacts("alice", ["bob"])
    phone, laptop, bob = bench.open("alice", device="phone"), bench.open("alice", device="laptop"), bench.open("bob")
    bench.update(laptop, status="busy")
    bench.update(phone, status="busy", n=1)
    bench.sweep(3)
    for said, expected in (({"status": "away", "n": 2}, 1), ({"status": "away", "n": 3}, 1), ({"n": 2}, 0)):
        bench.pusher.clear()
        bench.update(phone, **{"status": "online", **said})
        for connection, applied in ((phone, said["n"]), (laptop, 0)):
            frames = bench.pusher.to(connection.id)
            assert [frame["type"] for frame in frames] == ["presence_self"] * expected
            for frame in frames:
                assert frame["self"]["n"]["status"] == applied
                assert {device["connectionId"]: device["status"] for device in frame["self"]["devices"]} == {
                    phone.id: "away", laptop.id: "busy",
                }  # fmt: skip
    bench.sweep(3)
    assert bench.pusher.to(bob.id) == []


@everywhere
def test_11_a_replaced_connection_ends_without_a_trace(bench: Bench) -> None:
    """A planned rotation: the new socket says which it replaces, the old one is closed, and contacts hear nothing."""
    bench.service.set_contacts("alice", ["bob"])
    bob, old = bench.open("bob"), bench.open("alice", device="browser")
    bench.update(old, status="busy")
    bench.sweep(2)
    bench.pusher.clear()
    new = bench.connection("alice", device="browser")
    bench.service.set_user_online(new)
    bench.service.sync(new, Sync(action="sync", replaces=old.id))
    assert bench.pusher.closed == [old.id]
    bench.service.set_user_offline("alice", old.id)
    bench.service.update_heartbeat(old, Heartbeat(action="heartbeat", status="away"))
    bench.live(5, bob)
    assert bench.pusher.changes(bob.id) == []
    assert bench.sees("bob", "alice")["status"] == "busy"
    bench.service.leave("alice", new.id)
    assert bench.sees("bob", "alice")["status"] == "offline", "what was replaced has no grace that could keep her"
