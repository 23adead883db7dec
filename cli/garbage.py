"""How often a process that holds thousands of connections looks for garbage."""

from __future__ import annotations

import gc

NEW_OBJECTS = 50_000


def collect_rarely() -> None:
    """Look only after so many new objects.

    Python's own 700 takes what is only on its way for long-lived, and so looks every few seconds through all that
    thousands of connections hold, for a tenth of a second in which nothing else happens.
    """
    gc.set_threshold(NEW_OBJECTS)
