"""The metrics of tests: everything that is counted or timed is kept."""

from __future__ import annotations

from collections import Counter, defaultdict


class Counts:
    """Keeps what was counted, under `counts`, and what was timed (in ms), under `times`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.times: defaultdict[str, list[float]] = defaultdict(list)

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter."""
        self.counts[name] += amount  # type: ignore[assignment]

    def time(self, name: str, ms: float) -> None:
        """Keep how long something took."""
        self.times[name].append(ms)
