"""Faults that random histories and a careful reader have found, each as the shortest history that showed it."""

from __future__ import annotations

from typing import Any

import pytest

from shared.delivery import Request
from shared.messages import GetPresence, Sync
from tests.support.service import Bench


def test_a_user_who_hid_while_waiting_in_a_viewers_window_is_not_shown_to_it(bench: Bench) -> None:
    """A frame that carries what waited never shows a viewer what only the watchers of that moment may see."""
    bench.service.set_contacts("vic", ["xan", "yul", "wim"])
    bench.service.set_contacts("xan", ["wim"])
    xan, yul, vic, wim = (bench.open(user) for user in ("xan", "yul", "vic", "wim"))
    bench.sweep(5)
    began = bench.clock()
    bench.update(xan, status="busy", scope="user", until=began + 60)
    bench.update(yul, status="busy", scope="user", until=began + 60)
    bench.crowd(wim)
    bench.service.set_privacy("xan", hide_from=["vic"])
    assert bench.client.hexists(bench.store.key("pending", "vic"), "xan")

    def settle_slowly(requests: list[Request], _now: int) -> None:
        if any(request.verb == "settle" for request in requests):
            bench.clock.advance(0.2)  # meanwhile vic's window ends

    bench.on_stage = settle_slowly
    bench.clock.now = began + 60
    bench.service._delivery.settle(["xan", "yul"], bench.service._delivery.begin())
    assert [event["status"] for event in bench.pusher.changes(vic.id, "yul")][-1] == "online"
    told: list[dict[str, Any]] = bench.pusher.changes(vic.id, "xan")
    assert [event["status"] for event in told][-1] == "offline"


def test_news_of_a_stranger_are_not_sent(bench: Bench) -> None:
    """When nobody may see anybody any more, a frame that waited says nothing, rather than news without a `rev`."""
    bench.service.set_contacts("vic", ["wim"])
    wim, vic = bench.open("wim"), bench.open("vic")
    bench.sweep(5)
    bench.crowd(wim)
    bench.update(wim, status="busy")
    assert bench.client.hexists(bench.store.key("pending", "vic"), "wim")
    bench.service.set_graph_loaded(False)
    before = len(bench.pusher.changes(vic.id))
    bench.sweep(3)
    assert bench.pusher.changes(vic.id)[before:] == []


def test_a_former_contact_sees_the_same_whether_or_not_it_is_blocked(bench: Bench) -> None:
    """A day after a contact was removed nothing is left to see, even if the user has blocked the viewer as well."""
    bench.service.set_contacts("ann", ["bob", "cat"])
    bench.open("ann")
    bench.service.set_contacts("ann", remove=["bob", "cat"])
    bench.service.set_privacy("ann", blocks=["bob"])
    assert bench.sees("bob", "ann") == bench.sees("cat", "ann")
    bench.clock.advance(86_400)
    assert bench.sees("bob", "ann") == bench.sees("cat", "ann") == {"userId": "ann", "status": "offline"}


def test_going_invisible_ends_no_grace_while_a_polling_device_lives(bench: Bench) -> None:
    """A device without a socket is a live device too: only where nothing lives does invisibility end the grace."""
    socket = bench.open("ann", device="phone", status="busy")
    polling = bench.connection("ann", device="tablet", polling=True)
    bench.service.set_user_online(polling)
    bench.service.set_user_offline("ann", socket.id)
    bench.service.set_privacy("ann", invisible=True)
    bench.service.leave("ann", polling.id)
    assert bench.service.inspect_user("ann")["status"] == "busy"


def test_a_connection_that_was_wrongly_found_gone_keeps_its_counters(bench: Bench) -> None:
    """After a false 410 an update that was overtaken is still ignored."""
    ann = bench.open("ann")
    bench.clock.advance(6)
    bench.update(ann, status="busy", n=7)
    bench.pusher.gone.add(ann.id)
    bench.update(ann, customStatus={"text": "the post of this is answered with 410"})
    bench.pusher.gone.clear()
    bench.update(ann, status="away", n=6)
    assert bench.service.inspect_user("ann")["status"] == "busy"


