"""Delivery: carries out what the state machine asks for.

An `Outcome` may ask for many things: notify these viewers, close those connections, write the other side of a block.
`Delivery` finds where changes go, posts them, and reports what was announced, in few round trips. Announcements and
notices are leased: if this function dies, they are asked for again. Other frames and closes are not; a client notices a
missing frame by the gap in `seq`, and a connection that may not send is closed with its next message.

The three protocols are all that the core knows of Redis and AWS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar, cast

from shared.commands import Announced, Command, DrawNumbers, Edit, EditRelations, FindTargets, Gone, ReadView, Settle
from shared.frames import (
    Frame,
    SnapshotHead,
    batches,
    change_frame,
    encode,
    event,
    record,
    self_frame,
    snapshot_frames,
)
from shared.responses import BlockNotice, Flush, Outcome, OwnUpdate, Response, Status, Unreadable, View
from shared.settings import Settings

FAN_OUT = 1_000
"""`deliver_all` posts what it has collected whenever it reaches about this many posts: half a second's worth."""

First = TypeVar("First", bound=Response)
Second = TypeVar("Second", bound=Response)
Third = TypeVar("Third", bound=Response)


class Post(NamedTuple):
    """One frame for one connection."""

    connection_id: str
    data: bytes


class Store(Protocol):
    """Where state is."""

    buckets: int

    def call(self, commands: Sequence[Command[First]], now: int) -> list[First]:
        """Run commands at `now` (ms) in one round trip; raises `Unavailable`, `SignedOut` or `TooManyCalls`."""

    def users(self, cursor: str, count: int = ..., kinds: Sequence[str] = ...) -> tuple[set[str], str]:
        """A slice of the users who have facts, or keys of these kinds, and the next cursor; "" begins and ends."""

    def eviction_policy(self) -> str | None:
        """What Redis evicts when memory is full, in its own words; None where that is not known."""


class Pusher(Protocol):
    """What reaches clients."""

    def post(self, posts: Sequence[Post], within: float = ...) -> set[str]:
        """Post all frames within so many seconds; returns the connections that are gone.

        Never raises for a single delivery.
        """

    def close(self, connection_ids: Iterable[str], within: float = ...) -> None:
        """Close connections within so many seconds. One that is already gone counts as closed."""


class Metrics(Protocol):
    """Counts and durations."""

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter."""

    def time(self, name: str, ms: float) -> None:
        """Record a duration, in ms."""


class Unavailable(Exception):
    """The state cannot be reached now. A change may or may not have been written; the client sends it again.

    Attributes:
        retry_after: milliseconds after which a retry makes sense.
    """

    retry_after = 1000


class Snapshot(NamedTuple):
    """Everything that a viewer may see, still to be read and posted to one connection."""

    viewer: str
    connection_id: str
    users: list[str]
    head: SnapshotHead


def call_together(
    store: Store,
    now: int,
    first: Sequence[Command[First]],
    second: Sequence[Command[Second]],
    third: Sequence[Command[Third]] = (),
) -> tuple[list[First], list[Second], list[Third]]:
    """Run commands of several kinds at `now` (ms) in one round trip; raises as `Store.call` does."""
    responses: list[Response] = store.call(cast("list[Command[Response]]", [*first, *second, *third]), now)
    after_first, after_second = len(first), len(first) + len(second)
    return (
        cast("list[First]", responses[:after_first]),
        cast("list[Second]", responses[after_first:after_second]),
        cast("list[Third]", responses[after_second:]),
    )


def count_found(metrics: Metrics, kinds: Iterable[str]) -> None:
    """Count inconsistencies that were found (`consistency.INCONSISTENCIES`)."""
    for kind in kinds:
        metrics.count(f"Inconsistencies{kind[0].upper()}{kind[1:]}")


@dataclass(slots=True)
class _Report:
    """What to report as announced when everything has been posted."""

    lease: int
    rev: int | None = None
    status: Status | None = None
    notified: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Work:
    """What outcomes ask for, of any number of users."""

    give_up: int
    """When the event's time is over, in ms. What is not posted by then stays due."""
    snapshot: Snapshot | None = None
    edits: list[EditRelations] = field(default_factory=list)
    """The other sides of blocks."""
    changes: dict[str, dict[str, Status]] = field(default_factory=dict)
    """viewer → user → the status that the viewer knows."""
    shared_views: dict[str, View] = field(default_factory=dict)
    """user → the view that all who may see the user share."""
    views: dict[tuple[str, str], View] = field(default_factory=dict)
    """(viewer, user) → view, where it is the viewer's own."""
    flushes: list[tuple[str, Flush]] = field(default_factory=list)
    """(viewer, what the viewer receives)."""
    posts: list[tuple[str, Post]] = field(default_factory=list)
    """(the connection's user, the post)."""
    closing: list[str] = field(default_factory=list)
    reports: dict[str, _Report] = field(default_factory=dict)
    """user → report."""

    def __bool__(self) -> bool:
        return any((self.snapshot, self.edits, self.changes, self.flushes, self.posts, self.closing, self.reports))

    @property
    def size(self) -> int:
        """About how many posts it takes."""
        return len(self.changes) + len(self.flushes) + len(self.posts)

    def view_of(self, viewer: str, user: str) -> View | None:
        """What the viewer may see of a user, if it has been read."""
        own = self.views.get((viewer, user))
        # A change that waited in `pending` may be older than this announcement, and its viewer may no longer be among
        # those who see it. Then the viewer's own view is read.
        return self.shared_views.get(user) if own is None and user in self.changes.get(viewer, ()) else own

    def changed(self, viewer: str, user: str, was: Status) -> None:
        """A viewer must be notified of a user."""
        self.changes.setdefault(viewer, {})[user] = was


