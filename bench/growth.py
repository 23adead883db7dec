"""Whether an event costs more when more users are stored: heartbeats and updates of random users, and a sweep of 100
due users, spread evenly. Each size has a Redis of its own, filled with users as the service writes them: a script
copies one, and some copies are compared with what the service writes. Each user is online and has eight contacts, who
are notified through an endpoint on loopback; no two due users share a contact. The sizes take turns, without the
handler, which knows only one Redis. The ratio is that of the time in Redis's scripts, since nothing else could grow.
It grows because memory is less local, which depends much on the allocator that Redis was built with. The benchmark
needs 1.5 GB.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from bench.endpoint import endpoint
from bench.environment import PATIENT, Environment, warm_environment
from bench.measure import RedisProfiler, RedisUse, Spent, in_turns, ratio, spent
from bench.people import People, Ring
from bench.report import Amount, Plot, Row, Scale, Target
from local.elasticache import RedisServer

SIZES = (1_000, 10_000, 100_000, 1_000_000)
CONTACTS = 8
DUE = 100
SEED = 20_241_123
LIMIT = Target("≤", 1.2)

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one event, averaged over a round, in seconds."""

    spent: Spent
    redis: float

    @classmethod
    def of(cls, spent: Spent, use: RedisUse, count: int) -> Cost:
        """The cost of each event."""
        return cls(Spent(spent.cpu / count, spent.wall / count), use.seconds / count)


class Population:
    """A number of users in a Redis of their own, and their events."""

    def __init__(self, running: Environment, count: int) -> None:
        self._environment, self._random = running, random.Random(SEED)
        self._profiler = RedisProfiler(running.client)
        self._people = People(running, Ring("u", count, CONTACTS))
        self._people.write()
        self._untouched = self._random.sample(range(count), min(count, 1_000))

    def heartbeats(self, count: int) -> Cost:
        """Heartbeats of random users."""
        beat = {"action": "heartbeat"}
        return self._cost([self._send(beat, self._random.randrange(self._people.ring.count)) for _ in range(count)])

    def updates(self, count: int) -> Cost:
        """Updates of random users who have not changed yet."""
        busy = {"action": "presence_update", "status": "busy"}
        return self._cost([self._send(busy, self._untouched.pop()) for _ in range(count)])

    def sweep(self) -> Cost:
        """A sweep of users whose grace has just ended; afterwards they are online again."""
        step = self._people.ring.count // DUE
        begin = self._random.randrange(step)
        places = range(begin, begin + DUE * step, step)
        for place in places:
            gone = self._people.ring.connection(place)
            self._environment.service.set_user_offline(gone.user_id, gone.id)
        self._environment.advance(11)
        cost = self._cost([self._environment.sweep])
        self._people.write(places)
        return cost

    def _send(self, body: dict[str, str], place: int) -> Work:
        speaker = self._people.ring.connection(place)
        return lambda: self._environment.send(body, speaker)

    def _cost(self, events: Sequence[Work]) -> Cost:
        took: list[Spent] = []
        use = self._profiler.use(lambda: took.append(spent(*events, before=self._environment.advance)))
        return Cost.of(took[0], use, len(events))


def run(scale: Scale) -> list[Row]:
    """All events at all sizes."""
    sizes = scale.pick(SIZES[:2], SIZES)
    beats, updates, rounds, sweeps = scale.pick((20, 5, 2, 1), (100, 20, 15, 9))
    with contextlib.ExitStack() as running:
        posts = running.enter_context(endpoint())
        populations = {}
        for size in sizes:
            server = running.enter_context(RedisServer.start())
            populations[size] = Population(
                running.enter_context(warm_environment(server.url, posts.url, **PATIENT)), size
            )
        return [
            *_rows(
                "heartbeat",
                rounds,
                {size: partial(population.heartbeats, beats) for size, population in populations.items()},
            ),
            *_rows(
                "update",
                rounds,
                {size: partial(population.updates, updates) for size, population in populations.items()},
            ),
            *_rows(f"sweep of {DUE} due", sweeps, {size: population.sweep for size, population in populations.items()}),
        ]


def _rows(what: str, rounds: int, candidates: Mapping[int, Callable[[], Cost]]) -> list[Row]:
    costs = in_turns(rounds, {str(size): candidate for size, candidate in candidates.items()})
    fewest, *others = candidates
    few = costs[str(fewest)]
    rows = []
    for size in others:
        many = costs[str(size)]
        wall = ratio([cost.spent.wall for cost in many], [cost.spent.wall for cost in few])
        cpu = ratio([cost.spent.cpu for cost in many], [cost.spent.cpu for cost in few])
        rows.append(
            Row(
                f"{what}, {size:,} users stored: Redis time",
                Amount(1e6 * median(cost.redis for cost in many), "µs"),
                f"{fewest:,} users stored",
                Amount(1e6 * median(cost.redis for cost in few), "µs"),
                ratio([cost.redis for cost in many], [cost.redis for cost in few]),
                LIMIT if size == others[-1] and what != "update" else None,
                f"wall {wall:.2f}×, CPU {cpu:.2f}×",
            )
        )
    return rows


def plot(rows: list[Row]) -> Plot:
    """Heartbeats and updates."""
    bars: list[tuple[str, float]] = []
    for row in rows:
        event, _, stored = row.what.removesuffix(": Redis time").partition(", ")
        if event.startswith("sweep"):
            continue
        if row.theirs and not any(name.startswith(event) for name, _ in bars):
            bars.append((f"{event}, {row.against}", row.theirs.value))
        bars.append((f"{event}, {stored}", row.ours.value))
    return Plot("Time in Redis for one event, by users stored", "µs", bars, ours=[name for name, _ in bars])
