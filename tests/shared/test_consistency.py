"""The consistency check finds inconsistent state, repairs and counts it; the health call reports the counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import redis
from redis.cluster import RedisCluster

from local.elasticache import RedisServer
from shared import consistency
from shared.commands import Audit, EditSees
from shared.consistency import INCONSISTENCIES
from shared.settings import Settings
from tests.support.redis_cluster import start_cluster
from tests.support.service import Bench

NOTHING = dict.fromkeys(INCONSISTENCIES, 0)


@pytest.fixture(scope="module", params=["server", "cluster"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis | RedisCluster]:
    """A real Redis, and three nodes that share the slots."""
    with ExitStack() as running:
        if request.param == "server":
            url = running.enter_context(RedisServer.start()).url
            yield running.enter_context(redis.Redis.from_url(url, protocol=2))
        else:
            servers = running.enter_context(start_cluster())
            yield running.enter_context(closing(RedisCluster.from_url(servers[0].url, protocol=2)))


@pytest.fixture
def bench(client: redis.Redis | RedisCluster) -> Iterator[Bench]:
    """A service on an empty store; alice and bob see each other and are online."""
    client.flushall()
    bench = Bench(client, Settings(buckets=4))
    bench.service.contacts.change("alice", ["bob"])
    for user in ("alice", "bob"):
        bench.open(user)
    bench.sweep(5)
    yield bench
    bench.store._threads.shutdown()  # the client stays open for the next test


def found(bench: Bench) -> dict[str, int]:
    """The counts of the health call."""
    counts: dict[str, int] = bench.upkeep.health()["inconsistencies"]
    return counts


def due_of(bench: Bench, user: str) -> str:
    """The key of the user's due queue."""
    return bench.store.key("user", user).partition("user:")[0] + "due"


def passed(bench: Bench) -> None:
    """Check the whole store once."""
    cursor, begins = "", True
    while begins or cursor:
        cursor, begins = bench.upkeep._check(cursor), False


def forget_due(bench: Bench) -> None:
    """Remove alice from the due queue, so that no sweeper settles her."""
    bench.client.zrem(due_of(bench, "alice"), "alice")


def postpone_due(bench: Bench) -> None:
    """Make alice due days late."""
    bench.client.zadd(due_of(bench, "alice"), {"alice": bench.clock() + 10**9})


def forget_due_of_the_dead(bench: Bench) -> None:
    """Remove alice from the due queue when her device is past its deadline."""
    forget_due(bench)
    bench.clock.advance(100)


def forget_sees(bench: Bench) -> None:
    """Remove alice from the users whom bob sees, although he may see her."""
    bench.client.srem(bench.store.key("sees", "bob"), "alice")


BROKEN: dict[str, tuple[Callable[[Bench], Any], str]] = {
    "a live device without a due entry": (forget_due, "liveNotDue"),
    "a live device that is due too late": (postpone_due, "liveNotDue"),
    "an expired device that nobody looks at": (forget_due_of_the_dead, "expired"),
    "a contact who does not know whom it may see": (forget_sees, "unseen"),
}


@pytest.mark.parametrize(("break_it", "kind"), BROKEN.values(), ids=BROKEN)
def test_an_inconsistency_is_repaired_and_counted(bench: Bench, break_it: Callable[[Bench], Any], kind: str) -> None:
    """One check repairs it; a second one finds nothing."""
    break_it(bench)
    for _ in range(2):
        passed(bench)
        assert found(bench) == NOTHING | {kind: 1}
    assert bench.metrics.counts[f"Inconsistencies{kind[0].upper()}{kind[1:]}"] == 1


def test_a_repair_has_its_effect(bench: Bench) -> None:
    """A ghost whose due entry was lost is announced offline, and a snapshot has the contact that was missing."""
    forget_due_of_the_dead(bench)
    forget_sees(bench)
    bob = bench.open("bob")
    bench.pusher.clear()
    passed(bench)
    assert [change["type"] for change in bench.pusher.changes(bob.id, "alice")] == ["user_offline"]
    assert bench.service.get_user_contacts("bob")["sees"] == ["alice"]


def test_a_due_user_without_a_record_is_counted(bench: Bench) -> None:
    """A user's keys were evicted, but not the due entry: it is removed and counted, and contacts are notified."""
    bench.client.delete(bench.store.key("user", "alice"))
    bench.sweep(100)
    assert found(bench)["dueUnknown"] == 1
    assert bench.client.zscore(due_of(bench, "alice"), "alice") is None


def test_consistent_state_has_no_findings(bench: Bench) -> None:
    """Devices, claims, graces, blocks and removed contacts leave consistent state while time passes."""
    alice = bench.open("alice", device="phone")
    for step in range(6):
        bench.update(alice, status="busy" if step % 2 else "online", scope="user")
        bench.service.contacts.set_privacy("bob", blocks=["alice"] if step % 3 else [])
        bench.service.contacts.change("alice", *([], ["bob"]) if step % 2 else (["bob", "carol"], []))
        passed(bench)
        bench.service.set_user_offline("alice", alice.id)
        passed(bench)
        bench.clock.advance(7)
        passed(bench)
        alice = bench.open("alice", device="phone")
        bench.live(40, alice)
    assert found(bench) == NOTHING


def test_a_run_checks_a_bounded_slice_and_the_next_one_continues(bench: Bench) -> None:
    """A run checks a few hundred users in at most three round trips; further runs check the others."""
    for number in range(1500):
        bench.service.contacts.change(f"user{number}", ["hub"], mutual=False)
    seen, cursor, runs = set[str](), "", 0
    while runs == 0 or cursor:
        with bench.counted() as round_trips:
            cursor = bench.upkeep._check(cursor)
        assert len(round_trips) <= 3
        audits = {command.user for trip in round_trips for command in trip if isinstance(command, Audit)}
        assert len(audits) <= 2 * consistency.MOST_KEYS
        seen |= audits
        runs += 1
    assert runs > 3
    assert len(seen) == 1502


def test_a_run_checks_some_of_many_contacts(bench: Bench) -> None:
    """A user with thousands of contacts costs a run no more than one with fifty; later runs check the others."""
    everybody = [f"user{number}" for number in range(200)]
    bench.service.contacts.change("alice", everybody, mutual=False)
    for viewer in everybody:
        bench.client.srem(bench.store.key("sees", viewer), "alice")
    for minute in range(1, 8):
        with bench.counted() as round_trips:
            passed(bench)
        assert (
            sum(isinstance(command, EditSees) for trip in round_trips for command in trip)
            <= consistency.MOST_CONTACTS + 5
        )
        assert found(bench)["unseen"] <= minute * consistency.MOST_CONTACTS
        bench.clock.advance(60)
    assert found(bench)["unseen"] == 200


def test_a_sweeper_continues_where_the_last_one_stopped(bench: Bench) -> None:
    """The cursor is stored, so each minute checks another slice; a cursor that is not valid starts over."""
    for number in range(1500):
        bench.service.contacts.change(f"user{number}", ["hub"], mutual=False)

    def cursor_after_a_run() -> Any:
        bench.upkeep.cleanup_stale_connections(f"run {bench.clock()}", bench.clock.advance)
        return bench.client.hget("presence:{0}:meta", "cursor")

    assert len({cursor_after_a_run() for _ in range(3)}) == 3
    bench.client.hset("presence:{0}:meta", "cursor", "99-7")
    assert cursor_after_a_run() == b""
