"""Frames from the service to bob, who sees alice."""

from __future__ import annotations

import itertools
from typing import Any

SEQ = 1000
"""The number of the snapshot."""
_names = itertools.count()


def own(*, every: float = 30, life: float = 6600, **fields: Any) -> dict[str, Any]:
    """`self` in a snapshot. Durations in seconds. The service's clock differs from ours by a wide margin."""
    device = {"connectionId": "K1=", "connectedAt": 5_000_000}
    return {
        "userId": "bob",
        "connectionId": "K1=",
        "devices": [device],
        "heartbeatEvery": every * 1000,
        "rotateAt": device["connectedAt"] + life * 1000,  # type: ignore[operator]
        **fields,
    }


def snapshot(seq: int = SEQ, **of_self: Any) -> dict[str, Any]:
    """A snapshot with alice as the only contact."""
    return {
        "type": "presence_snapshot",
        "snapshot": f"snapshot-{next(_names)}",
        "seq": seq,
        "resumed": False,
        "part": 1,
        "parts": 1,
        "self": own(**of_self),
        "users": [{"userId": "alice", "status": "online"}],
    }


def resumed(seq: int = SEQ, **of_self: Any) -> dict[str, Any]:
    """The response to a client that missed nothing."""
    return {"type": "presence_snapshot", "seq": seq, "resumed": True, "self": own(**of_self)}


def event(prev: int, seq: int, status: str = "busy") -> dict[str, Any]:
    """A change of alice."""
    return {"type": "presence_status", "seq": seq, "prev": prev, "userId": "alice", "status": status}
