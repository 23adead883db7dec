"""Which faults happen: armed by steps, drawn by the seed, and counted when they strike."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

SHARES = (
    "post lost",
    "post duplicated",
    "post late",
    "post refused (403)",
    "post throttled (429, 5xx)",
    "post hangs",
    "post gone (410, false)",
    "message lost",
    "message late",
    "connect late",
    "disconnect lost",
    "disconnect late",
    "disconnect twice",
    "call repeated",
    "call slow",
)
"""Faults that strike a share of what happens for a while."""
EVENTS = (
    "function killed",
    "function slow",
    "sweeper slow",
    "functions overlap",
    "post gone (410, true)",
    "tail lost on one node",
    "tail lost on all nodes",
    "node unavailable",
    "node restarted empty",
    "store restarted empty",
    "graph not loaded",
    "user evicted",
    "pending evicted",
    "sees evicted",
    "due evicted",
    "machine gone",
    "socket cut",
    "network away",
    "day passed",
)
"""Faults that happen once."""
KINDS = (*SHARES, *EVENTS)


@dataclass(slots=True)
class Armed:
    """What strikes the next function that completes so many steps."""

    step: int
    ms: float | None
    """How long it is held up; None: it dies."""
    only: str = ""
    """The kind of function; "" for any."""


class Faults:
    """Decides by a random source of its own.

    Attributes:
        counts: how often each kind has struck.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(f"{seed} faults")
        self.counts: Counter[str] = Counter()
        self.shares: dict[str, float] = {}
        self.armed: list[Armed] = []

    def strikes(self, kind: str) -> bool:
        """Whether a fault of this kind happens now."""
        share = self.shares.get(kind, 0.0)
        if share and self.random.random() < share:
            self.counts[kind] += 1
            return True
        return False

    def of_step(self, function: str, step: int) -> Armed | None:
        """What strikes a function of this kind after this step; it strikes once."""
        for armed in self.armed:
            if armed.step == step and armed.only in ("", function):
                self.armed.remove(armed)
                slow = "sweeper slow" if function == "sweeper" else "function slow"
                self.counts["function killed" if armed.ms is None else slow] += 1
                return armed
        return None

    def end(self) -> None:
        """Nothing strikes any more."""
        self.shares.clear()
        self.armed.clear()
