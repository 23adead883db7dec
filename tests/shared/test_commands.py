"""The commands in Python and those in Lua are the same, and the headers in Lua describe both."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest

from shared import commands, responses
from shared.commands import Command
from shared.script import RECIPES, assemble, commands_of, in_order, part
from shared.settings import Settings
from shared.store import request_of
from tools.lua import Header, command_classes, headers, response_fields

CLASSES = command_classes()
HEADERS = headers()
COMMANDS = sorted(CLASSES)


def names(of: type[Any]) -> set[str]:
    """The fields of a response's class."""
    return {field.name for field in fields(of)}


def given(header: Header) -> set[str]:
    """The fields that a command's response may have."""
    return response_fields(header) | (header.errors.named.keys() - {"signed_out"})


def in_braces(text: str) -> set[str]:
    """The names in `{a, b, c}`."""
    return set(re.split(r",\s+", text.strip("{}")))


def test_every_command_is_in_lua_and_in_python() -> None:
    """Each command that Lua defines has a class, and each class a command that Lua defines, once."""
    defined = [command for name in in_order(RECIPES["everything"].parts) for command in commands_of(name)]
    assert sorted(defined) == COMMANDS


def test_every_command_has_a_header() -> None:
    """The header directly above a command names it and says what it does."""
    assert sorted(HEADERS) == COMMANDS
    assert [header.command for header in HEADERS.values() if not header.about.endswith(".")] == []


def test_everything_has_every_command() -> None:
    """Calls that mix commands run in the script "everything"."""
    assert assemble("everything", Settings()).commands == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_header_names_the_fields_of_the_request(name: str) -> None:
    """The fields in the header's `request` are those that the class sends."""
    assert set(HEADERS[name].request.named) == set(CLASSES[name].sent)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_response_can_hold_every_field_in_its_header(name: str) -> None:
    """The fields in the header's `response` and `errors` are fields of the response's class."""
    assert given(HEADERS[name]) <= names(CLASSES[name].response)


@pytest.mark.parametrize("response", sorted({command.response.__name__ for command in CLASSES.values()}))
def test_every_field_of_a_response_is_in_a_header(response: str) -> None:
    """A field that no command gives does not exist: those of one class together give all of its fields."""
    class_ = getattr(responses, response)
    own = names(class_) - {
        field for base in class_.__bases__ if base is not responses.Response for field in names(base)
    }
    assert own <= {field for name in COMMANDS if CLASSES[name].response is class_ for field in given(HEADERS[name])}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_with_the_time_of_a_token_can_be_refused(name: str) -> None:
    """`signed_out` is an error of exactly the commands that send `issued_at`."""
    assert ("signed_out" in HEADERS[name].errors.named) == ("issued_at" in CLASSES[name].sent)


@pytest.mark.parametrize(
    ("name", "pattern", "type_"),
    [
        ("messages", r"`sender`: (\{[^}]+\})", commands.Sender),
        ("statuses", r"change (\{[^}]+\})", commands.Change),
        ("settle", r"own (\{[^}]+\})", responses.OwnUpdate),
        ("settle", r"announcement (\{[^}]+\})", responses.Announcement),
        ("settle", r"(\{viewer[^}]+\})", responses.ViewerNotice),
        ("settle", r"(\{other[^}]+\})", responses.BlockNotice),
        ("settle", r"flush (\{[^}]+\})", responses.Flush),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_lua_describes_what_fields_hold(name: str, pattern: str, type_: type[Any]) -> None:
    """Where a comment in Lua lists what a field holds, it is what the type in Python has."""
    listed = re.search(pattern, part(name).replace("\n--", "\n"))
    assert listed
    assert in_braces(listed[1]) == set(type_.__annotations__) - {"nested"}


def test_a_command_is_named_after_its_class() -> None:
    """`GetPresence` is `get_presence`: one name, in each language's spelling."""
    assert CLASSES["get_presence"] is commands.GetPresence
    assert commands.GetPresence.response is responses.MessageOutcome


def test_a_field_that_is_none_is_not_sent() -> None:
    """A request has the user, the command, and the fields that were given; false and empty ones are."""
    assert request_of(commands.SetPrivacy("alice", invisible=False, blocks=[], most=9)) == {
        "user": "alice",
        "command": "set_privacy",
        "invisible": False,
        "blocks": [],
        "most": 9,
    }


def test_a_field_that_lua_leaves_out_gets_its_default() -> None:
    """Empty lists and maps do not arrive, and nested responses are decoded, too."""
    decoded = responses.Outcome.decode(
        {
            "flush": {"prev": 6, "first": 7, "last": 7},
            "notices": [{"other": "b", "version": "u 1", "blocked": False, "turn": 1}],
        }
    )
    assert decoded.flush == responses.Flush(6, 7, 7, [], {})
    assert decoded.notices == [responses.BlockNotice("b", "u 1", False, 1)]
    assert (decoded.own, decoded.found, decoded.close) == (None, [], [])


def test_an_unknown_field_of_a_response_is_an_error() -> None:
    """A field that Lua sends and Python does not know is a fault of ours, and does not pass silently."""
    with pytest.raises(TypeError, match="surprise"):
        responses.Room.decode({"room": True, "surprise": 1})


def test_a_command_is_frozen() -> None:
    """A command can be sent again, as after a lost script, because nothing changes it."""
    command: Command[Any] = commands.Settle("alice")
    with pytest.raises(AttributeError):
        command.user = "bob"  # type: ignore[misc]
