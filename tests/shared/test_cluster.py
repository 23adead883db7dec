"""A cluster whose slots move and whose nodes fail: the other buckets go on, and the store follows."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
import redis
from redis.cluster import RedisCluster
from redis.exceptions import RedisError

from local.elasticache import RedisServer
from shared.cluster import WAITS
from shared.commands import BucketStatus, Connect, GetDue
from shared.connection import Connection
from shared.delivery import Unavailable
from shared.settings import Settings
from shared.store import PAUSE, Store
from tests.support.clock import EPOCH
from tests.support.metrics import Counts
from tests.support.redis_cluster import MovingSlot, slot_of, start_cluster
from tests.support.service import TOKEN_LIFE, Bench

BUCKETS = Settings().buckets
USERS = [f"user{number}" for number in range(96)]
WHOLE_AGAIN = 1.0
"""Seconds within which calls to a bucket must succeed once its node is there."""
OUTAGE = 30.0
"""Seconds within which a cluster must have replaced a node."""


class Clock:
    """The time in seconds, which stands still, so that a pause never ends by itself; and the waits.

    Attributes:
        waits: seconds that were waited.
        meanwhile: happens during the next wait.
    """

    def __init__(self) -> None:
        self.now, self.waits = 1000.0, list[float]()
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        self.meanwhile()


@contextmanager
def opened(nodes: Sequence[RedisServer], clock: Clock | None = None) -> Iterator[Store]:
    """A store on a cluster, as the service opens it, on the real time or on a test's; all users are connected."""
    store = Store.connect(Settings(redis_url=nodes[0].url, redis_cluster=True), Counts())
    if clock:
        store._monotonic, store._sleep = clock, clock.sleep
    store.call([connect(user) for user in USERS], EPOCH)
    yield store
    store.close()


def connect(user: str) -> Connect:
    """A handshake of a user."""
    connection = Connection(user, f"{user}=", EPOCH, EPOCH // 1000, EPOCH // 1000 + TOKEN_LIFE)
    return Connect(user, connection=connection.sender(active=True))


def meta(bucket: int) -> str:
    """The key of a bucket that is always there."""
    return f"presence:{{{bucket}}}:meta"


def owner_of(store: Store, bucket: int) -> int:
    """The port of the node that has a bucket, as the store knows it."""
    cluster = store._opened()
    assert isinstance(cluster, RedisCluster)
    return int(cluster.get_node_from_key(meta(bucket)).port)  # type: ignore[no-untyped-call]


def moving(store: Store, nodes: Sequence[RedisServer], bucket: int, target: RedisServer | None = None) -> MovingSlot:
    """Begin to move a bucket to the target, or else to the next node."""
    source = [server.port for server in nodes].index(owner_of(store, bucket))
    target = target or nodes[(source + 1) % len(nodes)]
    return MovingSlot(slot_of(nodes[0], meta(bucket)), nodes[source], target)


def refused(store: Store, buckets: Sequence[int]) -> list[int]:
    """Call about each user in these buckets, one by one; gives the buckets of the calls that were refused."""
    found = []
    for user in USERS:
        if store.bucket_of(user) in buckets:
            try:
                store.call([connect(user)], EPOCH)
            except Unavailable:
                found.append(store.bucket_of(user))
    return found


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[RedisServer]]:
    """A cluster of three nodes for the tests that leave it whole, and a spare node."""
    with start_cluster(3, spare=1) as nodes:
        yield nodes


# Slots ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_while_a_slot_moves_the_other_buckets_go_on(nodes: list[RedisServer], part: float) -> None:
    """None, half or all keys of a slot have moved: no call about another bucket is refused or waits."""
    clock = Clock()
    with opened(nodes, clock) as store:
        bucket = 5
        others = [other for other in range(BUCKETS) if other != bucket]
        slot = moving(store, nodes[:3], bucket)
        keys = slot.keys()
        slot.move(*keys[: round(part * len(keys))] or [b"none"])
        assert set(refused(store, [bucket])) == {bucket}, "a script cannot run on two nodes"
        waited = len(clock.waits)
        assert refused(store, others) == []
        assert len(clock.waits) == waited
        slot.finish()
        assert refused(store, range(BUCKETS)) == []


