"""A client's state: what it knows about its contacts. Frames go in, changes come out. No sockets, clocks or terminals.

It follows docs/protocol.md, "What a client must do": the highest `rev` of a user wins, in any order and with any
duplication of frames; gaps in `seq` are detected; a snapshot replaces everything older than itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Frame = Mapping[str, Any]
Record = dict[str, Any]
"""A contact's record, as the protocol defines it, including `rev`."""


class Change(NamedTuple):
    """A contact's record before and after. None means that the contact was, or is, unknown."""

    before: Record | None
    after: Record | None


class ClientState:
    """The state of all contacts and of the user, as the received frames describe it."""

    def __init__(self) -> None:
        self.users: dict[str, Record] = {}
        self.own: Record | None = None
        """The user's own state: `self` in the protocol."""
        self.seq: int | None = None
        """The highest frame number below which no frame is missing. `sync` and heartbeats carry it."""
        self._own_seq = 0
        """The number of the frame that contained `own`."""
        self._ahead: set[int] = set()
        self._named: dict[str, int] = {}
        """user → number of the latest frame about that user."""
        self._parts: dict[tuple[str | None, int, int], dict[int, Frame]] = {}
        """(id, seq, parts) → part → frame, for snapshots that are still incomplete."""

    @property
    def has_hole(self) -> bool:
        """Whether a frame is missing. It may only be late."""
        return bool(self._ahead)

    def reconnected(self) -> None:
        """Start a new connection: a snapshot does not continue over two connections."""
        self._parts.clear()

    def receive(self, frame: Frame, asked: int | None = None) -> list[Change]:
        """Handle one frame of any type, and return what it changed. Frames without contacts change nothing.

        Args:
            frame: the frame as received.
            asked: the `seq` of the request that the frame responds to.
        """
        match frame.get("type"):
            case "user_online" | "user_offline" | "presence_status":
                return self._events(frame, [frame])
            case "presence_batch":
                return self._events(frame, frame["events"])
            case "presence_self":
                self._know(frame["self"], frame["seq"], newer_than=self._own_seq)
                return self._events(frame, [])
            case "presence_snapshot":
                return self._assemble(frame, asked)
            case _:
                return []

    def _know(self, own: Record, seq: int, newer_than: int) -> None:
        if seq > newer_than:
            self.own, self._own_seq = own, seq

    def _events(self, frame: Frame, records: Iterable[Frame]) -> list[Change]:
        seq = frame["seq"]
        if self.seq is not None and seq <= self.seq:
            return []  # A duplicate, or older than a snapshot.
        changes = self._learn(records)
        for record in records:
            self._named[record["userId"]] = max(seq, self._named.get(record["userId"], 0))
        self._ahead.add(seq)
        self._close_up()
        return changes

    def _assemble(self, frame: Frame, asked: int | None) -> list[Change]:
        """Collect the parts of a snapshot. It is valid when all parts have arrived."""
        snapshot = (frame.get("id"), frame["seq"], frame["parts"])
        parts = self._parts.setdefault(snapshot, {})
        parts[frame["part"]] = frame
        if len(parts) < frame["parts"]:
            return []
        del self._parts[snapshot]
        records = [record for part in parts.values() for record in part["users"] if "rev" in record]
        # The snapshot is older than the request: the service lost its last seconds, so old numbers and revs are void.
        if asked is not None and frame["seq"] < asked:
            return self._start_over(frame, records)
        if self.seq is not None and frame["seq"] < self.seq:
            return []  # A newer frame overtook it.
        return self._replace(frame, records)

    def _start_over(self, frame: Frame, records: list[Record]) -> list[Change]:
        before, self.users = self.users, {}
        self.seq, self._own_seq = None, 0
        self._ahead, self._named, self._parts = set(), {}, {}
        self._replace(frame, records)
        users = {**before, **self.users}
        changes = (Change(before.get(user), self.users.get(user)) for user in users)
        return [change for change in changes if change.before != change.after]

    def _replace(self, frame: Frame, records: list[Record]) -> list[Change]:
        """Apply a complete snapshot. It replaces everything older than itself."""
        seq = frame["seq"]
        self._know(frame["self"], seq, newer_than=self._own_seq - 1)
        gone: list[str] = []
        if not frame["resumed"]:
            listed = {record["userId"] for record in records}
            gone = [user for user in self.users if user not in listed and self._named.get(user, 0) <= seq]
        changes = [Change(self.users.pop(user), None) for user in gone] + self._learn(records)
        self._named = {user: number for user, number in self._named.items() if number > seq}
        # Incomplete older snapshots are obsolete.
        self._parts = {snapshot: parts for snapshot, parts in self._parts.items() if snapshot[1] > seq}
        self.seq = seq
        self._ahead = {number for number in self._ahead if number > seq}
        self._close_up()
        return changes

    def _learn(self, records: Iterable[Frame]) -> list[Change]:
        """Apply records: the highest `rev` of a user wins, in any order. A record without `rev` is not a contact's."""
        changes = []
        for record in records:
            known = self.users.get(record["userId"])
            if "rev" in record and (known is None or record["rev"] > known["rev"]):
                after = {name: value for name, value in record.items() if name not in ("type", "seq")}
                self.users[record["userId"]] = after
                changes.append(Change(known, after))
        return changes

    def _close_up(self) -> None:
        """Advance `seq` over the frames that have arrived."""
        if self.seq is None:
            return  # Only a snapshot defines where numbers start.
        while self.seq + 1 in self._ahead:
            self.seq += 1
        self._ahead = {number for number in self._ahead if number > self.seq}
