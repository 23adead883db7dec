"""`make simulate`: plays the histories of many seeds, and shrinks the first one that fails.

A run in which some kind of fault never struck fails, too: it would not have found what it looks for.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.simulation.faults import KINDS
from tests.simulation.invariants import Violation
from tests.simulation.run import Report, Simulator, play_all

PROGRESS_S = 10


def main() -> int:
    """Run the command; gives the exit status."""
    options = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    options.add_argument("--seeds", type=int, default=300, help="how many histories (SEEDS=)")
    options.add_argument("--first", type=int, default=1, help="the first seed (FIRST=)")
    options.add_argument("--seed", type=int, help="play this one alone, and shrink it if it fails (SEED=)")
    options.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options.add_argument("--all", action="store_true", help="play the rest after a failure; shrink nothing")
    given = options.parse_args()
    if given.seed is not None:
        return _shrink(given.seed)
    seeds = range(given.first, given.first + given.seeds)
    report, failed, began, told = Report(), list[int](), time.monotonic(), 0.0
    for number, played in enumerate(play_all(seeds, given.processes), 1):
        report.counts += played.report.counts
        report.checks += played.report.checks
        seconds = time.monotonic() - began
        if played.violation:
            failed.append(played.seed)
            _print(f"seed {played.seed} fails: {played.violation}")
            if not given.all:
                return _shrink(played.seed)
        if seconds - told > PROGRESS_S or number == len(seeds):
            told = seconds
            _print(f"{number} of {len(seeds)} seeds in {seconds:.0f} s, {number / seconds:.1f} a second")
    for kind in KINDS:
        _print(f"  {report.counts[kind]:>8} {kind}")
    _print("looked at: " + ", ".join(f"{name} {count}" for name, count in sorted(report.checks.items())))
    never = [kind for kind in KINDS if not report.counts[kind]]
    if never:
        _print(f"never drawn: {', '.join(never)}")
    if failed:
        _print(f"{len(failed)} seeds fail: {failed}")
    return 1 if never or failed else 0


def _shrink(seed: int) -> int:
    """Play one seed; if it fails, print the shortest list of its steps that still does."""
    with Simulator() as simulator:
        try:
            simulator.play(seed)
        except Violation as violation:
            _print(f"seed {seed} fails: {violation}")
            steps = simulator.shrink(seed, violation.invariant, lambda left: _print(f"... {left} steps left"))
        else:
            _print(f"seed {seed} holds")
            return 0
        for step in steps:
            _print(f"  {step}")
        try:
            simulator.play(seed, steps)
        except Violation as violation:
            _print(f"with these: {violation}")
        _print(f"again: make simulate SEED={seed}")
        return 1


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
