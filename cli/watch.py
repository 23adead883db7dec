"""A user's contacts, live in the terminal: a table that changes in place, or a line for each change.

What is shown is decided here. How the picture comes about is `client.py`'s and `picture.py`'s matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Mapping
from typing import IO, NoReturn

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.client import Client
from cli.identity_provider import Tokens
from load.session import Link
from load.state import Change, Picture, Record

DOTS = {"online": ("●", "green"), "busy": ("●", "red"), "away": ("◐", "yellow"), "offline": ("○", "bright_black")}
"""Status → sign and colour; in the order in which contacts are listed."""
ORDER = list(DOTS)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What could move the cursor of somebody else's terminal. The service lets none of it in; this is the last door."""
TICK = 1.0
"""Seconds between redraws: "last seen" grows while nothing happens."""


async def watch(
    ws_url: str, user_id: str, tokens: Tokens, console: Console, remarks: IO[str], *, plain: bool
) -> NoReturn:
    """Show a user's contacts until cancelled.

    Args:
        ws_url: where the service answers, without a query.
        user_id: whose contacts.
        tokens: where the user's tokens come from.
        console: where contacts are shown.
        remarks: where the state of the connection is told, when contacts are lines: they may go through a pipe.
        plain: a line for each change; so it is also where `console` is no terminal.

    Raises:
        Complaint: the service cannot be reached.
    """
    if plain or not console.is_terminal:
        lines = Lines(console.file, remarks)
        await Client(ws_url, user_id, tokens, Picture(), lines.change, lines.link).run()
    with Live(console=console, auto_refresh=False) as live:
        picture = Picture()
        table = ContactTable(user_id, picture, lambda content: live.update(content, refresh=True))
        client = Client(ws_url, user_id, tokens, picture, table.change, table.link)
        ticking = asyncio.create_task(table.tick())
        try:
            await client.run()
        finally:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking


class Lines:
    """One line per change, its fields divided by tabs: time, user, status, device, custom status, last seen."""

    def __init__(self, out: IO[str], remarks: IO[str], clock: Callable[[], float] = time.time) -> None:
        self._out, self._remarks, self._clock = out, remarks, clock

    def change(self, change: Change) -> None:
        """A contact changed."""
        now = self._clock()
        if change.after is None:
            user, fields = (change.before or {})["userId"], ["removed"]
        else:
            record = change.after
            fields = [record["status"], device(record), custom_status(record, now), last_seen(record, now)]
            user = record["userId"]
        at = time.strftime("%H:%M:%S", time.localtime(now))
        print(at, user, *(field or "-" for field in fields), sep="\t", file=self._out, flush=True)

    def link(self, link: Link) -> None:
        """The connection came, went, or is of no use."""
        print(link_words(link), file=self._remarks, flush=True)


class ContactTable:
    """All contacts in a table: who is there first."""

    def __init__(
        self,
        user_id: str,
        picture: Picture,
        draw: Callable[[RenderableType], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._user_id, self._picture, self._draw, self._clock = user_id, picture, draw, clock
        self._link: Link | None = None

    def change(self, change: Change) -> None:  # noqa: ARG002 - the picture has it already
        """A contact changed."""
        self._draw(self.render())

    def link(self, link: Link) -> None:
        """The connection came, went, or is of no use."""
        self._link = link
        self._draw(self.render())

    async def tick(self) -> NoReturn:
        """Draw anew as time passes."""
        while True:
            self._draw(self.render())
            await asyncio.sleep(TICK)

    def render(self) -> RenderableType:
        """What is to be seen now."""
        now = self._clock()
        live = self._link is not None and self._link.state == "live"
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), style="" if live else "dim")
        for title in ("", "contact", "status", "device", "says", "last seen"):
            table.add_column(title, header_style="bright_black", no_wrap=title != "says")
        contacts = sorted(
            self._picture.users.values(), key=lambda record: (ORDER.index(record["status"]), record["userId"])
        )
        for record in contacts:
            sign, colour = DOTS[record["status"]]
            table.add_row(
                Text(sign, colour),
                Text(record["userId"], "bold" if record["status"] != "offline" else ""),
                Text(record["status"], colour),
                Text(device(record)),
                Text(custom_status(record, now)),
                Text(last_seen(record, now)),
            )
        body: RenderableType = table if contacts else Text(self._empty_words() if live else "", "bright_black")
        return Group(self._head(), Text(), body, Text(), Text("Ctrl-C ends", "bright_black"))

    def _head(self) -> Text:
        own = self._picture.own
        head = Text.assemble((self._user_id, "bold"))
        if own:
            sign, colour = DOTS[own["status"]]
            count = len(own["devices"])
            head.append(f"  {sign} {own['status']}", colour)
            head.append(f"  {count} device{'s' if count != 1 else ''}", "bright_black")
        words = link_words(self._link) if self._link else "connecting"
        head.append(f"  {words}", "bright_black" if self._link and self._link.state == "live" else "yellow")
        return head

    def _empty_words(self) -> str:
        return f"{self._user_id} sees nobody yet: `presence contacts add {self._user_id} SOMEBODY` changes that"


def link_words(link: Link) -> str:
    """How the connection is, in words."""
    match link.state:
        case "live":
            return "connected"
        case "stale":
            return f"connected, but: {link.reason or 'no answer yet'}"
        case "lost":
            return f"not connected ({link.reason}), trying again in {link.again_in:.1f} s"


def device(record: Record) -> str:
    """The kind of the best device."""
    return record.get("deviceType") or ""


def custom_status(record: Record, now: float) -> str:
    """What the contact says: emoji, text, and until when; nothing once it has ended. `now` in seconds."""
    custom: Mapping[str, str | int | None] | None = record.get("customStatus")
    if not custom:
        return ""
    until = custom.get("until")
    if isinstance(until, int) and until <= now * 1000:
        return ""
    words = CONTROL.sub("", " ".join(str(custom[part]) for part in ("emoji", "text") if custom.get(part)))
    if not isinstance(until, int):
        return words
    when = "%H:%M" if until - now * 1000 < 86_400_000 else "%d %b %H:%M"
    return f"{words} (until {time.strftime(when, time.localtime(until / 1000))})"


def last_seen(record: Record, now: float) -> str:
    """How long ago the contact was there, in words; nothing while it is, or when it is hidden. `now` in seconds."""
    seen = record.get("lastSeen")
    if seen is None:
        return ""
    ago = max(0, int(now - seen / 1000))
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if count := ago // size:
            return f"{count} {word}{'s' if count != 1 else ''} ago"
    return "just now" if ago < 10 else f"{ago} seconds ago"
