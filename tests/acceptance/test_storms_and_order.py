"""Many changes at once, frames in any order, and peers that hang or are gone."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import pytest

from shared.commands import Command
from shared.delivery import Post, Unavailable
from shared.frames import MAX_FRAME_BYTES
from shared.messages import PresenceUpdate, Sync
from shared.presence import PresenceService
from shared.push import Pusher
from shared.store import AnyResponse
from shared.upkeep import Upkeep
from tests.model.client import Client
from tests.support.management_server import ManagementServer, Received
from tests.support.service import Bench

everywhere = pytest.mark.parametrize("client", ["fakeredis", "redis"], indirect=True)


def test_13_a_thousand_contacts_within_ten_seconds_are_at_most_twenty_frames(bench: Bench) -> None:
    """Line 13: a thousand users come online within ten seconds; viewers who see all of them get at most 20 frames each.

    Four of the thousand are the viewers. A thousand mutual contacts would only take longer: what a viewer gets does not
    depend on what the others see.
    """
    users = [f"user{number}" for number in range(1000)]
    for user in users[:4]:
        bench.service.contacts.change(user, users)
    viewers = [bench.open(user) for user in users[:4]]
    clients = {viewer.id: Client() for viewer in viewers}
    frames: Counter[str] = Counter()

    def deliver(frame: Post) -> None:
        assert len(frame.data) <= MAX_FRAME_BYTES
        if frame.connection_id in clients:
            frames[frame.connection_id] += 1
            clients[frame.connection_id].receive(json.loads(frame.data))

    bench.pusher.deliver = deliver
    for viewer in viewers:
        bench.service.sync(viewer, Sync(action="sync"))
    frames.clear()
    for place, user in enumerate(users[4:]):
        bench.open(user)
        if place % 10 == 9:
            bench.sweep(0.1)
    bench.sweep(3)
    for viewer in viewers:
        assert frames[viewer.id] <= 20
        shown = clients[viewer.id]
        assert [user for user in users if user != viewer.user_id and shown.status(user) != "online"] == []
        assert not shown.behind


def test_13_after_a_storm_changes_are_sent_immediately_again(bench: Bench) -> None:
    """Line 13: after a storm the window closes: the function that makes a change posts it, without a second's delay."""
    users = [f"user{number}" for number in range(60)]
    bench.service.contacts.change("viewer", users)
    viewer, *others = [bench.open(user) for user in ["viewer", *users]]
    bench.live(60, viewer, *others)
    for _ in range(3):
        bench.update(others[0], status="busy")
        bench.live(30, viewer, *others)
        bench.update(others[0], status="online")
        bench.live(30, viewer, *others)
    bench.pusher.clear()
    bench.update(others[0], status="away")
    assert [change["status"] for change in bench.pusher.changes(viewer.id)] == ["away"]


def test_13_a_few_changes_do_not_wait(bench: Bench) -> None:
    """Line 13: changes wait only when a viewer gets many in a short time: three in a row are posted immediately."""
    bench.service.contacts.change("viewer", ["user"])
    viewer, user = bench.open("viewer"), bench.open("user")
    for _ in range(5):
        bench.sweep(2)
        bench.pusher.clear()
        for status in ("busy", "away", "online"):
            bench.update(user, status=status)
        assert [change["status"] for change in bench.pusher.changes(viewer.id)] == ["busy", "away", "online"]


def test_13_a_superseded_state_is_never_sent(bench: Bench) -> None:
    """Line 13: several changes of one user within a viewer's window are one event with the final state."""
    users = [f"user{number}" for number in range(50)]
    bench.service.contacts.change("viewer", users)
    viewer, *others = [bench.open(user) for user in ["viewer", *users]]
    bench.sweep(0.2)
    for connection in others:
        bench.update(connection, status="busy")
    bench.sweep(0.05)
    bench.pusher.clear()
    for status in ("away", "online", "busy", "away"):
        bench.update(others[7], status=status)
    bench.sweep(2)
    assert [change["status"] for change in bench.pusher.changes(viewer.id, "user7")] == ["away"]


# Real posts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def management(monkeypatch: pytest.MonkeyPatch) -> Iterator[ManagementServer]:
    """A management API on loopback, and the credentials to sign with."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    with ManagementServer() as server:
        yield server


@pytest.fixture
def pusher(bench: Bench, management: ManagementServer) -> Iterator[Pusher]:
    """The real pusher."""
    pusher = Pusher(bench.settings.model_copy(update={"callback_url": management.url}), bench.metrics)
    yield pusher
    pusher.shutdown()


@pytest.fixture
def posting(bench: Bench, pusher: Pusher) -> PresenceService:
    """A service with the real pusher on the bench's state."""
    return PresenceService(bench.store, pusher, bench.settings, bench.clock, bench.metrics)


