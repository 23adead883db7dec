"""`presence load`: so many users who see each other, how soon they do, and what is lost.

They are made up for the load: their ids begin with a prefix of its own, and nothing of them is left afterwards. How a
crowd is kept connected is `crowd.py`'s matter, what is counted is `tally.py`'s.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cli import garbage, open_files
from cli.addresses import nothing_answers
from cli.backend import Backend
from cli.errors import Complaint
from cli.graph_files import erase, load, user_ids
from cli.target import Target
from load.clients import Crowd, Progress
from load.errors import LoadError, Unreachable
from load.presence_protocol import Presence
from load.statistics import Tally

LEFT_OVER = re.compile(r"load-[0-9a-f]{8}-[0-9]+")
"""Ids of a load's users."""
OTHER_FILES = 200
"""Files and sockets that a process has open besides."""
SPARE = 600
"""Seconds that a token lives beyond the time for which changes are made."""
REFUSED_ABOVE = 5.0
"""Messages a second that a connection may send, unless the service's `rate_limit` says otherwise."""
HELD_BACK_ABOVE = 10.0
"""Changes a second of one viewer above which the service tells of several at once, up to a second later."""

Bar = Callable[[str], AbstractContextManager[Progress]]
"""Shows progress, under a heading, while it is entered."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to the service."""

    contacts: Sequence[Sequence[int]]
    """For each user, the places of its contacts, whose contact it is too."""
    devices: int = 1
    rate: float = 10.0
    """Changes a second, of all users together."""
    churn: float = 0.0
    """Connections a second that are closed and made anew."""
    seconds: float = 30.0
    connect_rate: float = 50.0
    prefix: str = field(default_factory=lambda: f"load-{secrets.token_hex(4)}-")

    @property
    def users(self) -> list[str]:
        """Their ids."""
        return [f"{self.prefix}{place}" for place in range(len(self.contacts))]

    @property
    def connections(self) -> int:
        """How many there are."""
        return self.devices * len(self.contacts)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """All who see each other, each pair once."""
        users = self.users
        return ((users[a], users[b]) for a, others in enumerate(self.contacts) for b in others if a < b)

    def summary(self) -> dict[str, Any]:
        """The plan, as the report has it."""
        return {
            "users": len(self.contacts),
            "pairs": sum(map(len, self.contacts)) // 2,
            "devices": self.devices,
            "rate": self.rate,
            "churn": self.churn,
            "seconds": self.seconds,
            "connectRate": self.connect_rate,
        }

    def doubts(self) -> list[str]:
        """Why the numbers may be those of a limit."""
        most = max(map(len, self.contacts))
        changers = sum(map(bool, self.contacts))
        each = self.rate / (changers or 1)
        doubts = []
        if not changers:
            doubts.append("nobody is anybody's contact: there is nothing to be shown, and no changes are made")
        if each > REFUSED_ABOVE * self.devices:
            doubts.append(
                f"each connection sends {each / self.devices:.1f} messages a second, and the service takes "
                f"{REFUSED_ABOVE:g} unless its rate_limit says otherwise: take more users or a smaller --rate"
            )
        if each * most > HELD_BACK_ABOVE:
            doubts.append(
                f"some users have {each * most:.0f} changes a second to see: above {HELD_BACK_ABOVE:g} the service "
                "holds them back and tells of several at once, so that latencies show that"
            )
        return doubts


class Outcome(NamedTuple):
    """What came of a load."""

    report: dict[str, Any]
    connected: bool
    """Whether anybody ever was: else there is nothing in the report."""
    failure: str
    """Why it ended before its time; empty where it did not."""


async def run(plan: Plan, target: Target, bar: Bar, remark: Callable[[str], None]) -> Outcome:
    """Put a service under a load, and tell what came of it. To be cancelled ends it early, with what there is by then.

    Args:
        plan: what is done.
        target: to which service.
        bar: where progress is shown.
        remark: is told what is to be known besides.

    Raises:
        Complaint: it could not begin.
    """
    open_files.allow(plan.connections + OTHER_FILES)
    garbage.collect_rarely()
    ramp = plan.connections / plan.connect_rate
    language = Presence(target.ws_url, target.identity_provider(), round(plan.seconds + 2 * ramp) + SPARE)
    tally = Tally()
    async with target.backend() as backend:
        if (await backend.health()).get("graph") != "loaded":
            raise Complaint(
                "nobody sees anybody before the contacts of this Redis are marked as loaded: "
                "`presence contacts load FILE` and `presence graph import FILE` do that"
            )
        report, failure = {**tally.report(), "plan": plan.summary()}, ""
        try:
            with bar("contacts") as tell:
                await load(backend, plan.pairs(), tell)
            crowd = Crowd(language, plan.users, plan.contacts, plan.devices, tally, random.Random())  # noqa: S311 - whose turn it is
            async with crowd.gathered():
                try:
                    await _act(crowd, plan, bar, remark)
                except (Complaint, LoadError) as complaint:
                    failure = _words(complaint)
                report |= tally.report()  # Before they leave: nobody is withdrawn whom we take away ourselves.
        except asyncio.CancelledError:
            _go_on(remark)
        except (Complaint, LoadError) as complaint:
            failure = _words(complaint)
        with bar("cleaning up") as tell:
            await _erase(backend, plan.users, tell, remark)
    return Outcome(report, tally.opened > 0, failure)


async def _act(crowd: Crowd, plan: Plan, bar: Bar, remark: Callable[[str], None]) -> None:
    try:
        with bar("connecting") as tell:
            await crowd.connect(plan.connect_rate, tell)
        with bar("changes") as tell:
            await crowd.change(plan.rate, plan.seconds, plan.churn, tell)
    except asyncio.CancelledError:
        _go_on(remark)
    await crowd.drain()


def _go_on(remark: Callable[[str], None]) -> None:
    """Take being cancelled as an early end: what is to be done afterwards is done in order."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    remark("ending early")


def _words(error: Exception) -> str:
    return nothing_answers(error.url) if isinstance(error, Unreachable) else str(error)


async def erase_left_over(target: Target, bar: Bar) -> int:
    """Erase the users of earlier loads that could not do so themselves; gives how many there were.

    Raises:
        Complaint: a call failed.
    """
    async with target.backend() as backend:
        users = sorted({user async for user in user_ids(backend) if LEFT_OVER.match(user)})
        with bar("cleaning up") as tell:
            await erase(backend, users, tell)
    return len(users)


async def _erase(backend: Backend, users: Sequence[str], tell: Progress, remark: Callable[[str], None]) -> None:
    try:
        await erase(backend, users, tell)
    except (Complaint, asyncio.CancelledError) as error:
        why = f" ({error})" if isinstance(error, Complaint) else ""
        remark(f"the load's users are still known to the service{why}: `presence load --clean-up` erases them")
        if isinstance(error, asyncio.CancelledError):
            raise
