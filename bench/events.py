"""What one event costs in a warm execution environment: CPU and wall time of the handler alone, time in scripts as
Redis counts it, and bytes through sockets. Each event takes turns with the bare calls that it contains: the same
EVALSHA through redis-py, in a pipeline if there are several, and as many posts through bare `awscrt`, both over TLS.
Unless noted otherwise, the ratio is that of the CPU. A query names at most 100 users, so 500 are read by a `sync`. A
sweep is the first look of a sweeper, which also checks a slice of the stored state; no viewer is online.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import redis

from bench.endpoint import Endpoint, tls_endpoint
from bench.environment import PATIENT, Environment, RoundTrip, connection, warm_environment
from bench.measure import RedisProfiler, RedisUse, Spent, in_turns, ratio, spent
from bench.people import People, Ring
from bench.report import Amount, Plot, Row, Scale, Target
from bench.transports import CHANGE, PostAll, common_runtime
from local.elasticache import RedisServer
from shared.delivery import Post

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of event. `begin` prepares the same state each time, and returns the events of a round."""

    name: str
    begin: Callable[[], Sequence[Work]]
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one event, averaged over a round; times are in µs."""

    cpu: float
    wall: float
    redis: float
    scripts: float
    received: float
    """Bytes that Redis received."""
    sent: float

    @classmethod
    def of(cls, spent: Spent, use: RedisUse, count: int) -> Cost:
        """The cost of each event."""
        times = (1e6 * spent.cpu, 1e6 * spent.wall, 1e6 * use.seconds)
        return cls(*(value / count for value in (*times, use.scripts, use.received, use.sent)))


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a case: costs by round, and the contents of the events."""

    ours: Sequence[Cost]
    bare: Sequence[Cost]
    round_trips: int = 0
    posts: int = 0
    posted: int = 0
    """Posted bytes of each event."""

    def median(self, field: str) -> float:
        """The median of our rounds."""
        return float(median(getattr(cost, field) for cost in self.ours))

    def ratio(self, field: str) -> float:
        """The ratio of ours to the bare calls."""
        return ratio([getattr(cost, field) for cost in self.ours], [getattr(cost, field) for cost in self.bare])


