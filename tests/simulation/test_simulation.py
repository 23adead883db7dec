"""Some seeds of the simulation: `make simulate` plays more, and explains and shrinks those that fail."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.simulation.faults import KINDS
from tests.simulation.run import Report, Simulator
from tests.simulation.steps import draw

SEEDS = 60 if os.environ.get("CI") else 15
"""What takes a minute at most on two free cores; `make simulate SEEDS=300` takes some minutes."""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """Servers and clients for all histories."""
    with Simulator() as simulator:
        yield simulator


def test_no_invariant_is_violated(simulator: Simulator) -> None:
    """Whatever fails, screens become right, nothing hidden is shown, and nobody looks offline or online falsely."""
    report = Report()
    for seed in range(1, SEEDS + 1):
        simulator.play(seed, report=report)
    assert report.checks.keys() >= {"privacy", "ghosts", "false offline", "numbers", "frame size"}
    assert not report.counts.keys() - set(KINDS)


def test_a_seed_gives_the_same_history_each_time(simulator: Simulator) -> None:
    """Otherwise a failing seed could not be played again."""
    reports = [Report(), Report()]
    for report in reports:
        simulator.play(7, report=report)
    assert reports[0] == reports[1]


def test_each_kind_of_fault_is_drawn() -> None:
    """A fault that no history has would find nothing."""
    steps = [step for seed in range(300) for step in draw(seed)]
    names = {step.name for step in steps}
    assert names >= {
        "lose_tail",
        "evict",
        "restart",
        "unload",
        "refuse_calls",
        "kill",
        "delay",
        "delay_sweeper",
        "weather",
    }
