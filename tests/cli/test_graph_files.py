"""Files of contacts: bad lines are reported before anything is written, and nobody sees too much in between."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from botocore.credentials import ReadOnlyCredentials

from cli.backend import Backend
from cli.errors import UserError
from cli.graph_files import BATCH, Line, export, load_pairs, read_backup, read_pairs, restore
from tests.support.local_gateway import REGION, Event, Gateway, running_gateway

NOW = time.time_ns() // 1_000_000
TOMORROW = NOW + 86_400_000


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """A gateway whose `api` accepts every call."""
    async with running_gateway() as gateway:
        gateway.functions.answers["api"] = {"statusCode": 204}
        yield gateway


@pytest.fixture
async def backend(gateway: Gateway) -> AsyncIterator[Backend]:
    """A backend of that gateway."""
    keys = ReadOnlyCredentials(gateway.keys.access_key_id, gateway.keys.secret_access_key, None)
    async with aiohttp.ClientSession() as session:
        yield Backend(session, gateway.url, keys, REGION)


class Steps:
    """Records the reported progress."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.told.append((done, total))


def calls(gateway: Gateway) -> list[tuple[str, str, Any]]:
    """The calls in order: method, user and body."""
    return [
        (event["routeKey"], event.get("pathParameters", {}).get("id", ""), json.loads(event.get("body", "null")))
        for event in gateway.functions.events_of("api")
    ]


def errors_of(read: Any, text: str) -> list[str]:
    """The errors for a text."""
    with pytest.raises(UserError) as error:
        read(text.splitlines(keepends=True), "f")
    return str(error.value).splitlines()


def test_pairs_are_read_once() -> None:
    """A pair counts once, in either direction; spaces and empty lines are ignored."""
    lines = ["alice,bob\n", "\n", " bob , alice \r\n", '"carol","dave"\n', "a=b@c.d,x|y~z"]
    assert read_pairs(lines, "f") == [("alice", "bob"), ("carol", "dave"), ("a=b@c.d", "x|y~z")]


def test_every_bad_line_is_named() -> None:
    """Each invalid line is reported with its number."""
    text = "alice,bob\nalice\na,b,c\nalice,b/c\nalice,alice\n,bob\n"
    said = errors_of(read_pairs, text)
    assert [line.split(" ")[0] for line in said] == ["f:2:", "f:3:", "f:4:", "f:5:", "f:6:"]
    assert said[0] == "f:2: a line must be two user ids with a comma between"
    assert "'b/c' is not a user id" in said[2]
    assert said[3] == "f:5: alice cannot be a contact of alice"


def test_many_bad_lines_are_summarized() -> None:
    """After twenty bad lines only their number is reported."""
    said = errors_of(read_pairs, "nonsense\n" * 1000)
    assert len(said) == 21
    assert said[-1] == "and 980 more bad lines"


async def test_pairs_are_loaded_in_batches_and_then_marked(gateway: Gateway, backend: Backend) -> None:
    """Contacts are sent in few calls, mutually; the mark comes last, and progress is reported."""
    edges = [("alice", f"u{number}") for number in range(BATCH + 1)] + [("bob", "carol")]
    steps = Steps()
    await load_pairs(backend, edges, steps)
    *contacts, last = calls(gateway)
    assert last == ("PUT /v1/graph", "", {"loaded": True})
    assert sorted((user, len(body["add"]), body["mutual"]) for _, user, body in contacts) == [
        ("alice", 1, True),
        ("alice", BATCH, True),
        ("bob", 1, True),
    ]
    assert steps.told == [(1, 3), (2, 3), (3, 3)]


async def test_a_failure_leaves_the_graph_unmarked(gateway: Gateway, backend: Backend) -> None:
    """After a failed call no other starts, and the graph is not marked as loaded."""
    gateway.functions.answers["api"] = {"statusCode": 409, "body": '{"detail": "too many"}'}
    with pytest.raises(UserError, match="409: too many"):
        await load_pairs(backend, [(f"u{number}", "bob") for number in range(100)], Steps())
    assert 1 <= len(calls(gateway)) <= 4
    assert all(call[0] != "PUT /v1/graph" for call in calls(gateway))


def test_a_backup_is_checked_line_by_line() -> None:
    """Invalid JSON, a missing user or an invalid value is reported with its line and field."""
    bad = [
        "{",
        "[]",
        "{}",
        '{"userId":"a b"}',
        '{"userId":"a","viewers":["b",7]}',
        '{"userId":"a","lastSeen":"some"}',
        '{"userId":"a","claim":{"status":"gone"}}',
    ]
    said = errors_of(read_backup, "\n".join(['{"userId":"alice","viewers":["bob"]}', *bad]))
    assert [line.split(" ")[0] for line in said] == [f"f:{number}:" for number in range(2, 9)]
    for line, words in zip(
        said, ("JSON", "object", "userId", "userId", "viewers.1", "lastSeen", "claim.status"), strict=True
    ):
        assert words in line


def test_errors_of_a_line_are_in_plain_words() -> None:
    """Errors do not show pydantic's wording."""
    bad = ["{", "[]", "{}", '{"userId":1}', '{"userId":"a","viewers":"b"}', '{"userId":"a","lastSeen":"some"}']
    long = json.dumps({"userId": "a", "customStatus": {"text": "x" * 141}})
    assert [line.partition(" ")[2] for line in errors_of(read_backup, "\n".join([*bad, long]))] == [
        "is not a line of JSON",
        "must be an object",
        "userId: is missing",
        "userId: must be a valid string",
        "viewers: must be a valid array",
        "lastSeen: must be 'everyone' or 'nobody'",
        "customStatus.text: must have at most 140 characters",
    ]


