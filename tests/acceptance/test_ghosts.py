"""A user who is gone does not stay online, and a live user is never offline, whatever is lost on the way."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable

import pytest

from shared.connection import Connection
from shared.delivery import Post
from shared.messages import StatusChange, Sync
from tests.model.client import Client
from tests.support.service import Bench

everywhere = pytest.mark.parametrize("client", ["fakeredis", "redis"], indirect=True)


def watched(bench: Bench, connection: Connection) -> Client:
    """A client on an open connection; it receives everything posted there from its next `sync` on."""
    client, before = Client(), bench.pusher.deliver

    def deliver(frame: Post) -> None:
        before(frame)
        if frame.connection_id == connection.id:
            client.receive(json.loads(frame.data), bench.clock())

    bench.pusher.deliver = deliver
    bench.service.sync(connection, Sync(action="sync"))
    return client


def beat(bench: Bench, connection: Connection, client: Client) -> None:
    """What a client does when its heartbeat is due, and a frame may be missing."""
    client.catch_up(bench.clock(), lambda seq: bench.service.sync(connection, Sync(action="sync", seq=seq)))
    bench.beat(connection, seq=client.seq)


def agrees(bench: Bench, viewer: str, client: Client, *users: str) -> bool:
    """Whether a client shows each user as the server would."""
    views = {user: bench.sees(viewer, user) for user in users}
    return all(
        (client.status(user), client.custom(user)) == (view["status"], view.get("customStatus"))
        for user, view in views.items()
    )


def test_01_after_lost_disconnects_each_user_is_offline_once_by_the_ttl(bench: Bench) -> None:
    """Line 1: without any `$disconnect`, each user is announced offline once, between TTL and TTL + 2 s."""
    users = [f"user{number}" for number in range(40)]
    bench.service.contacts.change("watcher", users)
    watcher = bench.open("watcher")
    last: dict[str, int] = {}
    for place, user in enumerate(users):
        for _ in range(1 + place % 3):
            bench.open(user)
        last[user] = bench.clock()
        bench.clock.advance(0.37)
    bench.sweep(2)
    bench.pusher.clear()

    told: dict[str, list[int]] = {user: [] for user in users}

    def note(frame: Post) -> None:
        if frame.connection_id == watcher.id:
            for change in bench.pusher.changes(watcher.id):
                assert change["type"] == "user_offline"
                told[change["userId"]].append(bench.clock())
            bench.pusher.clear()

    bench.pusher.deliver = note
    bench.live(180, watcher)
    for user in users:
        [at] = told[user]
        assert 75_000 <= at - last[user] <= 77_000
        assert bench.sees("watcher", user)["lastSeen"] == last[user]


def test_01_without_a_sweeper_heartbeats_of_the_same_bucket_settle_the_dead(bench: Bench) -> None:
    """Line 1: while no sweeper runs, any heartbeat in the same bucket announces silent users, each once."""
    users = [f"user{number}" for number in range(60)]
    home = bench.store.bucket_of("watcher")
    here = [user for user in users if bench.store.bucket_of(user) == home][:10]
    bench.service.contacts.change("watcher", users)
    watcher = bench.open("watcher")
    for user in here:
        bench.open(user)
    bench.sweep(2)
    bench.pusher.clear()
    for _ in range(20):
        bench.clock.advance(15)
        bench.beat(watcher)
    assert sorted(change["userId"] for change in bench.pusher.changes(watcher.id)) == sorted(here)


def test_02_an_accepted_post_proves_nothing(bench: Bench) -> None:
    """Line 2: API Gateway accepts every post to a dead socket: it still goes offline at its TTL."""
    bench.service.contacts.change("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    for second in range(75):
        assert bench.sees("alice", "bob")["status"] == "online"
        bench.sweep(1)
        if second % 2:
            bench.update(alice, status="busy" if second % 4 == 1 else "online")
    assert len(bench.pusher.changes(bob.id)) > 30
    assert bench.sees("alice", "bob")["status"] == "offline"


OPERATIONS: dict[str, Callable[[Bench, Connection], object]] = {
    "a first sync": lambda bench, alice: bench.open("alice", device="tablet"),
    "an update": lambda bench, alice: bench.update(alice, status="busy", customStatus={"text": "hello"}),
    "a claim from outside": lambda bench, alice: bench.service.set_status(
        "alice", StatusChange(status="away", scope="user")
    ),
    "a leave": lambda bench, alice: bench.service.leave("alice", alice.id),
    "a disconnect": lambda bench, alice: bench.service.set_user_offline("alice", alice.id),
    "a sign-out everywhere": lambda bench, alice: bench.service.sign_out("alice"),
    "going invisible": lambda bench, alice: bench.service.contacts.set_privacy("alice", invisible=True),
    "hiding from one": lambda bench, alice: bench.service.contacts.set_privacy("alice", hide_from=["bob"]),
    "a block": lambda bench, alice: bench.service.contacts.set_privacy("alice", blocks=["bob"]),
    "adding a contact": lambda bench, alice: bench.service.contacts.change("alice", ["dave"]),
    "removing a contact": lambda bench, alice: bench.service.contacts.change("alice", remove=["bob"]),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_03_state_and_viewers_agree_one_lease_after_a_kill(
    bench: Bench, operation: Callable[[Bench, Connection], object]
) -> None:
    """Line 3: a function dies after any of its steps: one lease later, state and viewers agree."""
    for step in range(1, 12):
        bench.client.flushall()
        bench.pusher.deliver = lambda _frame: None
        bench.service.contacts.set_graph_loaded(True)
        bench.service.contacts.change("alice", ["bob", "carol"])
        connections = {user: bench.open(user) for user in ("alice", "bob", "carol", "dave")}
        bench.sweep(2)
        clients = {user: watched(bench, connection) for user, connection in connections.items()}
        before = bench.steps.taken
        with bench.killed(at=step):
            operation(bench, connections["alice"])
        finished = bench.steps.taken - before < step
        if not bench.service.inspect_user("alice")["devices"]:
            del connections["alice"]  # she is offline now
        bench.live(12, *connections.values())
        for viewer, connection in connections.items():
            beat(bench, connection, clients[viewer])
            others = {"alice", "bob", "carol", "dave"} - {viewer}
            assert agrees(bench, viewer, clients[viewer], *others), f"{viewer}, killed at step {step}"
        if finished:
            break
    else:
        pytest.fail("the operation never came to its end")


@pytest.mark.parametrize("finder", ["a sweeper", "a neighbour's heartbeat"])
def test_03_another_function_announces_a_silent_user_after_a_kill(bench: Bench, finder: str) -> None:
    """Line 3: the sweeper or heartbeat that announces a silent user is killed: another one announces the user."""
    for step in range(1, 12):
        bench.client.flushall()
        bench.pusher.deliver = lambda _frame: None
        bench.service.contacts.set_graph_loaded(True)
        bench.service.contacts.change("alice", ["bob"])
        bench.open("alice")
        bob = bench.open("bob")
        neighbour = bench.open(next(f"n{i}" for i in itertools.count() if in_one_bucket(bench, f"n{i}", "alice")))
        bench.sweep(2)
        client = watched(bench, bob)
        for _ in range(2):
            bench.sweep(30)
            bench.beat(bob)
            bench.beat(neighbour)
        bench.clock.advance(13.5)
        before = bench.steps.taken
        with bench.killed(at=step):
            if finder == "a sweeper":
                bench.upkeep.cleanup_stale_connections(f"doomed-{step}", bench.clock.advance)
            else:
                bench.beat(neighbour)
        finished = bench.steps.taken - before < step
        bench.sweep(12)
        beat(bench, bob, client)
        assert bench.sees("bob", "alice")["status"] == "offline"
        assert agrees(bench, "bob", client, "alice"), f"killed at step {step}"
        if finished:
            break


def in_one_bucket(bench: Bench, *users: str) -> bool:
    """Whether these users share a bucket."""
    return len({bench.store.bucket_of(user) for user in users}) == 1


@pytest.mark.parametrize("order", list(itertools.permutations(["heartbeat", "update", "disconnect", "connect"])))
@pytest.mark.parametrize("device", ["phone", ""])
def test_04_an_old_connection_never_changes_the_newer_state(bench: Bench, device: str, order: tuple[str, ...]) -> None:
    """Line 4: messages of an old connection, in any order around the new one's `$connect`: the new one decides."""
    bench.service.contacts.change("alice", ["bob"])
    bob, old = bench.open("bob"), bench.open("alice", device=device)
    new = bench.connection("alice", device=device, at=bench.clock() + 1)
    inherited = "online"
    closed = False
    for event in order:
        bench.clock.advance(0.3)
        if event == "heartbeat":
            bench.beat(old, active=True, status="away")
        elif event == "update":
            bench.update(old, status="busy", n=1)
            if device and not closed and order.index("update") < order.index("connect"):
                inherited = "busy"
        elif event == "disconnect":
            bench.service.set_user_offline("alice", old.id)
            closed = True
        else:
            bench.service.set_user_online(new)
            bench.service.sync(new, Sync(action="sync"))
    assert bench.sees("bob", "alice")["status"] == inherited
    assert [device["connectionId"] for device in bench.service.inspect_user("alice")["devices"]] == [new.id]
    bench.sweep(2)
    bench.pusher.clear()
    bench.beat(old, status="away")
    bench.update(old, status="away", n=9)
    bench.service.set_user_offline("alice", old.id)
    bench.sweep(20)
    assert bench.pusher.changes(bob.id) == []
    assert bench.sees("bob", "alice")["status"] == inherited
    assert old.id in bench.pusher.closed

    bench.service.set_user_offline("alice", new.id)
    bench.sweep(12)
    assert bench.sees("bob", "alice")["status"] == "offline"
    bench.beat(new)
    bench.beat(old)
    bench.live(60, bob)
    assert bench.sees("bob", "alice")["status"] == "offline"
    assert [c["type"] for c in bench.pusher.changes(bob.id) if c["status"] == "offline"] == ["user_offline"]