class Arrangements:
    """Prepares the state for each kind of event, with a ring of users for each."""

    def __init__(self, running: Environment, events: int) -> None:
        self._environment, self._events = running, events

    def _people(self, prefix: str, contacts: int, count: int = 0) -> People:
        return People(self._environment, Ring(prefix, count or contacts + 1, contacts))

    def _handle(self, function: str, body: dict[str, Any] | None, user: str, connection_id: str) -> Work:
        handler, event = self._environment.handler(function), self._environment.event(body, user, connection_id)
        return lambda: handler(event)

    def connect(self) -> Callable[[], Sequence[Work]]:
        """The first device of a user with fifty contacts."""
        people = self._people("connect", 50, max(51, self._events))
        users = [people.ring.id(place) for place in range(self._events)]

        def begin() -> Sequence[Work]:
            people.write()
            for user in users:
                people.forget(user, ["user"])
            return [self._handle("connect", None, user, f"N{user}=") for user in users]

        return begin

    def heartbeat(self, devices: int) -> Callable[[], Sequence[Work]]:
        """A heartbeat of a user with fifty contacts and this number of devices."""
        people = self._people(f"beat{devices}-", 50)
        user, speaker = people.ring.id(0), people.ring.connection(0)

        def begin() -> Sequence[Work]:
            people.write()
            for number in range(1, devices):
                self._environment.open(connection(user, f"D{number}{user}=", f"device-{number}"))
                self._environment.advance()
            beat = {"action": "heartbeat"}
            return [self._handle("heartbeat", beat, user, speaker.id) for _ in range(self._events)]

        return begin

    def update(self, contacts: int) -> Callable[[], Sequence[Work]]:
        """A user changes to busy and back, and this number of contacts sees it."""
        people = self._people(f"update{contacts}-", contacts)
        user, speaker = people.ring.id(0), people.ring.connection(0)
        count = max(2, 2 * (self._events // max(4, contacts // 10)))

        def begin() -> Sequence[Work]:
            people.write()
            bodies = [{"action": "presence_update", "status": ("busy", "online")[turn % 2]} for turn in range(count)]
            return [self._handle("update", body, user, speaker.id) for body in bodies]

        return begin

    def query(self, users: int) -> Callable[[], Sequence[Work]]:
        """A query about some of a hundred contacts."""
        people = self._people(f"query{users}-", 100)
        user, speaker = people.ring.id(0), people.ring.connection(0)
        body = {"action": "get_presence", "userIds": people.ring.contacts_of(0)[:users]}

        def begin() -> Sequence[Work]:
            people.write()
            return [self._handle("query", body, user, speaker.id) for _ in range(self._events // 2)]

        return begin

    def sync(self) -> Callable[[], Sequence[Work]]:
        """The snapshot of a user who sees 500."""
        people = self._people("sync", 500)
        user, speaker = people.ring.id(0), people.ring.connection(0)

        def begin() -> Sequence[Work]:
            people.write()
            return [self._handle("query", {"action": "sync"}, user, speaker.id) for _ in range(self._events // 10)]

        return begin

    def sweep(self, due: int) -> Callable[[], Sequence[Work]]:
        """Users whose grace has just ended, with ten offline contacts each."""
        people = self._people(f"due{due}-", 10, due + 10)

        def begin() -> Sequence[Work]:
            people.write()
            for place in range(due, due + 10):
                people.forget(people.ring.id(place), ["user"])
            for place in range(due):
                gone = people.ring.connection(place)
                self._environment.service.set_user_offline(gone.user_id, gone.id)
            self._environment.advance(11)
            return [self._environment.sweep]

        return begin


class Comparison:
    """Runs a case and its counterpart in turns."""

    def __init__(self, running: Environment, bare: redis.Redis, server: Endpoint, post: PostAll) -> None:
        self._environment, self._bare, self._server, self._post = running, bare, server, post
        self._profiler = RedisProfiler(running.client)

    def compare(self, case: Case, rounds: int) -> Found:
        """Compare a case with its bare calls."""
        events, before = self._begin(case), self._server.received()
        recorded = []
        for event in events:
            self._environment.advance()
            recorded.append(self._environment.recorded(event))
        after, count = self._server.received(), len(events)
        posts = (after.posts - before.posts) // count
        frames = [Post(f"Conn{number:08d}Qw=", CHANGE) for number in range(posts)]

        def bare_calls(round_trips: Sequence[RoundTrip]) -> None:
            self._environment.replay(self._bare, round_trips)
            if frames:
                self._post(frames)

        def begin_bare() -> list[Work]:
            self._begin(case)
            return [lambda round_trips=round_trips: bare_calls(round_trips) for round_trips in recorded]  # type: ignore[misc]

        ours, bare = self._in_turns(rounds, lambda: self._begin(case), begin_bare)
        return Found(ours, bare, max(map(len, recorded)), posts, (after.size - before.size) // count)

    def beside(self, case: Case, other: Case, rounds: int) -> Found:
        """Compare a case with another case."""
        return Found(*self._in_turns(rounds, lambda: self._begin(case), lambda: self._begin(other)))

    def _in_turns(
        self, rounds: int, ours: Callable[[], Sequence[Work]], theirs: Callable[[], Sequence[Work]]
    ) -> tuple[list[Cost], list[Cost]]:
        costs = in_turns(rounds, {"ours": lambda: self._cost(ours()), "theirs": lambda: self._cost(theirs())})
        return costs["ours"], costs["theirs"]

    def _begin(self, case: Case) -> Sequence[Work]:
        """Start a case on an empty store: users of another case could become due."""
        self._environment.empty()
        return case.begin()

    def _cost(self, events: Sequence[Work]) -> Cost:
        took: list[Spent] = []
        use = self._profiler.use(lambda: took.append(spent(*events, before=self._environment.advance)))
        return Cost.of(took[0], use, len(events))


def run(scale: Scale) -> list[Row]:
    """Every kind of event."""
    rounds, events = scale.pick(2, 15), scale.pick(10, 60)
    with (
        RedisServer.start() as server,
        tls_endpoint() as posts,
        warm_environment(server.url, posts.url, **PATIENT) as running,
        redis.Redis.from_url(server.url) as bare,
        common_runtime(posts.url) as post,
    ):
        arranged = Arrangements(running, events)
        comparison = Comparison(running, bare, posts, post)
        beat = Case("heartbeat", arranged.heartbeat(1), Target("≤", 2))
        beat_of_ten = Case("heartbeat of one of ten devices", arranged.heartbeat(10))
        update = {number: Case(f"update, {number} contacts online", arranged.update(number)) for number in (0, 10, 500)}
        update[50] = Case("update, 50 contacts online", arranged.update(50), Target("≤", 1.2))
        query = {number: Case(f"query of {number}", arranged.query(number)) for number in (1, 50)}
        cases = [
            Case("connect", arranged.connect()),
            beat,
            beat_of_ten,
            *(update[number] for number in sorted(update)),
            *query.values(),
            Case("sync of 500", arranged.sync()),
            *(Case(f"sweep of {due} due", arranged.sweep(due)) for due in (1, 100, scale.pick(200, 1000))),
        ]
        found = {case: comparison.compare(case, rounds) for case in cases}
        beside_one = comparison.beside(beat_of_ten, beat, rounds)
    return [
        *(_row(case, result) for case, result in found.items()),
        _redis_time(beat_of_ten, beat, beside_one, Target("≤", 1.2)),
        Row(
            "update, 50 contacts online: round trips to Redis",
            Amount(found[update[50]].round_trips),
            target=Target("≤", 4, of="ours"),
        ),
        Row(
            "query of 50: Redis time for each user",
            Amount(found[query[50]].median("redis") / 50, "µs"),
            target=Target("≤", 5, of="ours"),
        ),
    ]


def _row(case: Case, found: Found) -> Row:
    wall, redis = Amount(found.median("wall"), "µs"), Amount(found.median("redis"), "µs")
    sent, received = Amount(found.median("received") / 1000, "kB"), Amount(found.median("sent") / 1000, "kB")
    traffic = f"{_number(found.round_trips, 'round trip')}, {sent} sent, {received} received"
    note = f"wall {wall} ({found.ratio('wall'):.2f}×); Redis {redis}, {traffic}"
    if found.posts:
        note += f"; {_number(found.posts, 'post')}, {Amount(found.posted / 1000, 'kB')}"
    return Row(
        f"{case.name}: CPU",
        Amount(found.median("cpu"), "µs"),
        "the bare calls",
        Amount(median(cost.cpu for cost in found.bare), "µs"),
        found.ratio("cpu"),
        case.target,
        note,
    )


def _number(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _redis_time(case: Case, other: Case, found: Found, target: Target) -> Row:
    theirs = median(cost.redis for cost in found.bare)
    return Row(
        f"{case.name}: Redis time",
        Amount(found.median("redis"), "µs"),
        other.name,
        Amount(theirs, "µs"),
        found.ratio("redis"),
        target,
    )


def plot(rows: list[Row]) -> Plot:
    """The cost of each kind of event, relative to its bare calls."""
    shown = [row for row in rows if row.what.endswith(": CPU") and row.ratio]
    bars = [(row.what.removesuffix(": CPU"), row.ratio or 0) for row in shown]
    return Plot(
        "CPU of an event, as multiples of the bare calls that it contains", "×", bars, [name for name, _ in bars]
    )
