"""Consistency: each run of the sweeper checks a bounded slice of the stored state, so that all of it is checked in
time.

Every change is one script call and leaves nothing half done. What is found here was lost by other means: an eviction, a
failover with a lost tail, two calls that crossed between two users. The state machine repairs and counts it (`audit`
and `edit_sees`). Nothing here decides what a user is, and no event waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shared.commands import Audit, EditSees
from shared.delivery import Metrics, Store, Unavailable, count_found
from shared.responses import AuditOutcome

INCONSISTENCIES = ("dueUnknown", "expired", "liveNotDue", "unseen")
"""The kinds: the due set names a user that has no record; a device outlived its deadline; a live user is not due, so
nothing would settle it; a contact does not know that it may see the user."""

KINDS = ("user", "contacts")
"""The kinds of keys that name the users to check: those who were here, and those whom somebody may see."""
MOST_KEYS = 300
"""Keys that one run looks at: a million users with ten contacts each are all checked in a week."""
MOST_CONTACTS = 50
"""Contacts of each user that one run checks; the next run checks others."""


class Checked(NamedTuple):
    """What a run has checked."""

    cursor: str
    """Where the next run continues."""
    outcomes: list[tuple[str, AuditOutcome]]
    """(user, what the repair asks for)."""


def check(store: Store, metrics: Metrics, now: int, cursor: str) -> Checked:
    """Check the slice of users that begins at `cursor`, at `now` (ms), and repair what is inconsistent.

    Users in a bucket that is unavailable are checked with the next pass; a slice on a node that is, with the next run.
    """
    try:
        ids, following = store.users(cursor, MOST_KEYS, KINDS)
    except IndexError:  # the store has lost a node since the last run
        return Checked("", [])
    except Unavailable:
        return Checked(cursor, [])
    users = sorted(ids)
    answers = store.call_each([Audit(user, turn=now // 60_000, most=MOST_CONTACTS) for user in users], now)
    outcomes = [
        (user, answer) for user, answer in zip(users, answers, strict=True) if not isinstance(answer, Unavailable)
    ]
    for _, outcome in outcomes:
        count_found(metrics, outcome.found)
    _complete(store, metrics, now, outcomes)
    return Checked(following, outcomes)


def _complete(store: Store, metrics: Metrics, now: int, outcomes: Sequence[tuple[str, AuditOutcome]]) -> None:
    """Add the users to the `sees` of their contacts: `sees` may hold too much, never too little."""
    seen: dict[str, list[str]] = {}
    for user, outcome in outcomes:
        for viewer in outcome.contacts:
            seen.setdefault(viewer, []).append(user)
    responses = store.call_each([EditSees(viewer, add=seen[viewer], audit=True) for viewer in sorted(seen)], now)
    added = sum(response.added for response in responses if not isinstance(response, Unavailable))
    count_found(metrics, ["unseen"] * added)