@everywhere
@pytest.mark.parametrize("end", ["leave", "disconnect", "replaces", "sign out"])
def test_04_late_messages_of_a_closed_connection_revive_nobody(bench: Bench, end: str) -> None:
    """Line 4: messages of a closed connection arrive up to a minute late: they get it closed, and nothing else."""
    bench.service.contacts.change("alice", ["bob"])
    alice = bench.open("alice")
    match end:
        case "leave":
            bench.service.leave("alice", alice.id)
        case "disconnect":
            bench.service.set_user_offline("alice", alice.id)
        case "replaces":
            newer = bench.connection("alice")
            bench.service.sync(newer, Sync(action="sync", replaces=alice.id))
            bench.service.leave("alice", newer.id)
        case "sign out":
            bench.service.sign_out("alice")
    for wait in (11, 24, 24):
        bench.clock.advance(wait)
        bench.pusher.closed.clear()
        bench.beat(alice, status="busy")
        bench.update(alice, status="busy")
        bench.service.sync(alice, Sync(action="sync"))
        assert not bench.service.set_user_online(alice)
        assert set(bench.pusher.closed) == {alice.id}
        assert bench.service.inspect_user("alice")["devices"] == []
        assert bench.sees("bob", "alice")["status"] == "offline"


@everywhere
def test_04_a_disconnect_that_overtakes_its_own_connect_leaves_no_ghost(bench: Bench) -> None:
    """Line 4: `$disconnect` is handled before `$connect`: the connection is refused, and the user was never online."""
    bench.service.contacts.change("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.connection("alice")
    bench.service.set_user_offline("alice", alice.id)
    assert not bench.service.set_user_online(alice)
    bench.beat(alice)
    bench.live(20, bob)
    assert bench.pusher.changes(bob.id) == []
    assert bench.sees("bob", "alice")["status"] == "offline"
    assert bench.pusher.closed == [alice.id]


@everywhere
@pytest.mark.parametrize("chosen", ["online", "busy", "away"])
def test_05_the_next_heartbeat_heals_a_user_whose_keys_were_lost(bench: Bench, chosen: str) -> None:
    """Line 5: the keys of a live user are deleted: the next heartbeat restores the right status with one event."""
    bench.service.contacts.change("alice", ["bob"])
    bob, alice = bench.open("bob"), bench.open("alice", device="phone", device_type="mobile")
    client = watched(bench, bob)
    bench.update(alice, status=chosen)
    bench.sweep(5)
    bench.client.delete(bench.store.key("user", "alice"))
    bench.pusher.clear()

    bench.beat(alice, status=chosen, active=True)
    assert [(c["status"], c["deviceType"]) for c in bench.pusher.changes(bob.id, "alice")] == [(chosen, "mobile")]
    bench.live(60, alice, bob)
    record = bench.sees("bob", "alice")
    assert record["status"] == client.status("alice") == chosen
    assert len(bench.pusher.changes(bob.id, "alice")) == 1


def test_06_every_viewer_recovers_from_lost_pushes_within_two_heartbeats(bench: Bench) -> None:
    """Line 6: 5 % of the pushes for a hundred changes are lost: two heartbeats later every viewer is right."""
    rng, users = random.Random(6), [f"user{number}" for number in range(12)]
    for user in users:
        bench.service.contacts.change(user, users)
    connections = [bench.open(user) for user in users]
    clients = [watched(bench, connection) for connection in connections]
    bench.pusher.drop = lambda _frame: rng.random() < 0.05
    for _ in range(100):
        bench.update(rng.choice(connections), status=rng.choice(["online", "busy", "away"]))
        bench.sweep(0.4)
    viewers = list(zip(connections, clients, strict=True))
    others = {user: [other for other in users if other != user] for user in users}
    wrong = [c.user_id for c, client in viewers if not agrees(bench, c.user_id, client, *others[c.user_id])]
    for _ in range(2):
        bench.sweep(30)
        for connection, client in viewers:
            beat(bench, connection, client)
        bench.pusher.drop = lambda _frame: False  # this test does not lose the same response twice
    assert wrong, "nothing was lost"
    for connection, client in viewers:
        assert agrees(bench, connection.user_id, client, *others[connection.user_id])
