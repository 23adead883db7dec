"""Lambda handlers for the tests of `local`: each does one thing that a handler can do, well or badly."""

from __future__ import annotations

from typing import Any


def echo(event: Any, _context: Any) -> Any:
    """Answer with the event."""
    return event
