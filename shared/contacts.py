"""Contacts: who sees whom. Contacts, privacy, blocks, erasing a user, and the backup of all of it.

Like `presence.py`, this module knows neither Redis nor AWS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shared.commands import (
    BucketStatus,
    CheckRoom,
    Edit,
    EditRelations,
    EditSees,
    EraseUser,
    ExportUser,
    FilterContacts,
    FindRelatedUsers,
    ForgetUser,
    GetPrivacy,
    SetBlock,
    SetPrivacy,
    SignOut,
)
from shared.delivery import Delivery, Store
from shared.epochs import begin_epoch
from shared.frames import claim, custom_status
from shared.messages import MAX_BLOCKS, LimitReached, MessageRefused
from shared.responses import LastSeenPolicy
from shared.settings import Settings

EDITS = 250
"""Contacts, or users who are hidden from or blocked, that one script call changes: a longer call would delay everybody
else on the node."""


class StillAnnouncing(Exception):
    """A user cannot be erased yet: contacts must still be notified that the user is offline. Retry."""


class Contacts:
    """Every method may raise `Unavailable`.

    Args:
        store: where state is.
        delivery: what notifies contacts.
        settings: the service's settings.
        clock: the time, in ms since the epoch.
    """

    def __init__(self, store: Store, delivery: Delivery, settings: Settings, clock: Callable[[], int]) -> None:
        self._store, self._delivery, self._settings, self._clock = store, delivery, settings, clock

    def of(self, user_id: str) -> dict[str, list[str]]:
        """Who may see the user (`viewers`) and whom the user may see (`sees`), sorted."""
        [export] = self._store.call([ExportUser(user_id)], self._clock())
        return {"viewers": sorted(export.viewers), "sees": sorted(export.sees)}

    def change(self, user_id: str, add: Sequence[str] = (), remove: Sequence[str] = (), *, mutual: bool = True) -> None:
        """Let each in `add` see the user, and those in `remove` no longer; with `mutual` the other way round, too.

        Each pair changes at one moment on each side, but not all pairs together. Concurrent calls do not see each
        other's additions when they check whether there is room.

        Raises:
            LimitReached: somebody would have more than `max_contacts` viewers; nothing was changed.
        """
        add, remove = _others(user_id, add), _others(user_id, remove)
        self._check_room(user_id, add, mutual=mutual)
        edits: list[tuple[str, Edit]] = [(viewer, "contact") for viewer in add]
        edits += [(viewer, "stranger") for viewer in remove]
        give_up = self._delivery.give_up()
        for start in range(0, len(edits), EDITS):
            portion = edits[start : start + EDITS]
            added = [viewer for viewer, edit in portion if edit == "contact"]
            removed = [viewer for viewer, edit in portion if edit == "stranger"]
            # `sees` is an index of the others' `contacts`, which decide: it may hold too much, never too little. So it
            # is written before `contacts`, again after (a concurrent removal may have taken it out), and put back after
            # a removal for those who were added meanwhile. The last writes leave a gap in the feeds: who is in a
            # snapshot has changed, and the clients get one with their next heartbeats.
            self._call(_add_sees(user_id, added, mutual=mutual))
            commands = [EditRelations(user_id, edits=portion)]
            if mutual:
                commands += [EditRelations(viewer, edits=[(user_id, edit)]) for viewer, edit in portion]
            self._delivery.deliver_each(commands, give_up)
            self._call(
                [
                    *_add_sees(user_id, added, mutual=mutual, gap=True),
                    *_remove_sees(user_id, removed, mutual=mutual),
                ]
            )
            self._call(self._added_meanwhile(user_id, removed, mutual=mutual))

    def get_privacy(self, user_id: str) -> dict[str, Any]:
        """What the user hides: `invisible`, `lastSeen` policy, `hideFrom` and `blocks`."""
        [privacy] = self._store.call([GetPrivacy(user_id)], self._clock())
        return {
            "invisible": privacy.invisible,
            "lastSeen": privacy.last_seen,
            "hideFrom": sorted(privacy.hide_from),
            "blocks": sorted(privacy.blocks),
        }

    def set_privacy(
        self,
        user_id: str,
        *,
        invisible: bool | None = None,
        last_seen: LastSeenPolicy | None = None,
        hide_from: Sequence[str] | None = None,
        blocks: Sequence[str] | None = None,
        issued_at: int | None = None,
    ) -> None:
        """Replace what is given, leave the rest. It takes effect on every surface immediately.

        Each user who is hidden from or blocked changes at one moment, but not all of them together: first those who are
        added. If the call is interrupted, some are left, and the same call again does the rest.

        Raises:
            SignedOut: the user's token, issued at `issued_at` (seconds), is no longer valid.
        """
        command = SetPrivacy(
            user_id,
            invisible=invisible,
            last_seen=last_seen,
            hide_from=None if hide_from is None else _others(user_id, hide_from),
            blocks=None if blocks is None else _others(user_id, blocks),
            most=EDITS,
            issued_at=None if issued_at is None else issued_at * 1000,
        )
        give_up = self._delivery.give_up()
        left = self._set_privacy(command, give_up)
        for start in range(0, len(left), EDITS):
            self._set_privacy(SetPrivacy(user_id, edits=left[start : start + EDITS], most=EDITS), give_up)

    def _set_privacy(self, command: SetPrivacy, give_up: int) -> list[tuple[str, Edit]]:
        """Change one portion; gives the edits that are left."""
        [outcome] = self._store.call([command], self._clock())
        self._delivery.deliver(command.user, outcome, give_up=give_up)
        return outcome.left

    def set_block(self, user_id: str, other: str, *, blocked: bool, issued_at: int) -> None:
        """Block or unblock one user.

        Raises:
            SignedOut: as for `set_privacy`.
            LimitReached: the user blocks as many as anybody may.
        """
        command = SetBlock(user_id, viewer=other, blocked=blocked, most=MAX_BLOCKS, issued_at=issued_at * 1000)
        [outcome] = self._store.call([command], self._clock())
        if outcome.result == "full":
            raise LimitReached(f"nobody blocks more than {MAX_BLOCKS} users", "userId")
        self._delivery.deliver(user_id, outcome)

    def erase_user(self, user_id: str) -> None:
        """Remove a user from their own keys and from everybody else's. May be repeated, and interrupted anywhere.

        Sockets are closed, contacts are notified once that the user is offline, and everybody whom the user's own keys
        name forgets the user, before those keys are deleted. For a day the service remembers that older tokens are
        refused.

        Raises:
            StillAnnouncing: contacts could not all be notified yet.
        """
        [signed_out] = self._store.call([SignOut(user_id)], self._clock())
        self._delivery.deliver(user_id, signed_out)
        [related] = self._store.call([FindRelatedUsers(user_id)], self._clock())
        if not related.announced:
            raise StillAnnouncing
        self._delivery.deliver_each([ForgetUser(other, other=user_id) for other in sorted(related.users)])
        [erased] = self._store.call([EraseUser(user_id)], self._clock())
        self._delivery.deliver(user_id, erased)

    def set_graph_loaded(self, loaded: bool) -> None:
        """Mark privacy and contacts as loaded: before that nobody sees anybody.

        Relations may have changed while they were not, so every client gets a snapshot with its next heartbeat.
        """
        buckets = range(self._store.buckets)
        self._store.call([BucketStatus(bucket=bucket, loaded=loaded) for bucket in buckets], self._clock())
        begin_epoch(self._store, self._clock(), buckets)

    def graph_page(self, cursor: str) -> tuple[list[dict[str, Any]], str]:
        """A slice of everything that the application or users gave, for a backup, and the next cursor ("" ends).

        A user may be in more than one slice.

        Raises:
            MessageRefused: the cursor is not valid, perhaps because the store has lost a node since it was given.
        """
        try:
            ids, following = self._store.users(cursor)
        except IndexError:
            message = "is not valid any more; begin again without one"
            raise MessageRefused("invalid_message", message, field="cursor") from None
        users = sorted(ids)
        exports = self._store.call([ExportUser(user) for user in users], self._clock())
        page = [
            {
                "userId": user,
                "invisible": export.invisible,
                "lastSeen": export.last_seen,
                "viewers": sorted(export.viewers),
                "hideFrom": sorted(export.hide_from),
                "blocks": sorted(export.blocks),
                "customStatus": custom_status(export.custom),
                "claim": claim(export.claim, export.claim_until),
            }
            for user, export in zip(users, exports, strict=True)
        ]
        return page, following

    def _call(self, commands: Sequence[EditSees]) -> None:
        self._store.call(commands, self._clock())

    def _added_meanwhile(self, user_id: str, removed: Sequence[str], *, mutual: bool) -> list[EditSees]:
        """Further `sees` for those who are contacts after all."""
        if not removed:
            return []
        filters = [FilterContacts(user_id, viewers=removed)]
        if mutual:
            filters += [FilterContacts(other, viewers=[user_id]) for other in removed]
        responses = self._store.call(filters, self._clock())
        return [
            EditSees(viewer, add=[asked.user], gap=True)
            for asked, response in zip(filters, responses, strict=True)
            for viewer in response.contacts
        ]

    def _check_room(self, user_id: str, add: Sequence[str], *, mutual: bool) -> None:
        if not add:
            return
        checks = [CheckRoom(user_id, viewers=add)]
        if mutual:
            checks += [CheckRoom(other, viewers=[user_id]) for other in add]
        for check, response in zip(checks, self._store.call(checks, self._clock()), strict=True):
            if not response.room:
                most = self._settings.max_contacts
                raise LimitReached(f"{check.user} would have more than {most} contacts", "add")


def _others(user_id: str, users: Sequence[str]) -> list[str]:
    """Each of `users` once, without the user: nobody is a contact of themselves, or hides from themselves."""
    return [other for other in dict.fromkeys(users) if other != user_id]


def _add_sees(user_id: str, others: Sequence[str], *, mutual: bool, gap: bool | None = None) -> list[EditSees]:
    if not others:
        return []
    commands = [EditSees(other, add=[user_id], gap=gap) for other in others]
    return [*commands, EditSees(user_id, add=others, gap=gap)] if mutual else commands


def _remove_sees(user_id: str, others: Sequence[str], *, mutual: bool) -> list[EditSees]:
    if not others:
        return []
    commands = [EditSees(other, remove=[user_id], gap=True) for other in others]
    return [*commands, EditSees(user_id, remove=others, gap=True)] if mutual else commands
