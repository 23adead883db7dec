"""`make simulate`: plays histories of many seeds; shrinks and prints the first that fails.

A run in which some kind of fault never struck fails, too: it would not have found what it looks for.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.faults import KINDS
from tests.simulation.invariants import Violation
from tests.simulation.run import Report, Simulator
from tests.simulation.steps import draw


def main() -> int:
    """Run the command; gives the exit status."""
    options = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    options.add_argument("--seeds", type=int, default=100, help="how many histories (SEEDS=)")
    options.add_argument("--first", type=int, default=0, help="the first seed (FIRST=)")
    options.add_argument("--seed", type=int, help="play this one alone (SEED=)")
    given = options.parse_args()
    seeds = [given.seed] if given.seed is not None else list(range(given.first, given.first + given.seeds))
    report, began, told = Report(), time.monotonic(), time.monotonic()
    with Simulator() as simulator:
        for played, seed in enumerate(seeds, 1):
            try:
                simulator.play(seed, report=report)
            except Violation as violation:
                _print(f"seed {seed} fails: {violation}")
                _print("steps, until only those are left that it needs:")
                steps = simulator.shrink(seed, violation.invariant)
                for step in steps:
                    _print(f"  {step}")
                try:
                    simulator.play(seed, steps)
                except Violation as shortest:
                    _print(f"with these: {shortest}")
                _print(f"again: make simulate SEED={seed} (has {len(draw(seed))} steps)")
                return 1
            if time.monotonic() - told > 10:
                told = time.monotonic()
                _print(f"seed {seed}: {played} of {len(seeds)}, {played / (told - began):.1f} a second")
    seconds = time.monotonic() - began
    _print(f"{len(seeds)} seeds, {seeds[0]} to {seeds[-1]}, in {seconds:.0f} s ({len(seeds) / seconds:.1f} a second)")
    for kind in KINDS:
        _print(f"  {report.counts[kind]:>8} {kind}")
    _print("checked: " + ", ".join(f"{name} {count}" for name, count in sorted(report.checks.items())))
    never = [kind for kind in KINDS if not report.counts[kind]]
    if never and given.seed is None:
        _print(f"never drawn: {', '.join(never)}")
        return 1
    return 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
