"""How benchmarks measure: candidates take turns, so that other work on the machine affects all of them alike.

On a shared machine, a single number means little, but the ratio of two numbers that were measured in turns is reliable.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import redis

T = TypeVar("T")


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while the block lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True, slots=True)
class Spent:
    """The cost of a piece of work, in seconds: CPU of this process with all its threads, and wall time."""

    cpu: float
    wall: float


def spent(*pieces: Callable[[], object], before: Callable[[], object] = lambda: None) -> Spent:
    """Measure pieces of work. `before` runs before each and is not measured.

    Garbage is collected first, so that only the garbage of the pieces themselves counts.
    """
    cpu = wall = 0.0
    gc.collect()
    for piece in pieces:
        before()
        began_wall, began = time.perf_counter(), time.process_time()
        piece()
        cpu += time.process_time() - began
        wall += time.perf_counter() - began_wall
    return Spent(cpu, wall)


def in_turns(rounds: int, candidates: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Run each candidate once in each round, in a rotating order. Returns the results by round.

    An additional first round opens connections and fills caches; its results are dropped.
    """
    names = list(candidates)
    results: dict[str, list[T]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            result = candidates[name]()
            if turn:
                results[name].append(result)
    return results


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median, over all rounds, of the ratio of ours to theirs."""
    return median(our / their for our, their in zip(ours, theirs, strict=True))


@dataclass(frozen=True, slots=True)
class RedisUse:
    """What a piece of work cost, as Redis counts it."""

    scripts: int
    """Script calls."""
    seconds: float
    """Time in scripts."""
    received: int
    """Bytes that its sockets received."""
    sent: int


class RedisProfiler:
    """Reads from Redis what work costs: time in scripts from `INFO commandstats`, and bytes through its sockets."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        idle = [self._between(lambda: None) for _ in range(5)]
        self._own = min(use.received for use in idle), min(use.sent for use in idle)

    def use(self, work: Callable[[], object]) -> RedisUse:
        """The cost of a piece of work, without the cost of measuring it."""
        use = self._between(work)
        return RedisUse(use.scripts, use.seconds, use.received - self._own[0], use.sent - self._own[1])

    def _between(self, work: Callable[[], object]) -> RedisUse:
        self._client.config_resetstat()
        work()
        sockets = self._client.info("stats")  # first, because the size of the other response depends on the work
        commands = self._client.info("commandstats")
        scripts = [commands[name] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in commands]
        return RedisUse(
            sum(script["calls"] for script in scripts),
            sum(script["usec"] for script in scripts) / 1e6,
            sockets["total_net_input_bytes"],
            sockets["total_net_output_bytes"],
        )
