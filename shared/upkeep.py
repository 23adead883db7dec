"""Upkeep: what happens because time passes, and not because a message arrives; and the service's health.

The sweeper calls `cleanup_stale_connections` once a minute. The state machine knows who is due and what becomes of
them; `consistency.py` finds inconsistent state. Like `presence.py`, this module knows neither Redis nor AWS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from shared import consistency
from shared.commands import BucketStatus, GetDue, Settle
from shared.delivery import Delivery, Metrics, Pusher, Store, Unavailable, count_found
from shared.epochs import find_losses
from shared.responses import Response
from shared.settings import Settings

AnyResponse = TypeVar("AnyResponse", bound=Response)

SWEEP_MS = 150_000
"""How long a sweeper works at most; the next one has taken over by then (EventBridge keeps its minute to ±60 s)."""
SWEEP_NAP_MS = 1_000
"""The longest pause between two looks: new due times may be earlier than the one it waits for."""
SWEEP_PAUSE_MS = 100
"""The shortest pause, when nobody is left: each look asks every bucket. A change that waits for a viewer's window waits
as long."""
SWEEP_BATCH = 64
"""Due users that a sweep takes from one bucket at a time."""


class _Due(NamedTuple):
    """One look at all buckets."""

    users: list[str]
    late: int
    """How late the first of them is, in ms."""
    following: int
    """When to look again at the latest, in ms."""
    cursor: str | None
    """Where this run continues the check of consistency; None while the bucket that holds the turn is unavailable."""
    looked: int
    """When this run last looked at all buckets, in ms; 0: not yet."""


class Upkeep:
    """Arguments as for `PresenceService`. `health` may raise `Unavailable`; the sweeper waits instead."""

    def __init__(
        self, store: Store, pusher: Pusher, settings: Settings, clock: Callable[[], int], metrics: Metrics
    ) -> None:
        self._store, self._clock, self._metrics = store, clock, metrics
        self._delivery = Delivery(store, pusher, settings, clock, metrics)

    def cleanup_stale_connections(self, run: str, sleep: Callable[[float], object]) -> int:
        """Settle users who are due, again and again, until a newer run has taken over.

        It continues even while nobody is connected: the next users may close, or change often, before the next run
        begins. While Redis is unavailable, it waits; while some buckets are, it settles users in the others. Once in
        a run it checks a slice of the stored state.

        Args:
            run: the name of this run; the last one to begin has the turn.
            sleep: waits, in seconds.

        Returns:
            How many users were settled.
        """
        began, settled, latest = self._clock(), 0, 0
        is_begun, is_checked, cursor, looked = False, False, None, 0
        while self._clock() - began < SWEEP_MS:
            try:
                due = self._find_due(run, begin=not is_begun, cursor=cursor, looked=looked)
                if due is None:
                    break
                latest, looked = max(latest, due.late), due.looked
                if due.cursor is not None:
                    is_begun, cursor = True, None
                done = self._settle(due.users)
                settled += done
                following = min(SWEEP_NAP_MS, due.following - self._clock())
                pause = 0 if done >= SWEEP_BATCH else max(SWEEP_PAUSE_MS, following)
                if due.cursor is not None and not is_checked:
                    cursor, is_checked = self._check(due.cursor), True
            except Unavailable as error:
                pause = error.retry_after
            if pause > 0:
                sleep(pause / 1000)
        self._metrics.time("DueLateness", latest)
        if settled:
            self._metrics.count("Settled", settled)
        return settled

    def health(self) -> dict[str, Any]:
        """Whether the graph is loaded, how late the due queue is, in ms, and Redis's eviction policy, where it is
        known.

        `inconsistencies` counts what was ever found inconsistent, and repaired, by kind. `unavailableBuckets`, if there
        are any, are not in these numbers: their users cannot be served now.
        """
        buckets = range(self._store.buckets)
        answers = self._store.call_each([BucketStatus(bucket=bucket) for bucket in buckets], self._clock())
        statuses = _available(answers)
        unavailable = [
            bucket for bucket, answer in zip(buckets, answers, strict=True) if isinstance(answer, Unavailable)
        ]
        found = dict.fromkeys(consistency.INCONSISTENCIES, 0)
        for status in statuses:
            for kind, count in status.found.items():
                found[kind] += count
        policy = self._store.eviction_policy()
        return {
            "graph": "loaded" if all(status.loaded for status in statuses) else "not_loaded",
            "dueLate": max(status.late for status in statuses),
            "inconsistencies": found,
            **({"unavailableBuckets": unavailable} if unavailable else {}),
            **({"evictionPolicy": policy} if policy else {}),
        }

    def _settle(self, users: Sequence[str]) -> int:
        """Settle users who are due; gives how many. Those in a bucket that is unavailable stay due."""
        answers = self._store.call_each([Settle(user) for user in users], self._clock())
        outcomes = [
            (user, answer) for user, answer in zip(users, answers, strict=True) if not isinstance(answer, Unavailable)
        ]
        for _, outcome in outcomes:
            count_found(self._metrics, outcome.found)
        self._delivery.deliver_all(outcomes)
        return len(outcomes)

    def _check(self, cursor: str) -> str:
        """Check a slice of the stored state, and carry out what repairs ask for; gives where to continue."""
        checked = consistency.check(self._store, self._metrics, self._clock(), cursor)
        self._delivery.deliver_all(checked.outcomes)
        return checked.cursor

    def _find_due(self, run: str, *, begin: bool, cursor: str | None, looked: int) -> _Due | None:
        """Who is due in any bucket; None when a newer run has the turn. `cursor` is stored for the next run.

        While bucket 0, which holds the turn, is unavailable, every run goes on: users are leased, so that two runs
        settle none twice.

        Raises:
            Unavailable: no bucket answers.
        """
        commands = [
            GetDue(bucket=bucket, horizon=SWEEP_NAP_MS, most=SWEEP_BATCH) for bucket in range(1, self._store.buckets)
        ]
        turn = GetDue(bucket=0, horizon=SWEEP_NAP_MS, most=SWEEP_BATCH, run=run, begin=begin, cursor=cursor)
        now = self._clock()
        answers = self._store.call_each([turn, *commands], now)
        buckets = _available(answers)
        first = None if isinstance(answers[0], Unavailable) else answers[0]
        if first and not first.turn:
            return None
        if len(buckets) == len(answers):  # an epoch begins everywhere, or not yet
            find_losses(self._store, self._metrics, now, buckets, looked)
            looked = now
        latest = self._clock() + SWEEP_NAP_MS
        return _Due(
            users=[user for bucket in buckets for user in bucket.users],
            late=max(bucket.late for bucket in buckets),
            following=min(latest if bucket.next is None else bucket.next for bucket in buckets),
            cursor=first.cursor if first else None,
            looked=looked,
        )


def _available(answers: Sequence[AnyResponse | Unavailable]) -> list[AnyResponse]:
    """The answers of the buckets that are available; raises `Unavailable` if none is."""
    available = [answer for answer in answers if not isinstance(answer, Unavailable)]
    if not available:
        raise next(answer for answer in answers if isinstance(answer, Unavailable))
    return available
