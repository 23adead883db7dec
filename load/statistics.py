"""Statistics of a load, and their report. Nothing is connected or measured here.

Recorded times are in seconds, reported times in milliseconds.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any

NEAR_ITS_LIMIT = 0.85
"""Share of a core. If the load generator takes more, it affects what it measures."""
LATE = 0.05
"""Seconds by which changes may be late before the report warns."""


class Statistics:
    """What is recorded while a load runs.

    A *delivery* is one change that one connection of one contact should show. It is delivered when the connection shows
    the change or a later state of the same user: superseded states need not be sent.
    """

    def __init__(self) -> None:
        self.opened = 0
        """Handshakes that succeeded."""
        self.refused: Counter[str] = Counter()
        """Handshakes that failed, by status or reason."""
        self.handshakes = array("d")
        """Durations of the successful handshakes."""
        self.snapshots = array("d")
        """Times from the start of a handshake until the client had its first snapshot."""
        self.connecting = 0.0
        """Seconds until all clients were connected and had their first snapshot."""
        self.closed: Counter[str] = Counter()
        """Connections that the service closed, by code."""
        self.changes = 0
        self.late = array("d")
        """By how much each change was sent too late, which is the load generator's own fault."""
        self.seconds = 0.0
        """How long changes were sent."""
        self.cpu = 0.0
        """CPU seconds of this process in that time."""
        self.expected = 0
        self.superseded = 0
        """Deliveries in which the contact showed only a later state."""
        self.withdrawn = 0
        """Deliveries to a connection that ended before it could show them."""
        self.latencies = array("d")
        """Duration of each delivery, from sending the change to the contact showing it."""
        self.frames: Counter[str] = Counter()
        """Received frames, by type."""
        self.errors: Counter[str] = Counter()
        """Received errors, by code."""

    @property
    def delivered(self) -> int:
        """How many deliveries arrived."""
        return len(self.latencies)

    @property
    def outstanding(self) -> int:
        """How many deliveries have not arrived. At the end of a load, they are lost."""
        return self.expected - self.delivered - self.withdrawn

    def report(self) -> dict[str, Any]:
        """All statistics, as JSON."""
        return {
            "seconds": round(self.seconds, 3),
            "connects": {
                "seconds": round(self.connecting, 3),
                "opened": self.opened,
                "refused": dict(self.refused),
                "closed": dict(self.closed),
                "handshakeMs": percentiles(self.handshakes),
                "snapshotMs": percentiles(self.snapshots),
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
    """p50, p95, p99 and the maximum, in ms; empty if there are no times. Nearest rank: each is a measured time."""
    if not times:
        return {}
    ordered = sorted(times)
    ranks = {name: ordered[-(-len(ordered) * percent // 100) - 1] for name, percent in (("p50", 50), ("p95", 95))}
    ranks |= {"p99": ordered[-(-len(ordered) * 99 // 100) - 1], "max": ordered[-1]}
    return {name: round(seconds * 1000, 3) for name, seconds in ranks.items()}


def lines_of(report: Mapping[str, Any]) -> list[str]:
    """A report as lines of text."""
    connects, deliveries, changes = report["connects"], report["deliveries"], report["changes"]
    lines = [
        ("connects", _connects(connects)),
        ("handshake", _times(connects["handshakeMs"])),
        ("first snapshot", _times(connects["snapshotMs"])),
        ("changes", f"{changes['sent']:,} sent in {report['seconds']:,.1f} s, {changes['perSecond']:,.1f} a second"),
        ("change → contact", _times(deliveries["latencyMs"])),
        ("deliveries", _deliveries(deliveries)),
        ("frames", _by_kind(report["frames"], "received")),
        ("closed", _by_kind(connects["closed"], "closed by the service")),
        ("errors", _by_kind(report["errors"], "received")),
    ]
    return [f"{name:<18}{line}" for name, line in lines] + _warnings(report["load"])


def _connects(connects: Mapping[str, Any]) -> str:
    opened = f"{connects['opened']:,} opened in {connects['seconds']:,.1f} s"
    return f"{opened}, {_by_kind(connects['refused'], 'refused')}"


def _deliveries(deliveries: Mapping[str, Any]) -> str:
    parts = [f"{deliveries['expected']:,} expected", f"{deliveries['delivered']:,} shown"]
    if deliveries["superseded"]:
        parts[-1] += f" ({deliveries['superseded']:,} in a later state)"
    if deliveries["withdrawn"]:
        parts.append(f"{deliveries['withdrawn']:,} to closed connections")
    return ", ".join([*parts, f"{deliveries['lost']:,} lost"])


def _warnings(load: Mapping[str, Any]) -> list[str]:
    """Why the numbers may be worse than the service is."""
    warnings = []
    if load["cores"] > NEAR_ITS_LIMIT:
        warnings.append(f"the load generator took {load['cores']:.0%} of a core, which affects the numbers")
    if load["lateMs"].get("p99", 0) > LATE * 1000:
        warnings.append(f"changes were sent late (p99 {load['lateMs']['p99']:,.0f} ms): this machine is overloaded")
    return warnings


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
