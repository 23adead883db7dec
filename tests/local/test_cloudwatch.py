"""Metrics of the last minutes: which lines are read, how they are summed up, and what Lambda counts."""

from __future__ import annotations

import json
import math
import random
import statistics
from typing import Any

import pytest

from local.awslambda.invocation import FunctionError, Throttled
from local.cloudwatch import MOST_VALUES, PERIOD, PERIODS, Measured, Metrics, percentile
from tests.support.clock import Clock
from tests.support.local_gateway import ScriptedFunctions


@pytest.fixture
def clock() -> Clock:
    """The clock of `metrics`."""
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    """Metrics without any values."""
    return Metrics(clock.seconds)


def line(unit: str, **values: Any) -> str:
    """A line in CloudWatch's embedded metric format, as a function writes it."""
    names = [{"Name": name, "Unit": unit} for name in values]
    directive = {"Namespace": "Presence", "Dimensions": [["service"]], "Metrics": names}
    return json.dumps({"_aws": {"Timestamp": 1, "CloudWatchMetrics": [directive]}, "service": "presence", **values})


def test_counts_of_a_period_are_summed_up(metrics: Metrics, clock: Clock) -> None:
    """Metrics that are not durations are sums of single values and lists; each period starts at zero."""
    metrics.line(line("Count", PostsSent=3, PostsGone=1))
    metrics.line(line("Count", PostsSent=[4, 5]))
    clock.advance(PERIOD)
    metrics.line(line("Count", PostsSent=7))
    counts = metrics.report()["counts"]
    assert counts == {"PostsSent": [0] * 58 + [12, 7], "PostsGone": [0] * 58 + [1, 0]}


def test_a_line_may_have_several_directives_of_different_units(metrics: Metrics) -> None:
    """The unit of each metric decides what it is."""
    told = json.loads(line("Count", Updates=2))
    told["_aws"]["CloudWatchMetrics"] += json.loads(line("Milliseconds", PostTime=9))["_aws"]["CloudWatchMetrics"]
    metrics.line(json.dumps(told | {"PostTime": [9, 11]}))
    report = metrics.report()
    assert report["counts"]["Updates"][-1] == 2
    assert report["durations"]["PostTime"]["all"]["n"] == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a word of somebody's",
        '{"level":"INFO","message":"no metric"}',
        '"_aws"',
        '{"_aws": null}',
        '{"_aws": {"CloudWatchMetrics": [{"Metrics": [{"Name": "Updates"}]}]}, "Updates": 1}',
        line("Count", Updates="many"),
        line("Count", Updates=None),
        line("Count", Updates=1).replace('"Updates": 1', '"Other": 1'),
        line("Count", Updates=1)[:-1],
    ],
)
def test_a_line_without_valid_metrics_changes_nothing(metrics: Metrics, text: str) -> None:
    """No part of such a line counts."""
    before = metrics.report()
    metrics.line(text)
    assert metrics.report() == before


def test_percentiles_are_those_of_each_period_and_of_all_values(metrics: Metrics, clock: Clock) -> None:
    """Of 1 … 100 ms and then 1000 ms: a period without any has none, and all 101 are one sample."""
    metrics.line(line("Milliseconds", RedisTime=list(range(100, 0, -1))))
    clock.advance(2 * PERIOD)
    metrics.line(line("Milliseconds", RedisTime=1000))
    told = metrics.report()["durations"]["RedisTime"]
    assert told["p50"][-3:] == [50, None, 1000]
    assert told["p95"][-3:] == [95, None, 1000]
    assert told["p99"][-3:] == [99, None, 1000]
    assert told["all"] == {"n": 101, "p50": 51, "p95": 96, "p99": 100}


def test_percentiles_agree_with_their_definition(rng: random.Random) -> None:
    """At least so many percent do not exceed it, and that is true of no smaller value; the median agrees too."""
    for _ in range(200):
        values = sorted(round(rng.expovariate(0.1), 2) for _ in range(rng.randrange(1, 60)))
        for share in (1, 50, 95, 99, 100):
            found = percentile(values, share)
            assert found in values
            assert sum(value <= found for value in values) * 100 >= share * len(values)
            assert sum(value < found for value in values) * 100 < share * len(values)
        assert percentile(values, 50) == statistics.median_low(values)
    assert percentile([], 50) is None


