"""Carrying out what the state machine says: find where changes go, post them, and report what was told.

An answer of the state machine may ask for many things: tell these watchers, close those connections, write the other
side of a block. `Work` collects them over any number of users, and `Delivery` does them in few round trips. What it
does not get to stays due in the store, and is said again when its lease has run out: losing a sandbox loses nothing.

The three protocols are all that the core knows of Redis and AWS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from shared.frames import (
    Answer,
    as_list,
    as_map,
    batches,
    change_frame,
    events_of,
    record,
    self_frame,
    snapshot_frames,
)
from shared.settings import Settings

_logger = logging.getLogger(__name__)

FAN_OUT = 1_000
"""Posts after which what concerns many users is carried out before more is begun: half a second's worth. Whoever there
is no time for then has nothing posted and nothing reported, and stays due."""


class Frame(NamedTuple):
    """Bytes for one connection."""

    connection_id: str
    data: bytes


class Request(NamedTuple):
    """One thing to ask of the state machine, about a user or, with `bucket`, about a whole bucket."""

    user: str
    verb: str
    args: Mapping[str, Any]
    bucket: int | None = None


class Store(Protocol):
    """Where state lives."""

    buckets: int

    def call(self, requests: Sequence[Request], now: int) -> list[Answer]:
        """Run requests at `now` (ms) in one round trip; raises `Unavailable`."""

    def users(self, cursor: str, count: int = ..., kinds: Sequence[str] = ...) -> tuple[set[str], str]:
        """A slice of the users of whom facts, or these kinds, are kept, and the next cursor; "" begins and ends."""

    def eviction_policy(self) -> str | None:
        """What is forgotten when memory is full, in Redis's words; None where that is not known."""


class Pusher(Protocol):
    """What reaches clients."""

    def post(self, frames: Sequence[Frame], within: float = ...) -> set[str]:
        """Post all frames, in so many seconds at most; gives the connections that are gone.

        Never raises for a delivery.
        """

    def close(self, connection_ids: Iterable[str], within: float = ...) -> None:
        """Close connections, in so many seconds at most; one that is gone already is fine."""


class Meter(Protocol):
    """What is counted."""

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter."""

    def time(self, name: str, ms: float) -> None:
        """Note how long something took, in ms."""


class Unavailable(Exception):
    """The state cannot be reached now. Nothing is known to have changed; the client keeps what it wants and asks again.

    Attributes:
        retry_after: milliseconds after which it is worth asking again.
    """

    retry_after = 1000


def note_found(meter: Meter, kind: str, amount: float = 1) -> None:
    """Count what was found not to hang together (`consistency.INCONSISTENCIES`)."""
    meter.count(f"Inconsistencies{kind[0].upper()}{kind[1:]}", amount)


def view(viewer: str, user: str) -> Request:
    """Ask what `viewer` may see of `user`."""
    return Request(user, "view", {"viewer": viewer})


def of_buckets(store: Store, verb: str, **args: Any) -> list[Request]:
    """Ask the same of every bucket."""
    return [Request("", verb, args, bucket) for bucket in range(store.buckets)]


class Snapshot(NamedTuple):
    """Everything that a viewer may see, still to be read and posted to one connection."""

    viewer: str
    connection_id: str
    users: list[str]
    head: dict[str, Any]
    """The frame without its users. Its `seq` was read before the records will be, so nothing is missed between."""


@dataclass(slots=True)
class Work:
    """What answers of the state machine ask for."""

    give_up: int
    """When the time of the event is over, in ms: what was not posted by then is left to whoever finds it due."""
    requests: list[Request] = field(default_factory=list)
    """The other sides of blocks."""
    changes: dict[str, dict[str, str]] = field(default_factory=dict)
    """viewer → user → the status that the viewer knew."""
    shared_views: dict[str, Answer] = field(default_factory=dict)
    """user → the view that all its watchers share."""
    views: dict[tuple[str, str], Answer] = field(default_factory=dict)
    """(viewer, user) → view, where it is the viewer's own."""
    flushes: list[tuple[str, Answer]] = field(default_factory=list)
    """(viewer, its connections, the number of its next frame, and whom the frame is about)."""
    snapshot: Snapshot | None = None
    frames: list[tuple[str, Frame]] = field(default_factory=list)
    """(the connection's user, the frame)."""
    closing: list[str] = field(default_factory=list)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    """user → what to report as announced when it has been posted."""

    def __bool__(self) -> bool:
        return any((self.requests, self.changes, self.flushes, self.snapshot, self.frames, self.closing, self.reports))

    @property
    def posts(self) -> int:
        """About how many posts it takes."""
        return len(self.changes) + len(self.flushes) + len(self.frames)

    def view_of(self, viewer: str, user: str) -> Answer | None:
        """What the viewer may see of a user, if it is known already."""
        own = self.views.get((viewer, user))
        # Only a watcher shares what all watchers see: a user may have waited in a viewer's window and hidden since.
        return self.shared_views.get(user) if own is None and user in self.changes.get(viewer, ()) else own


