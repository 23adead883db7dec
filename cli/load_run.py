"""One run of `presence load`: creates users with contacts, lets them make changes, and erases them.

Their ids start with a prefix of this run. The clients and the statistics are in `load/`.
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

from cli import process_limits
from cli.addresses import nothing_answers
from cli.backend import Backend
from cli.errors import UserError
from cli.graph_files import erase, load_pairs, user_ids
from cli.target import Target
from load.clients import Progress, SimulatedClients
from load.errors import LoadError, Unreachable
from load.presence_protocol import PresenceProtocol
from load.statistics import Statistics

LEFT_OVER = re.compile(r"load-[0-9a-f]{8}-[0-9]+")
"""Ids of a load's users."""
OTHER_FILES = 200
"""Other files and sockets that the process has open."""
SPARE = 600
"""Seconds that a token is valid after the load ends."""
REFUSED_ABOVE = 5.0
"""Messages a second that a connection may send, with the default `rate_limit`."""
BATCHED_ABOVE = 10.0
"""Changes a second for one viewer above which the service batches them, up to a second later."""

Bar = Callable[[str], AbstractContextManager[Progress]]
"""Shows a progress bar with a heading while it is entered."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of a load."""

    contacts: Sequence[Sequence[int]]
    """For each user, the places of its contacts. The relation is mutual."""
    devices: int = 1
    rate: float = 10.0
    """Changes a second, of all users together."""
    churn: float = 0.0
    """Connections a second that close and reconnect."""
    seconds: float = 30.0
    connect_rate: float = 50.0
    prefix: str = field(default_factory=lambda: f"load-{secrets.token_hex(4)}-")

    @property
    def users(self) -> list[str]:
        """The users' ids."""
        return [f"{self.prefix}{place}" for place in range(len(self.contacts))]

    @property
    def connections(self) -> int:
        """The number of connections."""
        return self.devices * len(self.contacts)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The users who see each other, each pair once."""
        users = self.users
        return ((users[a], users[b]) for a, others in enumerate(self.contacts) for b in others if a < b)

    def summary(self) -> dict[str, Any]:
        """The plan, for the report."""
        return {
            "users": len(self.contacts),
            "pairs": sum(map(len, self.contacts)) // 2,
            "devices": self.devices,
            "rate": self.rate,
            "churn": self.churn,
            "seconds": self.seconds,
            "connectRate": self.connect_rate,
        }

    def warnings(self) -> list[str]:
        """Why the numbers may be those of a limit."""
        most = max(map(len, self.contacts))
        changers = sum(map(bool, self.contacts))
        each = self.rate / (changers or 1)
        warnings = []
        if not changers:
            warnings.append("no user has a contact, so no changes are made")
        if each > REFUSED_ABOVE * self.devices:
            warnings.append(
                f"each connection sends {each / self.devices:.1f} messages a second, and the service accepts "
                f"{REFUSED_ABOVE:g} by default: use more users, a smaller --rate, or a higher rate_limit"
            )
        if each * most > BATCHED_ABOVE:
            warnings.append(
                f"some users see {each * most:.0f} changes a second: above {BATCHED_ABOVE:g} the service batches them, "
                "which makes latencies longer"
            )
        return warnings


class Outcome(NamedTuple):
    """The result of a load."""

    report: dict[str, Any]
    connected: bool
    """Whether any client ever connected. If not, the report is empty."""
    failure: str
    """Why the load ended early; empty if it did not."""


async def run(plan: Plan, target: Target, bar: Bar, remark: Callable[[str], None]) -> Outcome:
    """Put a service under load. Canceling ends the load early, with a report of what happened until then.

    Args:
        plan: the size of the load.
        target: the service.
        bar: shows progress.
        remark: is called with remarks for the user.

    Raises:
        UserError: the load could not start.
    """
    process_limits.allow_open_files(plan.connections + OTHER_FILES)
    process_limits.collect_garbage_rarely()
    ramp = plan.connections / plan.connect_rate
    language = PresenceProtocol(target.ws_url, target.identity_provider(), round(plan.seconds + 2 * ramp) + SPARE)
    statistics = Statistics()
    async with target.backend() as backend:
        if (await backend.health()).get("graph") != "loaded":
            raise UserError(
                "nobody sees anybody until the contacts of this Redis are marked as loaded: "
                "run `presence contacts load FILE` or `presence graph import FILE`"
            )
        report, failure = {**statistics.report(), "plan": plan.summary()}, ""
        try:
            with bar("contacts") as progress:
                await load_pairs(backend, plan.pairs(), progress)
            clients = SimulatedClients(language, plan.users, plan.contacts, plan.devices, statistics, random.Random())  # noqa: S311 - chooses whose turn it is
            async with clients.running():
                try:
                    await _act(clients, plan, bar, remark)
                except (UserError, LoadError) as error:
                    failure = _text(error)
                report |= statistics.report()  # Before the clients disconnect, which withdraws deliveries.
        except asyncio.CancelledError:
            _continue(remark)
        except (UserError, LoadError) as error:
            failure = _text(error)
        with bar("cleaning up") as progress:
            await _erase(backend, plan.users, progress, remark)
    return Outcome(report, statistics.opened > 0, failure)


async def _act(clients: SimulatedClients, plan: Plan, bar: Bar, remark: Callable[[str], None]) -> None:
    try:
        with bar("connecting") as progress:
            await clients.connect(plan.connect_rate, progress)
        with bar("changes") as progress:
            await clients.change(plan.rate, plan.seconds, plan.churn, progress)
    except asyncio.CancelledError:
        _continue(remark)
    await clients.drain()


def _continue(remark: Callable[[str], None]) -> None:
    """Treat a cancellation as an early end: the report and the cleanup still follow."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    remark("ending early")


def _text(error: Exception) -> str:
    return nothing_answers(error.url) if isinstance(error, Unreachable) else str(error)


async def erase_left_over(target: Target, bar: Bar) -> int:
    """Erase the users of earlier loads that were interrupted. Returns how many there were.

    Raises:
        UserError: a call failed.
    """
    async with target.backend() as backend:
        users = sorted({user async for user in user_ids(backend) if LEFT_OVER.match(user)})
        with bar("cleaning up") as progress:
            await erase(backend, users, progress)
    return len(users)


async def _erase(backend: Backend, users: Sequence[str], progress: Progress, remark: Callable[[str], None]) -> None:
    try:
        await erase(backend, users, progress)
    except (UserError, asyncio.CancelledError) as error:
        why = f" ({error})" if isinstance(error, UserError) else ""
        remark(f"the load's users are still in the service{why}: `presence load --clean-up` erases them")
        if isinstance(error, asyncio.CancelledError):
            raise