def test_14_throttled_posts_are_retried_and_nothing_is_lost(
    bench: Bench, management: ManagementServer, posting: PresenceService
) -> None:
    """Line 14: every first post gets 429: the service backs off, and every viewer gets one frame."""
    viewers = [bench.open(f"viewer{number}") for number in range(30)]
    bench.service.contacts.change("alice", [viewer.user_id for viewer in viewers])
    alice = bench.open("alice")
    bench.sweep(2)
    tries: defaultdict[str, list[float]] = defaultdict(list)

    def throttle(received: Received) -> int:
        tries[received.connection_id].append(received.at)
        return 429 if len(tries[received.connection_id]) == 1 else 200

    management.answer = throttle
    posting.update_user_status(alice, PresenceUpdate(action="presence_update", status="busy"))
    waits = [times[1] - times[0] for times in tries.values()]
    assert [len(times) for times in tries.values()] == [2] * 31, "thirty viewers and Alice herself"
    assert min(waits) >= 0.05
    assert len({round(wait, 3) for wait in waits}) > 5, "all retries came at one moment"
    assert bench.metrics.counts["PostsSent"] == bench.metrics.counts["PostsThrottled"] == 31
    bench.pusher.clear()
    bench.sweep(15)
    assert bench.pusher.frames == [], "a change was not reported"


