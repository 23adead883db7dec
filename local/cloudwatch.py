"""CloudWatch's metrics of the last minutes: from the functions' embedded metric format, from Lambda, and gauges.

The service defines which metrics there are. `cli/demo.py` shows them.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from local.awslambda.invocation import Invoker, Throttled

PERIOD = 5.0
"""Seconds of one data point; an execution environment writes its metrics no more often."""
PERIODS = 60
"""Data points that are kept: five minutes."""
MOST_VALUES = 5000
"""Durations of one metric that are kept in one period; percentiles ignore the rest."""
PERCENTILES = (50, 95, 99)
INVOCATIONS, ERRORS, THROTTLES, DURATION = "Invocations", "Errors", "Throttles", "Duration"
"""Lambda's own metrics of a function, by their names in CloudWatch."""


@dataclass(slots=True)
class _Period:
    """The measurements of one period. Keys are (function, metric); metrics of the service have the function ""."""

    number: int
    counts: dict[tuple[str, str], float] = field(default_factory=dict)
    durations: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)


class Metrics:
    """The numbers of the last `PERIODS` periods.

    `clock` returns seconds since the epoch. Not thread-safe: for one event loop.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._periods: deque[_Period] = deque(maxlen=PERIODS)

    def line(self, text: str) -> None:
        """Read a line of a function's log; lines without metrics are ignored.

        A metric with the unit Milliseconds is a duration; all others are summed up.
        """
        if '"_aws"' not in text:
            return
        try:
            entry = json.loads(text)
            units = {
                metric["Name"]: metric["Unit"]
                for directive in entry["_aws"]["CloudWatchMetrics"]
                for metric in directive["Metrics"]
            }
            measured = {name: [float(value) for value in _listed(entry[name])] for name in units}
        except (ValueError, KeyError, TypeError):
            return  # CloudWatch also keeps such a line in the log without making metrics of it.
        for name, values in measured.items():
            if units[name] == "Milliseconds":
                self._time("", name, values)
            else:
                self._count("", name, sum(values))

    def gauge(self, name: str, value: float) -> None:
        """Record the current value of something; the last value of a period counts."""
        self._now().gauges[name] = value

    def invoked(self, function: str, *, ms: float, error: bool, throttled: bool) -> None:
        """Record an invocation, as Lambda does: a throttled one does not count as an invocation."""
        if throttled:
            self._count(function, THROTTLES, 1)
            return
        self._count(function, INVOCATIONS, 1)
        self._time(function, DURATION, [ms])
        if error:
            self._count(function, ERRORS, 1)

    def report(self) -> dict[str, Any]:
        """All metrics, as JSON.

        `period` is in ms, and `end` is the end of the last period in ms since the epoch. `counts` and `gauges` hold a
        list for each metric, oldest period first; a gauge is null in periods without a value. `durations` hold such a
        list for each percentile of a metric (`p50` …, in ms), and `all` with the percentiles of the whole time and the
        number of values, `n`. `functions` holds the counts and durations of each function.
        """
        periods = self._window()
        report: defaultdict[str, dict[str, Any]] = defaultdict(lambda: {"counts": {}, "durations": {}})
        for (function, name), values in self._counts(periods).items():
            report[function]["counts"][name] = values
        for (function, name), times in self._durations(periods).items():
            report[function]["durations"][name] = times
        names = sorted({name for period in periods for name in period.gauges})
        return {
            "period": int(PERIOD * 1000),
            "end": int((periods[-1].number + 1) * PERIOD * 1000),
            "gauges": {name: [period.gauges.get(name) for period in periods] for name in names},
            **report[""],
            "functions": {function: report[function] for function in sorted(report) if function},
        }

    def _count(self, function: str, name: str, amount: float) -> None:
        counts = self._now().counts
        counts[function, name] = counts.get((function, name), 0) + amount

    def _time(self, function: str, name: str, ms: Iterable[float]) -> None:
        kept = self._now().durations.setdefault((function, name), [])
        kept.extend(list(ms)[: MOST_VALUES - len(kept)])

    def _now(self) -> _Period:
        number = int(self._clock() // PERIOD)
        # A clock that was set back does not start a period again.
        if not self._periods or self._periods[-1].number < number:
            self._periods.append(_Period(number))
        return self._periods[-1]

    def _window(self) -> list[_Period]:
        """The last periods, up to now, including empty ones."""
        last = self._now().number
        known = {period.number: period for period in self._periods}
        return [known.get(number) or _Period(number) for number in range(last - PERIODS + 1, last + 1)]

    @staticmethod
    def _counts(periods: Sequence[_Period]) -> dict[tuple[str, str], list[float]]:
        keys = dict.fromkeys(key for period in periods for key in period.counts)
        return {key: [period.counts.get(key, 0) for period in periods] for key in keys}

    @staticmethod
    def _durations(periods: Sequence[_Period]) -> dict[tuple[str, str], dict[str, Any]]:
        keys = dict.fromkeys(key for period in periods for key in period.durations)
        durations = {}
        for key in keys:
            each = [sorted(period.durations.get(key, ())) for period in periods]
            every = sorted(value for values in each for value in values)
            durations[key] = {
                **{f"p{share}": [percentile(values, share) for values in each] for share in PERCENTILES},
                "all": {"n": len(every), **{f"p{share}": percentile(every, share) for share in PERCENTILES}},
            }
        return durations


class Measured:
    """An `Invoker` that records its invocations, as Lambda does."""

    def __init__(self, invoker: Invoker, metrics: Metrics, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._invoker, self._metrics, self._monotonic = invoker, metrics, monotonic

    async def invoke(self, name: str, event: dict[str, Any]) -> Any:
        """As `Invoker.invoke`."""
        began, error, throttled = self._monotonic(), True, False
        try:
            answer = await self._invoker.invoke(name, event)
            error = False
        except Throttled:
            throttled = True
            raise
        finally:
            self._metrics.invoked(name, ms=(self._monotonic() - began) * 1000, error=error, throttled=throttled)
        return answer


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest of these sorted values that `share` percent of them do not exceed; None if there are none."""
    return round(values[max(0, math.ceil(len(values) * share / 100) - 1)], 2) if values else None


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]