class Delivery:
    """Does work; keeps nothing between calls."""

    def __init__(
        self, store: Store, pusher: Pusher, settings: Settings, clock: Callable[[], int], meter: Meter
    ) -> None:
        self._store, self._pusher, self._settings, self._clock, self._meter = store, pusher, settings, clock, meter

    def begin(self) -> Work:
        """Nothing to do yet, and the time that one event has for everything."""
        return Work(self._clock() + round(self._settings.push_budget * 1000))

    def seconds_left(self, work: Work) -> float:
        """How much of its time the work has left; 0 when that is over."""
        return max(0, work.give_up - self._clock()) / 1000

    def collect(self, work: Work, user_id: str, answer: Answer) -> Work:
        """Add what one user's answer asks for; gives `work` back."""
        if "own" in answer:
            own = answer["own"]
            for connection_id in as_list(own["connections"]):
                frame = self_frame(user_id, own, self._settings, connection_id)
                work.frames.append((user_id, Frame(connection_id, frame)))
        if "announce" in answer:
            announce = answer["announce"]
            work.shared_views[user_id] = announce["record"]
            for viewer in as_list(announce["watchers"]):
                work.changes.setdefault(viewer, {})[user_id] = announce["was"]
        told = {}
        for task in as_list(answer.get("tell")):
            if "other" in task:
                edit = "blocked" if task["blocked"] else "unblocked"
                work.requests.append(Request(task["other"], "relate", {"edits": [[user_id, edit, task["turn"]]]}))
                told["!" + task["other"]] = task["version"]
            else:
                work.views[task["viewer"], user_id] = task["record"]
                work.changes.setdefault(task["viewer"], {})[user_id] = task["was"]
                told[task["viewer"]] = task["version"]
        if "lease" in answer:
            report: dict[str, Any] = {"lease": answer["lease"], "told": told}
            if "announce" in answer:
                report |= {"rev": answer["announce"]["rev"], "status": answer["announce"]["record"]["status"]}
            work.reports[user_id] = report
        if "flush" in answer:
            work.flushes.append((user_id, answer["flush"]))
        return work

    def carry_out(self, work: Work) -> None:
        """Post, close and report, and then do what the reports bring up, until the work's time is over.

        What was not posted is not reported.

        Raises:
            Unavailable: the store went away meanwhile; what was not reported will be said again.
        """
        while work and self.seconds_left(work):
            following = Work(work.give_up)
            if work.closing:  # first: whoever was signed out must not wait for others to be told
                self._pusher.close(work.closing, self.seconds_left(work))
            frames = self._frames(work, following)
            if not self.seconds_left(work):
                break
            gone = self._post(frames, self.seconds_left(work))
            if work.shared_views:
                self._meter.count("Announcements", len(work.shared_views))
            reports = [Request(user, "announced", report) for user, report in work.reports.items()]
            reports += [Request(user, "gone", {"ids": ids}) for user, ids in gone.items()]
            for report, answer in zip(reports, self._ask(reports), strict=True):
                self.collect(following, report.user, answer)
            work = following

    def tell_all(self, requests: Sequence[Request], work: Work) -> None:
        """Ask many things of the state machine, and carry out what the answers say, in portions.

        Raises:
            Unavailable: the store went away meanwhile.
        """
        for request, answer in zip(requests, self._ask(requests), strict=True):
            if "failed" in answer:
                self._meter.count("RecordsFailed")
                _logger.error("a record cannot be read: %s", answer["failed"])
            for kind in as_list(answer.get("found")):
                note_found(self._meter, kind)
            self.collect(work, request.user, answer)
            if work.posts >= FAN_OUT:
                self.carry_out(work)
                work = Work(work.give_up)
        self.carry_out(work)

    def settle(self, users: Sequence[str], work: Work) -> None:
        """Let who is due be what time has made of them, and tell whom it concerns; they stay due until that is done.

        Raises:
            Unavailable: as for `tell_all`.
        """
        if users and self.seconds_left(work):
            self.tell_all([Request(user, "settle", {}) for user in users], work)

    def _ask(self, requests: Sequence[Request]) -> list[Answer]:
        return self._store.call(requests, self._clock())

    def _frames(self, work: Work, following: Work) -> list[tuple[str, Frame]]:
        """Find where everything goes: (the connection's user, the frame)."""
        self._find_targets(work, following)
        self._read_late_comers(work)
        frames = list(work.frames)
        if work.snapshot:
            viewer, connection_id, users, head = work.snapshot
            parts = snapshot_frames(head, [record(work.views[viewer, user]) for user in users])
            frames += ((viewer, Frame(connection_id, data)) for data in parts)
        for viewer, flush in work.flushes:
            frames += ((viewer, frame) for frame in self._change_frames(work, viewer, flush))
        return frames

    def _post(self, frames: Sequence[tuple[str, Frame]], within: float) -> dict[str, list[str]]:
        """Post frames; gives the connections that are gone, by user."""
        gone = self._pusher.post([frame for _, frame in frames], within) if frames else set()
        by_user: dict[str, list[str]] = {}
        for user, connection_id in dict.fromkeys((user, frame.connection_id) for user, frame in frames):
            if connection_id in gone:
                by_user.setdefault(user, []).append(connection_id)
        return by_user

    def _find_targets(self, work: Work, following: Work) -> None:
        """One stage: where changes go, the other sides of blocks, and the records that flushes and snapshots need."""
        requests = list(work.requests)
        requests += [Request(viewer, "targets", {"changes": changes}) for viewer, changes in work.changes.items()]
        requests += [view(viewer, user) for viewer, flush in work.flushes for user in as_map(flush["users"])]
        if work.snapshot:
            requests += [view(work.snapshot.viewer, user) for user in work.snapshot.users]
        for request, answer in zip(requests, self._ask(requests), strict=True):
            if request.verb == "view":
                work.views[request.args["viewer"], request.user] = answer
            elif request.verb == "targets":
                if "seq" in answer:
                    work.flushes.append((request.user, answer))
            else:
                self.collect(following, request.user, answer)

    def _read_late_comers(self, work: Work) -> None:
        """Read what had waited for a viewer's window: the newest there is, so superseded states are never sent."""
        requests = [
            view(viewer, user)
            for viewer, flush in work.flushes
            for user in as_map(flush["users"])
            if as_list(flush["connections"]) and not work.view_of(viewer, user)
        ]
        for request, answer in zip(requests, self._ask(requests), strict=True):
            work.views[request.args["viewer"], request.user] = answer

    def _change_frames(self, work: Work, viewer: str, flush: Answer) -> list[Frame]:
        connections = as_list(flush["connections"])
        if not connections:
            return []
        changes = as_map(flush["users"])
        views = {user: known for user in changes if (known := work.view_of(viewer, user))}
        parts = batches(events_of(changes, views))
        numbers = [flush["seq"]]
        if len(parts) > 1:
            [answer] = self._ask([Request(viewer, "number", {"frames": len(parts) - 1})])
            numbers += range(answer["seq"] - len(parts) + 2, answer["seq"] + 1)
        frames = [change_frame(seq, part) for seq, part in zip(numbers, parts, strict=True)]
        return [Frame(connection, data) for data in frames for connection in connections]
