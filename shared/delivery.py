"""Delivery: carries out what the state machine asks for.

An `Outcome` may ask for many things: notify these viewers, close those connections, write the other side of a block.
`Delivery` finds where changes go, reads what each viewer may see, posts it, and reports what was announced: a change
takes four round trips with the one that made it. Announcements and
notices are leased: if this function dies, they are asked for again. Other frames and closes are not; a client notices a
missing frame by the gap in `seq`, and a connection that may not send is closed with its next message.

The three protocols are all that the core knows of Redis and AWS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar, cast

from shared.commands import Announced, Command, Edit, EditRelations, FindTargets, Gone, ReadViews, Settle
from shared.frames import SnapshotFrame, change_frames, encode, event, record, self_frame, snapshot_frames
from shared.responses import BlockNotice, Flush, Outcome, OwnUpdate, Response, Status, Targets, Unreadable, View, Views
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

    def call_each(self, commands: Sequence[Command[First]], now: int) -> list[First | Unavailable]:
        """As `call`, but a command whose bucket is unavailable gets that as its response, and the others go on."""

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
    first: SnapshotFrame
    """What its first part has besides the users; `seq` was read before the records are, so no change is missed."""
    name: str
    """A name that no other snapshot has."""


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

    lease: str
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

    def changed(self, viewer: str, user: str, was: Status) -> None:
        """A viewer must be notified of a user."""
        self.changes.setdefault(viewer, {})[user] = was

    def postpone(self, users: Iterable[str]) -> None:
        """What these users' outcomes asked for cannot be done completely: without a report it is asked for again."""
        for user in users:
            self.reports.pop(user, None)


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
            for viewer in outcome.announcement.viewers:
                work.changed(viewer, user_id, outcome.announcement.was)
        notified = {}
        for notice in outcome.notices:
            if isinstance(notice, BlockNotice):
                edit: Edit = "blocked" if notice.blocked else "unblocked"
                work.edits.append(EditRelations(notice.other, edits=[(user_id, edit, notice.turn)]))
                notified["!" + notice.other] = notice.version
            else:
                work.changed(notice.viewer, user_id, notice.was)
                notified[notice.viewer] = notice.version
        if outcome.lease:
            work.reports[user_id] = report = _Report(outcome.lease, notified=notified)
            if outcome.announcement:
                report.rev, report.status = outcome.announcement.rev, outcome.announcement.status
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
            if announcements := sum(report.rev is not None for report in work.reports.values()):
                self._metrics.count("Announcements", announcements)
            self._report(work.reports, gone, following)
            work = following

    def _prepare(self, work: _Work, following: _Work) -> list[tuple[str, Post]]:
        """Find where everything goes: (the connection's user, the post).

        The views for a frame are read after its number was drawn, and those for a snapshot after its `seq` was read;
        so what a client has under a number is never older than that number.

        Where a bucket is unavailable, the others' posts go on. A change that cannot be posted everywhere is not
        reported, and so stays due; a number that was drawn for a frame that is not posted is a hole, and its client
        asks for a snapshot.
        """
        posts, snapshot = list(work.posts), work.snapshot
        drawn = list(work.flushes)
        reads = _reads_for(drawn)
        if snapshot:
            reads += [ReadViews(user, viewers=[snapshot.viewer]) for user in snapshot.users]
        views = self._find_targets(work, following, reads)
        found = work.flushes[len(drawn) :]
        later_reads = _reads_for(found)
        later_views = _by_viewer(later_reads, self._store.call_each(later_reads, self._clock()))
        if snapshot:
            if any((snapshot.viewer, user) not in views for user in snapshot.users):
                raise Unavailable("a snapshot cannot be read completely")
            shown = [views[snapshot.viewer, user] for user in snapshot.users]
            records = [record(view) for view in shown if not view.stranger]
            parts = snapshot_frames(snapshot.first, snapshot.name, records)
            posts += ((snapshot.viewer, Post(snapshot.connection_id, encode(part))) for part in parts)
        for flushes, read in ((drawn, views), (found, later_views)):
            for viewer, flush in flushes:
                if any((viewer, user) not in read for user in flush.users):
                    work.postpone(flush.users)
                    continue
                changes = [(was, read[viewer, user]) for user, was in flush.users.items()]
                events = [event(was, view) for was, view in changes if not view.stranger]
                frames = [encode(frame) for frame in change_frames(flush, events)]
                posts += ((viewer, Post(connection, data)) for data in frames for connection in flush.connections)
        return posts

    def _find_targets(self, work: _Work, following: _Work, reads: Sequence[ReadViews]) -> dict[tuple[str, str], View]:
        """One round trip: finds where changes go, writes the other sides of blocks, and reads views."""
        targets = [FindTargets(viewer, changes=changes) for viewer, changes in work.changes.items()]
        commands = cast("list[Command[Response]]", [*work.edits, *targets, *reads])
        answers = self._store.call_each(commands, self._clock())
        after_edits, after_targets = len(work.edits), len(work.edits) + len(targets)
        for edit, outcome in zip(work.edits, answers[:after_edits], strict=True):
            if isinstance(outcome, Outcome):
                self._collect(following, edit.user, outcome)
            else:
                work.postpone(user for user, *_ in edit.edits)
        for target, where in zip(targets, answers[after_edits:after_targets], strict=True):
            if not isinstance(where, Targets):
                work.postpone(target.changes)
            elif where.flush:
                work.flushes.append((target.user, where.flush))
        return _by_viewer(reads, cast("list[Views | Unavailable]", answers[after_targets:]))

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
        gone_commands = [Gone(user, ids=ids) for user, ids in gone.items()]
        commands = cast("list[Command[Response]]", [*announced, *gone_commands])
        for command, outcome in zip(commands, self._store.call_each(commands, self._clock()), strict=True):
            if isinstance(outcome, Outcome):
                self._collect(following, command.user, outcome)


def _reads_for(flushes: Iterable[tuple[str, Flush]]) -> list[ReadViews]:
    """What must be read to post these."""
    viewers: dict[str, list[str]] = {}
    for viewer, flush in flushes:
        for user in flush.users:
            viewers.setdefault(user, []).append(viewer)
    return [ReadViews(user, viewers=of_user) for user, of_user in viewers.items()]


def _by_viewer(reads: Sequence[ReadViews], views: Sequence[Views | Unavailable]) -> dict[tuple[str, str], View]:
    """(viewer, user) → view, for those that could be read."""
    return {
        (viewer, read.user): of_user.of(viewer)
        for read, of_user in zip(reads, views, strict=True)
        if isinstance(of_user, Views)
        for viewer in read.viewers
    }
