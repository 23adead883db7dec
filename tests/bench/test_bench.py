"""`python -m bench` runs, and its parts do what they claim. Speed is not tested."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.__main__ import REGISTRY, write
from bench.endpoint import endpoint, tls_endpoint
from bench.environment import PATIENT, Environment, warm_environment
from bench.measure import RedisProfiler, environment, in_turns, ratio, spent
from bench.people import People, Ring
from bench.report import Amount, Chapter, Plot, Row
from bench.state_machine import EVERYTHING, HSET_AND_ZADD, StateMachine, plot
from bench.transports import CHANGE, CREDENTIALS, TRANSPORTS
from local.elasticache import RedisServer
from shared.delivery import Post

ROOT = Path(__file__).parent.parent.parent


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command."""
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_a_quick_run_prints_a_table() -> None:
    """With a ratio in it."""
    done = bench("memory", "--quick")
    assert done.returncode == 0, done.stderr
    assert "memory of a user, with 10 contacts" in done.stdout
    assert "×" in done.stdout


def test_a_full_run_writes_the_report(tmp_path: Path) -> None:
    """With a line for each row, and with its plots."""
    plot = Plot("Posts", "posts/s", [("ours", 12.0)])
    write([Chapter("fan_out", "How it is measured.", [Row("posts", Amount(12))], plot)], tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| posts | 12 |" in text
    assert re.search(r"Python: 3\.\d+\.\d+; \w+: [\d.]+ with \S+ malloc\.", text)
    assert (tmp_path / "images" / "bench-fan_out.svg").read_text() == plot.svg()


def test_an_unknown_name_is_refused() -> None:
    """The error lists the benchmarks."""
    done = bench("speed")
    assert done.returncode == 2
    assert "there is no benchmark speed" in done.stderr
    assert "fan_out" in done.stderr


@pytest.mark.parametrize("name", REGISTRY)
def test_every_benchmark_says_what_it_measures(name: str) -> None:
    """Its docstring, which the report shows, says so; and it can be run."""
    module = importlib.import_module(f"bench.{name}")
    assert len(inspect.getdoc(module) or "") > 100
    assert callable(module.run)


@pytest.mark.parametrize("name", TRANSPORTS)
@pytest.mark.parametrize("over_tls", [False, True])
def test_every_transport_posts_every_frame(name: str, over_tls: bool) -> None:
    """Once each, in plain text and over TLS."""
    frames = [Post(f"Conn{number}Qw=", CHANGE) for number in range(40)]
    with environment(CREDENTIALS), tls_endpoint() if over_tls else endpoint() as server:
        with TRANSPORTS[name](server.url) as post:
            post(frames)
            post(frames[:1])
        received = server.received()
    assert received.posts == 41
    assert received.size > 41 * len(CHANGE)


def test_candidates_take_turns() -> None:
    """Each once a round, none always first, and the first round does not count."""
    said: list[str] = []

    def run(name: str) -> int:
        said.append(name)
        return len(said)

    results = in_turns(2, {"a": lambda: run("a"), "b": lambda: run("b")})
    assert said == ["a", "b", "b", "a", "a", "b"]
    assert results == {"a": [4, 5], "b": [3, 6]}


def test_a_ratio_is_taken_within_rounds() -> None:
    """A machine that is twice as slow in one round changes nothing."""
    assert ratio([1, 20, 3], [2, 40, 6]) == 0.5


def test_only_the_work_counts() -> None:
    """Not what comes before each piece."""
    done: list[int] = []
    cost = spent(lambda: done.append(2), lambda: sum(range(100_000)), before=lambda: done.append(1))
    assert done == [1, 2, 1]
    assert cost.cpu > 0
    assert cost.wall > 0


@pytest.fixture
def running() -> Iterator[Environment]:
    """An execution environment on an empty Redis."""
    with (
        RedisServer.start() as server,
        endpoint() as posts,
        warm_environment(server.url, posts.url, **PATIENT) as running,
    ):
        yield running


@pytest.mark.parametrize("contacts", [0, 2, 10])
def test_copies_match_what_the_service_writes(running: Environment, contacts: int) -> None:
    """They behave so, too: a heartbeat changes only the device, and a change reaches every contact."""
    people = People(running, Ring("u", 40, contacts))
    people.write()
    speaker = people.ring.connection(7)
    round_trips = running.recorded(lambda: running.send({"action": "heartbeat"}, speaker))
    assert len(round_trips) == 1
    round_trips = running.recorded(lambda: running.send({"action": "presence_update", "status": "busy"}, speaker))
    assert len(round_trips) == (4 if contacts else 1)
    records = [running.service.get_user_presence(viewer, speaker.user_id) for viewer in people.ring.contacts_of(7)]
    assert [record["status"] for record in records] == ["busy"] * contacts


def test_a_copy_that_differs_is_refused(running: Environment) -> None:
    """A changed layout is detected before anything is measured."""
    people = People(running, Ring("u", 40, 2))
    people._kept["user"][b"status"] = b"away"
    with pytest.raises(AssertionError, match="is not"):
        people.check(3)


def test_redis_reports_the_cost(running: Environment) -> None:
    """Scripts, their time, and bytes in both directions."""
    people = People(running, Ring("u", 10, 2))
    people.write()
    profiler = RedisProfiler(running.client)
    idle = profiler.use(lambda: None)
    assert (idle.scripts, idle.seconds) == (0, 0)
    assert idle.received < 20
    used = profiler.use(lambda: running.send({"action": "heartbeat"}, people.ring.connection(1)))
    assert used.scripts == 1
    assert used.seconds > 0
    assert used.received > 300
    assert 20 < used.sent < 300


def test_commands_run_through_their_own_script_and_through_everything(running: Environment) -> None:
    """Each is one script call. A fast path answers what changes nothing; without one, the response has a `feed`."""
    machine = StateMachine(running, running.client)
    scripts: dict[str, str] = {}
    for case in machine.cases():
        for call in machine.calls(case):
            running.advance()
            calls = (call, machine.through_everything(call))
            [own], [everything] = (json.loads(one.run(running.client, running.clock.now)) for one in calls)
            scripts[case.name] = next(name for name, script in running.scripts.items() if script == call.script)
            if case.name.startswith("find_targets"):
                assert own["flush"]["connections"] == everything["flush"]["connections"] != []
            else:
                assert own["result"] == everything["result"] == "live"
                assert ("feed" in own, "feed" in everything) == (case.name == "update, no contacts", True)
    assert scripts == {
        "update that changes nothing": "devices",
        "find_targets of one viewer": "targets",
        "heartbeat": "devices",
        "update, no contacts": "devices",
    }


def test_a_command_is_compared_with_both_counterparts(running: Environment) -> None:
    """With two rows, of which the first has the target, and two bars."""
    machine = StateMachine(running, running.client)
    for case in machine.cases():
        rows = machine.compare(case, 1, 2)
        assert [(row.against, row.target) for row in rows] == [(HSET_AND_ZADD, case.target), (EVERYTHING, None)]
        assert all(row.ratio and row.theirs and row.ours.value > 0 for row in rows)
        assert [name for name, _ in plot(rows).bars] == [case.name, f"{case.name}: `everything`"]
