"""A client's state: what it knows about its contacts. A state and a frame give the next state.

It follows docs/protocol.md, "What a client must do", as `client/reducer.js` does, with the same names; both give the
pictures of docs/vectors.json. Pure: no sockets, clocks or terminals, and no state is changed in place. Times are
milliseconds of any clock that only moves forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

HOLE_PATIENCE = 2000
"""Milliseconds that a missing frame may be late."""

Frame = Mapping[str, Any]
Record = Mapping[str, Any]
"""A contact's record, as the protocol defines it."""
Users = Mapping[str, Record]
Parts = Mapping[int, Frame]
"""The parts of a snapshot that have arrived, by their number."""


@dataclass(frozen=True, slots=True)
class State:
    """What the received frames say about all contacts and about the user."""

    seq: int | None = None
    """Everything up to this number is known; None before the first snapshot. `sync` and heartbeats carry it."""
    users: Users = field(default_factory=dict)
    at: Mapping[str, int] = field(default_factory=dict)
    """user → number of the frame or snapshot that last set the user's record."""
    own: Record | None = None
    """The user's own state: `self` in the protocol."""
    own_at: int = 0
    """The number that last set `own`."""
    snapshot_seq: int = 0
    """The number of the last snapshot."""
    kept: Mapping[int, Frame] = field(default_factory=dict)
    """Number → frame, for frames that cannot be applied yet because one before them is missing."""
    hole_since: int | None = None
    """When the hole after `seq` appeared, which is another one whenever `seq` moves; None if no frame is missing."""
    parts: Mapping[str, Parts] = field(default_factory=dict)
    """Name → parts, for snapshots that are still incomplete."""


class Step(NamedTuple):
    """The next state."""

    state: State
    sync: bool = False
    """Whether the client must send `sync` now, also if it waits for the response to an earlier one."""


class Change(NamedTuple):
    """A contact's record before and after. None means that the contact was, or is, unknown."""

    before: Record | None
    after: Record | None


def receive(state: State, frame: Frame, now: int) -> Step:
    """Apply a frame of any type. Frames without a number, and responses to `get_presence`, change nothing."""
    match frame:
        case {"type": "user_online" | "user_offline" | "presence_status" | "presence_batch" | "presence_self"}:
            return _receive_numbered(state, frame, now)
        case {"type": "presence_snapshot", "resumed": True}:
            return Step(_set_own(state, frame["self"], frame["seq"]))
        case {"type": "presence_snapshot"}:
            return _receive_part(state, frame, now)
        case {"type": "error", "field": "seq"} if state.seq is not None:
            return Step(_forget_numbers(state), sync=True)
        case _:
            return Step(state)


def tick(state: State, now: int) -> Step:
    """Give up on a missing frame that is not expected any more. What was kept beyond it is in the next snapshot."""
    due = next_tick(state)
    if due is None or now < due:
        return Step(state)
    return Step(replace(state, kept={}, hole_since=None), sync=True)


def next_tick(state: State) -> int | None:
    """When `tick` has something to do, unless a frame arrives before."""
    return None if state.hole_since is None else state.hole_since + HOLE_PATIENCE


def changes(before: State, after: State) -> list[Change]:
    """The differences between two states' `users`. A record that did not change is the same object in both."""
    if before.users is after.users:
        return []
    gone = [Change(record, None) for user, record in before.users.items() if user not in after.users]
    records = ((before.users.get(user), record) for user, record in after.users.items())
    return gone + [Change(known, record) for known, record in records if known is not record]


def _receive_numbered(state: State, frame: Frame, now: int) -> Step:
    seq, prev = frame["seq"], frame["prev"]
    if state.seq is None:  # Only a snapshot defines where numbers start.
        return Step(replace(state, kept={seq: frame, **state.kept}))
    if seq <= state.seq:
        return Step(state)  # A duplicate, or older than a snapshot.
    if prev > state.seq:
        since = now if state.hole_since is None else state.hole_since
        return Step(replace(state, kept={seq: frame, **state.kept}, hole_since=since))
    if prev < state.seq:
        return Step(state, sync=True)  # The numbers branched: the service lost some that this client has.
    return _apply_kept(_apply(state, frame), seq, hole_since=now)


