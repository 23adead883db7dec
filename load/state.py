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
        self._own_seq = 0
        """The number of the frame that told `own`."""
        self._ahead: set[int] = set()
        self._named: dict[str, int] = {}
        """user → number of the latest frame that was about them."""
        self._parts: dict[tuple[str | None, int, int], dict[int, Frame]] = {}
        """(id, seq, parts) → part → the snapshots of which some parts are still to come."""

    @property
    def has_hole(self) -> bool:
        """Whether a frame is missing, for now: it may only be late."""
        return bool(self._ahead)

    def reconnected(self) -> None:
        """A new connection was opened: parts that came on the last one are no beginning of a snapshot on this one."""
        self._parts.clear()

    def receive(self, frame: Frame, asked: int | None = None) -> list[Change]:
        """Take one frame of any type; gives what it changed. Types that say nothing about contacts change nothing.

        Args:
            frame: as it came.
            asked: the `seq` that the request carried which the frame answers.
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
            return []  # It was received before, or a snapshot was read after it.
        changes = self._learn(records)
        for record in records:
            self._named[record["userId"]] = max(seq, self._named.get(record["userId"], 0))
        self._ahead.add(seq)
        self._close_up()
        return changes

    def _assemble(self, frame: Frame, asked: int | None) -> list[Change]:
        """A snapshot is valid when all its parts have come."""
        snapshot = (frame.get("id"), frame["seq"], frame["parts"])
        parts = self._parts.setdefault(snapshot, {})
        parts[frame["part"]] = frame
        if len(parts) < frame["parts"]:
            return []
        del self._parts[snapshot]
        records = [record for part in parts.values() for record in part["users"] if "rev" in record]
        # Behind what it answers: the service lost its last seconds, and neither numbers nor revs from there count.
        if asked is not None and frame["seq"] < asked:
            return self._begin_anew(frame, records)
        if self.seq is not None and frame["seq"] < self.seq:
            return []  # It was overtaken on its way.
        return self._replace(frame, records)

    def _begin_anew(self, frame: Frame, records: list[Record]) -> list[Change]:
        before, self.users = self.users, {}
        self.seq, self._own_seq = None, 0
        self._ahead, self._named, self._parts = set(), {}, {}
        self._replace(frame, records)
        users = {**before, **self.users}
        changes = (Change(before.get(user), self.users.get(user)) for user in users)
        return [change for change in changes if change.before != change.after]

    def _replace(self, frame: Frame, records: list[Record]) -> list[Change]:
        """A whole snapshot takes the place of all that is older than itself."""
        seq = frame["seq"]
        self._know(frame["self"], seq, newer_than=self._own_seq - 1)
        gone: list[str] = []
        if not frame["resumed"]:
            listed = {record["userId"] for record in records}
            gone = [user for user in self.users if user not in listed and self._named.get(user, 0) <= seq]
        changes = [Change(self.users.pop(user), None) for user in gone] + self._learn(records)
        self._named = {user: number for user, number in self._named.items() if number > seq}
        # Of an older one that is incomplete nothing is needed any more.
        self._parts = {snapshot: parts for snapshot, parts in self._parts.items() if snapshot[1] > seq}
        self.seq = seq
        self._ahead = {number for number in self._ahead if number > seq}
        self._close_up()
        return changes

    def _learn(self, records: Iterable[Frame]) -> list[Change]:
        """The highest `rev` of a user wins, whatever the order; a record without one is a stranger's."""
        changes = []
        for record in records:
            known = self.users.get(record["userId"])
            if "rev" in record and (known is None or record["rev"] > known["rev"]):
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
