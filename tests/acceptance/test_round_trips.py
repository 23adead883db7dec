"""What an event costs: the round trips to Redis that it needs, however many contacts it concerns."""

from __future__ import annotations

import pytest

from shared.connection import Connection
from shared.messages import GetPresence, Heartbeat, Sync
from tests.support.service import Bench

CONTACTS = [f"contact{number}" for number in range(120)]
sizes = pytest.mark.parametrize("contacts", [1, 120])


def settled(bench: Bench, contacts: int) -> None:
    """Alice with this many contacts, all online, with everything announced."""
    bench.service.contacts.change("alice", CONTACTS[:contacts])
    for contact in CONTACTS[:contacts]:
        bench.open(contact)
    bench.sweep(8)
    bench.pusher.clear()


@sizes
def test_a_handshake_is_one_round_trip_and_posts_nothing(bench: Bench, contacts: int) -> None:
    """`$connect` takes one round trip and posts nothing; the first message announces the user."""
    settled(bench, contacts)
    with bench.counted() as stages:
        bench.service.set_user_online(bench.connection("alice"))
    assert len(stages) == 1
    assert bench.pusher.frames == []


@sizes
def test_a_first_sync_that_announces_is_four_round_trips(bench: Bench, contacts: int) -> None:
    """The first `sync` reads and notifies all contacts in four round trips, with one post for each."""
    settled(bench, contacts)
    alice = bench.connection("alice")
    bench.service.set_user_online(alice)
    with bench.counted() as stages:
        bench.service.sync(alice, Sync(action="sync"))
    assert len(stages) == 4
    assert len({frame.connection_id for frame in bench.pusher.frames}) == contacts + 1


@sizes
def test_a_sync_that_announces_nothing_is_two_round_trips_and_a_resumed_one_one(bench: Bench, contacts: int) -> None:
    """A later `sync` takes two round trips; a resumed one reads no records, so it takes one."""
    settled(bench, contacts)
    alice = bench.open("alice")
    bench.sweep(3)
    with bench.counted() as stages:
        bench.service.sync(alice, Sync(action="sync"))
    assert len(stages) == 2
    seq = bench.pusher.to(alice.id)[-1]["seq"]
    with bench.counted() as stages:
        bench.service.sync(alice, Sync(action="sync", seq=seq))
    assert len(stages) == 1
    assert bench.pusher.to(alice.id)[-1]["resumed"]


def test_a_heartbeat_is_one_round_trip_and_posts_nothing(bench: Bench) -> None:
    """A heartbeat that missed nothing takes one round trip, also when the user is due."""
    settled(bench, 120)
    alice = bench.open("alice")
    bench.sweep(3)
    seq = bench.pusher.to(alice.id)[-1]["seq"]
    bench.pusher.clear()
    for _ in range(6):
        bench.clock.advance(29)
        for contact in CONTACTS:  # no neighbor is due, so the heartbeat settles nobody else
            bench.client.zrem(f"presence:{{{bench.store.bucket_of(contact)}}}:due", contact)
        with bench.counted() as stages:
            bench.beat(alice, seq=seq)
        assert len(stages) == 1
    assert bench.pusher.frames == []


@sizes
def test_an_update_is_four_round_trips(bench: Bench, contacts: int) -> None:
    """A status change settles, draws numbers for its viewers, reads, and reports: four round trips, however many."""
    settled(bench, contacts)
    alice = bench.open("alice")
    bench.sweep(3)
    bench.pusher.clear()
    with bench.counted() as stages:
        bench.update(alice, status="busy")
    assert len(stages) == 4
    assert len(bench.pusher.frames) == contacts + 1
    with bench.counted() as stages:
        bench.update(alice, status="busy")
    assert len(stages) == 1, "it changed nothing"


@sizes
def test_removing_gone_sockets_is_no_further_round_trip(bench: Bench, contacts: int) -> None:
    """However many sockets an update finds gone, removing them takes no further round trip."""
    settled(bench, contacts)
    alice = bench.open("alice")
    bench.sweep(6)
    bench.pusher.gone.update(frame.connection_id for frame in bench.pusher.frames if frame.connection_id != alice.id)
    assert len(bench.pusher.gone) == contacts
    with bench.counted() as stages:
        bench.update(alice, status="busy")
    assert len(stages) <= 4


@sizes
def test_a_query_is_two_round_trips(bench: Bench, contacts: int) -> None:
    """`get_presence` counts as a heartbeat and reads all named users: two round trips."""
    settled(bench, contacts)
    alice = bench.open("alice")
    bench.sweep(3)
    with bench.counted() as stages:
        bench.service.get_presence(alice, GetPresence(action="get_presence", userIds=CONTACTS[:contacts][:100]))
    assert len(stages) == 2


@sizes
def test_http_calls_are_one_or_two_round_trips(bench: Bench, contacts: int) -> None:
    """An HTTP call checks its token in the same round trip as the rest; a poll costs what a `sync` costs."""
    settled(bench, contacts)
    now = bench.clock() // 1000
    device = Connection.of_polling_device("alice", "d1", now=bench.clock(), issued_at=now, expires_at=now + 3600)
    bench.service.poll(device, Heartbeat(action="heartbeat"))
    bench.sweep(3)
    with bench.counted() as query:
        bench.service.get_bulk_presence("alice", CONTACTS[:contacts][:100], now)
    with bench.counted() as me:
        bench.service.inspect_self("alice", now)
    with bench.counted() as poll:
        seq = bench.service.poll(device, Heartbeat(action="heartbeat"))["seq"]
    with bench.counted() as resumed:
        assert bench.service.poll(device, Heartbeat(action="heartbeat", seq=seq))["resumed"]
    with bench.counted() as snapshot:
        bench.service.get_snapshot("alice", None, now)
    assert [len(stages) for stages in (query, me, poll, resumed, snapshot)] == [1, 1, 2, 1, 2]


def test_a_disconnect_is_one_round_trip(bench: Bench) -> None:
    """`$disconnect` takes one round trip; contacts are notified when the grace ends."""
    settled(bench, 120)
    alice = bench.open("alice")
    bench.sweep(3)
    with bench.counted() as stages:
        bench.service.set_user_offline("alice", alice.id)
    assert len(stages) == 1


def test_a_sweep_with_nobody_due_is_one_round_trip(bench: Bench) -> None:
    """A sweeper that finds nobody due checks all buckets in one round trip and sleeps for a second.

    The very first one also stores which nodes serve the buckets.
    """
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        bench.clock.advance(seconds)

    with bench.counted() as stages:
        assert bench.upkeep.cleanup_stale_connections("run", nap) == 0
    assert set(naps) == {1}
    assert len(naps) == 150
    assert len(stages) == 151


def test_requests_grow_with_contacts_and_not_with_users(bench: Bench) -> None:
    """Two thousand unrelated online users add nothing to an update: it asks about its own viewers only."""
    settled(bench, 5)
    alice = bench.open("alice")
    bench.sweep(3)
    with bench.counted() as before:
        bench.update(alice, status="busy")
    for number in range(2000):
        bench.service.set_user_online(bench.connection(f"stranger{number}"))
    with bench.counted() as after:
        bench.update(alice, status="away")
    assert [len(stage) for stage in after] == [len(stage) for stage in before] == [1, 5, 1, 1]
