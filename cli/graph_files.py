"""Files of contacts and privacy: read, checked, loaded into the service, and written as a backup.

There are two kinds: CSV with a pair of users who see each other in each line, and JSON lines with everything that the
application or its users gave. A file is checked as a whole before its first line is loaded. Calls are made by
`backend.py`.
"""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cli.backend import Backend
from cli.errors import UserError
from cli.identity_provider import user_id_of
from shared.messages import MAX_BLOCKS, CustomStatus, Time, UserId
from shared.responses import LastSeenPolicy
from shared.settings import OnlineStatus

BATCH = 250
"""Contacts in one call: one script call of the store, and far below API Gateway's time limit."""
PARALLEL_CALLS = 4
"""As many as the emulator has execution environments for `api`."""
MOST_ERRORS = 20
"""Bad lines that are reported one by one."""

Progress = Callable[[int, int], None]
"""Called with the number of steps that are done, and their total."""


class Claim(BaseModel):
    """A status that a user chose for all devices."""

    model_config = ConfigDict(extra="ignore", strict=True)
    status: OnlineStatus
    until: Time | None = None


class Line(BaseModel):
    """One line of a backup: everything about a user. `viewers` are the users who may see the user."""

    model_config = ConfigDict(extra="ignore", strict=True)
    userId: UserId
    viewers: list[UserId] = []
    hideFrom: list[UserId] = []
    blocks: Annotated[list[UserId], Field(max_length=MAX_BLOCKS)] = []
    invisible: bool = False
    lastSeen: LastSeenPolicy = "everyone"
    customStatus: CustomStatus | None = None
    claim: Claim | None = None


def read_pairs(lines: Iterable[str], name: str) -> list[tuple[str, str]]:
    """The pairs in a file of lines `a,b`. Empty lines are skipped; `name` is the file's name in errors.

    Raises:
        UserError: the message has a line for each bad line.
    """
    pairs: dict[tuple[str, str], None] = {}  # A dict keeps the order, and each pair once.
    errors = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            first, second = _pair(line)
        except (ValueError, UserError, csv.Error) as error:
            errors.append(f"{name}:{number}: {error}")
        else:
            pairs[min(first, second), max(first, second)] = None
    _raise(errors)
    return list(pairs)


def _pair(line: str) -> tuple[str, str]:
    fields = [field.strip() for field in next(csv.reader([line]))]
    if len(fields) != 2:
        raise ValueError("a line must be two user ids with a comma between")
    first, second = map(user_id_of, fields)
    if first == second:
        raise ValueError(f"{first} cannot be a contact of {first}")
    return first, second