def test_a_frozen_custom_status_ends_on_time_after_a_loss(bench: Bench) -> None:
    """When a frozen custom status ends is remembered where it is kept, not in a record that may be evicted."""
    bench.service.set_contacts("ann", ["bob"])
    ann, bob = bench.open("ann"), bench.open("bob")
    bench.update(ann, customStatus={"text": "lunch", "until": bench.clock() + 40_000})
    bench.service.set_privacy("ann", hide_from=["bob"])
    bench.client.delete(bench.store.key("user", "ann"))
    bench.beat(ann)
    bench.live(41, ann, bob)
    assert bench.pusher.changes(bob.id, "ann")[-1]["customStatus"] is None


def test_a_user_whose_record_was_evicted_and_who_never_comes_back_goes_offline(bench: Bench) -> None:
    """An entry in the due queue without a record means that viewers may show somebody who is not there."""
    bench.service.set_contacts("ann", ["bob"])
    bench.open("ann")
    bob = bench.open("bob")
    bench.live(5, bob)
    assert [event["status"] for event in bench.pusher.changes(bob.id, "ann")] == []
    bench.client.delete(bench.store.key("user", "ann"))
    bench.live(90, bob)
    assert [event["status"] for event in bench.pusher.changes(bob.id, "ann")] == ["offline"]


def test_whoever_hides_while_its_end_is_still_to_be_told_is_no_ghost(bench: Bench) -> None:
    """A viewer who is hidden from between a user's end and its announcement is told of the end all the same."""
    bench.service.set_contacts("ann", ["bob"])
    bench.open("ann")
    bob = bench.open("bob")
    bench.clock.advance(75)  # nobody swept
    bench.beat(bob)
    bench.service.set_privacy("ann", hide_from=["bob"])
    bench.live(12, bob)
    assert [event["status"] for event in bench.pusher.changes(bob.id, "ann")] == ["offline"]


def test_an_unblock_that_was_overtaken_undoes_no_later_block(bench: Bench) -> None:
    """The word of an unblock reaches the other side after that of the block that followed it, and is ignored."""
    service, store = bench.service, bench.store
    service.set_contacts("alice", ["bob"])
    bench.open("alice")
    bench.open("bob")
    service.set_privacy("alice", blocks=["bob"])
    service.set_privacy("alice", blocks=[])
    service.set_privacy("alice", blocks=["bob"])
    [word] = [request for stage in bench.stages for request in stage if _is_word(request, "unblocked")]
    assert bench.sees("alice", "bob")["status"] == "offline"
    store.call([word], bench.clock())
    assert bench.sees("alice", "bob")["status"] == "offline"


def _is_word(request: Request, edit: str) -> bool:
    return request.verb == "relate" and request.user == "bob" and request.args["edits"][0][1] == edit


def test_a_record_that_cannot_be_read_stops_nobody_elses_sweep(bench: Bench) -> None:
    """One user's hash holds nonsense: the others who are due at the same moment are settled, and it is counted."""
    others = [f"user{number}" for number in range(12)]
    for user in ["broken", *others]:
        bench.open(user)
    bench.service.set_privacy("broken", hide_from=["somebody"])
    bench.client.hset(bench.store.key("hidden", "broken"), "somebody", "nonsense")
    bench.client.hset(bench.store.key("user", "broken"), "thaw", "1")
    bench.sweep(80)
    assert {bench.service.inspect_user(user)["status"] for user in others} == {"offline"}
    assert bench.meter.counts["RecordsFailed"] >= 1


@pytest.mark.parametrize("first", ["sync", "query", "describe"])
def test_a_chosen_status_comes_back_whatever_is_said_before_the_first_heartbeat(bench: Bench, first: str) -> None:
    """The store lost a connection: its status is a guess until a heartbeat says it, once; then updates decide again."""
    bench.service.set_contacts("ann", ["bob"])
    ann = bench.open("ann", status="away")
    bench.update(ann, status="busy")
    bench.client.delete(bench.store.key("user", "ann"))
    match first:
        case "sync":
            bench.service.sync(ann, Sync(action="sync"))
        case "query":
            bench.service.answer_query(ann, GetPresence(action="get_presence", userIds=["bob"]))
        case _:
            bench.update(ann, customStatus={"text": "lunch"})
    bench.beat(ann)
    assert bench.sees("bob", "ann")["status"] == "away"
    bench.beat(ann, status="busy")
    assert bench.sees("bob", "ann")["status"] == "busy"
    bench.beat(ann, status="online")
    assert bench.sees("bob", "ann")["status"] == "busy"


