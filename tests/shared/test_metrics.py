"""Metrics: what is written, and when."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.metrics import FLUSH_SECONDS, MAX_VALUES, Metrics


class Monotonic:
    """A clock in seconds that the test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(written: str) -> list[dict[str, Any]]:
    """Lines of JSON."""
    return [json.loads(line) for line in written.splitlines()]


def test_numbers_are_written_together_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """Counts and durations of several seconds come as one line of the embedded metric format, each with its unit."""
    clock = Monotonic()
    metrics = Metrics("Presence", "heartbeat", clock)
    for _ in range(3):
        metrics.count("Connections")
        metrics.time("RedisTime", 1.23456)
        clock.now += 1
        metrics.flush()
    metrics.count("PostsSent", 40)
    assert lines(capsys.readouterr().out) == []
    clock.now = FLUSH_SECONDS
    metrics.flush()
    [line] = lines(capsys.readouterr().out)
    [directive] = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Presence"
    assert directive["Dimensions"] == [["service"]]
    assert {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]} == {
        "Connections": "Count",
        "PostsSent": "Count",
        "RedisTime": "Milliseconds",
    }
    assert (line["service"], line["function"]) == ("Presence", "heartbeat")
    assert (line["Connections"], line["PostsSent"], line["RedisTime"]) == ([3.0], [40.0], [1.235] * 3)


def test_nothing_is_written_twice_and_nothing_without_events(capsys: pytest.CaptureFixture[str]) -> None:
    """After a flush the numbers start at zero, and a quiet environment writes nothing."""
    clock = Monotonic()
    metrics = Metrics("Presence", "update", clock)
    for second in range(1, 60):
        clock.now = second
        metrics.flush()
    assert lines(capsys.readouterr().out) == []
    metrics.count("Updates")
    metrics.flush()
    assert [line["Updates"] for line in lines(capsys.readouterr().out)] == [[1.0]]
    clock.now += FLUSH_SECONDS
    metrics.flush()
    assert lines(capsys.readouterr().out) == []


def test_a_line_stays_within_what_the_format_allows(capsys: pytest.CaptureFixture[str]) -> None:
    """Of very many durations, as many are written as one line may hold; all counts are written."""
    clock = Monotonic()
    metrics = Metrics("Presence", "update", clock)
    for _ in range(1000):
        metrics.time("RedisTime", 1)
        metrics.time("PostTime", 2)
        metrics.count("PostsSent")
    clock.now = FLUSH_SECONDS
    metrics.flush()
    [line] = lines(capsys.readouterr().out)
    assert len(line["RedisTime"]) == len(line["PostTime"]) == MAX_VALUES < 100
    assert line["PostsSent"] == [1000.0]
