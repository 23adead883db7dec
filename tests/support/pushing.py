"""What the tests of pushing share: whom to post to, a meter that remembers, and a clock that can be moved on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from shared.delivery import Frame
from shared.push import Pusher

ALICE, BOB, CAROL = "Alice_fALIAMCKg=", "Bob-_cfALIAMCKg=", "Carol1tKRcF-Qw0="

Make = Callable[..., Pusher]
"""Makes a pusher for a callback URL, with `budget` in seconds; it is shut down when the test ends."""


class Counts:
    """A meter that remembers."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.times: list[tuple[str, float]] = []

    def count(self, name: str, amount: float = 1) -> None:
        self.counts[name] += int(amount)

    def time(self, name: str, ms: float) -> None:
        self.times.append((name, ms))


class Clock:
    """Runs as real time does, and can be moved on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def frames(count: int, to: int | None = None) -> list[Frame]:
    """Numbered frames, in turn to so many connections: as many as frames, unless said otherwise."""
    return [Frame(f"Conn{number % (to or count):08d}Qw=", b'{"n":%d}' % number) for number in range(count)]
