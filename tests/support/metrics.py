"""Metrics for tests: everything that is counted or timed is kept in memory."""

from __future__ import annotations

from collections import Counter, defaultdict


class Counts:
    """Keeps counters under `counts`, and durations (in ms) under `times`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.times: defaultdict[str, list[float]] = defaultdict(list)

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter."""
        self.counts[name] += amount  # type: ignore[assignment]

    def time(self, name: str, ms: float) -> None:
        """Record a duration."""
        self.times[name].append(ms)
