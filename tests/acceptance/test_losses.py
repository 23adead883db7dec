"""Redis loses something: its last seconds, a key, everything. Numbers and screens are right again soon after.

A lost tail is real: a replica stops receiving, is promoted later, and is another server with another `run_id`.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest

from shared.delivery import Post
from shared.messages import StatusChange, Sync
from shared.settings import Settings
from tests.support.crowd import USERS, Crowd
from tests.support.nodes import Nodes
from tests.support.service import Bench


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two servers with a replica each."""
    with Nodes(2) as nodes:
        yield nodes


class Numbers:
    """Which frame had which number, by viewer."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd, self._before = crowd, crowd.bench.pusher.deliver
        self._frames: dict[tuple[str, int], set[bytes]] = defaultdict(set)
        crowd.bench.pusher.deliver = self._deliver

    def _deliver(self, post: Post) -> None:
        self._before(post)
        frame = json.loads(post.data)
        viewer = next((user for user, c in self._crowd.connections.items() if c.id == post.connection_id), "")
        if "prev" in frame:
            self._frames[viewer, frame["seq"]].add(post.data)

    def twice(self) -> list[tuple[str, int]]:
        """The numbers that were given to different frames."""
        return [number for number, frames in self._frames.items() if len(frames) > 1]


@pytest.fixture
def bench(nodes: Nodes) -> Iterator[Bench]:
    """A service on two nodes."""
    nodes.flush()
    bench = Bench(nodes.client, Settings(buckets=4), loaded=False, connect=nodes.connect)
    yield bench
    bench.close()


@pytest.fixture
def crowd(bench: Bench) -> Crowd:
    """Four mutual contacts; all but Dave are online, and everything is quiet."""
    crowd = Crowd(bench)
    crowd.tell_graph()
    crowd.open("alice", "bob", "carol")
    for _ in range(2):
        bench.sweep(28)
        crowd.beat()
        bench.sweep(2)
    crowd.check()
    return crowd


def leave(crowd: Crowd, user: str) -> None:
    """A user signs out on their connection."""
    crowd.bench.service.leave(user, crowd.connections.pop(user).id)


def sign_out(crowd: Crowd, user: str) -> None:
    """The backend signs a user out everywhere."""
    crowd.bench.service.sign_out(user)
    del crowd.connections[user]


AFTERWARDS: dict[str, Callable[[Crowd, str], None]] = {
    "nothing": lambda crowd, user: None,
    "an update": lambda crowd, user: crowd.choose(user, "away"),
    "a claim": lambda crowd, user: crowd.bench.service.set_status(user, StatusChange(status="busy", scope="user")),
    "a sign-out": sign_out,
    "a leave": leave,
}


def act(crowd: Crowd, rng: random.Random) -> None:
    """Something that a failover may lose."""
    match rng.randrange(7):
        case 0 if "dave" not in crowd.connections:
            crowd.open("dave")
        case 1 if len(crowd.connections) > 2:
            leave(crowd, rng.choice(sorted(crowd.connections)))
        case 2:
            crowd.bench.service.contacts.set_privacy(rng.choice(USERS), invisible=rng.random() < 0.5)
        case 3:
            user, other = rng.sample(USERS, 2)
            crowd.bench.service.contacts.set_privacy(user, hide_from=rng.choice([[], [other]]))
        case _:
            crowd.choose(rng.choice(sorted(crowd.connections)), rng.choice(["online", "busy", "away"]))


@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1)], ids=["node 0", "node 1", "both"])
@pytest.mark.parametrize("then", AFTERWARDS)
@pytest.mark.parametrize("seed", range(2))
def test_31_every_screen_is_right_one_heartbeat_and_one_sweep_after_a_lost_tail(
    crowd: Crowd, nodes: Nodes, lost: tuple[int, ...], then: str, seed: int
) -> None:
    """Line 31: one or both nodes lose 1 to 10 seconds; whatever happens next, screens agree with the service soon."""
    bench, rng, numbers = crowd.bench, random.Random(f"{then} {lost} {seed}"), Numbers(crowd)
    for node in lost:
        nodes.fork(node)
    until = bench.clock() + rng.randint(1, 10) * 1000
    while bench.clock() < until:
        act(crowd, rng)
        bench.sweep(rng.choice([0.1, 0.7, 2]))
        crowd.catch_up()
    for node in lost:
        nodes.fail_over(node)
    AFTERWARDS[then](crowd, rng.choice(sorted(crowd.connections)))
    bench.sweep(rng.choice([0, 3]))
    bench.sweep(25)
    crowd.beat()
    bench.sweep(3)
    crowd.check_screens()
    assert numbers.twice() == []
    for _ in range(4):
        bench.sweep(25)
        crowd.beat()
        bench.sweep(3)
    crowd.check_screens()
    gone = [user for user in USERS if user not in crowd.connections]
    shown = [crowd.clients[viewer].status(user) for viewer in crowd.connections for user in gone]
    assert set(shown) <= {"offline"}, "they left, and their TTL has passed"


def test_31_a_status_chosen_in_the_lost_seconds_comes_back_with_the_next_heartbeat(crowd: Crowd, nodes: Nodes) -> None:
    """Line 31: the update is lost, but not the choice: the heartbeat repeats it with its number."""
    bench = crowd.bench
    for node in (0, 1):
        nodes.fork(node)
    crowd.choose("alice", "busy")
    bench.sweep(1)
    for node in (0, 1):
        nodes.fail_over(node)
    assert bench.sees("bob", "alice")["status"] == "online"
    bench.sweep(25)
    crowd.beat()
    bench.sweep(3)
    crowd.check()
    assert bench.sees("bob", "alice")["status"] == "busy"


def test_32_a_snapshot_is_believed_whatever_numbers_the_client_has(crowd: Crowd, nodes: Nodes) -> None:
    """Line 32: everything is lost and numbers start anew; a client with higher ones believes the next snapshot."""
    bench = crowd.bench
    nodes.flush()
    crowd.tell_graph()
    bench.clock.advance(-3)  # the new functions' clocks are behind
    crowd.beat()
    bench.sweep(3)
    crowd.beat()
    crowd.check()
    carol = crowd.connections.pop("carol")
    bench.service.leave("carol", carol.id)
    bench.sweep(3)
    crowd.beat()
    crowd.check()


@pytest.mark.parametrize("kind", ["user", "pending", "tell", "sees", "due"])
@pytest.mark.parametrize("owner", USERS)
@pytest.mark.parametrize("seed", range(3))
def test_33_a_lost_key_ends_with_right_screens(crowd: Crowd, kind: str, owner: str, seed: int) -> None:
    """Line 33: one key is lost while changes are under way, some waiting: screens end right."""
    bench, rng = crowd.bench, random.Random(f"{kind} {owner} {seed}")
    for _ in range(6):
        crowd.choose(rng.choice(sorted(crowd.connections)), rng.choice(["online", "busy", "away"]))
    if kind == "tell":
        with bench.killed(at=1):
            bench.service.contacts.set_privacy(owner, hide_from=["bob" if owner != "bob" else "carol"])
    key = f"presence:{{{bench.store.bucket_of(owner)}}}:due" if kind == "due" else bench.store.key(kind, owner)
    bench.client.delete(key)
    for _ in range(4):
        bench.sweep(28)
        crowd.beat()
        bench.sweep(2)
    bench.sweep(120)  # the check of stored state repairs `sees` and `due`
    for _ in range(2):
        crowd.beat()
        bench.sweep(28)
    crowd.check_screens()


@pytest.mark.parametrize("blocks", [False, True], ids=["hide", "block"])
def test_33_a_notice_that_was_lost_is_made_again(crowd: Crowd, *, blocks: bool) -> None:
    """Line 33: `tell` is lost between a hide or block and its delivery: the viewer sees an offline user anyway."""
    bench = crowd.bench
    with bench.killed(at=1):
        if blocks:
            bench.service.contacts.set_privacy("alice", blocks=["bob"])
        else:
            bench.service.contacts.set_privacy("alice", hide_from=["bob"])
    bench.client.delete(bench.store.key("tell", "alice"))
    bench.sweep(25)
    crowd.beat()
    bench.sweep(3)
    crowd.check_screens()
    assert crowd.clients["bob"].status("alice") == "offline"
    if blocks:
        assert crowd.clients["alice"].status("bob") == "offline"
    assert bench.metrics.counts["RecordsFailed"] == 0


def test_33_a_change_whose_pending_entry_was_lost_is_noticed(crowd: Crowd) -> None:
    """Line 33: `pending` is lost with a change in it, and a later change waits in a new one: the client gets both."""
    bench = crowd.bench
    bench.make_changes_wait(crowd.connections["alice"])
    crowd.choose("alice", "busy")
    assert bench.client.exists(bench.store.key("pending", "bob"))
    bench.client.delete(bench.store.key("pending", "bob"))
    crowd.choose("carol", "away")
    bench.sweep(25)
    crowd.beat()
    assert crowd.clients["bob"].status("alice") == "busy"


@pytest.mark.parametrize("kind", ["contacts", "meta"])
def test_33_a_lost_fact_shows_nobody(crowd: Crowd, kind: str) -> None:
    """Line 33: where the contacts or the bucket's `meta` are lost, nobody is shown until they are back."""
    bench = crowd.bench
    bucket = bench.store.bucket_of("alice")
    bench.client.delete(f"presence:{{{bucket}}}:meta" if kind == "meta" else bench.store.key("contacts", "alice"))
    assert bench.sees("carol", "alice") == {"userId": "alice", "status": "offline"}
    crowd.tell_graph()
    bench.sweep(25)
    crowd.beat()
    bench.sweep(3)
    crowd.check()


