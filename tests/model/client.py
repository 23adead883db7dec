"""A client that follows the protocol: frames arrive late, twice or in any order, and it keeps all contacts' state.

Written from the protocol alone, and compared with what the server would return. It decides nothing about presence.
"""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]


class Client:
    """What one connection has received.

    Attributes:
        records: the newest record of each user.
        own: the user's own real state, and the frame number with which it came.
        seq: the highest frame number received without a gap; None before the first snapshot.
    """

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.own: tuple[int, dict[str, Any]] = (0, {})
        self.seq: int | None = None
        self._above: dict[int, list[str]] = {}
        self._parts: dict[int, dict[int, dict[str, Any]]] = {}

    @property
    def behind(self) -> bool:
        """Whether a frame is missing below one that has arrived."""
        return self.seq is not None and any(seq > self.seq for seq in self._above)

    def receive(self, frame: dict[str, Any]) -> None:
        """Process a frame."""
        if frame["type"] == "presence_snapshot":
            parts = self._parts.setdefault(frame["seq"], {})
            parts[frame["part"]] = frame
            if len(parts) == frame["parts"]:
                self._replace(list(parts.values()))
                del self._parts[frame["seq"]]
        elif frame.get("seq", -1) > (self.seq or 0):  # otherwise it is a repeat, or older than the snapshot
            records = frame.get("events", [frame] if "userId" in frame else [])
            self._above[frame["seq"]] = [record["userId"] for record in records]
            if frame["type"] == "presence_self":
                self._learn_own(frame)
            self._learn(records)
        elif frame["type"] == "presence":
            self._learn(frame["users"])
        self._close_up()

    def status(self, user_id: str) -> str:
        """The status that this client shows for a user."""
        return str(self.records.get(user_id, {}).get("status", "offline"))

    def custom(self, user_id: str) -> dict[str, Any] | None:
        """The custom status that this client shows for a user."""
        custom: dict[str, Any] | None = self.records.get(user_id, {}).get("customStatus")
        return custom

    def last_seen(self, user_id: str) -> int | None:
        """The time at which this client shows a user as last seen."""
        seen: int | None = self.records.get(user_id, {}).get("lastSeen")
        return seen

    def _replace(self, parts: list[dict[str, Any]]) -> None:
        seq = parts[0]["seq"]
        if self.seq is not None and seq < self.seq:
            return
        self._learn_own(parts[0])
        if not parts[0]["resumed"]:
            # A store that lost a user starts a new record, so only later frames override a snapshot.
            later = {user for above, users in self._above.items() if above > seq for user in users}
            self.records = {user: record for user, record in self.records.items() if user in later}
            self._learn([record for part in parts for record in part["users"]])
        self.seq = seq
        self._above = {above: users for above, users in self._above.items() if above > seq}

    def _learn(self, records: list[Record]) -> None:
        for record in records:
            known = self.records.get(record["userId"])
            if known is None or record.get("rev", 0) > known.get("rev", 0):
                self.records[record["userId"]] = {k: v for k, v in record.items() if k not in ("type", "seq")}

    def _learn_own(self, frame: dict[str, Any]) -> None:
        if frame["seq"] >= self.own[0]:
            self.own = frame["seq"], frame["self"]

    def _close_up(self) -> None:
        while self.seq is not None and self.seq + 1 in self._above:
            self.seq += 1
