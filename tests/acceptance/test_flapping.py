"""What an unreliable network, a reload or a quick change of mind must not turn into events."""

from __future__ import annotations

import pytest

from shared.connection import Connection
from shared.delivery import Post
from shared.frames import SnapshotFrame
from shared.messages import Heartbeat, PresenceUpdate, Sync
from tests.support.service import Bench

everywhere = pytest.mark.parametrize("client", ["fakeredis", "redis"], indirect=True)


def statuses(bench: Bench, viewer: str, user_id: str) -> list[tuple[str, str]]:
    """What was posted to a viewer's connection about a user, as (type, status)."""
    return [(change["type"], change["status"]) for change in bench.pusher.changes(viewer, user_id)]


@pytest.mark.parametrize("away_for", [0, 0.2, 5, 9.9])
@pytest.mark.parametrize("device", ["", "browser"])
def test_11_a_reload_or_reconnect_within_the_grace_is_no_event(bench: Bench, device: str, away_for: float) -> None:
    """Line 11: a page reload or a reconnect within the grace is no event, however often it happens."""
    bench.service.contacts.change("alice", ["bob"])
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
def test_11_without_a_reconnect_the_user_is_offline_after_the_grace(bench: Bench) -> None:
    """Line 11: without a reconnect, the user is offline when the grace ends, last seen when the socket closed."""
    bench.service.contacts.change("alice", ["bob"])
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
    """Line 11: after `leave` the user is offline immediately, and the socket is closed."""
    bench.service.contacts.change("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice")
    bench.clock.advance(2)
    bench.pusher.clear()
    bench.service.leave("alice", alice.id)
    assert statuses(bench, bob.id, "alice") == [("user_offline", "offline")]
    assert bench.pusher.closed == [alice.id]


@pytest.mark.parametrize("away_for", [0, 5, 9.9])
def test_11_a_reload_of_a_polling_page_is_no_event(bench: Bench, away_for: float) -> None:
    """Line 11: a polling page leaves with `grace` and polls within it: contacts get nothing, and busy stays busy."""
    bench.service.contacts.change("alice", ["bob"])
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
def test_11_a_polling_page_that_left_is_offline_after_the_grace(bench: Bench) -> None:
    """Line 11: a polling page that left with `grace` is offline when the grace ends; a later poll starts over."""
    bench.service.contacts.change("alice", ["bob"])
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
    """Alice's polling device, not seen yet."""
    now = bench.clock() // 1000
    return Connection.of_polling_device("alice", "browser", now=bench.clock(), issued_at=now, expires_at=now + 3600)


def poll(bench: Bench, device: Connection, seq: int | None = None) -> SnapshotFrame:
    """One poll; without `seq` it is a page's first."""
    return bench.service.poll(device, Heartbeat(action="heartbeat", seq=seq))


@everywhere
def test_11_a_leave_does_not_end_the_grace_of_another_connection(bench: Bench) -> None:
    """Line 11: one device signs out while another is in its grace: the user stays until that grace ends."""
    bench.service.contacts.change("alice", ["bob"])
    phone, laptop = bench.open("alice", device="phone"), bench.open("alice", device="laptop")
    bench.service.set_user_offline("alice", phone.id)
    bench.clock.advance(1)
    bench.service.leave("alice", laptop.id)
    assert bench.sees("bob", "alice")["status"] == "online"
    bench.clock.advance(9)
    assert bench.sees("bob", "alice")["status"] == "offline"


def test_11_one_lost_heartbeat_never_flips_a_status(bench: Bench) -> None:
    """Line 11: every second heartbeat is lost for ten minutes: contacts get nothing."""
    bench.service.contacts.change("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice")
    bench.sweep(2)
    bench.pusher.clear()
    for _ in range(10):
        bench.live(30, bob)
        bench.live(30, bob, alice)
        assert bench.sees("bob", "alice")["status"] == "online"
    assert bench.pusher.changes(bob.id) == []


@everywhere
def test_12_an_update_is_one_frame_never_offline_and_online(bench: Bench) -> None:
    """Line 12: each status change is one frame to each viewer, and none of them says offline."""
    bench.service.contacts.change("alice", ["bob", "carol"])
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
    """Line 12: an update of both status and custom status is one frame that contains both."""
    bench.service.contacts.change("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice")
    bench.clock.advance(2)
    bench.pusher.clear()
    bench.update(alice, status="busy", customStatus={"text": "In a call", "emoji": "☎️"})
    [change] = bench.pusher.changes(bob.id, "alice")
    assert change["status"] == "busy"
    assert change["customStatus"] == {"text": "In a call", "emoji": "☎️", "until": None}


@everywhere
def test_12_an_update_that_changes_nothing_sends_nothing(bench: Bench) -> None:
    """Line 12: repeating the current status sends nothing, neither to contacts nor to the user's own connections."""
    bench.service.contacts.change("alice", ["bob"])
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
def test_12_a_second_change_does_not_wait_for_the_first_announcement(bench: Bench) -> None:
    """Line 12: the user changes status again while a slow function posts the first change: the second does not wait."""
    bench.service.contacts.change("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice")
    bench.clock.advance(2)
    bench.pusher.clear()
    other = bench.environment()
    seen: list[list[tuple[str, str]]] = []

    def change_her_mind(frame: Post) -> None:
        if frame.connection_id == bob.id and not seen:
            bench.clock.advance(0.5)
            seen.append([])
            other.update_user_status(alice, PresenceUpdate(action="presence_update", status="away"))
            seen[0] = statuses(bench, bob.id, "alice")

    bench.pusher.deliver = change_her_mind
    bench.update(alice, status="busy")
    assert seen == [[("presence_status", "busy"), ("presence_status", "away")]]
    bench.sweep(30)
    assert statuses(bench, bob.id, "alice") == seen[0], "a change was sent again after both were reported"


@everywhere
def test_12_the_newest_of_several_changes_is_never_lost(bench: Bench) -> None:
    """Line 12: a function reports its change while a newer one is stored: it announces the newer one too."""
    bench.service.contacts.change("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice")
    bench.clock.advance(2)
    bench.pusher.clear()
    other = bench.environment()

    def change_twice(frame: Post) -> None:
        bench.pusher.deliver = lambda _frame: None
        with bench.killed(at=1):  # the other function dies right after it has written and leased its change
            other.update_user_status(alice, PresenceUpdate(action="presence_update", status="away"))

    bench.pusher.deliver = change_twice
    bench.update(alice, status="busy")
    bench.live(12, alice, bob)
    assert statuses(bench, bob.id, "alice") == [("presence_status", "busy"), ("presence_status", "away")]


@everywhere
def test_12_each_of_a_users_devices_gets_one_frame(bench: Bench) -> None:
    """Line 12: a change on one device is one `presence_self` on each of the user's connections, with its own `n`."""
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
def test_12_every_applied_update_is_a_frame_to_the_users_devices(bench: Bench) -> None:
    """Line 12: an applied update with no visible effect is a frame to the user's own devices; an ignored one is not."""
    bench.service.contacts.change("alice", ["bob"])
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
def test_19_a_replaced_connection_is_no_event(bench: Bench) -> None:
    """Line 19: the new socket names the one it replaces before that one closes: contacts see no transition."""
    bench.service.contacts.change("alice", ["bob"])
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
    assert bench.sees("bob", "alice")["status"] == "offline", "the replaced connection still has a grace"