def test_one_round_trip_gives_what_each_bucket_answers(nodes: list[RedisServer]) -> None:
    """Of a round trip to all buckets, only the responses of the moving one are missing, after a short wait."""
    clock = Clock()
    with opened(nodes, clock) as store:
        slot = moving(store, nodes[:3], 3)
        answers = store.call_each([connect(user) for user in USERS], EPOCH)
        missing = {store.bucket_of(user) for user, got in zip(USERS, answers, strict=True) if not_there(got)}
        assert missing == {3}
        assert clock.waits == list(WAITS)
        assert store._metrics.counts["RedisFailures"] == 1  # type: ignore[attr-defined] # a test's metrics
        with pytest.raises(Unavailable, match="TryAgain"):
            store.call([connect(user) for user in USERS], EPOCH)
        slot.finish()


def not_there(answer: object) -> bool:
    """Whether a bucket was unavailable."""
    return isinstance(answer, Unavailable)


def test_a_call_waits_for_a_slot_that_has_moved_a_moment_later(nodes: list[RedisServer]) -> None:
    """A slot of few keys has moved before the call gives up: the call succeeds, and other scripts ran once."""
    clock = Clock()
    with opened(nodes, clock) as store:
        slot = moving(store, nodes[:3], 7)
        clock.meanwhile = slot.finish
        assert not any(map(not_there, store.call_each([connect(user) for user in USERS], EPOCH)))
        assert clock.waits == list(WAITS[:1])


@pytest.mark.parametrize("to_spare", [False, True], ids=["a node with slots", "a new node"])
def test_what_has_moved_already_runs_on_the_target(nodes: list[RedisServer], to_spare: bool) -> None:
    """All keys of a script are on the target: it runs there, even if the target never ran it before."""
    clock = Clock()
    with opened(nodes, clock) as store:
        if to_spare:
            assert nodes[3].port not in {node.port for node in store._opened().get_nodes()}  # type: ignore[union-attr]
        slot = moving(store, nodes[:3] if not to_spare else nodes, 9, nodes[3] if to_spare else None)
        slot.move()
        for server in nodes:
            with redis.Redis.from_url(server.url) as client:
                client.script_flush()
        for _ in range(2):
            [answer] = store.call([GetDue(bucket=9, horizon=10**9, most=64)], EPOCH)
            assert answer.next is not None
        assert clock.waits == []
        slot.finish(*nodes)
        assert refused(store, range(BUCKETS)) == []
        back = MovingSlot(slot.slot, slot.target, slot.source)
        back.finish(*nodes)


def test_a_moving_slot_does_not_keep_a_node_from_getting_the_script(nodes: list[RedisServer]) -> None:
    """The first call that carries a script's text is refused with it: the others send it again."""
    with opened(nodes, Clock()) as store:
        bucket = store.bucket_of(USERS[0])
        slot = moving(store, nodes[:3], bucket)
        with redis.Redis.from_url(slot.source.url) as client:
            client.script_flush()
        answers = store.call_each([connect(user) for user in USERS], EPOCH)
        missing = {store.bucket_of(user) for user, got in zip(USERS, answers, strict=True) if not_there(got)}
        assert missing == {bucket}
        slot.finish()


def test_slots_that_move_under_load_are_followed(nodes: list[RedisServer]) -> None:
    """Eight buckets move in turn under load, in real time: each is there again with the next call."""
    with opened(nodes) as store:
        for bucket in range(0, BUCKETS, 2):
            others = [other for other in range(BUCKETS) if other != bucket]
            slot = moving(store, nodes[:3], bucket)
            for key in slot.keys()[:5]:
                slot.move(key)
                assert not set(refused(store, others))
            slot.finish()
            assert refused(store, [bucket]) == []


