"""Whether what is kept hangs together: a bounded slice of it with each run of the sweeper, so that all is seen in time.

Every change is one script call and leaves nothing half done; what this finds was lost by other means: an eviction, a
failover with a lost tail, two calls that crossed between two users. The state machine mends and counts it (`audit` and
`sees` in `presence.lua`). Nothing here decides what a user is, and no event waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shared.delivery import Meter, Request, Store, note_found
from shared.frames import Answer, as_list

INCONSISTENCIES = ("dueUnknown", "expired", "liveNotDue", "unseen")
"""What can be found not to hang together: somebody is due of whom nothing is kept; a device lives on after its
deadline; one is live and nobody will settle it; a contact does not know whom it may see."""

KINDS = ("user", "contacts")
"""Whose keys name the users that are looked at: those who were here, and those whom somebody may see."""
MOST_KEYS = 300
"""Keys that one run looks at: a million users with ten contacts each are all seen in a week."""
MOST_CONTACTS = 50
"""Contacts of each user that one run looks at; which ones goes round from run to run."""


class Checked(NamedTuple):
    """What a run has seen."""

    cursor: str
    """Where the next run goes on."""
    answers: list[tuple[str, Answer]]
    """(user, what mending it asks for)."""


def check(store: Store, meter: Meter, now: int, cursor: str) -> Checked:
    """Look at the slice of users that begins at `cursor`, at `now` (ms), and mend what does not hang together.

    Raises:
        Unavailable: the store cannot be reached.
    """
    try:
        ids, following = store.users(cursor, MOST_KEYS, KINDS)
    except IndexError:  # the store has lost a node since
        return Checked("", [])
    users = sorted(ids)
    answers = store.call(
        [Request(user, "audit", {"turn": now // 60_000, "most": MOST_CONTACTS}) for user in users], now
    )
    for answer in answers:
        for kind in as_list(answer.get("found")):
            note_found(meter, kind)
    _complete(store, meter, now, users, answers)
    return Checked(following, list(zip(users, answers, strict=True)))


def _complete(store: Store, meter: Meter, now: int, users: Sequence[str], answers: Sequence[Answer]) -> None:
    """Whoever may see a user has to know: `sees` may hold too much, never too little."""
    seen: dict[str, list[str]] = {}
    for user, answer in zip(users, answers, strict=True):
        for viewer in as_list(answer.get("contacts")):
            seen.setdefault(viewer, []).append(user)
    requests = [Request(viewer, "sees", {"add": seen[viewer], "audit": True}) for viewer in sorted(seen)]
    added = sum(answer.get("added", 0) for answer in store.call(requests, now))
    if added:
        note_found(meter, "unseen", added)
