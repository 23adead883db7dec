"""How things are measured: several candidates in turns, so that whatever else the machine does hits all alike.

A figure of one run means little on a machine that others use; the ratio of two that were taken in turns means much.
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
    """These variables for the length of the block."""
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
    """What one piece of work took, in seconds: CPU of this process with all its threads, and time on the wall."""

    cpu: float
    wall: float


def spent(*pieces: Callable[[], object], before: Callable[[], object] = lambda: None) -> Spent:
    """Do pieces of work, each after something that does not count, with no garbage left from earlier.

    What a piece leaves itself is its own cost.
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
    """Run each candidate once in each round, each round beginning with another; gives the results by round.

    One more round comes before, whose results are thrown away: connections open and caches fill in it.
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
    """The median over all rounds of ours to theirs."""
    return median(our / their for our, their in zip(ours, theirs, strict=True))


@dataclass(frozen=True, slots=True)
class RedisUse:
    """What Redis itself says that a piece of work took of it."""

    scripts: int
    """Script calls."""
    seconds: float
    """In scripts."""
    received: int
    """Bytes that came in through its sockets."""
    sent: int


class RedisProfiler:
    """Asks a Redis what work takes of it: time in scripts from `INFO commandstats`, and bytes through its sockets."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        idle = [self._between(lambda: None) for _ in range(5)]
        self._own = min(use.received for use in idle), min(use.sent for use in idle)

    def use(self, work: Callable[[], object]) -> RedisUse:
        """What a piece of work takes, without what the questions about it take."""
        use = self._between(work)
        return RedisUse(use.scripts, use.seconds, use.received - self._own[0], use.sent - self._own[1])

    def _between(self, work: Callable[[], object]) -> RedisUse:
        self._client.config_resetstat()
        work()
        sockets = self._client.info("stats")  # first: the other answer is the longer the more was done
        commands = self._client.info("commandstats")
        scripts = [commands[name] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in commands]
        return RedisUse(
            sum(script["calls"] for script in scripts),
            sum(script["usec"] for script in scripts) / 1e6,
            sockets["total_net_input_bytes"],
            sockets["total_net_output_bytes"],
        )
