"""Play the history of a seed, and shrink one that fails."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import NamedTuple, Self

from tests.simulation.invariants import Violation
from tests.simulation.steps import USERS, Step, draw, play
from tests.simulation.world import World
from tests.support.nodes import Nodes
from tests.support.shipped_clients import ClientCrashed, ShippedClients

CROWDED, ERASED = 40, 5
"""One in so many seeds has a crowd of contacts; one in so many ends with everybody erased."""
CROWD = 300


@dataclass
class Report:
    """What happened in some histories."""

    counts: Counter[str] = field(default_factory=Counter)
    """How often each fault struck."""
    checks: Counter[str] = field(default_factory=Counter)
    """How often each invariant was looked at."""


class Played(NamedTuple):
    """A seed that was played."""

    seed: int
    report: Report
    violation: str
    """"" if there was none."""


class Simulator:
    """Servers and a Node process, for one history after another; a context manager that ends them."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._nodes = self._stack.enter_context(Nodes(2, replicas=2))
        self._clients = self._stack.enter_context(ShippedClients())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, seed: int, steps: Sequence[Step] | None = None, report: Report | None = None) -> None:
        """Play a history: the seed's own, or these steps with the seed's random source.

        Raises:
            Violation: an invariant does not hold.
        """
        world = World(seed, self._nodes, self._clients, USERS, crowd=CROWD if seed % CROWDED == 0 else 0)
        try:
            _begin(world)
            for step in draw(seed) if steps is None else steps:
                play(world, step)
            world.settle_down()
            if seed % ERASED == 0:
                world.fall_silent()
        except ClientCrashed as error:
            self._clients = self._stack.enter_context(ShippedClients())
            raise Violation("client", str(error)) from error
        finally:
            if report:
                report.counts += world.faults.counts
                report.checks += world.watch.checks

    def shrink(self, seed: int, invariant: str, progress: Callable[[int], None] = lambda _: None) -> list[Step]:
        """The steps of a failing seed without those that the failure does not need (delta debugging)."""
        steps, size = draw(seed), max(1, len(draw(seed)) // 2)
        while True:
            place, removed = 0, False
            while place < len(steps):
                fewer = steps[:place] + steps[place + size :]
                if self._fails(seed, fewer, invariant):
                    steps, removed = fewer, True
                    progress(len(steps))
                else:
                    place += size
            if size == 1 and not removed:
                return steps
            size = max(1, size // 2)

    def _fails(self, seed: int, steps: Sequence[Step], invariant: str) -> bool:
        try:
            self.play(seed, steps)
        except Violation as violation:
            return violation.invariant == invariant
        return False


def _begin(world: World) -> None:
    """Some users are contacts, some devices are open; the graph is loaded."""
    rng = random.Random(f"{world.seed} begin")
    for place, user in enumerate(USERS):
        friends = [other for other in USERS[place + 1 :] if rng.random() < 0.8]
        if friends:
            world.set_contacts(user, add=friends, mutual=True)
    for start in range(0, len(world.crowd), 100):
        world.set_contacts(USERS[0], add=world.crowd[start : start + 100], mutual=True)
    for user in world.crowd:
        world.set_status(user, {"customStatus": {"text": world.text(long=True)}})
    world.run(2_000)
    world.set_loaded(loaded=True)
    for user in USERS[: rng.randint(2, len(USERS))]:
        world.open(user, "phone", polling=rng.random() < 0.1)
    world.run(rng.choice((100, 3_000, 20_000)))


def play_all(seeds: Sequence[int], processes: int) -> Iterator[Played]:
    """Play many seeds, in several processes with servers of their own; in the order in which they end."""
    with get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_play, seeds)


_simulators: list[Simulator] = []
"""This process's, which serves all its seeds; its servers end with the process."""


def _play(seed: int) -> Played:
    if not _simulators:
        _simulators.append(Simulator())
    report = Report()
    try:
        _simulators[0].play(seed, report=report)
    except Violation as violation:
        return Played(seed, report, str(violation))
    return Played(seed, report, "")