def test_a_late_heartbeat_undoes_no_update_that_came_after_a_loss(bench: Bench) -> None:
    """What an update says is no guess, even on a connection that the store had lost."""
    ann = bench.open("ann")
    bench.client.delete(bench.store.key("user", "ann"))
    bench.service.sync(ann, Sync(action="sync"))
    bench.update(ann, status="busy")
    bench.beat(ann, status="online")
    assert bench.service.inspect_user("ann")["status"] == "busy"


def test_whoever_was_idle_is_idle_after_a_loss(bench: Bench) -> None:
    """A connection that is re-created begins as idle if its heartbeat, or else its handshake, said that it is."""
    idle, background = bench.open("ann"), bench.open("bob", active=False)
    for user in ("ann", "bob"):
        bench.client.delete(bench.store.key("user", user))
    bench.beat(idle, active=False)
    bench.service.sync(background, Sync(action="sync"))
    assert [bench.service.inspect_user(user)["status"] for user in ("ann", "bob")] == ["away", "away"]
    bench.beat(idle)
    assert bench.service.inspect_user("ann")["status"] == "online"


def test_a_client_that_lies_about_its_number_has_its_user_told_once_within_a_ttl(bench: Bench) -> None:
    """A number above all that were given looks like a loss: the record is told anew, once, and not with each lie."""
    bench.service.set_contacts("ann", ["bob"])
    ann, bob = bench.open("ann"), bench.open("bob")
    bench.live(6, ann, bob)
    bench.pusher.clear()
    for _ in range(100):
        bench.sweep(0.5)
        bench.beat(ann, seq=bench.clock())
    assert len(bench.pusher.changes(bob.id, "ann")) == 1
    assert bench.pusher.to(ann.id)[-1]["type"] == "presence_snapshot", "it is told where it stands all the same"
    bench.beat(bob)
    bench.sweep(26)
    bench.beat(ann, seq=bench.clock())
    bench.sweep(3)
    assert len(bench.pusher.changes(bob.id, "ann")) == 2


def test_showing_again_tells_when_the_user_was_last_here(bench: Bench) -> None:
    """Ann fell silent while she hid: whoever sees her again is told when that was, and not when she began to hide."""
    bench.service.set_contacts("ann", ["bob"])
    bob, ann = bench.open("bob"), bench.open("ann")
    bench.sweep(5)
    bench.service.set_privacy("ann", hide_from=["bob"])
    bench.live(100, bob)
    bench.pusher.clear()
    bench.service.set_privacy("ann", hide_from=[])
    bench.sweep(2)
    [told] = bench.pusher.changes(bob.id, "ann")
    assert told["lastSeen"] == bench.sees("bob", "ann")["lastSeen"] == ann.connected_at


def test_a_straggler_on_a_dead_connection_does_not_hide_that_a_record_was_evicted(bench: Bench) -> None:
    """Whoever was online, and is forgotten by the store, is announced offline, whatever a closed connection says."""
    bench.service.set_contacts("ann", ["bob"])
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


def test_a_frozen_custom_status_ends_aloud_after_a_loss_whatever_is_said_first(bench: Bench) -> None:
    """Its end is found again where the record was evicted, even if the first to be heard is an update."""
    bench.service.set_contacts("ann", ["bob"])
    ann, bob = bench.open("ann"), bench.open("bob")
    bench.update(ann, customStatus={"text": "lunch", "until": bench.clock() + 60_000})
    bench.service.set_privacy("ann", hide_from=["bob"])
    bench.live(5, bob)
    bench.client.delete(bench.store.key("user", "ann"))
    bench.update(ann, status="busy")
    bench.live(61, ann, bob)
    told = bench.pusher.changes(bob.id, "ann")[-1]
    assert (told["status"], told["customStatus"]) == ("offline", None)


def test_the_first_message_announces_even_if_it_asks_something(bench: Bench) -> None:
    """Contacts need not wait for a sweeper where a client begins with a query."""
    bench.service.set_contacts("ann", ["bob"])
    bob = bench.open("bob")
    ann = bench.connection("ann")
    bench.service.set_user_online(ann)
    bench.service.answer_query(ann, GetPresence(action="get_presence", userIds=["bob"]))
    assert [event["status"] for event in bench.pusher.changes(bob.id, "ann")] == ["online"]
