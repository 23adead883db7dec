"""Files of contacts and privacy: checked as a whole, then brought to the service; and written as a backup.

Two kinds: `edges.csv`, a pair of users per line who see each other, and JSON lines with everything that the application
or a user gave. How calls are made is `backend.py`'s matter.
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
from cli.errors import Complaint
from cli.identity_provider import user_id_of
from shared.messages import MAX_BLOCKS, CustomStatus, LastSeenPolicy, Time, UserId
from shared.settings import OnlineStatus

BATCH = 250
"""Contacts in one call: what the store does in one go, and far from the time that API Gateway allows."""
AT_ONCE = 4
"""Calls in progress: as many as `api` has sandboxes on a laptop."""
MOST_COMPLAINTS = 20
"""Bad lines that are told one by one."""

Progress = Callable[[int, int], None]
"""Is told how many steps are done, and how many there are."""


class Claim(BaseModel):
    """A status over all devices."""

    model_config = ConfigDict(extra="ignore", strict=True)
    status: OnlineStatus
    until: Time | None = None


class Line(BaseModel):
    """Everything about one user, as it stands in a line of a backup; `viewers` are those who may see the user."""

    model_config = ConfigDict(extra="ignore", strict=True)
    userId: UserId
    viewers: list[UserId] = []
    hideFrom: list[UserId] = []
    blocks: Annotated[list[UserId], Field(max_length=MAX_BLOCKS)] = []
    invisible: bool = False
    lastSeen: LastSeenPolicy = "everyone"
    customStatus: CustomStatus | None = None
    claim: Claim | None = None


def read_edges(lines: Iterable[str], name: str) -> list[tuple[str, str]]:
    """The pairs in a file of lines `a,b`; empty lines are skipped, and `name` is what complaints call the file.

    Raises:
        Complaint: naming each bad line.
    """
    edges: dict[tuple[str, str], None] = {}  # A dict keeps the order, and each pair once.
    complaints = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            first, second = _pair(line)
        except (ValueError, Complaint, csv.Error) as error:
            complaints.append(f"{name}:{number}: {error}")
        else:
            edges[min(first, second), max(first, second)] = None
    _complain(complaints)
    return list(edges)


def _pair(line: str) -> tuple[str, str]:
    fields = [field.strip() for field in next(csv.reader([line]))]
    if len(fields) != 2:
        raise ValueError("a line is two user ids with a comma between")
    first, second = map(user_id_of, fields)
    if first == second:
        raise ValueError(f"{first} cannot be a contact of {first}")
    return first, second


def read_backup(lines: Iterable[str], name: str) -> list[Line]:
    """The users in a file that `export` wrote.

    Raises:
        Complaint: naming each bad line.
    """
    users, complaints = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            users.append(Line.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            complaints.append(f"{name}:{number}: {f'{where}: ' if where else ''}{_plain(first['msg'])}")
    _complain(complaints)
    return users


def _plain(words: str) -> str:
    """What pydantic says of a value, as one would say it of a file."""
    words = re.sub(r"^(Input|String|List) should ", "must ", words.removeprefix("Value error, "))
    words = re.sub(r"^Invalid JSON: .*", "is not a line of JSON", words, flags=re.DOTALL)
    return words.replace("Field required", "is missing")


def _complain(complaints: list[str]) -> None:
    if len(complaints) > MOST_COMPLAINTS:
        more = len(complaints) - MOST_COMPLAINTS
        complaints = [*complaints[:MOST_COMPLAINTS], f"and {more} more bad lines"]
    if complaints:
        raise Complaint("\n".join(complaints))


async def load(backend: Backend, edges: Iterable[tuple[str, str]], progress: Progress) -> None:
    """Let the two users of each pair see each other, and then say that the graph is loaded.

    Raises:
        Complaint: a call failed. What was written stays, and the same file may be loaded again.
    """
    contacts: dict[str, list[str]] = {}
    for first, second in edges:
        contacts.setdefault(first, []).append(second)
    batches = _batches(contacts)
    tell = _counting(progress, len(batches))
    await _all((backend.set_contacts(user, others, mutual=True) for user, others in batches), tell)
    await backend.set_graph_loaded()


async def erase(backend: Backend, users: Sequence[str], progress: Progress) -> None:
    """Leave nothing of these users in the service.

    Raises:
        Complaint: a call failed. Whoever was erased stays so, and the same users may be erased again.
    """
    tell = _counting(progress, len(users))
    await _all((backend.erase(user) for user in users), tell)


async def restore(backend: Backend, users: Sequence[Line], progress: Progress, *, replace: bool = False) -> None:
    """Bring a backup to the service: first what is hidden, so that nobody sees too much meanwhile, then the contacts.

    With `replace`, what the service knows besides is taken away: contacts before others are added, and everything of
    users whom the backup does not name.

    Raises:
        Complaint: a call failed. What was written stays, and the same file may be loaded again.
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
    tell = _counting(progress, len(users) + len(surplus) + len(batches))
    await _all((_hide(backend, user, now, replace=replace) for user in users), tell)
    await _all((backend.set_contacts(user, remove=others, mutual=False) for user, others in surplus), tell)
    await _all((backend.set_contacts(user, others, mutual=False) for user, others in batches), tell)
    await backend.set_graph_loaded()


async def _hide(backend: Backend, user: Line, now: int, *, replace: bool) -> None:
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


async def _all(work: Iterator[Coroutine[Any, Any, None]], tell: Callable[[], None]) -> None:
    """Do all of it, AT_ONCE at a time, and tell of each; raises the first failure, and begins nothing more then."""

    async def worker() -> None:
        for piece in work:
            await piece
            tell()

    workers = [asyncio.create_task(worker()) for _ in range(AT_ONCE)]
    try:
        await asyncio.gather(*workers)
    finally:
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def export(backend: Backend) -> AsyncIterator[str]:
    """Everything that the application or users gave, a line for each user, without line ends.

    Raises:
        Complaint: a call failed.
    """
    async for user in _lines(backend):
        yield json.dumps(user, ensure_ascii=False, separators=(",", ":"))


async def user_ids(backend: Backend) -> AsyncIterator[str]:
    """Everybody of whom something was given.

    Raises:
        Complaint: a call failed.
    """
    async for user in _lines(backend):
        yield user["userId"]


async def _lines(backend: Backend) -> AsyncIterator[dict[str, Any]]:
    seen: set[str] = set()
    cursor = ""
    while True:
        users, cursor = await backend.graph_page(cursor)
        for user in users:
            if user["userId"] not in seen:  # Redis may name a key twice while it grows.
                seen.add(user["userId"])
                yield user
        if not cursor:
            return
