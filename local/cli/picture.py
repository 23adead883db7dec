"""What a client knows about its contacts: frames go in, changes come out. No sockets, no clocks, no terminal.

The rules are those of docs/protocol.md, "What a client must do": the highest `rev` of a user wins, whatever the order
in which frames come and however often; holes in `seq` are noticed; a snapshot replaces everything older than itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Frame = Mapping[str, Any]
Record = dict[str, Any]
"""What is known of a contact: a record of the protocol, `rev` included."""


class Change(NamedTuple):
    """A contact's record before and after; None where the contact was or is not known."""

    before: Record | None
    after: Record | None


class Picture:
    """The state of all contacts as far as frames have told, and of oneself."""

    def __init__(self) -> None:
        self.users: dict[str, Record] = {}
        self.own: Record | None = None
        """One's own real state: the protocol's `self`."""
        self.seq: int | None = None
        """The highest frame number up to which nothing is missing; what `sync` and heartbeats carry."""
        self._ahead: set[int] = set()
        self._named: dict[str, int] = {}
        """user → number of the latest frame that was about them."""
        self._parts: dict[int, dict[int, Frame]] = {}
        """seq → part → the snapshots of which some parts are still to come."""
        self._fresh = True

    @property
    def has_hole(self) -> bool:
        """Whether a frame is missing, for now: it may only be late."""
        return bool(self._ahead)

    def reconnected(self) -> None:
        """A new connection was opened: the first snapshot on it says where numbers go on from."""
        self._fresh = True
        self._parts.clear()

    def receive(self, frame: Frame) -> list[Change]:
        """Take one frame of any type; gives what it changed. Types that say nothing about contacts change nothing."""
        match frame.get("type"):
            case "user_online" | "user_offline" | "presence_status":
                return self._events(frame, [frame])
            case "presence_batch":
                return self._events(frame, frame["events"])
            case "presence_self":
                self.own = frame["self"]
                return self._events(frame, [])
            case "presence_snapshot":
                return self._snapshot(frame)
            case _:
                return []

    def _events(self, frame: Frame, records: Iterable[Frame]) -> list[Change]:
        seq = frame["seq"]
        # What is not above `seq` was received before, or a snapshot was read after it.
        changes = self._learn(records) if self.seq is None or seq > self.seq else []
        for record in records:
            self._named[record["userId"]] = max(seq, self._named.get(record["userId"], 0))
        self._ahead.add(seq)
        self._close_up()
        return changes

    def _snapshot(self, frame: Frame) -> list[Change]:
        parts = self._parts.setdefault(frame["seq"], {})
        parts[frame["part"]] = frame
        if len(parts) < frame["parts"]:
            return []
        # Of an older one that is incomplete nothing is needed any more.
        self._parts = {seq: parts for seq, parts in self._parts.items() if seq > frame["seq"]}
        seq = frame["seq"]
        if self.seq is not None and seq < self.seq and not self._fresh:
            return []
        self.own = frame["self"]
        changes = []
        if not frame["resumed"]:
            records = [record for part in parts.values() for record in part["users"]]
            listed = {record["userId"] for record in records}
            gone = [user for user in self.users if user not in listed and self._named.get(user, 0) <= seq]
            changes = [Change(self.users.pop(user), None) for user in gone] + self._learn(records)
        self._named = {user: number for user, number in self._named.items() if number > seq}
        self.seq, self._fresh = seq, False
        self._ahead = {number for number in self._ahead if number > seq}
        self._close_up()
        return changes

    def _learn(self, records: Iterable[Frame]) -> list[Change]:
        changes = []
        for record in records:
            known = self.users.get(record["userId"])
            if known is None or record["rev"] > known["rev"]:
                after = {name: value for name, value in record.items() if name not in ("type", "seq")}
                self.users[record["userId"]] = after
                changes.append(Change(known, after))
        return changes

    def _close_up(self) -> None:
        """Move `seq` over the frames that have come."""
        if self.seq is None:
            return  # Only a snapshot can say where numbers begin.
        while self.seq + 1 in self._ahead:
            self.seq += 1
        self._ahead = {number for number in self._ahead if number > self.seq}
