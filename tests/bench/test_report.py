"""The report of benchmarks: verdicts and numbers match what was measured."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from bench.report import Amount, Chapter, Plot, Row, Scale, Target, figures, markdown, table

POSTS = Row(
    "posts", Amount(12_345.6, "posts/s"), "boto3", Amount(1000, "posts/s"), 12.3456, Target("≥", 10), "over TLS"
)
BEATS = Row("beats | a heartbeat", Amount(61.54, "µs"), "EVALSHA", Amount(20, "µs"), 3.077, Target("≤", 2))
TRIPS = Row("round trips", Amount(3), target=Target("≤", 3, of="ours"))
LATENCY = Row("p99", Amount(100, "ms"), target=Target("<", 100, of="ours"))
FREE = Row("bytes", Amount(0, "B"))


@pytest.mark.parametrize(
    ("row", "verdict"), [(POSTS, "met"), (BEATS, "not met"), (TRIPS, "met"), (LATENCY, "not met"), (FREE, "")]
)
def test_a_row_is_compared_with_its_target(row: Row, verdict: str) -> None:
    """By its ratio or by our own amount, in the direction of the target."""
    assert row.verdict == verdict


def test_a_row_without_a_ratio_does_not_meet_a_target_for_one() -> None:
    """A target that was not measured is not met."""
    assert Row("x", Amount(1), target=Target("≤", 2)).verdict == "not met"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.06512, "0.065"), (1.2345, "1.23"), (2.0, "2"), (20.04, "20"), (99.94, "99.9"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    """All digits before the point are kept."""
    assert figures(value) == text


def test_markdown_shows_every_row_and_counts_the_targets() -> None:
    """A line for each row, with unmet targets in bold, and a plot if there is one."""
    plot = Plot("Posts", "posts/s", [("ours", 12.0)])
    chapters = [
        Chapter("fan_out", "How posts are measured.", [POSTS], plot),
        Chapter("events", "…", [BEATS, TRIPS, FREE]),
    ]
    text = markdown(chapters, {"date": "2024-11-23"})
    assert "## Fan out\n\nHow posts are measured.\n" in text
    assert "| posts | 12,346 posts/s | boto3 | 1,000 posts/s | 12.3× | ≥ 10×: met | over TLS |" in text
    assert "| beats \\| a heartbeat | 61.5 µs | EVALSHA | 20 µs | 3.08× | ≤ 2×: **not met** |  |" in text
    assert "| round trips | 3 |  |  |  | ≤ 3: met |  |" in text
    assert "2 of 3 targets are met." in text
    assert "![Posts](images/bench-fan_out.svg)" in text
    assert "bench-events" not in text


def test_the_table_shows_every_row() -> None:
    """As the document does."""
    written = io.StringIO()
    Console(file=written, width=160).print(table([Chapter("a", "", [POSTS, BEATS]), Chapter("b", "", [TRIPS])]))
    lines = written.getvalue().splitlines()
    assert [line for line in lines if "posts/s" in line and "12.3×" in line and "≥ 10×: met" in line]
    assert [line for line in lines if "61.5 µs" in line and "not met" in line]
    assert [line for line in lines if "round trips" in line]


def test_bars_are_as_long_as_their_numbers() -> None:
    """The longest fills the width, and names are text even with a < in them."""
    svg = Plot("A & B", "µs", [("ours", 10.0), ("<theirs>", 40.0), ("none", 0.0)], ours=["ours"]).svg()
    root = ET.fromstring(svg)  # noqa: S314 - our own
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(bar.attrib["width"]) for bar in root.iter(f"{space}rect")]
    assert widths[1] == 4 * widths[0] == 360
    texts = [text.text for text in root.iter(f"{space}text")]
    assert texts == ["A & B", "ours", "10 µs", "<theirs>", "40 µs", "none", "0 µs"]


def test_a_scale_picks() -> None:
    """The first value for a quick run."""
    assert (Scale.QUICK.pick(1, 2), Scale.FULL.pick(1, 2)) == (1, 2)
