"""Faults found by random histories and by review, each as the shortest history that showed it."""

from __future__ import annotations

from typing import Any

import pytest

from shared.commands import EditRelations, Settle
from shared.messages import GetPresence, Sync
from tests.support.service import AnyCommand, Bench


def test_a_user_who_hid_while_pending_is_not_shown(bench: Bench) -> None:
    """A pending change is never sent with the view that only current viewers share."""
    bench.service.contacts.change("vic", ["xan", "yul", "wim"])
    bench.service.contacts.change("xan", ["wim"])
    xan, yul, vic, wim = (bench.open(user) for user in ("xan", "yul", "vic", "wim"))
    bench.sweep(5)
    began = bench.clock()
    bench.update(xan, status="busy", scope="user", until=began + 60)
    bench.update(yul, status="busy", scope="user", until=began + 60)
    bench.make_changes_wait(wim)
    bench.service.contacts.set_privacy("xan", hide_from=["vic"])
    assert bench.client.hexists(bench.store.key("pending", "vic"), "xan")

    def settle_slowly(commands: list[AnyCommand], _now: int) -> None:
        if any(isinstance(command, Settle) for command in commands):
            bench.clock.advance(0.2)  # Vic's window ends meanwhile

    bench.on_round_trip = settle_slowly
    bench.clock.now = began + 60
    bench.service._delivery.settle(["xan", "yul"])
    assert [event["status"] for event in bench.pusher.changes(vic.id, "yul")][-1] == "online"
    told: list[dict[str, Any]] = bench.pusher.changes(vic.id, "xan")
    assert [event["status"] for event in told][-1] == "offline"


def test_a_pending_change_of_a_stranger_is_not_sent(bench: Bench) -> None:
    """When nobody may see anybody any more, a pending change is dropped, because its record cannot be seen."""
    bench.service.contacts.change("vic", ["wim"])
    wim, vic = bench.open("wim"), bench.open("vic")
    bench.sweep(5)
    bench.make_changes_wait(wim)
    bench.update(wim, status="busy")
    assert bench.client.hexists(bench.store.key("pending", "vic"), "wim")
    bench.service.contacts.set_graph_loaded(False)
    before = len(bench.pusher.changes(vic.id))
    bench.sweep(3)
    assert bench.pusher.changes(vic.id)[before:] == []


def test_a_former_contact_sees_the_same_whether_or_not_it_is_blocked(bench: Bench) -> None:
    """A day after a contact was removed nothing is visible, even if the user has also blocked the viewer."""
    bench.service.contacts.change("ann", ["bob", "cat"])
    bench.open("ann")
    bench.service.contacts.change("ann", remove=["bob", "cat"])
    bench.service.contacts.set_privacy("ann", blocks=["bob"])
    assert bench.sees("bob", "ann") == bench.sees("cat", "ann")
    bench.clock.advance(86_400)
    assert bench.sees("bob", "ann") == bench.sees("cat", "ann") == {"userId": "ann", "status": "offline"}


def test_going_invisible_ends_no_grace_while_a_polling_device_is_live(bench: Bench) -> None:
    """Invisibility ends a grace only if no device is live, and a polling device is a live device."""
    socket = bench.open("ann", device="phone", status="busy")
    polling = bench.connection("ann", device="tablet", polling=True)
    bench.service.set_user_online(polling)
    bench.service.set_user_offline("ann", socket.id)
    bench.service.contacts.set_privacy("ann", invisible=True)
    bench.service.leave("ann", polling.id)
    assert bench.service.inspect_user("ann")["status"] == "busy"


def test_a_connection_keeps_its_counters_after_a_false_410(bench: Bench) -> None:
    """After a false 410, an update that was overtaken is still ignored."""
    ann = bench.open("ann")
    bench.clock.advance(6)
    bench.update(ann, status="busy", n=7)
    bench.pusher.gone.add(ann.id)
    bench.update(ann, customStatus={"text": "the post of this is answered with 410"})
    bench.pusher.gone.clear()
    bench.update(ann, status="away", n=6)
    assert bench.service.inspect_user("ann")["status"] == "busy"