def test_no_call_is_refused_while_a_slot_moves_atomically(nodes: list[RedisServer]) -> None:
    """A server that moves slots atomically refuses no call meanwhile, and the store follows the slot."""
    with opened(nodes) as store:
        source = next(server for server in nodes if server.port == owner_of(store, 11))
        target = next(server for server in nodes[:3] if server is not source)
        slot = slot_of(source, meta(11))
        with redis.Redis.from_url(source.url) as client, redis.Redis.from_url(target.url) as heir:
            move = ("CLUSTER MIGRATESLOTS SLOTSRANGE", slot, slot, "NODE", heir.cluster("MYID"))
            try:
                client.execute_command(*move)
            except redis.ResponseError:
                pytest.skip("this server moves slots key by key")
        until = time.monotonic() + OUTAGE
        while owner_of(store, 11) != target.port:
            assert refused(store, range(BUCKETS)) == []
            assert time.monotonic() < until


# Nodes ---------------------------------------------------------------------------------------------------------------


def kill(nodes: list[RedisServer]) -> None:
    """Node 0 ends without a word."""
    os.kill(nodes[0].pid, signal.SIGKILL)


def hang(nodes: list[RedisServer]) -> None:
    """Node 0 keeps its connections open, and answers nothing."""
    os.kill(nodes[0].pid, signal.SIGSTOP)


def fail_over(nodes: list[RedisServer]) -> None:
    """An operator makes the replica of node 0 the primary."""
    with redis.Redis.from_url(nodes[3].url) as client:
        client.execute_command("CLUSTER FAILOVER")


@pytest.mark.parametrize("happens", [kill, hang, fail_over])
def test_a_node_fails_over_and_the_other_buckets_go_on(happens: Callable[[list[RedisServer]], None]) -> None:
    """Until a replica has replaced a node, only its buckets are refused; then they are there in a second."""
    with start_cluster(3, replicas=1, node_timeout=1000) as nodes, opened(nodes[1:]) as store:
        own = [bucket for bucket in range(BUCKETS) if owner_of(store, bucket) == nodes[0].port]
        others = [bucket for bucket in range(BUCKETS) if bucket not in own]
        assert own
        happens(nodes)
        try:
            until, promoted, taken = time.monotonic() + OUTAGE, 0.0, -1.0
            while taken < 0:
                assert refused(store, others) == []
                promoted = promoted or is_primary(nodes[3])
                if not refused(store, own[:1]):
                    taken = time.monotonic() - promoted if promoted else 0.0
                assert time.monotonic() < until
            assert taken < WHOLE_AGAIN
            assert refused(store, range(BUCKETS)) == []
        finally:
            with suppress(ProcessLookupError):
                os.kill(nodes[0].pid, signal.SIGCONT)


def is_primary(server: RedisServer) -> float:
    """The time, if the server is a primary; 0 if it is not."""
    with redis.Redis.from_url(server.url) as client:
        return time.monotonic() if client.info("replication")["role"] == "master" else 0.0