def test_35_relations_that_change_while_the_graph_is_not_loaded_are_shown_afterwards(crowd: Crowd) -> None:
    """Line 35: `loaded` is taken away and given back: removals and hides between them reach open and new pages."""
    bench = crowd.bench
    bench.service.contacts.set_graph_loaded(False)
    bench.service.contacts.change("alice", remove=["bob"])
    bench.service.contacts.set_privacy("carol", hide_from=["bob"])
    crowd.open("dave")
    bench.sweep(3)
    bench.service.contacts.set_graph_loaded(True)
    bench.sweep(25)
    crowd.beat()
    bench.sweep(3)
    crowd.catch_up()
    assert {user: crowd.clients["bob"].status(user) for user in ("alice", "carol", "dave")} == {
        "alice": "offline",
        "carol": "offline",
        "dave": "online",
    }
    assert {user: crowd.clients["dave"].status(user) for user in ("alice", "bob", "carol")} == dict.fromkeys(
        ("alice", "bob", "carol"), "online"
    )


def test_35_a_new_epoch_is_found_once_and_only_after_a_loss(crowd: Crowd, nodes: Nodes) -> None:
    """Line 35: nothing is lost, and heartbeats get no response; after a failover, each client gets one snapshot."""
    bench = crowd.bench

    def answers() -> int:
        bench.pusher.clear()
        bench.sweep(28)
        crowd.beat()
        bench.sweep(2)
        return len(bench.pusher.frames)

    assert answers() == 0
    nodes.fork(1)
    nodes.fail_over(1)
    assert answers() == len(crowd.connections)
    assert bench.metrics.counts["Epochs"] == 1
    assert answers() == 0
    for connection in crowd.connections.values():
        bench.service.sync(connection, Sync(action="sync"))
    assert answers() == 0


def test_35_a_loss_is_found_where_nodes_are_not_shown() -> None:
    """Line 35: a service that hides `run_id` loses three seconds: the next look finds an older look in the buckets."""
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer(), protocol=2)  # it has no INFO
    crowd = Crowd(Bench(client, Settings(buckets=4)))
    bench = crowd.bench
    crowd.tell_graph()
    crowd.open("alice", "bob", "carol")
    for _ in range(3):
        bench.sweep(28)
        crowd.beat()
        bench.sweep(2)
    copy: list[tuple[Any, Any]] = []

    def lose(seconds: float) -> None:
        bench.clock.advance(seconds)
        if not copy:
            copy.extend((key, client.dump(key)) for key in client.scan_iter())
            crowd.choose("alice", "busy")
            bench.service.leave("bob", crowd.connections.pop("bob").id)
        elif bench.metrics.counts["Epochs"] == 0:
            client.flushall()
            for key, value in copy:
                client.restore(key, 0, value)

    bench.upkeep.cleanup_stale_connections("one run", lose)
    assert bench.metrics.counts["Epochs"] == 1
    for _ in range(4):
        bench.sweep(25)
        crowd.beat()
        bench.sweep(3)
    crowd.check()