class Delivery:
    """Delivers; keeps nothing between calls.

    Every method may raise `Unavailable`: the store went away, and what was not reported will be asked for again.
    """

    def __init__(
        self, store: Store, pusher: Pusher, settings: Settings, clock: Callable[[], int], metrics: Metrics
    ) -> None:
        self._store, self._pusher, self._settings, self._clock, self._metrics = store, pusher, settings, clock, metrics

    def give_up(self) -> int:
        """When the time of an event that begins now is over, in ms."""
        return self._clock() + round(self._settings.push_budget * 1000)

    def deliver(
        self,
        user_id: str,
        outcome: Outcome,
        *,
        snapshot: Snapshot | None = None,
        posts: Sequence[Post] = (),
        give_up: int | None = None,
    ) -> None:
        """Carry out what one user's outcome asks for.

        Args:
            user_id: the user.
            outcome: what the state machine answered.
            snapshot: a snapshot to post to the connection that asked.
            posts: further frames for the user's own connections.
            give_up: when to stop, in ms; None: after `push_budget`.

        Raises:
            Unreadable: the user's record cannot be read, and nothing was done.
        """
        if outcome.failed:
            raise Unreadable(outcome.failed)
        work = _Work(give_up or self.give_up(), snapshot)
        self._collect(work, user_id, outcome)
        work.posts += [(user_id, post) for post in posts]
        self._carry_out(work)

    def deliver_each(self, commands: Sequence[Command[Outcome]], give_up: int | None = None) -> None:
        """Run many commands in one round trip, and carry out what the outcomes ask for, in portions."""
        outcomes = self._ask(commands)
        for outcome in outcomes:
            count_found(self._metrics, outcome.found)
        self.deliver_all(zip((command.user for command in commands), outcomes, strict=True), give_up)

    def deliver_all(self, outcomes: Iterable[tuple[str, Outcome]], give_up: int | None = None) -> None:
        """Carry out what the outcomes of many users ask for, in portions: (user, outcome)."""
        work = _Work(give_up or self.give_up())
        for user_id, outcome in outcomes:
            self._collect(work, user_id, outcome)
            if work.size >= FAN_OUT:
                self._carry_out(work)
                work = _Work(work.give_up)
        self._carry_out(work)

    def settle(self, users: Sequence[str], give_up: int | None = None) -> None:
        """Settle users who are due; they stay due until contacts have been notified."""
        give_up = give_up or self.give_up()
        if users and self._seconds_left(give_up):
            self.deliver_each([Settle(user) for user in users], give_up)

    def _ask(self, commands: Sequence[Command[First]]) -> list[First]:
        return self._store.call(commands, self._clock())

    def _seconds_left(self, give_up: int) -> float:
        return max(0, give_up - self._clock()) / 1000

    def _collect(self, work: _Work, user_id: str, outcome: Outcome) -> None:
        """Add what one user's outcome asks for."""
        work.closing += outcome.close
        self._collect_own(work, user_id, outcome.own)
        if outcome.announcement:
            work.shared_views[user_id] = outcome.announcement.record
            for viewer in outcome.announcement.viewers:
                work.changed(viewer, user_id, outcome.announcement.was)
        notified = {}
        for notice in outcome.notices:
            if isinstance(notice, BlockNotice):
                edit: Edit = "blocked" if notice.blocked else "unblocked"
                work.edits.append(EditRelations(notice.other, edits=[(user_id, edit, notice.turn)]))
                notified["!" + notice.other] = notice.version
            else:
                work.views[notice.viewer, user_id] = notice.record
                work.changed(notice.viewer, user_id, notice.was)
                notified[notice.viewer] = notice.version
        if outcome.lease is not None:
            work.reports[user_id] = report = _Report(outcome.lease, notified=notified)
            if outcome.announcement:
                report.rev, report.status = outcome.announcement.rev, outcome.announcement.record.status
        if outcome.flush:
            work.flushes.append((user_id, outcome.flush))

    def _collect_own(self, work: _Work, user_id: str, update: OwnUpdate | None) -> None:
        """Add the frames for the user's own connections; a snapshot already has what its connection would receive."""
        for connection_id in update.connections if update else ():
            if update and (work.snapshot is None or connection_id != work.snapshot.connection_id):
                frame = self_frame(user_id, update, self._settings, connection_id)
                work.posts.append((user_id, Post(connection_id, encode(frame))))

    def _carry_out(self, work: _Work) -> None:
        """Close, post and report, and then do what the reports bring up, until the work's time is over.

        What was not begun is not reported, and stays due. Posts for which the time ran out count as reported.
        """
        while work and self._seconds_left(work.give_up):
            following = _Work(work.give_up)
            if work.closing:  # first: a sign-out must not wait until others are notified
                self._pusher.close(list(dict.fromkeys(work.closing)), self._seconds_left(work.give_up))
            posts = self._prepare(work, following)
            seconds = self._seconds_left(work.give_up)
            if not seconds:
                break
            gone = self._post(posts, seconds)
            if work.shared_views:
                self._metrics.count("Announcements", len(work.shared_views))
            self._report(work.reports, gone, following)
            work = following

    def _prepare(self, work: _Work, following: _Work) -> list[tuple[str, Post]]:
        """Find where everything goes: (the connection's user, the post)."""
        self._find_targets(work, following)
        self._read_missing_views(work)
        posts = list(work.posts)
        if work.snapshot:
            viewer, connection_id, users, head = work.snapshot
            parts = snapshot_frames(head, [record(work.views[viewer, user]) for user in users])
            posts += ((viewer, Post(connection_id, encode(part))) for part in parts)
        for viewer, flush in work.flushes:
            frames = [encode(frame) for frame in self._change_frames(work, viewer, flush)]
            posts += ((viewer, Post(connection, data)) for data in frames for connection in flush.connections)
        return posts

    def _find_targets(self, work: _Work, following: _Work) -> None:
        """One round trip: finds where changes go, writes the other sides of blocks, reads views for flushes and the
        snapshot.
        """
        targets = [FindTargets(viewer, changes=changes) for viewer, changes in work.changes.items()]
        reads = [ReadView(user, viewer=viewer) for viewer, flush in work.flushes for user in flush.users]
        if work.snapshot:
            reads += [ReadView(user, viewer=work.snapshot.viewer) for user in work.snapshot.users]
        outcomes, found, views = call_together(self._store, self._clock(), work.edits, targets, reads)
        for edit, outcome in zip(work.edits, outcomes, strict=True):
            self._collect(following, edit.user, outcome)
        for target, where in zip(targets, found, strict=True):
            if where.flush:
                work.flushes.append((target.user, where.flush))
        for read, view in zip(reads, views, strict=True):
            work.views[read.viewer, read.user] = view

    def _read_missing_views(self, work: _Work) -> None:
        """Read what had waited for a viewer's window: the newest there is, so superseded states are never sent."""
        reads = [
            ReadView(user, viewer=viewer)
            for viewer, flush in work.flushes
            for user in flush.users
            if flush.connections and not work.view_of(viewer, user)
        ]
        if not reads:
            return
        for read, view in zip(reads, self._ask(reads), strict=True):
            work.views[read.viewer, read.user] = view

    def _change_frames(self, work: _Work, viewer: str, flush: Flush) -> list[Frame]:
        if not flush.connections:
            return []
        views = ((was, work.view_of(viewer, user)) for user, was in flush.users.items())
        # A stranger by now has no `rev`, and a client could not tell how new the record is.
        parts = batches([event(was, view) for was, view in views if view and view.rev is not None])
        numbers = [flush.seq]
        if len(parts) > 1:
            [drawn] = self._ask([DrawNumbers(viewer, count=len(parts) - 1)])
            numbers += range(drawn.last - len(parts) + 2, drawn.last + 1)
        return [change_frame(seq, part) for seq, part in zip(numbers, parts, strict=True)]

    def _post(self, posts: Sequence[tuple[str, Post]], within: float) -> dict[str, list[str]]:
        """Post frames; gives the connections that are gone, by user."""
        gone = self._pusher.post([post for _, post in posts], within) if posts else set()
        by_user: dict[str, list[str]] = {}
        for user, connection_id in dict.fromkeys((user, post.connection_id) for user, post in posts):
            if connection_id in gone:
                by_user.setdefault(user, []).append(connection_id)
        return by_user

    def _report(self, reports: Mapping[str, _Report], gone: Mapping[str, list[str]], following: _Work) -> None:
        announced = [
            Announced(user, lease=report.lease, rev=report.rev, status=report.status, notified=report.notified)
            for user, report in reports.items()
        ]
        outcomes, _, _ = call_together(
            self._store, self._clock(), announced, [Gone(user, ids=ids) for user, ids in gone.items()]
        )
        for command, outcome in zip(announced, outcomes, strict=True):
            self._collect(following, command.user, outcome)
