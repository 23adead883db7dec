"""How the terminal shows contacts: the same facts in a table and in lines."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

from cli.watch import ContactTable, Lines, custom_status, last_seen, link_text
from load.session import Link
from load.state import Record, State

NOW = 1_764_000_000.0
"""Seconds."""


def record(user: str, status: str = "online", **fields: Any) -> Record:
    """A contact's record."""
    return {
        "userId": user,
        "status": status,
        "customStatus": None,
        "deviceType": None if status == "offline" else "web",
        "lastSeen": None,
        **fields,
    }


def state_of(*records: Record) -> State:
    """A state with these contacts, of a user with two devices."""
    users = {record["userId"]: record for record in records}
    return State(users=users, own={"status": "online", "devices": [{}, {}]})


def shown(renderable: Any, width: int = 100) -> list[str]:
    """The lines that a terminal of this width shows, without colors."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(renderable)
    return [line.rstrip() for line in out.getvalue().splitlines()]


class TestLines:
    @pytest.fixture
    def out(self) -> io.StringIO:
        return io.StringIO()

    @pytest.fixture
    def lines(self, out: io.StringIO) -> Lines:
        return Lines(out, out, lambda: NOW)

    def test_a_change_is_one_line_of_fields(self, lines: Lines, out: io.StringIO) -> None:
        """Time, user, status, device, custom status, last seen: with tabs between them, and a dash for an empty
        field.
        """
        custom = {"text": "In a call", "emoji": "🎧", "until": None}
        before = state_of(record("bob"), record("carol"), dave := record("dave"))
        alice, bob = record("alice", "busy", customStatus=custom), record("bob", "offline", lastSeen=(NOW - 90) * 1000)
        lines.state(before, state_of(alice, bob, dave))
        at = time.strftime("%H:%M:%S", time.localtime(NOW))
        assert out.getvalue().splitlines() == [
            f"{at}\tcarol\tremoved",
            f"{at}\talice\tbusy\tweb\t🎧 In a call\t-",
            f"{at}\tbob\toffline\t-\t-\t1 minute ago",
        ]

    def test_a_long_line_stays_one(self, lines: Lines, out: io.StringIO) -> None:
        """A change is one line, whatever the terminal's width."""
        lines.state(State(), state_of(record("a" * 128, customStatus={"text": "x" * 140, "until": None})))
        assert len(out.getvalue().splitlines()) == 1

    def test_brackets_are_shown_as_typed(self, lines: Lines, out: io.StringIO) -> None:
        """A custom status is not interpreted as markup."""
        lines.state(State(), state_of(record("alice", customStatus={"text": "[red]hi[/red]", "until": None})))
        assert "\t[red]hi[/red]\t" in out.getvalue()

    def test_the_connection_is_not_shown_among_contacts(self) -> None:
        """The state of the connection goes to stderr, so that a pipe carries only contacts."""
        out, remarks = io.StringIO(), io.StringIO()
        Lines(out, remarks).link(Link("lost", "cut", 0.84))
        assert (out.getvalue(), remarks.getvalue()) == ("", "not connected (cut), trying again in 0.8 s\n")


class TestTable:
    @pytest.fixture
    def table(self) -> ContactTable:
        table = ContactTable("bob", lambda _: None, lambda: NOW)
        table.state(State(), state_of())
        return table

    def test_online_contacts_come_first(self, table: ContactTable) -> None:
        """Online, busy, away and offline, each sorted by name; with device, custom status and last seen."""
        table.link(Link("live"))
        contacts = state_of(
            record("dave", "offline", lastSeen=(NOW - 7200) * 1000),
            record("zoe", deviceType="mobile"),
            record("carol", "away"),
            record("alice", "busy", customStatus={"text": "Lunch", "emoji": "🍜", "until": None}),
            record("bea", deviceType="desktop"),
        )
        table.state(State(), contacts)
        lines = shown(table.render())
        assert lines[0] == "bob  ● online  2 devices  connected"
        assert [line.split() for line in lines[2:8]] == [
            ["contact", "status", "device", "says", "last", "seen"],
            ["●", "bea", "online", "desktop"],
            ["●", "zoe", "online", "mobile"],
            ["●", "alice", "busy", "web", "🍜", "Lunch"],
            ["◐", "carol", "away", "web"],
            ["○", "dave", "offline", "2", "hours", "ago"],
        ]

    def test_it_shows_why_nothing_changes(self, table: ContactTable) -> None:
        """While the service is unavailable, the last state stays, and the header says that it is stale."""
        table.state(State(), state_of(record("alice")))
        for link in (Link("stale", "presence is unavailable; try again"), Link("lost", "cut", 3)):
            table.link(link)
            lines = shown(table.render())
            assert link_text(link) in lines[0]
            assert any("alice" in line for line in lines)

    def test_an_empty_table_shows_what_to_do(self, table: ContactTable) -> None:
        """An empty table would look broken."""
        table.link(Link("live"))
        assert "`presence contacts add bob OTHER`" in "\n".join(shown(table.render()))

    def test_before_the_first_snapshot_it_is_connecting(self) -> None:
        """The table is shown immediately."""
        table = ContactTable("bob", lambda _: None, lambda: NOW)
        assert shown(table.render())[0] == "bob  connecting"

    def test_each_state_is_drawn(self) -> None:
        """Each new state redraws the table once, however many contacts it changes."""
        drawn: list[Any] = []
        table = ContactTable("bob", drawn.append, lambda: NOW)
        table.link(Link("live"))
        table.state(State(), state_of(record("alice"), record("carol")))
        assert len(drawn) == 2

    def test_markup_in_a_custom_status_is_text(self, table: ContactTable) -> None:
        """Nobody can change the colors of another user's terminal."""
        table.state(State(), state_of(record("alice", customStatus={"text": "[bold]x[/bold] \x1b[31m", "until": None})))
        assert any("[bold]x[/bold]" in line and "\x1b" not in line for line in shown(table.render()))


@pytest.mark.parametrize(
    ("ago", "words"),
    [
        (-5, "just now"),
        (0, "just now"),
        (10, "10 seconds ago"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (3600, "1 hour ago"),
        (86400, "1 day ago"),
        (400 * 86400, "400 days ago"),
    ],
)
def test_last_seen_is_in_words(ago: int, words: str) -> None:
    """In the largest unit; if a clock is slightly behind, it is "just now"."""
    assert last_seen(record("alice", "offline", lastSeen=(NOW - ago) * 1000), NOW) == words


def test_a_hidden_last_seen_is_empty() -> None:
    """Without a time there is no text."""
    assert last_seen(record("alice", "offline"), NOW) == ""


def test_a_custom_status_shows_its_end() -> None:
    """The end is a time of day, with the day if it is more than a day away; an ended status is not shown."""

    def words(**custom: Any) -> str:
        return custom_status(record("alice", customStatus=custom), NOW)

    soon, later = NOW + 3600, NOW + 3 * 86400
    assert words(text="Lunch", emoji="🍜", until=None) == "🍜 Lunch"
    assert words(emoji="🍜", until=None) == "🍜"
    assert (
        words(text="Lunch", until=int(soon * 1000)) == f"Lunch (until {time.strftime('%H:%M', time.localtime(soon))})"
    )
    assert words(text="Off", until=int(later * 1000)).endswith(time.strftime("%d %b %H:%M)", time.localtime(later)))
    assert words(text="Lunch", until=int(NOW * 1000)) == ""
    assert custom_status(record("alice"), NOW) == ""
