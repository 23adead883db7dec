"""Time in the state machine's scripts, as Redis counts it: an update that repeats the status, and so changes nothing;
`find_targets`, which finds where to post a change for one viewer; a heartbeat; and an update that changes the status of
a user without contacts.

The store sends each command to the smallest script that has it. Two of the four scripts answer the common case on a
fast path, before most of their functions are defined. Each command takes turns with a script of HSET and ZADD, the
least that a heartbeat must store, and with the same call through `everything`, the script that has all commands and no
fast path. The second ratio shows what the smaller scripts and the fast paths save. Targets in µs depend on the machine:
the time of HSET and ZADD shows how fast it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import redis

from bench.endpoint import endpoint
from bench.environment import PATIENT, Environment, ScriptCall, warm_environment
from bench.measure import RedisProfiler, in_turns, ratio
from bench.people import People, Ring
from bench.report import Amount, Plot, Row, Scale, Target
from local.elasticache import RedisServer
from shared.commands import FindTargets

Work = Callable[[], object]

PLAIN = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
return 1
"""
"""The minimum of a heartbeat: it stores when the device was last seen, and when it expires."""
PLAIN_KEYS = ("plain:{0}:devices", "plain:{0}:due")
PLAIN_ARGUMENTS = ("Calice=", "1732400000000", "1732400075000", "alice")
HSET_AND_ZADD, EVERYTHING = "a script of HSET and ZADD", "the script `everything`"


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of command. Each of `sends` makes one script call; they are repeated in this order."""

    name: str
    people: People
    sends: Sequence[Work]
    target: Target | None = None


class StateMachine:
    """Runs the script calls of cases, through their own script and through others."""

    def __init__(self, running: Environment, bare: redis.Redis) -> None:
        self._environment, self._bare = running, bare
        self._profiler = RedisProfiler(running.client)
        self._plain = bare.register_script(PLAIN)

    def cases(self) -> list[Case]:
        """All cases, each with users of its own."""
        names = ("repeat", "viewer", "beat")
        repeat, viewer, beat = (People(self._environment, Ring(name, 51, 50)) for name in names)
        alone = People(self._environment, Ring("alone", 1, 0))
        contact = viewer.ring.contacts_of(0)[0]
        find_targets = FindTargets(viewer.ring.id(0), changes={contact: "online"})
        return [
            Case(
                "update that changes nothing",
                repeat,
                [self._message(repeat, {"action": "presence_update", "status": "online"})],
                Target("≤", 30, of="ours"),
            ),
            Case(
                "find_targets of one viewer",
                viewer,
                [lambda: self._environment.store.call([find_targets], self._environment.clock.now)],
                Target("≤", 20, of="ours"),
            ),
            Case("heartbeat", beat, [self._message(beat, {"action": "heartbeat"})], Target("≤", 4)),
            Case(
                "update, no contacts",
                alone,
                [
                    self._message(alone, {"action": "presence_update", "status": "busy"}),
                    self._message(alone, {"action": "presence_update", "status": "online"}),
                ],
            ),
        ]

    def _message(self, people: People, body: dict[str, str]) -> Work:
        return lambda: self._environment.send(body, people.ring.connection(0))

    def calls(self, case: Case) -> list[ScriptCall]:
        """The script calls of a case, as the store sends them."""
        self._begin(case)
        recorded = []
        for send in case.sends:
            self._environment.advance()
            [[call]] = self._environment.recorded(send)
            recorded.append(call)
        return recorded

    def compare(self, case: Case, rounds: int, count: int) -> list[Row]:
        """Measure a case and its counterparts in turns, in rounds of about `count` calls."""
        calls = self.calls(case)
        runs: dict[str, Sequence[Work]] = {
            "ours": [partial(self._run, call) for call in calls],
            HSET_AND_ZADD: [lambda: self._plain(PLAIN_KEYS, PLAIN_ARGUMENTS)],
            EVERYTHING: [partial(self._run, self.through_everything(call)) for call in calls],
        }
        times = in_turns(rounds, {name: partial(self._time, case, run, count) for name, run in runs.items()})
        ours = times.pop("ours")
        targets, scripts = {HSET_AND_ZADD: case.target}, self._environment.scripts
        [name] = {name for name, script in scripts.items() for call in calls if script == call.script}
        return [
            Row(
                f"{case.name}: Redis time",
                Amount(median(ours), "µs"),
                against,
                Amount(median(theirs), "µs"),
                ratio(ours, theirs),
                targets.get(against),
                f"the script `{name}`",
            )
            for against, theirs in times.items()
        ]

    def through_everything(self, call: ScriptCall) -> ScriptCall:
        """The same call, through the script that has every command."""
        return call._replace(script=self._environment.scripts["everything"])

    def _run(self, call: ScriptCall) -> object:
        return call.run(self._bare, self._environment.clock.now)

    def _time(self, case: Case, works: Sequence[Work], count: int) -> float:
        """Redis time of a call, in µs, averaged over a round."""
        self._begin(case)
        repeated = [work for _ in range(count // len(works)) for work in works]

        def work() -> None:
            for one in repeated:
                self._environment.advance()
                one()

        use = self._profiler.use(work)
        assert use.scripts == len(repeated)
        return 1e6 * use.seconds / use.scripts

    def _begin(self, case: Case) -> None:
        """Prepare the same state each time."""
        self._environment.empty()
        case.people.write()
        self._bare.script_load(PLAIN)


def run(scale: Scale) -> list[Row]:
    """Every case."""
    rounds, count = scale.pick((2, 20), (15, 200))
    with (
        RedisServer.start() as server,
        endpoint() as posts,
        warm_environment(server.url, posts.url, **PATIENT) as running,
        redis.Redis.from_url(server.url) as bare,
    ):
        machine = StateMachine(running, bare)
        return [row for case in machine.cases() for row in machine.compare(case, rounds, count)]


def plot(rows: list[Row]) -> Plot:
    """The time of each command, next to the same call through the script with every command."""
    bars: list[tuple[str, float]] = []
    for row in rows:
        if row.theirs and row.against == EVERYTHING:
            name = row.what.removesuffix(": Redis time")
            bars += [(name, row.ours.value), (f"{name}: `everything`", row.theirs.value)]
    return Plot("Time in Redis of one command", "µs", bars, ours=[name for name, _ in bars[::2]])
