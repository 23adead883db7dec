"""The clock of tests: it stands still until a test advances it."""

from __future__ import annotations

EPOCH = 1_732_400_000_000
"""When tests begin, in ms: 23 November 2024, 22:13:20 UTC."""


class Clock:
    """A time in ms. Calling it reads it, like the service's clock; `seconds` reads it in seconds."""

    def __init__(self, now: int = EPOCH) -> None:
        self.now = now

    def __call__(self) -> int:
        """The time, in ms."""
        return self.now

    def seconds(self) -> float:
        """The time, in seconds."""
        return self.now / 1000

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * 1000)
