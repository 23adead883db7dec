"""The report of a benchmark: table rows, each a ratio from one run compared with a target, and plots.

Nothing is measured here.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from html import escape
from typing import Literal, NamedTuple, TypeVar

from rich.table import Table

T = TypeVar("T")


class Scale(Enum):
    """How much is measured: enough to check that it works, or enough to trust the numbers."""

    QUICK = "quick"
    FULL = "full"

    def pick(self, quick: T, full: T) -> T:
        """The value for this scale."""
        return quick if self is Scale.QUICK else full


class Amount(NamedTuple):
    """A number with its unit, like 61.5 µs; a unit may be empty."""

    value: float
    unit: str = ""

    def __str__(self) -> str:
        return f"{figures(self.value)} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Target:
    """A bound for the row's ratio or, with `of="ours"`, for our own amount in its unit."""

    direction: Literal["≤", "≥", "<"]
    bound: float
    of: Literal["ratio", "ours"] = "ratio"

    def is_met(self, row: Row) -> bool:
        """Whether a row meets the target; a row without the number does not."""
        measured = row.ratio if self.of == "ratio" else row.ours.value
        if measured is None:
            return False
        return {"≤": measured <= self.bound, "<": measured < self.bound, "≥": measured >= self.bound}[self.direction]

    def text(self, row: Row) -> str:
        """The target in the table: ≤ 1.2×, or ≤ 5 µs."""
        return f"{self.direction} {_times(self.bound) if self.of == 'ratio' else Amount(self.bound, row.ours.unit)}"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. Both sides were measured in turns in the same run."""

    what: str
    ours: Amount
    against: str = ""
    """What it is compared with; empty for a single number."""
    theirs: Amount | None = None
    ratio: float | None = None
    """Ours divided by theirs. Above 1 is better for posts per second, and worse for CPU."""
    target: Target | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """`met`, `not met`, or empty without a target."""
        return "" if self.target is None else "met" if self.target.is_met(self) else "not met"

    def cells(self) -> tuple[str, ...]:
        """The row as text, with a cell for each of `COLUMNS`."""
        target = "" if self.target is None else f"{self.target.text(self)}: {self.verdict}"
        theirs = "" if self.theirs is None else str(self.theirs)
        return (self.what, str(self.ours), self.against, theirs, _times(self.ratio), target, self.note)


COLUMNS = ("what", "ours", "against", "theirs", "ratio", "target", "note")


@dataclass(frozen=True, slots=True)
class Plot:
    """A bar chart of named amounts in one unit. The bars in `ours` are highlighted."""

    title: str
    unit: str
    bars: Sequence[tuple[str, float]]
    ours: Sequence[str] = ()

    def svg(self) -> str:
        """The chart as SVG that is readable on light and on dark pages."""
        left, width, height, gap = 300, 360, 22, 8
        longest = max((value for _, value in self.bars), default=0) or 1
        lines = []
        for place, (name, value) in enumerate(self.bars):
            top, length = 44 + place * (height + gap), max(1, round(width * value / longest))
            color = "#2563eb" if name in self.ours else "#94a3b8"
            lines += [
                f'<text x="{left - 8}" y="{top + 16}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{left}" y="{top}" width="{length}" height="{height}" rx="3" fill="{color}"/>',
                f'<text x="{left + length + 8}" y="{top + 16}">{escape(str(Amount(value, self.unit)))}</text>',
            ]
        whole = 44 + len(self.bars) * (height + gap) + 8
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 {whole}" width="820" height="{whole}">',
                "<style>text{font:13px system-ui,sans-serif;fill:#64748b}.title{font-weight:600}</style>",
                f'<text class="title" x="12" y="24">{escape(self.title)}</text>',
                *lines,
                "</svg>\n",
            ]
        )


@dataclass(frozen=True, slots=True)
class Chapter:
    """One benchmark's part of the report."""

    name: str
    about: str
    """The docstring of the module, which says what is measured and how."""
    rows: Sequence[Row]
    plot: Plot | None = None


def figures(value: float) -> str:
    """A number with three significant digits, or all digits before the point."""
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def table(chapters: Sequence[Chapter]) -> Table:
    """All rows as one table for a terminal."""
    shown = Table(*COLUMNS, title="All rows are from this run on this machine", title_justify="left")
    for chapter in chapters:
        shown.add_section()
        for row in chapter.rows:
            color = {"met": "green", "not met": "red", "": None}[row.verdict]
            shown.add_row(*row.cells(), style=color)
    return shown


def machine(store: str, version: str) -> dict[str, str]:
    """The date and the machine of this run, and its Redis or Valkey."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, {platform.system()}",
        "Python": platform.python_version(),
        store.capitalize(): version,
    }


def markdown(chapters: Sequence[Chapter], about: Mapping[str, str]) -> str:
    """The report, as in docs/benchmarks.md."""
    bounded = [row for chapter in chapters for row in chapter.rows if row.target]
    met = sum(row.verdict == "met" for row in bounded)
    lines = [
        "<!-- Written by `make bench`, which overwrites manual edits. -->",
        "# Benchmarks",
        "",
        "`make bench` wrote this page. Both sides of a row were measured in turns, in one run on one machine,",
        "so trust the ratios (ours to theirs), not the absolute numbers.",
        "",
        "; ".join(f"{name}: {value}" for name, value in about.items()) + ".",
        f"{met} of {len(bounded)} targets are met.",
    ]
    for chapter in chapters:
        lines += ["", f"## {chapter.name.replace('_', ' ').capitalize()}", "", chapter.about, ""]
        lines += [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *(_line(row.cells()) for row in chapter.rows)]
        if chapter.plot:
            lines += ["", f"![{chapter.plot.title}](images/bench-{chapter.name}.svg)"]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    shown = (cell.replace("|", "\\|").replace("not met", "**not met**") for cell in cells)
    return "| " + " | ".join(shown) + " |"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{figures(ratio)}×"