def test_a_frozen_custom_status_ends_on_time_after_a_loss(bench: Bench) -> None:
    """The end of a frozen custom status is stored with it, not in a record that may be evicted."""
    bench.service.contacts.change("ann", ["bob"])
    ann, bob = bench.open("ann"), bench.open("bob")
    bench.update(ann, customStatus={"text": "lunch", "until": bench.clock() + 40_000})
    bench.service.contacts.set_privacy("ann", hide_from=["bob"])
    bench.client.delete(bench.store.key("user", "ann"))
    bench.beat(ann)
    bench.live(41, ann, bob)
    assert bench.pusher.changes(bob.id, "ann")[-1]["customStatus"] is None


def test_a_user_whose_record_was_evicted_goes_offline(bench: Bench) -> None:
    """A due entry without a record means that viewers may show a user who is gone."""
    bench.service.contacts.change("ann", ["bob"])
    bench.open("ann")
    bob = bench.open("bob")
    bench.live(5, bob)
    assert [event["status"] for event in bench.pusher.changes(bob.id, "ann")] == []
    bench.client.delete(bench.store.key("user", "ann"))
    bench.live(90, bob)
    assert [event["status"] for event in bench.pusher.changes(bob.id, "ann")] == ["offline"]


def test_hiding_before_an_offline_is_announced_leaves_no_ghost(bench: Bench) -> None:
    """A user hides after going offline and before that is announced: the viewer still gets the offline."""
    bench.service.contacts.change("ann", ["bob"])
    bench.open("ann")
    bob = bench.open("bob")
    bench.clock.advance(75)  # no sweeper ran
    bench.beat(bob)
    bench.service.contacts.set_privacy("ann", hide_from=["bob"])
    bench.live(12, bob)
    assert [event["status"] for event in bench.pusher.changes(bob.id, "ann")] == ["offline"]


def test_an_unblock_that_was_overtaken_undoes_no_later_block(bench: Bench) -> None:
    """An unblock that reaches the other side after the block that followed it is ignored."""
    service, store = bench.service, bench.store
    service.contacts.change("alice", ["bob"])
    bench.open("alice")
    bench.open("bob")
    service.contacts.set_privacy("alice", blocks=["bob"])
    service.contacts.set_privacy("alice", blocks=[])
    service.contacts.set_privacy("alice", blocks=["bob"])
    [overtaken] = [command for trip in bench.round_trips for command in trip if _edits_bob(command, "unblocked")]
    assert bench.sees("alice", "bob")["status"] == "offline"
    store.call([overtaken], bench.clock())
    assert bench.sees("alice", "bob")["status"] == "offline"


def _edits_bob(command: AnyCommand, edit: str) -> bool:
    return isinstance(command, EditRelations) and command.user == "bob" and command.edits[0][1] == edit


@pytest.mark.unreadable
def test_an_unreadable_record_stops_no_other_users_sweep(bench: Bench) -> None:
    """One user's hash contains garbage: the other users due at that moment are settled, and the failure is counted."""
    others = [f"user{number}" for number in range(12)]
    for user in ["broken", *others]:
        bench.open(user)
    bench.service.contacts.set_privacy("broken", hide_from=["somebody"])
    bench.client.hset(bench.store.key("hidden", "broken"), "somebody", "nonsense")
    bench.client.hset(bench.store.key("user", "broken"), "hiddenDue", "1")
    bench.sweep(80)
    assert {bench.service.inspect_user(user)["status"] for user in others} == {"offline"}
    assert bench.metrics.counts["RecordsFailed"] >= 1


@pytest.mark.parametrize("first", ["sync", "query", "describe"])
def test_a_chosen_status_returns_whatever_message_comes_first(bench: Bench, first: str) -> None:
    """After a loss, a connection's status is a guess until one heartbeat provides it; then updates decide again."""
    bench.service.contacts.change("ann", ["bob"])
    ann = bench.open("ann", status="away")
    bench.update(ann, status="busy")
    bench.client.delete(bench.store.key("user", "ann"))
    match first:
        case "sync":
            bench.service.sync(ann, Sync(action="sync"))
        case "query":
            bench.service.get_presence(ann, GetPresence(action="get_presence", userIds=["bob"]))
        case _:
            bench.update(ann, customStatus={"text": "lunch"})
    bench.beat(ann)
    assert bench.sees("bob", "ann")["status"] == "away"
    bench.beat(ann, status="busy")
    assert bench.sees("bob", "ann")["status"] == "busy"
    bench.beat(ann, status="online")
    assert bench.sees("bob", "ann")["status"] == "busy"