def test_14_a_post_that_stays_throttled_heals_with_the_next_heartbeat(
    bench: Bench, management: ManagementServer, posting: PresenceService
) -> None:
    """Line 14: a viewer's posts are throttled until the budget ends: the viewer's next heartbeat gets a snapshot."""
    bench.service.contacts.change("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.sweep(2)
    seq = bench.pusher.to(bob.id)[-1]["seq"]
    management.answer = lambda received: 429 if received.connection_id == bob.id else 200
    posting._delivery._pusher._budget = 0.3  # type: ignore[attr-defined] # a Pusher; the test does not wait
    posting.update_user_status(alice, PresenceUpdate(action="presence_update", status="busy"))
    assert bench.metrics.counts["PostsFailed"] == 1
    bench.sweep(3)
    bench.beat(bob, seq=seq)
    snapshot = bench.pusher.to(bob.id)[-1]
    assert snapshot["type"] == "presence_snapshot"
    assert [(user["userId"], user["status"]) for user in snapshot["users"]] == [("alice", "busy")]


def test_14_a_hanging_peer_delays_nobody_else(
    bench: Bench, management: ManagementServer, posting: PresenceService
) -> None:
    """Line 14: one connection never responds: the others get their frame, and the function stays within its budget."""
    viewers = [bench.open(f"viewer{number}") for number in range(40)]
    bench.service.contacts.change("alice", [viewer.user_id for viewer in viewers])
    alice = bench.open("alice")
    bench.sweep(2)
    hanging = viewers[11].id
    management.answer = lambda received: management.hang(received) if received.connection_id == hanging else 200
    began = time.monotonic()
    posting.update_user_status(alice, PresenceUpdate(action="presence_update", status="busy"))
    ended = time.monotonic()
    others = [received.at - began for received in management.requests if received.connection_id != hanging]
    assert len(others) == 40
    assert max(others) < 1
    assert ended - began < bench.settings.push_budget
    assert bench.metrics.counts["PostsFailed"] == 1


def test_14_forty_hanging_peers_do_not_delay_the_sweeper(
    bench: Bench, management: ManagementServer, pusher: Pusher
) -> None:
    """Line 14: forty sockets hang and come first in a sweep: the others are notified, in this sweep and the next."""
    crowd = [bench.open(f"viewer{number}") for number in range(40)]
    ends = ["alice", "carol", "erin"]
    for user in ends:
        bench.service.contacts.change(user, [*(viewer.user_id for viewer in crowd), "bob"])
    bob, connections = bench.open("bob"), [bench.open(user) for user in ends]
    bench.sweep(2)
    hanging = {viewer.id for viewer in crowd}
    management.answer = lambda received: management.hang(received) if received.connection_id in hanging else 200
    sweeper = Upkeep(bench.store, pusher, bench.settings, bench.clock, bench.metrics)
    took = []
    for connection in connections:
        bench.service.set_user_offline(connection.user_id, connection.id)
        bench.clock.advance(10)
        began = time.monotonic()
        bench.sweep(upkeep=sweeper)
        took.append(time.monotonic() - began)
        [told] = [received for received in management.requests if received.connection_id == bob.id]
        assert told.at - began < 1.5
        management.requests.clear()
    assert took[0] < 3
    assert max(took[1:]) < 1


# Order ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_15_reordered_and_repeated_frames_give_the_same_state(bench: Bench, seed: int) -> None:
    """Line 15: frames arrive in any order, some twice: the client's state equals the server's."""
    rng, users = random.Random(seed), ["bob", "carol", "dave", "erin"]
    bench.service.contacts.change("alice", users)
    alice = bench.open("alice")
    connections = {user: bench.open(user) for user in users}
    for _ in range(25):
        user = rng.choice(users)
        match rng.randrange(6):
            case 0:
                bench.service.leave(user, connections[user].id)
                connections[user] = bench.open(user)
            case 1:
                bench.service.contacts.set_privacy(user, hide_from=rng.choice([[], ["alice"]]))
            case 2:
                bench.service.sync(alice, Sync(action="sync"))
            case 3:
                bench.update(connections[user], customStatus={"text": str(rng.random())})
            case _:
                bench.update(connections[user], status=rng.choice(["online", "busy", "away"]))
        bench.sweep(rng.choice([0, 0.05, 0.5, 2]))
    bench.sweep(3)
    frames = bench.pusher.to(alice.id)
    for _ in range(10):
        arrived = frames + rng.choices(frames, k=len(frames) // 2)
        rng.shuffle(arrived)
        client = Client()
        for frame in arrived:
            client.receive(frame)
        for user in users:
            view = bench.sees("alice", user)
            assert client.status(user) == view["status"]
            assert client.custom(user) == view["customStatus"]


UPDATES = [
    {"n": 1, "status": "busy"},
    {"n": 2, "customStatus": {"text": "first"}},
    {"n": 3, "status": "away", "customStatus": {"text": "second"}},
    {"n": 4, "status": "busy", "scope": "user"},
    {"n": 5, "status": "online", "scope": "user", "customStatus": None},
]


@pytest.mark.parametrize("order", [*itertools.permutations(range(5))][::7])
def test_15_reordered_and_repeated_updates_give_the_same_state(bench: Bench, order: Sequence[int]) -> None:
    """Line 15: a connection's updates arrive in any order, some twice: each field is that of its newest update."""
    bench.service.contacts.change("alice", ["bob"])
    alice = bench.open("alice")
    for place in (*order, *reversed(order)):
        bench.update(alice, **UPDATES[place])
    own = bench.service.inspect_user("alice")
    assert own["devices"][0]["status"] == "away"
    assert (own["claim"], own["customStatus"]) == (None, None)
    assert bench.sees("bob", "alice")["status"] == "away"


@everywhere
def test_15_each_connection_counts_its_own_updates(bench: Bench) -> None:
    """Line 15: a new connection counts from 1; its first update is not taken for an old one of another connection."""
    old = bench.open("alice", device="browser")
    bench.update(old, status="busy", n=7)
    new = bench.open("alice", device="browser")
    bench.update(new, status="away", n=1)
    devices = {device["connectionId"]: device["status"] for device in bench.service.inspect_user("alice")["devices"]}
    assert devices == {old.id: "busy", new.id: "away"}


class MeanwhileStore:
    """The bench's store, with a hook that runs right before one of its round trips."""

    def __init__(self, bench: Bench, before: int, happens: Callable[[], None]) -> None:
        self.buckets, self._bench, self._before, self._happens = bench.store.buckets, bench, before, happens

    def call(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse]:
        self._pass()
        return self._bench.store.call(commands, now)

    def call_each(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse | Unavailable]:
        self._pass()
        return self._bench.store.call_each(commands, now)

    def _pass(self) -> None:
        self._before -= 1
        if self._before == 0:
            self._happens()

    def users(self, cursor: str, count: int = 100, kinds: Sequence[str] = ()) -> tuple[set[str], str]:
        return self._bench.store.users(cursor, count, kinds)

    def eviction_policy(self) -> str | None:
        return self._bench.store.eviction_policy()


@everywhere
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_16_no_change_is_missed_between_reading_and_subscribing(bench: Bench, stage: int) -> None:
    """Line 16: a contact changes at any moment of a `sync`, before or after the snapshot: the client is right."""
    bench.service.contacts.change("alice", ["bob"])
    alice = bench.connection("alice")
    bob = bench.open("bob")
    bench.service.set_user_online(alice)

    def change() -> None:
        bench.clock.advance(0.01)
        bench.update(bob, status="busy")

    store = MeanwhileStore(bench, stage, change)
    syncing = PresenceService(store, bench.pusher, bench.settings, bench.clock, bench.metrics)
    syncing.sync(alice, Sync(action="sync"))
    bench.sweep(2)
    frames = bench.pusher.to(alice.id)
    for order in itertools.permutations(frames):
        client = Client()
        for frame in order:
            client.receive(frame)
        assert client.status("bob") == "busy"


@everywhere
def test_16_a_frame_in_flight_causes_no_snapshot_but_a_lost_one_does(bench: Bench) -> None:
    """Line 16: a heartbeat that misses a frame of the last two seconds gets no response; an older frame, a snapshot."""
    bench.service.contacts.change("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.clock.advance(5)
    seq = bench.pusher.to(alice.id)[-1]["seq"]
    bench.beat(alice, seq=seq)
    bench.pusher.clear()
    bench.update(bob, status="busy")
    bench.pusher.clear()
    bench.clock.advance(2)
    bench.beat(alice, seq=seq)
    assert bench.pusher.frames == []
    bench.clock.advance(0.001)
    bench.beat(alice, seq=seq)
    [snapshot] = bench.pusher.to(alice.id)
    assert snapshot["type"] == "presence_snapshot"
    assert snapshot["seq"] > seq
    bench.clock.advance(5)
    bench.beat(alice, seq=snapshot["seq"])
    bench.beat(alice)
    assert len(bench.pusher.to(alice.id)) == 1, "a heartbeat that is up to date or has no `seq` got a response"


@everywhere
def test_16_a_client_that_missed_nothing_resumes(bench: Bench) -> None:
    """Line 16: a reconnect with the current `seq` gets `resumed` and no users; with any other, the full snapshot."""
    bench.service.contacts.change("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.clock.advance(1)
    seq = bench.pusher.to(alice.id)[-1]["seq"]
    bench.service.set_user_offline("alice", alice.id)
    again = bench.connection("alice")
    bench.service.set_user_online(again)
    bench.service.sync(again, Sync(action="sync", seq=seq))
    [frame] = bench.pusher.to(again.id)
    assert (frame["resumed"], "users" in frame, frame["seq"]) == (True, False, seq)

    bench.service.set_user_offline("alice", again.id)
    bench.update(bob, status="busy")
    late = bench.connection("alice")
    bench.service.set_user_online(late)
    bench.service.sync(late, Sync(action="sync", seq=seq))
    [frame] = bench.pusher.to(late.id)
    assert not frame["resumed"]
    assert [(user["userId"], user["status"]) for user in frame["users"]] == [("bob", "busy")]


@everywhere
def test_16_a_pending_change_prevents_a_resume(bench: Bench) -> None:
    """Line 16: a reconnect with the current `seq` while a change is pending gets a full snapshot with that change."""
    bench.service.contacts.change("alice", ["bob"])
    alice, bob = bench.open("alice", device="browser"), bench.open("bob")
    bench.sweep(3)
    bench.make_changes_wait(bob)
    bench.update(bob, status="busy")
    assert bench.client.exists(bench.store.key("pending", "alice")), "the last change waits for Alice's window"
    seq = bench.pusher.to(alice.id)[-1]["seq"]
    bench.service.set_user_offline("alice", alice.id)
    again = bench.connection("alice", device="browser")
    bench.service.set_user_online(again)
    bench.service.sync(again, Sync(action="sync", seq=seq))
    frame = next(frame for frame in bench.pusher.to(again.id) if frame["type"] == "presence_snapshot")
    assert not frame["resumed"]
    assert [user["status"] for user in frame["users"]] == ["busy"]


def test_16_a_large_snapshot_comes_in_parts_of_32_kb(bench: Bench) -> None:
    """Line 16: a snapshot too large for one frame comes complete, in parts of at most 32 KB with one `seq`."""
    users = [f"user{number:04}" for number in range(1200)]
    bench.service.contacts.change("viewer", users, mutual=True)
    for user in users[::100]:
        bench.open(user)
    viewer = bench.open("viewer")
    frames = [frame for frame in bench.pusher.frames if frame.connection_id == viewer.id]
    assert len(frames) > 2
    assert max(len(frame.data) for frame in frames) <= MAX_FRAME_BYTES
    parts = [json.loads(frame.data) for frame in frames]
    assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
    assert {(part["parts"], part["seq"]) for part in parts} == {(len(parts), parts[0]["seq"])}
    records = [record for part in parts for record in part["users"]]
    assert sorted(record["userId"] for record in records) == users
    assert sum(record["status"] == "online" for record in records) == 12