def test_a_node_that_hangs_is_waited_for_once_and_the_others_are_not() -> None:
    """One call waits about a second for a node that hangs; calls to other nodes never do."""
    clock = Clock()
    with start_cluster(3, node_timeout=60_000) as nodes, opened(nodes, clock) as store:
        own = [bucket for bucket in range(BUCKETS) if owner_of(store, bucket) == nodes[2].port]
        others = [bucket for bucket in range(BUCKETS) if bucket not in own]
        os.kill(nodes[2].pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            answers = store.call_each([BucketStatus(bucket=bucket) for bucket in range(BUCKETS)], EPOCH)
            assert [bucket for bucket, answer in enumerate(answers) if not_there(answer)] == own
            assert 0.9 < time.monotonic() - began < 1.5
            began = time.monotonic()
            assert refused(store, others) == []
            assert set(refused(store, own)) == set(own)
            assert time.monotonic() - began < 3, "the layout is asked for once, which may meet the node that hangs"
        finally:
            os.kill(nodes[2].pid, signal.SIGCONT)
        clock.now += PAUSE
        assert refused(store, range(BUCKETS)) == []


def test_a_restarted_node_gets_the_script_again() -> None:
    """A node restarts, without scripts or data: only its buckets are refused, and not for long after it."""
    with start_cluster(3) as nodes, opened(nodes) as store:
        own = [bucket for bucket in range(BUCKETS) if owner_of(store, bucket) == nodes[1].port]
        others = [bucket for bucket in range(BUCKETS) if bucket not in own]
        with redis.Redis.from_url(nodes[1].url) as client, suppress(RedisError):
            client.execute_command("DEBUG RESTART")
        until, whole = time.monotonic() + OUTAGE, 0.0
        while True:
            assert refused(store, others) == []
            whole = whole or serves(nodes[1], own[0])
            if not refused(store, own):
                break
            assert time.monotonic() < until
        assert not whole or time.monotonic() - whole < WHOLE_AGAIN


def serves(server: RedisServer, bucket: int) -> float:
    """The time, if the node serves the bucket; 0 if it does not."""
    with redis.Redis.from_url(server.url) as client, suppress(RedisError):
        client.exists(meta(bucket))
        return time.monotonic()
    return 0.0


# Upkeep --------------------------------------------------------------------------------------------------------------


def users_in(bench: Bench, bucket: int) -> list[str]:
    """Users of a bucket."""
    return [user for user in USERS if bench.store.bucket_of(user) == bucket]


@pytest.fixture
def bench(nodes: list[RedisServer]) -> Iterator[Bench]:
    """A service on an empty cluster; in each bucket two users see each other and are online."""
    with closing(RedisCluster.from_url(nodes[0].url, protocol=2)) as client:
        client.flushall()
        bench = Bench(client)
        bench.store._routed(client)._sleep = lambda _seconds: None
        for bucket in range(BUCKETS):
            one, other = users_in(bench, bucket)[:2]
            bench.service.contacts.change(one, [other])
            bench.open(one)
            bench.open(other)
        bench.sweep(5)
        yield bench
        bench.store._threads.shutdown()


def statuses(bench: Bench, buckets: Sequence[int]) -> set[Any]:
    """What the second user of each bucket sees of the first."""
    pairs = (users_in(bench, bucket)[:2] for bucket in buckets)
    return {bench.sees(other, one)["status"] for one, other in pairs}


@pytest.mark.parametrize(("bucket", "moved"), [(0, "due"), (6, "due"), (6, "nothing")])
def test_the_sweeper_settles_the_other_buckets(bench: Bench, nodes: list[RedisServer], bucket: int, moved: str) -> None:
    """A bucket moves, perhaps that of the sweeper's turn: users in the others go offline in time."""
    others = [other for other in range(BUCKETS) if other != bucket]
    slot = moving(bench.store, nodes[:3], bucket)
    slot.move(f"presence:{{{bucket}}}:{moved}".encode())
    settled = bench.upkeep.cleanup_stale_connections("run", bench.clock.advance)
    assert settled >= 2 * len(others)
    assert statuses(bench, others) == {"offline"}
    slot.finish()
    assert bench.upkeep.cleanup_stale_connections("next run", bench.clock.advance) == 2
    assert bench.upkeep.health()["dueLate"] == 0
    assert statuses(bench, range(BUCKETS)) == {"offline"}


def test_health_names_the_buckets_that_do_not_answer(bench: Bench, nodes: list[RedisServer]) -> None:
    """Health has the numbers of the buckets that answer, and says which do not."""
    whole = bench.upkeep.health()
    assert "unavailableBuckets" not in whole
    slot = moving(bench.store, nodes[:3], 6)
    slot.move(b"presence:{6}:due")
    assert bench.upkeep.health() == {**whole, "unavailableBuckets": [6]}
    slot.finish()
    assert bench.upkeep.health() == whole
