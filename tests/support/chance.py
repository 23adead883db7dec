"""Randomness that a test controls."""

from __future__ import annotations

import random


class Earliest(random.Random):
    """Always returns the smallest number."""

    def uniform(self, a: float, b: float) -> float:
        """The lower bound."""
        return a
