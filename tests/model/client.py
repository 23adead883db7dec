"""A connection's client: the shipped rules (`load/state.py`) with what a test asks for.

The rules are those of docs/vectors.json, as in the JavaScript client. It decides nothing about presence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from load.state import Record, State, next_tick, receive, tick


class Client:
    """What one connection has received."""

    def __init__(self) -> None:
        self.state = State()
        self.wants_sync = False
        """The rules asked for a `sync` that has not been sent."""

    @property
    def seq(self) -> int | None:
        """The number up to which it is complete; None before the first snapshot."""
        return self.state.seq

    @property
    def records(self) -> dict[str, Record]:
        """The record of each user."""
        return dict(self.state.users)

    @property
    def own(self) -> tuple[int, Record]:
        """The number of the frame with the user's own real state, and that state."""
        return self.state.own_at, self.state.own or {}

    @property
    def behind(self) -> bool:
        """Whether a frame is missing before one that has arrived."""
        return bool(self.state.kept)

    def late(self, now: int) -> bool:
        """Whether a frame has been missing for so long that the rules ask for a `sync`."""
        due = next_tick(self.state)
        return due is not None and due <= now

    def receive(self, frame: dict[str, Any], now: int = 0) -> None:
        """Process a frame that arrives at `now` (ms)."""
        self.state, sync = receive(self.state, frame, now)
        self.wants_sync |= sync

    def catch_up(self, now: int, sync: Callable[[int | None], None]) -> None:
        """Do what the rules ask for at `now` (ms): send `sync`, with the `seq` that was reached."""
        self.state, hole = tick(self.state, now)
        if hole or self.wants_sync:
            self.wants_sync = False
            sync(self.seq)

    def status(self, user_id: str) -> str:
        """The status that this client shows for a user."""
        return str(self.state.users.get(user_id, {}).get("status", "offline"))

    def custom(self, user_id: str) -> dict[str, Any] | None:
        """The custom status that this client shows for a user."""
        custom: dict[str, Any] | None = self.state.users.get(user_id, {}).get("customStatus")
        return custom

    def last_seen(self, user_id: str) -> int | None:
        """The time at which this client shows a user as last seen."""
        seen: int | None = self.state.users.get(user_id, {}).get("lastSeen")
        return seen
