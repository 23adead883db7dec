"""The store: round trips, failures, and scripts, nodes or slots that go away."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import fakeredis
import pytest
import redis
from redis.cluster import RedisCluster
from redis.exceptions import ResponseError

from local.elasticache import RedisServer, free_port
from shared.commands import BucketStatus, Connect, EditRelations, EditSees, InspectUser, Leave, ReadView, Settle
from shared.connection import Connection
from shared.delivery import Unavailable, call_together
from shared.responses import Connected, Unreadable
from shared.settings import Settings, SettingsError
from shared.store import KINDS, MAX_PER_CALL, PAUSE, Store
from tests.support.clock import EPOCH
from tests.support.metrics import Counts
from tests.support.redis_cluster import start_cluster
from tests.support.service import TOKEN_LIFE

USERS = [f"user{number}" for number in range(40)]


class Monotonic:
    """A clock for pauses, in seconds, that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


LIVE = Connected("live")


def connect(user: str, now: int = EPOCH) -> Connect:
    """A handshake of a user."""
    connection = Connection(user, f"{user}=", now, now // 1000, now // 1000 + TOKEN_LIFE)
    return Connect(user, connection=connection.sender(active=True))


@contextmanager
def opened(url: str, monotonic: Callable[[], float] = time.monotonic, **given: Any) -> Iterator[Store]:
    """A store on a URL, as the service opens it; `monotonic` measures pauses."""
    store = Store.connect(Settings(redis_url=url, **given), Counts())
    store._monotonic = monotonic
    yield store
    store.close()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A real server for this module."""
    with RedisServer.start() as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[RedisServer]]:
    """A cluster of three nodes for this module."""
    with start_cluster(3) as nodes:
        yield nodes


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A real server that the test may stop or reconfigure."""
    with RedisServer.start() as server:
        yield server


@pytest.fixture(params=["fakeredis", "redis", "cluster"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty store of each kind."""
    if request.param == "fakeredis":
        yield Store(fakeredis.FakeRedis(server=fakeredis.FakeServer(), protocol=2), Settings(), Counts())
    elif request.param == "redis":
        server: RedisServer = request.getfixturevalue("server")
        with opened(server.url) as store:
            store._opened().flushall()
            yield store
    else:
        nodes: list[RedisServer] = request.getfixturevalue("cluster")
        with opened(nodes[0].url, redis_cluster=True) as store:
            store.call([BucketStatus(bucket=0)], EPOCH)
            store._opened().flushall()
            yield store


# Round trips ----------------------------------------------------------------------------------------------------------


def test_responses_come_in_the_order_of_the_commands(store: Store) -> None:
    """Commands about many users, spread over all buckets and nodes, are answered in their own order."""
    answers = store.call([connect(user) for user in USERS], EPOCH)
    assert answers == [LIVE] * len(USERS)
    store.call([BucketStatus(bucket=bucket, loaded=True) for bucket in range(store.buckets)], EPOCH)
    views = store.call([ReadView(user, viewer=user) for user in reversed(USERS)], EPOCH)
    assert [answer.user_id for answer in views] == USERS[::-1]
    assert {answer.status for answer in views} == {"online"}
    assert store.call([], EPOCH) == []


def test_commands_about_one_user_run_in_their_order(store: Store) -> None:
    """Of two commands about one user in one round trip, the second finds what the first did."""
    leave = Leave("alice", id="alice=")
    [first], _, [third] = call_together(store, EPOCH, [connect("alice")], [leave], [connect("alice")])
    assert (first.result, third.result) == ("live", "closed")


def test_a_round_trip_is_one_script_call_for_each_bucket(server: RedisServer) -> None:
    """Forty users in sixteen buckets are sixteen script calls, sent together."""
    with opened(server.url) as store:
        store._opened().flushall()
        store.call([connect(user) for user in USERS], EPOCH)
        store._opened().config_resetstat()
        store.call([connect(user) for user in USERS], EPOCH)
        assert store._opened().info("commandstats")["cmdstat_evalsha"]["calls"] == len(
            {store.bucket_of(user) for user in USERS}
        )


def test_very_many_commands_are_several_script_calls(server: RedisServer) -> None:
    """More commands about one bucket than a script call may hold are split, and still answered in order."""
    with opened(server.url, buckets=1) as store:
        store._opened().flushall()
        store.call([BucketStatus(bucket=0, loaded=True)], EPOCH)
        users = [f"user{number}" for number in range(2 * MAX_PER_CALL + 1)]
        store.call([ReadView("user0", viewer="user0")], EPOCH)  # afterwards the server has the script
        store._opened().config_resetstat()
        views = store.call([ReadView(user, viewer=user) for user in users], EPOCH)
        assert [view.user_id for view in views] == users
        assert store._opened().info("commandstats")["cmdstat_evalsha"]["calls"] == 3


def test_all_keys_of_a_user_lie_in_one_slot(cluster: list[RedisServer]) -> None:
    """A user's keys share one slot, so that one script can change them."""
    with redis.Redis.from_url(cluster[0].url) as client:
        store = Store(client, Settings(), Counts())
        for user in ["alice", "a{b}c", "ü@x"]:
            assert len({client.cluster("KEYSLOT", store.key(kind, user)) for kind in KINDS}) == 1
    assert len({store.bucket_of(user) for user in USERS}) > 10


def test_fifty_threads_have_one_winner(store: Store) -> None:
    """Fifty functions settle a user with an announcement due at the same moment: one of them gets the lease."""
    buckets = [BucketStatus(bucket=bucket, loaded=True) for bucket in range(store.buckets)]
    call_together(store, EPOCH, buckets, [EditRelations("alice", edits=[("bob", "contact")])], [connect("alice")])
    start = threading.Barrier(50)

    def settle(_: int) -> bool:
        start.wait()
        return store.call([Settle("alice")], EPOCH)[0].announcement is not None

    with ThreadPoolExecutor(50) as threads:
        assert sum(threads.map(settle, range(50))) == 1


# Scripts -------------------------------------------------------------------------------------------------------------


def test_a_flushed_script_is_sent_again_within_the_call(server: RedisServer) -> None:
    """After SCRIPT FLUSH the next call sends the script again and succeeds; later calls do not send it."""
    with opened(server.url) as store:
        store._opened().flushall()
        for _ in range(3):
            store._opened().script_flush()
            assert store.call([connect(user) for user in USERS], EPOCH) == [LIVE] * len(USERS)
        store._opened().config_resetstat()
        store.call([connect(user) for user in USERS], EPOCH)
        assert "cmdstat_eval" not in store._opened().info("commandstats")


def test_every_node_of_a_cluster_gets_the_script(cluster: list[RedisServer]) -> None:
    """After SCRIPT FLUSH on one node of three, that node gets the script again."""
    with opened(cluster[0].url, redis_cluster=True) as store:
        store.call([connect(user) for user in USERS], EPOCH)
        with redis.Redis.from_url(cluster[1].url) as node:
            node.script_flush()
        assert len(store.call([connect(user) for user in USERS], EPOCH)) == len(USERS)


def test_a_restarted_server_is_used_again_with_nothing_remembered() -> None:
    """Redis restarts, empty: after the pause the same store works again, without script, connections or data."""
    port, monotonic = free_port(), Monotonic()
    with RedisServer.start(port), opened(f"redis://127.0.0.1:{port}", monotonic) as store:
        store.call([connect("alice")], EPOCH)
    with pytest.raises(Unavailable):
        store.call([connect("alice")], EPOCH)
    with RedisServer.start(port):
        monotonic.now += PAUSE
        assert store.call([InspectUser("alice")], EPOCH)[0].real.status == "offline"
        assert store.call([connect("alice")], EPOCH) == [LIVE]


def test_an_idle_connection_that_the_server_closed_is_replaced(server: RedisServer) -> None:
    """A frozen environment resumes and finds its connection closed: the call succeeds without a failure."""
    with opened(server.url) as store:
        store.call([connect("alice")], EPOCH)
        with redis.Redis.from_url(server.url) as other:
            other.client_kill_filter(_type="normal", skipme=True)
        assert store.call([connect("alice")], EPOCH) == [LIVE]
        assert store._metrics.counts["RedisFailures"] == 0  # type: ignore[attr-defined] # a test's metrics


@pytest.mark.unreadable
def test_an_error_in_the_script_does_not_count_as_unavailable(server: RedisServer) -> None:
    """An error of ours in the script is raised as such: a retry would not help."""
    with opened(server.url) as store:
        with pytest.raises(Unreadable, match=r"connect: .*nil"):
            store.call([Connect("alice", connection={})], EPOCH)  # type: ignore[typeddict-item]
        assert store.call([connect("alice")], EPOCH)[0].result in ("live", "closed")


# Failures ------------------------------------------------------------------------------------------------------------


def test_after_a_failure_no_call_is_tried_for_a_second() -> None:
    """Redis cannot be reached: for a second each call fails immediately, then one tries; a success ends the pause."""
    port, monotonic = free_port(), Monotonic()
    with opened(f"redis://127.0.0.1:{port}", monotonic) as store:
        with pytest.raises(Unavailable, match="ConnectionError"):
            store.call([connect("alice")], EPOCH)
        with RedisServer.start(port):
            for _ in range(3):
                with pytest.raises(Unavailable, match="a moment ago"):
                    store.call([connect("alice")], EPOCH)
                monotonic.now += PAUSE / 4
            monotonic.now += PAUSE / 4
            assert store.call([connect("alice")], EPOCH) == [LIVE]
        assert store._metrics.counts["RedisFailures"] == 1  # type: ignore[attr-defined] # a test's metrics


def test_a_redis_that_hangs_is_waited_for_once_and_not_for_long(own: RedisServer) -> None:
    """Redis stops responding: one call waits about a second, the next not at all; later calls succeed again."""
    monotonic = Monotonic()
    with opened(own.url, monotonic) as store:
        store.call([connect("alice")], EPOCH)
        os.kill(own.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(Unavailable, match="TimeoutError"):
                store.call([connect("alice")], EPOCH)
            assert time.monotonic() - began < 1.5
            with pytest.raises(Unavailable, match="a moment ago"):
                store.call([connect("alice")], EPOCH)
            assert time.monotonic() - began < 1.6
        finally:
            os.kill(own.pid, signal.SIGCONT)
        monotonic.now += PAUSE
        assert store.call([connect("alice")], EPOCH) == [LIVE]


REFUSALS = {
    "it became a replica": ["REPLICAOF 127.0.0.1 1"],
    "its memory is full": ["CONFIG SET maxmemory 1"],
    "it lost its replicas": ["CONFIG SET min-replicas-to-write 3"],
    "it forbids scripts": ["ACL SETUSER default -@scripting"],
    "it wants a password": ["CONFIG SET requirepass secret", "AUTH secret", "CLIENT KILL TYPE normal SKIPME yes"],
}


def order(client: redis.Redis, *commands: str) -> None:
    """Send commands in the way an operator types them."""
    for command in commands:
        client.execute_command(*command.split())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("commands", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_redis_that_refuses_us_is_unavailable(own: RedisServer, commands: list[str]) -> None:
    """During a failover, with full memory or with another password, a refusal of Redis is `Unavailable`."""
    with redis.Redis.from_url(own.url) as client, opened(own.url, Monotonic()) as store:
        store.call([connect("alice")], EPOCH)
        order(client, *commands)
        with pytest.raises(Unavailable):
            store.call([connect("bob")], EPOCH)


def test_a_redis_busy_with_a_script_is_unavailable(own: RedisServer) -> None:
    """Another client's endless script blocks Redis: that is `Unavailable`, and not an error of our script."""
    with redis.Redis.from_url(own.url) as client, opened(own.url, Monotonic()) as store:
        store.call([connect("alice")], EPOCH)
        order(client, "CONFIG SET busy-reply-threshold 1")
        with ThreadPoolExecutor(1) as thread, redis.Redis.from_url(own.url) as other:
            endless = thread.submit(client.eval, "while true do end", 0)
            try:
                while "BUSY" not in refusal(other.ping):
                    pass
                with pytest.raises(Unavailable, match="BUSY"):
                    store.call([connect("bob")], EPOCH)
            finally:
                other.script_kill()
            with pytest.raises(ResponseError):
                endless.result(timeout=5)


def refusal(call: Callable[[], object]) -> str:
    """The error of a call that is refused; "" if it is not."""
    try:
        call()
    except ResponseError as error:
        return str(error)
    return ""


def test_a_connection_made_before_a_failover_is_not_used_after_it(own: RedisServer) -> None:
    """The server is a replica now: the next try opens a connection, to the server that has the name by then."""
    monotonic = Monotonic()
    with redis.Redis.from_url(own.url) as client, opened(own.url, monotonic) as store:
        before = store._opened().client_id()
        order(client, *REFUSALS["it became a replica"])
        with pytest.raises(Unavailable):
            store.call([connect("alice")], EPOCH)
        order(client, "REPLICAOF NO ONE")
        monotonic.now += PAUSE
        assert store.call([connect("alice")], EPOCH) == [LIVE]
        assert store._opened().client_id() != before


@pytest.mark.parametrize("url", ["http://127.0.0.1:6379", "127.0.0.1:6379", "https://cache", "cache", ""])
def test_an_invalid_redis_url_is_refused_at_the_start(url: str) -> None:
    """A URL that cannot be one of Redis is refused when the environment starts, with the name of the setting."""
    with pytest.raises(SettingsError, match="redis_url"):
        Store.connect(Settings(redis_url=url), Counts())


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://user:secret@h:1", "unix:///run/redis.sock"])
def test_nothing_is_sent_before_the_first_call(url: str) -> None:
    """Creating a store opens no connection: an environment can start while Redis cannot be reached."""
    Store.connect(Settings(redis_url=url), Counts()).close()


# Layout --------------------------------------------------------------------------------------------------------------


def test_another_bucket_count_is_refused_in_one_sentence(store: Store) -> None:
    """A service with another bucket count would find no user, so it is refused, and changes nothing."""
    store.call([connect(user) for user in USERS], EPOCH)
    other = Store(store._opened(), Settings(buckets=8), Counts())
    with pytest.raises(SettingsError) as refused:
        other.call([connect(user) for user in USERS], EPOCH)
    assert str(refused.value) == ("this store has schema 3 and 16 buckets, and this release schema 3 and 8 buckets")
    with pytest.raises(SettingsError):
        other.call([BucketStatus(bucket=3, loaded=True)], EPOCH)
    assert not any(answer.loaded for answer in store.call([BucketStatus(bucket=3)], EPOCH))


def test_users_are_paged_through(store: Store) -> None:
    """Page by page, on one node or three, the pages have the users with facts from the application, and no others."""
    related = [f"related{number}" for number in range(300)]
    store.call([connect(user) for user in USERS], EPOCH)
    store.call([EditRelations(user, edits=[("somebody", "contact")]) for user in related], EPOCH)
    found: set[str] = set()
    cursor, pages = "", 0
    while pages == 0 or cursor:
        users, cursor = store.users(cursor)
        found |= users
        pages += 1
        assert pages < 500
    assert found == set(related)


def test_the_eviction_policy_is_returned(own: RedisServer) -> None:
    """The policy has Redis's own name; a Redis that does not report it is not unavailable."""
    with opened(own.url) as store, redis.Redis.from_url(own.url) as admin:
        assert store.eviction_policy() == "volatile-lru"
        admin.config_set("maxmemory-policy", "allkeys-lfu")
        assert store.eviction_policy() == "allkeys-lfu"
        admin.execute_command("ACL SETUSER", "default", "-info")
        assert store.eviction_policy() is None
        own.stop()
        with pytest.raises(Unavailable):
            store.eviction_policy()


def test_the_worst_policy_of_several_nodes_is_returned(cluster: list[RedisServer]) -> None:
    """One node that evicts contacts is enough to lose some."""
    with opened(cluster[0].url, redis_cluster=True) as store, redis.Redis.from_url(cluster[2].url) as admin:
        assert store.eviction_policy() == "volatile-lru"
        admin.config_set("maxmemory-policy", "allkeys-lru")
        assert store.eviction_policy() == "allkeys-lru"
        admin.config_set("maxmemory-policy", "volatile-lru")


# Clusters ------------------------------------------------------------------------------------------------------------


def owner_of(store: Store, nodes: list[RedisServer], bucket: int) -> int:
    """The node that has a bucket, as the store sees it."""
    cluster = store._opened()
    assert isinstance(cluster, RedisCluster)
    node = cluster.get_node_from_key(f"presence:{{{bucket}}}:meta")  # type: ignore[no-untyped-call]
    return [server.port for server in nodes].index(node.port)


def move_bucket(nodes: list[RedisServer], bucket: int, owner: int) -> None:
    """Move a bucket's slot from its owner to the next node, without its keys."""
    with redis.Redis.from_url(nodes[owner].url) as client:
        client.delete(*client.scan_iter(f"presence:{{{bucket}}}:*"))
        slot = client.cluster("KEYSLOT", f"presence:{{{bucket}}}:meta")
    with redis.Redis.from_url(nodes[(owner + 1) % len(nodes)].url) as client:
        heir = client.cluster("MYID").decode()
    for node in nodes:
        with redis.Redis.from_url(node.url) as client:
            order(client, f"CLUSTER SETSLOT {slot} NODE {heir}")


def test_a_closed_store_leaves_no_connection_open(cluster: list[RedisServer]) -> None:
    """After `close` no node of the cluster has a connection of ours."""
    with opened(cluster[0].url, redis_cluster=True) as store:
        store.call([connect(user) for user in USERS], EPOCH)
    for server in cluster:
        with redis.Redis.from_url(server.url) as node:
            until = time.monotonic() + 5
            while any(client["cmd"] == "evalsha" for client in node.client_list()):
                assert time.monotonic() < until


def test_a_moved_slot_is_followed_and_nothing_else_runs_twice() -> None:
    """A slot moves to another node between two calls: the next call finds it, and other buckets' scripts run once."""
    with start_cluster(3) as nodes, opened(nodes[0].url, redis_cluster=True) as store:
        store.call([connect(user) for user in USERS], EPOCH)
        moved = store.bucket_of(USERS[0])
        move_bucket(nodes, moved, owner_of(store, nodes, moved))
        edits = [EditSees(user, add=["zoe"], remove=["zoe"]) for user in USERS]  # a second run would add her again
        first, second = (store.call(edits, EPOCH + 5) for _ in range(2))
        assert {answer.added for answer in (*first, *second)} == {1}


def test_a_cluster_that_cannot_be_reached_is_unavailable_until_it_returns() -> None:
    """A cluster that cannot be reached is `Unavailable`, at the start and later."""
    monotonic = Monotonic()
    with opened(f"redis://127.0.0.1:{free_port()}", monotonic, redis_cluster=True) as store:
        with pytest.raises(Unavailable):
            store.call([connect("alice")], EPOCH)
        monotonic.now += PAUSE
        with pytest.raises(Unavailable):
            store.users("")
    with start_cluster(3) as nodes, opened(nodes[0].url, monotonic, redis_cluster=True) as store:
        store.call([connect(user) for user in USERS], EPOCH)
        for node in nodes:
            node.stop()
        for _ in range(2):
            with pytest.raises(Unavailable):
                store.call([connect(user) for user in USERS], EPOCH)
            monotonic.now += PAUSE


def test_one_dead_node_of_three_does_not_stop_the_buckets_of_the_others() -> None:
    """A node without a replica dies: users on the other nodes are served, users on it are `Unavailable`."""
    monotonic = Monotonic()
    with start_cluster(3) as nodes, opened(nodes[0].url, monotonic, redis_cluster=True) as store:
        store.call([connect(user) for user in USERS], EPOCH)
        owner = {user: owner_of(store, nodes, store.bucket_of(user)) for user in USERS}
        nodes[2].stop()
        served = []
        for user in USERS:
            monotonic.now += PAUSE
            try:
                store.call([connect(user)], EPOCH)
                served.append(user)
            except Unavailable:
                assert owner[user] == 2
        assert served
        assert all(owner[user] != 2 for user in served)