def read_backup(lines: Iterable[str], name: str) -> list[Line]:
    """The users in a file that `export` wrote.

    Raises:
        UserError: the message has a line for each bad line.
    """
    users, errors = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            users.append(Line.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            errors.append(f"{name}:{number}: {f'{where}: ' if where else ''}{_plain(first['msg'])}")
    _raise(errors)
    return users


def _plain(message: str) -> str:
    """Pydantic's message about a value, in the terms of a file."""
    message = re.sub(r"^(Input|String|List) should ", "must ", message.removeprefix("Value error, "))
    message = re.sub(r"^Invalid JSON: .*", "is not a line of JSON", message, flags=re.DOTALL)
    return message.replace("Field required", "is missing")


def _raise(errors: list[str]) -> None:
    if len(errors) > MOST_ERRORS:
        errors = [*errors[:MOST_ERRORS], f"and {len(errors) - MOST_ERRORS} more bad lines"]
    if errors:
        raise UserError("\n".join(errors))


async def load_pairs(backend: Backend, pairs: Iterable[tuple[str, str]], progress: Progress) -> None:
    """Let the two users of each pair see each other, and then mark the graph as loaded.

    Raises:
        UserError: a call failed. What was written stays, and the file may be loaded again.
    """
    contacts: dict[str, list[str]] = {}
    for first, second in pairs:
        contacts.setdefault(first, []).append(second)
    batches = _batches(contacts)
    step = _counting(progress, len(batches))
    await _run_all((backend.set_contacts(user, others, mutual=True) for user, others in batches), step)
    await backend.set_graph_loaded()


async def erase(backend: Backend, users: Sequence[str], progress: Progress) -> None:
    """Erase everything about these users.

    Raises:
        UserError: a call failed. Users may be erased again.
    """
    step = _counting(progress, len(users))
    await _run_all((backend.erase(user) for user in users), step)


async def restore(backend: Backend, users: Sequence[Line], progress: Progress, *, replace: bool = False) -> None:
    """Restore a backup: first what is hidden, so that nobody sees too much in between, then the contacts.

    With `replace`, data that is not in the backup is deleted: contacts, before others are added, and everything about
    users that the backup does not contain.

    Raises:
        UserError: a call failed. What was written stays, and the backup may be restored again.
    """
    now = time.time_ns() // 1_000_000
    surplus: list[tuple[str, list[str]]] = []
    if replace:
        wanted = {user.userId: set(user.viewers) for user in users}
        known = {line["userId"]: line["viewers"] async for line in _lines(backend)}
        surplus = _batches(
            {user: [v for v in viewers if v not in wanted.get(user, ())] for user, viewers in known.items()}
        )
        users = [*users, *(Line(userId=user) for user in known.keys() - wanted.keys())]
    batches = _batches({user.userId: user.viewers for user in users})
    step = _counting(progress, len(users) + len(surplus) + len(batches))
    await _run_all((_restore_user(backend, user, now, replace=replace) for user in users), step)
    await _run_all((backend.set_contacts(user, remove=others, mutual=False) for user, others in surplus), step)
    await _run_all((backend.set_contacts(user, others, mutual=False) for user, others in batches), step)
    await backend.set_graph_loaded()


async def _restore_user(backend: Backend, user: Line, now: int, *, replace: bool) -> None:
    privacy = user.model_dump(include={"invisible", "lastSeen", "hideFrom", "blocks"})
    await backend.set_privacy(user.userId, privacy)
    change: dict[str, Any] = {"scope": "user", "status": "online", "customStatus": None} if replace else {}
    if user.claim and not _is_over(user.claim.until, now):
        change |= {"scope": "user", **user.claim.model_dump(exclude_none=True)}
    if user.customStatus and not _is_over(user.customStatus.until, now):
        change["customStatus"] = user.customStatus.model_dump(exclude_none=True)
    if change:
        await backend.set_status(user.userId, change)


def _is_over(until: int | None, now: int) -> bool:
    return until is not None and until <= now


def _batches(contacts: Mapping[str, list[str]]) -> list[tuple[str, list[str]]]:
    return [
        (user, others[start : start + BATCH])
        for user, others in contacts.items()
        for start in range(0, len(others), BATCH)
    ]


def _counting(progress: Progress, total: int) -> Callable[[], None]:
    done = itertools.count(1)
    return lambda: progress(next(done), total)


async def _run_all(work: Iterator[Coroutine[Any, Any, None]], step: Callable[[], None]) -> None:
    """Run all calls, PARALLEL_CALLS at a time, and call `step` after each. Stops at the first failure and raises it."""

    async def worker() -> None:
        for piece in work:
            await piece
            step()

    workers = [asyncio.create_task(worker()) for _ in range(PARALLEL_CALLS)]
    try:
        await asyncio.gather(*workers)
    finally:
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def export(backend: Backend) -> AsyncIterator[str]:
    """Everything that the application or its users gave, as a line for each user, without line ends.

    Raises:
        UserError: a call failed.
    """
    async for user in _lines(backend):
        yield json.dumps(user, ensure_ascii=False, separators=(",", ":"))


async def user_ids(backend: Backend) -> AsyncIterator[str]:
    """The users about whom anything was given.

    Raises:
        UserError: a call failed.
    """
    async for user in _lines(backend):
        yield user["userId"]


async def _lines(backend: Backend) -> AsyncIterator[dict[str, Any]]:
    seen: set[str] = set()
    cursor = ""
    while True:
        users, cursor = await backend.graph_page(cursor)
        for user in users:
            if user["userId"] not in seen:  # A scan of Redis may return a key twice.
                seen.add(user["userId"])
                yield user
        if not cursor:
            return
