"""Statistics of a load: nearest ranks, sums that add up, and their text."""

from __future__ import annotations

import json
import random
from array import array

import pytest

from load.statistics import Statistics, lines_of, percentiles


@pytest.mark.parametrize(
    ("ms", "told"),
    [
        ([], {}),
        ([7], {"p50": 7, "p95": 7, "p99": 7, "max": 7}),
        ([2, 1], {"p50": 1, "p95": 2, "p99": 2, "max": 2}),
        (range(1, 101), {"p50": 50, "p95": 95, "p99": 99, "max": 100}),
        (range(1, 201), {"p50": 100, "p95": 190, "p99": 198, "max": 200}),
    ],
)
def test_a_percentile_is_a_measured_time(ms: list[int], told: dict[str, float]) -> None:
    """The smallest one that so many percent do not exceed."""
    times = array("d", [each / 1000 for each in ms])
    random.Random(1).shuffle(times)
    assert percentiles(times) == told


def busy_statistics() -> Statistics:
    """Statistics in which everything has happened."""
    statistics = Statistics()
    statistics.opened, statistics.connecting, statistics.changes, statistics.seconds, statistics.cpu = (
        3,
        1.5,
        5,
        2.0,
        1.9,
    )
    statistics.expected, statistics.withdrawn, statistics.superseded = 10, 2, 1
    statistics.refused["502"] += 4
    statistics.closed["1001"] += 1
    statistics.frames.update({"presence_status": 6, "presence_self": 5})
    statistics.errors["rate_limited"] += 2
    statistics.latencies.extend([0.001] * 7)
    statistics.handshakes.extend([0.25])
    statistics.late.extend([0.2])
    return statistics


def test_each_expected_delivery_is_shown_withdrawn_or_lost() -> None:
    """The report adds up, and is JSON."""
    report = json.loads(json.dumps(busy_statistics().report()))
    told = report["deliveries"]
    assert told["expected"] == told["delivered"] + told["withdrawn"] + told["lost"]
    assert (told["lost"], told["superseded"]) == (1, 1)
    assert report["changes"] == {"sent": 5, "perSecond": 2.5}


def test_the_text_contains_everything() -> None:
    """Counts by kind, times, losses, and that the machine was the limit."""
    lines = lines_of(busy_statistics().report())
    for line in (
        "connects          3 opened in 1.5 s, 4 refused (502: 4)",
        "handshake         p50 250 ms, p95 250 ms, p99 250 ms, longest 250 ms",
        "first snapshot    not measured",
        "changes           5 sent in 2.0 s, 2.5 a second",
        "change → contact  p50 1.0 ms, p95 1.0 ms, p99 1.0 ms, longest 1.0 ms",
        "deliveries        10 expected, 7 shown (1 in a later state), 2 to closed connections, 1 lost",
        "frames            11 received (presence_status: 6, presence_self: 5)",
        "closed            1 closed by the service (1001: 1)",
        "errors            2 received (rate_limited: 2)",
        "the load generator took 95% of a core, which affects the numbers",
        "changes were sent late (p99 200 ms): this machine is overloaded",
    ):
        assert line in lines


def test_a_load_that_did_nothing_has_a_report_too() -> None:
    """It does not divide by zero, and invents no numbers."""
    assert "deliveries        0 expected, 0 shown, 0 lost" in lines_of(Statistics().report())
