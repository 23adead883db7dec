"""Upkeep, where nothing in `tests/acceptance` or `tests/model` tests it more plainly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import fakeredis
import pytest

from shared.commands import Command
from shared.delivery import Unavailable
from shared.store import AnyResponse
from shared.upkeep import Upkeep
from tests.support.service import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A service on fakeredis, whose graph is loaded."""
    bench = Bench(fakeredis.FakeRedis())
    yield bench
    bench.close()


class UnavailableStore:
    """The bench's store, which cannot be reached for the first few calls."""

    def __init__(self, bench: Bench, failures: int) -> None:
        self._store, self.buckets, self.failures = bench.store, bench.store.buckets, failures

    def call(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse]:
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        return self._store.call(commands, now)

    def call_each(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse | Unavailable]:
        if self.failures:
            self.failures -= 1
            return [Unavailable("away")] * len(commands)
        return self._store.call_each(commands, now)

    def users(self, cursor: str, count: int = 100, kinds: Sequence[str] = ()) -> tuple[set[str], str]:
        return self._store.users(cursor, count, kinds)

    def eviction_policy(self) -> str | None:
        return self._store.eviction_policy()


def test_a_sweeper_waits_while_redis_is_unavailable(bench: Bench) -> None:
    """Redis cannot be reached for some seconds during a run: that run settles the users who became due meanwhile."""
    bench.service.contacts.change("alice", ["bob"])
    bench.open("alice")
    bench.clock.advance(76)
    store = UnavailableStore(bench, failures=5)
    sweeper = Upkeep(store, bench.pusher, bench.settings, bench.clock, bench.metrics)
    assert sweeper.cleanup_stale_connections("run", bench.clock.advance) == 1
    assert store.failures == 0
    assert bench.sees("bob", "alice")["status"] == "offline"