def test_a_backup_without_a_field_has_its_default() -> None:
    """A missing field has the value of a user who never chose."""
    assert read_backup(['{"userId":"alice"}\n', "\n"], "f") == [Line(userId="alice")]


async def test_a_backup_hides_before_it_shows(gateway: Gateway, backend: Backend) -> None:
    """All privacy is written before any contact, contacts are one-way, and the mark comes last."""
    steps = Steps()
    await restore(
        backend,
        [
            Line(userId="alice", viewers=["bob"], invisible=True, hideFrom=["carol"], lastSeen="nobody"),
            Line(userId="bob", viewers=["alice", "carol"], blocks=["mallory"]),
        ],
        steps,
    )
    assert steps.told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    told = calls(gateway)
    assert [route for route, _, _ in told] == [
        *["PUT /v1/users/{id}/privacy"] * 2,
        *["PUT /v1/users/{id}/contacts"] * 2,
        "PUT /v1/graph",
    ]
    bodies = {(route.rpartition("/")[2], user): body for route, user, body in told}
    assert bodies["privacy", "alice"] == {
        "invisible": True,
        "lastSeen": "nobody",
        "hideFrom": ["carol"],
        "blocks": [],
    }
    assert bodies["privacy", "bob"]["blocks"] == ["mallory"]
    assert bodies["contacts", "bob"] == {"add": ["alice", "carol"], "remove": [], "mutual": False}


async def test_a_backup_restores_statuses_that_have_not_ended(gateway: Gateway, backend: Backend) -> None:
    """Custom statuses and claims keep their ends; ended ones are not restored."""
    lines = [
        {"userId": "alice", "claim": {"status": "busy", "until": TOMORROW}, "customStatus": {"text": "Lunch"}},
        {
            "userId": "bob",
            "claim": {"status": "busy", "until": None},
            "customStatus": {"text": "Old", "until": 1_000_000_000_000},
        },
        {"userId": "carol", "claim": {"status": "away", "until": NOW - 1}},
    ]
    await restore(backend, read_backup(map(json.dumps, lines), "f"), Steps())
    statuses = {user: body for route, user, body in calls(gateway) if route.endswith("/status")}
    assert statuses == {
        "alice": {
            "scope": "user",
            "status": "busy",
            "until": TOMORROW,
            "customStatus": {"text": "Lunch", "emoji": ""},
        },
        "bob": {"scope": "user", "status": "busy"},
    }


async def test_a_replacement_deletes_what_it_does_not_contain(gateway: Gateway, backend: Backend) -> None:
    """Contacts that are not in the backup are removed before others are added; other users lose everything."""

    async def known(event: Event) -> Any:
        alice = {"userId": "alice", "viewers": ["bob", "mallory"]}
        users = [alice, {"userId": "dave", "viewers": ["alice"]}]
        return {"users": users, "next": ""} if event["routeKey"] == "GET /v1/graph" else {"statusCode": 204}

    gateway.functions.answers["api"] = known
    steps = Steps()
    await restore(backend, [Line(userId="alice", viewers=["bob", "carol"])], steps, replace=True)
    assert steps.told[-1] == (5, 5)
    _, *told, last = calls(gateway)
    assert last[0] == "PUT /v1/graph"
    contacts = [(user, body["remove"], body["add"]) for route, user, body in told if route.endswith("/contacts")]
    assert sorted(contacts[:2]) == [("alice", ["mallory"], []), ("dave", ["alice"], [])]
    assert contacts[2:] == [("alice", [], ["bob", "carol"])]
    nothing = {"invisible": False, "lastSeen": "everyone", "hideFrom": [], "blocks": []}
    assert [body for route, user, body in told if user == "dave" and route.endswith("/privacy")] == [nothing]
    cleared = {"scope": "user", "status": "online", "customStatus": None}
    assert [body for route, _, body in told if route.endswith("/status")] == [cleared, cleared]


async def test_an_export_has_each_user_once(gateway: Gateway, backend: Backend) -> None:
    """Pages may contain a user twice; a backup does not, and it can be read again."""
    pages: dict[str, Any] = {
        "": {"users": [{"userId": "alice", "viewers": ["bob"]}, {"userId": "bob"}], "next": "0-9"},
        "0-9": {"users": [{"userId": "bob"}, {"userId": "çarol"}], "next": None},
    }

    async def page(event: Event) -> Any:
        return pages[event.get("queryStringParameters", {}).get("cursor", "")]

    gateway.functions.answers["api"] = page
    lines = [line async for line in export(backend)]
    assert [json.loads(line)["userId"] for line in lines] == ["alice", "bob", "çarol"]
    assert read_backup(lines[:2], "f") == [Line(userId="alice", viewers=["bob"]), Line(userId="bob")]


def test_lines_come_from_any_iterable(tmp_path: Path) -> None:
    """A file is read line by line, with its line ends."""
    (tmp_path / "edges.csv").write_bytes(b"alice,bob\r\ncarol,dave")
    with (tmp_path / "edges.csv").open() as lines:
        assert read_pairs(lines, "edges.csv") == [("alice", "bob"), ("carol", "dave")]
