"""What a load has done and seen, in numbers, and how they are told. Nothing is connected or measured here.

Times that are noted are seconds; those that are told are milliseconds.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any

NEAR_ITS_LIMIT = 0.85
"""Of a core: when the load itself takes more, it is a part of what is measured."""
LATE = 0.05
"""Seconds that changes may leave too late before it is told."""


class Tally:
    """Counts while a load runs.

    A *delivery* is one change that one connection of one contact is to be shown. It is delivered when it is shown, or
    when a later state of the same user is: states that are superseded need not be sent.
    """

    def __init__(self) -> None:
        self.opened = 0
        """Handshakes that succeeded."""
        self.refused: Counter[str] = Counter()
        """Handshakes that did not, by status or reason."""
        self.handshakes = array("d")
        """How long those that succeeded took."""
        self.pictures = array("d")
        """How long it took from the beginning of a handshake until contacts were shown."""
        self.connecting = 0.0
        """Seconds until everybody was connected and shown their contacts."""
        self.closed: Counter[str] = Counter()
        """Connections that ended without our doing, by code."""
        self.changes = 0
        self.late = array("d")
        """By how much each change left later than it should: the load's own fault."""
        self.seconds = 0.0
        """For how long changes were sent."""
        self.cpu = 0.0
        """Seconds of this process's CPU in that time."""
        self.expected = 0
        self.superseded = 0
        """Deliveries in which only a later state was shown."""
        self.withdrawn = 0
        """Deliveries to a connection that ended before: nobody was there to be shown anything."""
        self.latencies = array("d")
        """How long each delivery took, from the change's leaving to the contact's seeing it."""
        self.frames: Counter[str] = Counter()
        """Frames that came, by type."""
        self.errors: Counter[str] = Counter()
        """Errors that the service told, by code."""

    @property
    def delivered(self) -> int:
        """How many deliveries were shown."""
        return len(self.latencies)

    @property
    def outstanding(self) -> int:
        """How many deliveries are still to come; when nothing comes any more, they are lost."""
        return self.expected - self.delivered - self.withdrawn

    def report(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "seconds": round(self.seconds, 3),
            "connects": {
                "seconds": round(self.connecting, 3),
                "opened": self.opened,
                "refused": dict(self.refused),
                "closed": dict(self.closed),
                "handshakeMs": percentiles(self.handshakes),
                "pictureMs": percentiles(self.pictures),
            },
            "changes": {
                "sent": self.changes,
                "perSecond": round(self.changes / self.seconds, 2) if self.seconds else 0.0,
            },
            "deliveries": {
                "expected": self.expected,
                "delivered": self.delivered,
                "superseded": self.superseded,
                "withdrawn": self.withdrawn,
                "lost": self.outstanding,
                "latencyMs": percentiles(self.latencies),
            },
            "frames": dict(self.frames),
            "errors": dict(self.errors),
            "load": {
                "lateMs": percentiles(self.late),
                "cores": round(self.cpu / self.seconds, 2) if self.seconds else 0.0,
            },
        }


def percentiles(times: array[float]) -> dict[str, float]:
    """p50, p95, p99 and the longest, in ms; nothing of nothing. The nearest rank: each is a time that was measured."""
    if not times:
        return {}
    ordered = sorted(times)
    ranks = {name: ordered[-(-len(ordered) * percent // 100) - 1] for name, percent in (("p50", 50), ("p95", 95))}
    ranks |= {"p99": ordered[-(-len(ordered) * 99 // 100) - 1], "max": ordered[-1]}
    return {name: round(seconds * 1000, 3) for name, seconds in ranks.items()}


def words(report: Mapping[str, Any]) -> list[str]:
    """A report as lines for a person."""
    connects, deliveries, changes = report["connects"], report["deliveries"], report["changes"]
    lines = [
        ("connects", _connects(connects)),
        ("handshake", _times(connects["handshakeMs"])),
        ("first picture", _times(connects["pictureMs"])),
        ("changes", f"{changes['sent']:,} sent in {report['seconds']:,.1f} s, {changes['perSecond']:,.1f} a second"),
        ("change → contact", _times(deliveries["latencyMs"])),
        ("deliveries", _deliveries(deliveries)),
        ("frames", _by_kind(report["frames"], "received")),
        ("closed", _by_kind(connects["closed"], "closed by the other side")),
        ("errors", _by_kind(report["errors"], "told")),
    ]
    return [f"{name:<18}{line}" for name, line in lines] + _doubts(report["load"])


def _connects(connects: Mapping[str, Any]) -> str:
    opened = f"{connects['opened']:,} opened in {connects['seconds']:,.1f} s"
    return f"{opened}, {_by_kind(connects['refused'], 'refused')}"


def _deliveries(deliveries: Mapping[str, Any]) -> str:
    parts = [f"{deliveries['expected']:,} expected", f"{deliveries['delivered']:,} shown"]
    if deliveries["superseded"]:
        parts[-1] += f" ({deliveries['superseded']:,} in a later state)"
    if deliveries["withdrawn"]:
        parts.append(f"{deliveries['withdrawn']:,} whose contact had gone")
    return ", ".join([*parts, f"{deliveries['lost']:,} lost"])


def _doubts(load: Mapping[str, Any]) -> list[str]:
    """Why the numbers may be worse than the service is."""
    doubts = []
    if load["cores"] > NEAR_ITS_LIMIT:
        doubts.append(f"the load took {load['cores']:.0%} of a core: this machine is a part of what was measured")
    if load["lateMs"].get("p99", 0) > LATE * 1000:
        doubts.append(f"changes left late (p99 {load['lateMs']['p99']:,.0f} ms): this machine has too much to do")
    return doubts


def _by_kind(counts: Mapping[str, int], what: str) -> str:
    kinds = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{sum(counts.values()):,} {what}" + (f" ({kinds})" if kinds else "")


def _times(times: Mapping[str, float]) -> str:
    if not times:
        return "not measured"
    shown = ", ".join(f"{name} {_ms(times[name])}" for name in ("p50", "p95", "p99"))
    return f"{shown}, longest {_ms(times['max'])}"


def _ms(ms: float) -> str:
    return f"{ms:,.0f} ms" if ms >= 10 else f"{ms:.1f} ms"