def test_a_late_heartbeat_does_not_undo_an_update_after_a_loss(bench: Bench) -> None:
    """A status set by an update is not a guess, even on a connection that the store had lost."""
    ann = bench.open("ann")
    bench.client.delete(bench.store.key("user", "ann"))
    bench.service.sync(ann, Sync(action="sync"))
    bench.update(ann, status="busy")
    bench.beat(ann, status="online")
    assert bench.service.inspect_user("ann")["status"] == "busy"


def test_an_idle_user_is_idle_after_a_loss(bench: Bench) -> None:
    """A recreated connection starts as idle if its heartbeat, or else its handshake, says so."""
    idle, background = bench.open("ann"), bench.open("bob", active=False)
    for user in ("ann", "bob"):
        bench.client.delete(bench.store.key("user", user))
    bench.beat(idle, active=False)
    bench.service.sync(background, Sync(action="sync"))
    assert [bench.service.inspect_user(user)["status"] for user in ("ann", "bob")] == ["away", "away"]
    bench.beat(idle)
    assert bench.service.inspect_user("ann")["status"] == "online"


def test_a_false_seq_concerns_nobody_else(bench: Bench) -> None:
    """A `seq` above all assigned numbers looks like a loss: the client gets a snapshot, and contacts get nothing."""
    bench.service.contacts.change("ann", ["bob"])
    ann, bob = bench.open("ann"), bench.open("bob")
    bench.live(6, ann, bob)
    bench.pusher.clear()
    for _ in range(100):
        bench.sweep(0.5)
        bench.beat(ann, seq=bench.clock())
    assert bench.pusher.changes(bob.id, "ann") == []
    assert {frame["type"] for frame in bench.pusher.to(ann.id)} == {"presence_snapshot"}


def test_showing_again_sends_the_real_last_seen(bench: Bench) -> None:
    """Ann went silent while hidden: a viewer who sees her again gets that time, not the time at which she hid."""
    bench.service.contacts.change("ann", ["bob"])
    bob, ann = bench.open("bob"), bench.open("ann")
    bench.sweep(5)
    bench.service.contacts.set_privacy("ann", hide_from=["bob"])
    bench.live(100, bob)
    bench.pusher.clear()
    bench.service.contacts.set_privacy("ann", hide_from=[])
    bench.sweep(2)
    [told] = bench.pusher.changes(bob.id, "ann")
    assert told["lastSeen"] == bench.sees("bob", "ann")["lastSeen"] == ann.connected_at


def test_a_late_message_does_not_hide_an_evicted_record(bench: Bench) -> None:
    """An online user whose record was evicted is announced offline, whatever a closed connection sends."""
    bench.service.contacts.change("ann", ["bob"])
    dead = bench.open("ann", device="old")
    bench.clock.advance(2)
    bench.service.sign_out("ann")
    bench.clock.advance(2)
    bench.open("ann", device="new")
    bob = bench.open("bob")
    bench.live(5, bob)
    bench.client.delete(bench.store.key("user", "ann"))
    bench.beat(dead)
    bench.live(90, bob)
    assert [event["status"] for event in bench.pusher.changes(bob.id, "ann")][-1:] == ["offline"]


def test_the_end_of_a_frozen_custom_status_is_announced_after_a_loss(bench: Bench) -> None:
    """Its end is found again after an eviction, even if the first message is an update."""
    bench.service.contacts.change("ann", ["bob"])
    ann, bob = bench.open("ann"), bench.open("bob")
    bench.update(ann, customStatus={"text": "lunch", "until": bench.clock() + 60_000})
    bench.service.contacts.set_privacy("ann", hide_from=["bob"])
    bench.live(5, bob)
    bench.client.delete(bench.store.key("user", "ann"))
    bench.update(ann, status="busy")
    bench.live(61, ann, bob)
    told = bench.pusher.changes(bob.id, "ann")[-1]
    assert (told["status"], told["customStatus"]) == ("offline", None)


def test_the_first_message_announces_even_if_it_is_a_query(bench: Bench) -> None:
    """Contacts do not wait for a sweeper when a client starts with a query."""
    bench.service.contacts.change("ann", ["bob"])
    bob = bench.open("bob")
    ann = bench.connection("ann")
    bench.service.set_user_online(ann)
    bench.service.get_presence(ann, GetPresence(action="get_presence", userIds=["bob"]))
    assert [event["status"] for event in bench.pusher.changes(bob.id, "ann")] == ["online"]
