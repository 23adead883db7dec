"""Counts and durations of one execution environment, aggregated in memory and written as CloudWatch metrics.

docs/decisions/0008 has the reasons.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable

from aws_lambda_powertools.metrics import Metrics as MetricLines
from aws_lambda_powertools.metrics import MetricUnit

FLUSH_SECONDS = 5.0
"""How often an environment writes its metrics at most: a line for each event would cost more than the event."""
MAX_VALUES = 99
"""Values of one metric in one line. The embedded metric format takes 100, and at that Powertools writes a line
immediately, without the values of other metrics."""


class Metrics:
    """Adds up, and writes one metric line every few seconds.

    The one dimension is the deployment, since each further value of a dimension is billed as a metric of its own. The
    line also names the function, for searching the log. What an environment has not written when it is taken away is
    lost: at most a few seconds of its metrics.
    """

    def __init__(self, deployment: str, function: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lines, self._function = MetricLines(namespace="Presence", service=deployment), function
        self._monotonic, self._flushed = monotonic, monotonic()
        self._counts: Counter[str] = Counter()
        self._times: defaultdict[str, list[float]] = defaultdict(list)

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter."""
        self._counts[name] += amount  # type: ignore[assignment]

    def time(self, name: str, ms: float) -> None:
        """Record a duration, in ms."""
        if len(self._times[name]) < MAX_VALUES:
            self._times[name].append(ms)

    def flush(self) -> None:
        """Write what has been collected, if it is time."""
        now = self._monotonic()
        if now - self._flushed < FLUSH_SECONDS or not (self._counts or self._times):
            return
        self._flushed = now
        for name, amount in self._counts.items():
            self._lines.add_metric(name=name, unit=MetricUnit.Count, value=amount)
        for name, values in self._times.items():
            for value in values:
                self._lines.add_metric(name=name, unit=MetricUnit.Milliseconds, value=round(value, 3))
        self._counts.clear()
        self._times.clear()
        self._lines.add_metadata(key="function", value=self._function)
        self._lines.flush_metrics()
