"""Shared by the tests of pushing: connection ids, metrics kept in memory, and a clock that can be advanced."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from shared.delivery import Post
from shared.push import Pusher

ALICE, BOB, CAROL = "Alice_fALIAMCKg=", "Bob-_cfALIAMCKg=", "Carol1tKRcF-Qw0="

Make = Callable[..., Pusher]
"""Makes a pusher for a callback URL, with `budget` in seconds; it is shut down when the test ends."""


class Counts:
    """Metrics kept in memory."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.times: list[tuple[str, float]] = []

    def count(self, name: str, amount: float = 1) -> None:
        self.counts[name] += int(amount)

    def time(self, name: str, ms: float) -> None:
        self.times.append((name, ms))


class Clock:
    """Runs in real time, and can be advanced."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def frames(count: int, to: int | None = None) -> list[Post]:
    """Numbered frames, in turn to each of `to` connections; by default each frame has a connection of its own."""
    return [Post(f"Conn{number % (to or count):08d}Qw=", b'{"n":%d}' % number) for number in range(count)]
