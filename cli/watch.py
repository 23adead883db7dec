"""`presence watch`: a user's contacts, live in the terminal, as a table or as a line for each change.

Only the presentation is here. The connection is in `client.py`, the contacts' state in `load/state.py`.
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
from load.state import Change, Record, State, changes

DOTS = {"online": ("●", "green"), "busy": ("●", "red"), "away": ("◐", "yellow"), "offline": ("○", "bright_black")}
"""Status → sign and color, in the order in which contacts are listed."""
ORDER = list(DOTS)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that could control the terminal. The service refuses them; this is the last defense."""
TICK = 1.0
"""Seconds between redraws: "last seen" changes as time passes."""


async def watch(
    ws_url: str, user_id: str, tokens: Tokens, console: Console, remarks: IO[str], *, plain: bool
) -> NoReturn:
    """Show a user's contacts until canceled.

    Args:
        ws_url: the WebSocket API's URL, without a query.
        user_id: the user.
        tokens: makes the user's tokens.
        console: shows the contacts.
        remarks: shows the state of the connection when contacts are lines, which may go through a pipe.
        plain: print a line for each change, as always where `console` is not a terminal.

    Raises:
        UserError: the service cannot be reached.
    """
    if plain or not console.is_terminal:
        lines = Lines(console.file, remarks)
        await Client(ws_url, user_id, tokens, lines.state, lines.link).run()
    with Live(console=console, auto_refresh=False) as live:
        table = ContactTable(user_id, lambda content: live.update(content, refresh=True))
        client = Client(ws_url, user_id, tokens, table.state, table.link)
        ticking = asyncio.create_task(table.tick())
        try:
            await client.run()
        finally:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking


class Lines:
    """One line per change, with tabs between its fields: time, user, status, device, custom status, last seen."""

    def __init__(self, out: IO[str], remarks: IO[str], clock: Callable[[], float] = time.time) -> None:
        self._out, self._remarks, self._clock = out, remarks, clock

    def state(self, before: State, after: State) -> None:
        """Show what changed between two states."""
        for change in changes(before, after):
            self._change(change)

    def _change(self, change: Change) -> None:
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
        """Show the state of the connection."""
        print(link_text(link), file=self._remarks, flush=True)


class ContactTable:
    """All contacts in a table, online ones first."""

    def __init__(
        self,
        user_id: str,
        draw: Callable[[RenderableType], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._user_id, self._draw, self._clock = user_id, draw, clock
        self._state = State()
        self._link: Link | None = None

    def state(self, before: State, after: State) -> None:  # noqa: ARG002 - the table shows all contacts
        """Show a new state."""
        self._state = after
        self._draw(self.render())

    def link(self, link: Link) -> None:
        """Show the state of the connection."""
        self._link = link
        self._draw(self.render())

    async def tick(self) -> NoReturn:
        """Redraw the table as time passes."""
        while True:
            self._draw(self.render())
            await asyncio.sleep(TICK)

    def render(self) -> RenderableType:
        """The current table, with its header."""
        now = self._clock()
        live = self._link is not None and self._link.state == "live"
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), style="" if live else "dim")
        for title in ("", "contact", "status", "device", "says", "last seen"):
            table.add_column(title, header_style="bright_black", no_wrap=title != "says")
        contacts = sorted(
            self._state.users.values(), key=lambda record: (ORDER.index(record["status"]), record["userId"])
        )
        for record in contacts:
            sign, color = DOTS[record["status"]]
            table.add_row(
                Text(sign, color),
                Text(record["userId"], "bold" if record["status"] != "offline" else ""),
                Text(record["status"], color),
                Text(device(record)),
                Text(custom_status(record, now)),
                Text(last_seen(record, now)),
            )
        body: RenderableType = table if contacts else Text(self._empty_text() if live else "", "bright_black")
        return Group(self._head(), Text(), body, Text(), Text("Ctrl-C ends", "bright_black"))

    def _head(self) -> Text:
        own = self._state.own
        head = Text.assemble((self._user_id, "bold"))
        if own:
            sign, color = DOTS[own["status"]]
            count = len(own["devices"])
            head.append(f"  {sign} {own['status']}", color)
            head.append(f"  {count} device{'s' if count != 1 else ''}", "bright_black")
        text = link_text(self._link) if self._link else "connecting"
        head.append(f"  {text}", "bright_black" if self._link and self._link.state == "live" else "yellow")
        return head

    def _empty_text(self) -> str:
        return f"{self._user_id} sees nobody yet: run `presence contacts add {self._user_id} OTHER`"


def link_text(link: Link) -> str:
    """The state of the connection, as text."""
    match link.state:
        case "live":
            return "connected"
        case "stale":
            return f"connected, but: {link.reason or 'no response yet'}"
        case "lost":
            return f"not connected ({link.reason}), trying again in {link.again_in:.1f} s"


def device(record: Record) -> str:
    """The type of the device whose status wins."""
    return record.get("deviceType") or ""


def custom_status(record: Record, now: float) -> str:
    """The custom status: emoji, text, and its end; empty once it has ended. `now` is in seconds."""
    custom: Mapping[str, str | int | None] | None = record.get("customStatus")
    if not custom:
        return ""
    until = custom.get("until")
    if isinstance(until, int) and until <= now * 1000:
        return ""
    text = CONTROL.sub("", " ".join(str(custom[part]) for part in ("emoji", "text") if custom.get(part)))
    if not isinstance(until, int):
        return text
    when = "%H:%M" if until - now * 1000 < 86_400_000 else "%d %b %H:%M"
    return f"{text} (until {time.strftime(when, time.localtime(until / 1000))})"


def last_seen(record: Record, now: float) -> str:
    """How long ago the contact was online; empty while it is, or if that is hidden. `now` is in seconds."""
    seen = record.get("lastSeen")
    if seen is None:
        return ""
    ago = max(0, int(now - seen / 1000))
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if count := ago // size:
            return f"{count} {unit}{'s' if count != 1 else ''} ago"
    return "just now" if ago < 10 else f"{ago} seconds ago"