def test_a_gauge_is_the_last_value_of_its_period(metrics: Metrics, clock: Clock) -> None:
    """Nothing is carried over: a period without a value is a gap."""
    metrics.gauge("OpenConnections", 3)
    metrics.gauge("OpenConnections", 4)
    clock.advance(2 * PERIOD)
    metrics.gauge("OpenConnections", 0)
    assert metrics.report()["gauges"]["OpenConnections"][-4:] == [None, 4, None, 0]


def test_values_older_than_five_minutes_are_dropped(metrics: Metrics, clock: Clock) -> None:
    """The window moves with the clock, even if nothing happens."""
    metrics.line(line("Count", Updates=1))
    for _ in range(PERIODS - 1):
        clock.advance(PERIOD)
        metrics.line(line("Count", Settled=1))
    assert metrics.report()["counts"]["Updates"] == [1] + [0] * (PERIODS - 1)
    clock.advance(PERIOD)
    assert "Updates" not in metrics.report()["counts"]
    clock.advance(PERIODS * PERIOD)
    report = metrics.report()
    assert report["counts"] == {}
    assert report["end"] == (math.floor(clock.seconds() / PERIOD) + 1) * PERIOD * 1000


def test_a_clock_that_was_set_back_loses_nothing(metrics: Metrics, clock: Clock) -> None:
    """Until it has caught up, everything counts in the newest period."""
    metrics.line(line("Count", Updates=1))
    clock.advance(-3 * PERIOD)
    metrics.line(line("Count", Updates=1))
    clock.advance(4 * PERIOD)
    metrics.line(line("Count", Updates=1))
    assert metrics.report()["counts"]["Updates"][-2:] == [2, 1]


def test_durations_are_limited(metrics: Metrics, clock: Clock) -> None:
    """A flood within one period is cut off; the next period is complete again."""
    for _ in range(3):
        metrics.line(line("Milliseconds", PostTime=[1] * (MOST_VALUES // 2 + 1)))
    assert metrics.report()["durations"]["PostTime"]["all"]["n"] == MOST_VALUES
    clock.advance(PERIOD)
    metrics.line(line("Milliseconds", PostTime=2))
    assert metrics.report()["durations"]["PostTime"]["all"]["n"] == MOST_VALUES + 1


async def test_invocations_are_counted_as_lambda_counts_them(metrics: Metrics) -> None:
    """A failed invocation counts as an error, a throttled one is not an invocation; results pass unchanged."""
    times = iter([0.0, 0.010, 1.0, 1.030, 2.0, 2.5])
    functions = ScriptedFunctions()
    measured = Measured(functions, metrics, lambda: next(times))
    functions.answers["update"] = {"statusCode": 202}
    assert await measured.invoke("update", {"is": "the event"}) == {"statusCode": 202}
    assert functions.events_of("update") == [{"is": "the event"}]
    for error in (FunctionError("ValueError", "a fault"), Throttled()):
        functions.answers["update"] = error
        with pytest.raises(type(error)):
            await measured.invoke("update", {})
    told = metrics.report()["functions"]["update"]
    assert {name: values[-1] for name, values in told["counts"].items()} == {
        "Invocations": 2,
        "Errors": 1,
        "Throttles": 1,
    }
    assert told["durations"]["Duration"]["all"] == {"n": 2, "p50": 10, "p95": 30, "p99": 30}


def test_a_report_is_json_and_every_list_has_a_place_for_each_period(metrics: Metrics) -> None:
    """A page can draw all metrics on one axis."""
    metrics.line(line("Milliseconds", PostTime=[1.5, 2.25]))
    metrics.line(line("Count", Updates=1))
    metrics.gauge("OpenConnections", 1)
    metrics.invoked("update", ms=1.0, error=True, throttled=False)
    report = json.loads(json.dumps(metrics.report()))
    assert report["period"] == PERIOD * 1000
    update = report["functions"]["update"]
    lists = [*report["counts"].values(), *report["gauges"].values(), *update["counts"].values()]
    for told in (report["durations"]["PostTime"], update["durations"]["Duration"]):
        lists += [values for name, values in told.items() if name != "all"]
    assert {len(values) for values in lists} == {PERIODS}
