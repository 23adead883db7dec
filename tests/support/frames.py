"""Frames from the service to bob, who sees alice."""

from __future__ import annotations

from typing import Any

SEQ = 1000
"""The number of the snapshot."""


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


def snapshot(seq: int = SEQ, id: str | None = None, **of_self: Any) -> dict[str, Any]:
    """A snapshot with alice as the only contact."""
    alice = {"userId": "alice", "status": "online", "rev": 1}
    return {
        "type": "presence_snapshot",
        **({} if id is None else {"id": id}),
        "seq": seq,
        "part": 1,
        "parts": 1,
        "resumed": False,
        "self": own(**of_self),
        "users": [alice],
    }


def event(seq: int, rev: int = 2, status: str = "busy") -> dict[str, Any]:
    """A change of alice."""
    return {"type": "presence_status", "seq": seq, "userId": "alice", "status": status, "rev": rev}