def _apply_kept(state: State, reached: int, hole_since: int | None) -> Step:
    """Apply the kept frames that follow, and drop those that `seq` has passed.

    Args:
        state: the state.
        reached: its `seq`.
        hole_since: when a hole that is left appeared.
    """
    if not state.kept:
        return Step(state)
    sync, left = False, {}
    for seq, frame in sorted(state.kept.items()):
        if frame["prev"] > reached:
            left[seq] = frame
        elif frame["prev"] == reached:
            state, reached = _apply(state, frame), seq
        else:
            sync = sync or seq > reached  # The numbers branched.
    left = {seq: frame for seq, frame in left.items() if seq > reached}
    return Step(replace(state, kept=left, hole_since=hole_since if left else None), sync)


def _apply(state: State, frame: Frame) -> State:
    """Apply the frame that follows `seq`."""
    seq: int = frame["seq"]
    state = replace(state, seq=seq)
    if frame["type"] == "presence_self":
        return _set_own(state, frame["self"], seq)
    records = _by_user(frame["events"] if frame["type"] == "presence_batch" else [frame])
    if not records:
        return state
    users = {**state.users, **_unchanged_kept(state.users, records)}
    return replace(state, users=users, at={**state.at, **dict.fromkeys(records, seq)})


def _receive_part(state: State, frame: Frame, now: int) -> Step:
    """Collect the parts of a snapshot, and apply it when all have arrived."""
    if frame["seq"] < state.snapshot_seq:
        return Step(state)  # A later one overtook it.
    name = frame["snapshot"]
    parts = {**state.parts.get(name, {}), frame["part"]: frame}
    if len(parts) < frame["parts"]:
        return Step(replace(state, parts={**state.parts, name: parts}))
    incomplete = {other: some for other, some in state.parts.items() if other != name}
    return _apply_snapshot(replace(state, parts=incomplete), frame["seq"], list(parts.values()), now)


def _apply_snapshot(state: State, seq: int, parts: list[Frame], now: int) -> Step:
    """A snapshot decides about everything that no later frame has set."""
    later = {user: at for user, at in state.at.items() if at > seq}
    records = _by_user(record for part in parts for record in part["users"] if record["userId"] not in later)
    for part in parts:
        if "self" in part:
            state = _set_own(state, part["self"], seq)
    reached = seq if state.seq is None else max(state.seq, seq)
    hole_since = state.hole_since if reached == state.seq else now
    state = replace(
        state,
        seq=reached,
        users={**{user: state.users[user] for user in later}, **_unchanged_kept(state.users, records)},
        at={**later, **dict.fromkeys(records, seq)},
        snapshot_seq=seq,
        parts={name: some for name, some in state.parts.items() if next(iter(some.values()))["seq"] >= seq},
    )
    return _apply_kept(state, reached, hole_since)


def _set_own(state: State, own: Record, seq: int) -> State:
    return replace(state, own=own, own_at=seq) if seq >= state.own_at else state


def _forget_numbers(state: State) -> State:
    """Keep what is known without its numbers: any snapshot replaces it."""
    return State(users=state.users, at=dict.fromkeys(state.users, 0), own=state.own)


def _by_user(records: Iterable[Frame]) -> dict[str, Record]:
    """The records by user, without what belongs to their frame."""
    frame_fields = ("type", "seq", "prev")
    return {
        record["userId"]: {name: value for name, value in record.items() if name not in frame_fields}
        for record in records
    }


def _unchanged_kept(users: Users, records: Users) -> Users:
    """The records, but for an equal one the object that is known already, so that `changes` leaves it out."""
    return {user: known if (known := users.get(user)) == record else record for user, record in records.items()}
