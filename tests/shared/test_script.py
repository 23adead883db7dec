"""The scripts, as they are assembled from the parts in `shared/lua/`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import redis

from local.elasticache import RedisServer
from shared import commands
from shared.commands import Command
from shared.connection import Connection
from shared.script import RECIPES, Script, assemble, in_order, main, part, script_for
from shared.settings import Settings
from tests.support.service import Bench

SETTINGS = Settings(buckets=1)
SCRIPTS = {name: assemble(name, SETTINGS) for name in RECIPES}
PARTS = sorted(Path(str(path)).stem for path in files("shared").joinpath("lua").iterdir())
LINES = 300
"""A part that is longer should be two."""
SECOND = 1000
ALICE, BOB, CAROL, DAVE = "alice", "bob", "carol", "dave"
DUE = "presence:{0}:due"
FORGOTTEN = 61
"""Seconds after which nothing is due for a user who left."""

Keys = dict[str, Any]


class Prepared:
    """A Redis with alice and bob, who see each other and are online; carol, who is due; and dave, who is offline.

    Attributes:
        now: the time, one second after the last change, in ms.
        alice: her connection.
    """

    def __init__(self, client: redis.Redis) -> None:
        client.flushall()
        self._client: Any = client  # its types have `str` beside `bytes`
        bench = Bench(client, SETTINGS)
        bench.service.contacts.change(BOB, [ALICE, DAVE])
        dave = bench.open(DAVE)
        bench.update(dave, customStatus={"text": "Lunch"})
        bench.service.leave(DAVE, dave.id)
        bench.sweep(FORGOTTEN)
        bench.open(CAROL)
        bench.clock.advance(SETTINGS.device_ttl - 1)
        self.alice = bench.open(ALICE, device="phone")
        bench.open(BOB)
        bench.update(self.alice, status="busy", n=1)
        bench.clock.advance(2)
        self.now = bench.clock()
        self._store = bench.store

    def run(self, command: Command[Any], text: str) -> Any:
        """Run a command in a script's text; gives the response as it was sent, or None."""
        call = self._store._compose(0, [command], [0])
        answer = self._client.eval(text, len(call.keys), *call.keys, str(self.now), call.body, "7")
        return answer and json.loads(answer)[0]

    def keys(self) -> Keys:
        """Everything that is stored."""
        return {key.decode(): self._read(key.decode()) for key in self._client.scan_iter()}

    def _read(self, key: str) -> Any:
        kind = self._client.type(key).decode()
        read: dict[str, Callable[[], Any]] = {
            "hash": lambda: self._client.hgetall(key),
            "set": lambda: self._client.smembers(key),
            "zset": lambda: dict(self._client.zrange(key, 0, -1, withscores=True)),
        }
        return read[kind](), self._client.ttl(key) > 0


def fast_path(script: Script) -> str:
    """A script that ends with its fast path."""
    return script.text.partition("local function main()")[0] + "\nreturn fast_response"


def without_fast_path(script: Script) -> str:
    """A script that never takes its fast path."""
    return re.sub(r"^local fast_response = \w+\(\)$", "local fast_response", script.text, flags=re.MULTILINE)


def sender(connection: Connection, *, active: bool = False) -> commands.Sender:
    """A connection, as a message carries it."""
    return connection.sender(active=active)


def samples(alice: Connection, now: int) -> list[Command[Any]]:
    """A request for each command; about alice or, for what a sweeper asks, about the bucket."""
    phone = sender(alice)
    poller = sender(Connection.of_polling_device(ALICE, "d1", now=now, issued_at=now // 1000, expires_at=0))
    busy: commands.Change = {"scope": "device", "status": "busy"}
    claim: commands.Change = {"scope": "user", "status": "away", "custom": '{"text":"Lunch"}'}
    return [
        commands.Connect(ALICE, connection=sender(replace(alice, id="new="))),
        commands.Heartbeat(ALICE, connection=phone),
        commands.Sync(ALICE, connection=phone, seq=1, replaces="old="),
        commands.GetPresence(ALICE, connection=phone),
        commands.Update(ALICE, connection=phone, change=busy),
        commands.RefuseMessage(ALICE, connection=phone),
        commands.Leave(ALICE, id=alice.id, known=True, issued_at=now),
        commands.Disconnect(ALICE, id=alice.id),
        commands.Gone(ALICE, ids=[alice.id]),
        commands.SignOut(ALICE),
        commands.Poll(ALICE, connection=poller, issued_at=now),
        commands.PollUpdate(ALICE, connection=poller, change=busy, issued_at=now),
        commands.SetStatus(ALICE, change=claim, issued_at=now),
        commands.EditRelations(ALICE, edits=[(BOB, "hide"), (CAROL, "contact"), (BOB, "blocked", now)]),
        commands.SetPrivacy(ALICE, invisible=True, last_seen="nobody", hide_from=[BOB], blocks=[CAROL], most=1),
        commands.SetBlock(ALICE, viewer=BOB, blocked=True, most=10, issued_at=now),
        commands.CheckRoom(ALICE, viewers=[BOB, CAROL]),
        commands.FilterContacts(ALICE, viewers=[BOB, CAROL]),
        commands.EditSees(ALICE, add=[CAROL], remove=[BOB], gap=True, audit=True),
        commands.GetPrivacy(ALICE),
        commands.ExportUser(ALICE),
        commands.ReadView(ALICE, viewer=BOB),
        commands.ReadViews(ALICE, viewers=[BOB, CAROL]),
        commands.GetSnapshot(ALICE, seq=1, issued_at=now),
        commands.CheckToken(ALICE, issued_at=now),
        commands.InspectUser(ALICE, issued_at=now),
        commands.FindTargets(ALICE, changes={BOB: "online"}),
        commands.Announced(ALICE, lease="1-1", rev=1, status="online", notified={BOB: "1 online"}),
        commands.Settle(ALICE),
        commands.Audit(ALICE, turn=0, most=3),
        commands.FindRelatedUsers(ALICE),
        commands.ForgetUser(ALICE, other=BOB),
        commands.EraseUser(ALICE),
        commands.GetDue(bucket=0, horizon=60 * SECOND, most=10, run="r1", begin=True, cursor="c1"),
        commands.SetEpoch(bucket=0, epoch=7, node="n1"),
        commands.BucketStatus(bucket=0, loaded=True),
    ]


NAMES = sorted(SCRIPTS["everything"].commands)
FAST: dict[str, tuple[str, dict[str, Any]]] = {
    "a heartbeat": ("heartbeat", {}),
    "an update that repeats the status": ("update", {}),
    "an update that is late": ("update", {"change": {"scope": "device", "status": "away", "n": 1}}),
    "a query": ("get_presence", {}),
    "a view of a user who is online": ("read_view", {}),
    "a view of a user who is offline": ("read_view", {"user": DAVE}),
    "a view for a stranger": ("read_view", {"viewer": CAROL}),
    "views for several": ("read_views", {}),
}
"""What fast paths answer: the sample of a command, with other fields."""


@pytest.fixture(scope="module")
def redis_client() -> Iterator[redis.Redis]:
    """A client of a real server for this module."""
    with RedisServer.start() as server, redis.Redis.from_url(server.url, protocol=2) as client:
        yield client


def prepare(client: redis.Redis, name: str) -> tuple[Prepared, Command[Any]]:
    """A prepared Redis, always with the same keys, and the sample of a command."""
    prepared = Prepared(client)
    [command] = [command for command in samples(prepared.alice, prepared.now) if command.name == name]
    return prepared, command


def without_due(keys: Keys) -> Keys:
    """The keys without the time at which alice is due."""
    keys[DUE][0].pop(ALICE.encode())
    keys[f"presence:{{0}}:user:{ALICE}"][0].pop(b"due")
    return keys


@pytest.mark.parametrize("name", NAMES)
def test_each_script_runs_its_commands_as_everything_does(redis_client: redis.Redis, name: str) -> None:
    """A smaller script lacks no part that one of its commands needs."""
    results = []
    for script in SCRIPTS.values():
        if name in script.commands:
            prepared, command = prepare(redis_client, name)
            results.append((prepared.run(command, without_fast_path(script)), prepared.keys()))
    assert all(result == results[-1] for result in results)


@pytest.mark.parametrize("case", FAST)
def test_a_fast_path_answers_as_the_full_path(redis_client: redis.Redis, case: str) -> None:
    """The fast path answers the common case with what is left of a full response that asks for nothing."""
    name, changes = FAST[case]
    [script] = [SCRIPTS[one] for one in ("devices", "views") if name in SCRIPTS[one].commands]
    prepared, command = prepare(redis_client, name)
    command = replace(command, **changes)
    before = prepared.keys()
    fast, fast_keys = prepared.run(command, fast_path(script)), prepared.keys()
    prepared, _ = prepare(redis_client, name)
    assert prepared.keys() == before
    full, full_keys = prepared.run(command, SCRIPTS["everything"].text), prepared.keys()
    if name in ("read_view", "read_views"):
        assert fast == full
        assert fast_keys == full_keys == before
        return
    # `feed` is only for what follows from a message, and nothing follows here.
    assert {**fast, "feed": full["feed"]} == full
    # The full path moves the time at which alice is due; on the fast path it stays, and is early.
    assert fast_keys[DUE][0][ALICE.encode()] <= full_keys[DUE][0][ALICE.encode()]
    assert without_due(fast_keys) == without_due(full_keys) != without_due(before)


def test_a_heartbeat_on_the_fast_path_claims_neighbors(redis_client: redis.Redis) -> None:
    """Otherwise the comparison above would say nothing about them."""
    prepared, command = prepare(redis_client, "heartbeat")
    assert prepared.run(command, fast_path(SCRIPTS["devices"]))["due_neighbors"] == [CAROL]


@pytest.mark.parametrize("name", sorted(SCRIPTS["devices"].commands | SCRIPTS["views"].commands))
def test_a_fast_path_that_does_not_answer_changes_nothing(redis_client: redis.Redis, name: str) -> None:
    """It leaves the call to the rest of its script as it was."""
    for script in (SCRIPTS["devices"], SCRIPTS["views"]):
        prepared, command = prepare(redis_client, name)
        if isinstance(command, commands.Update):
            command = replace(command, change={"scope": "device", "status": "away"})
        if isinstance(command, commands.ReadView | commands.ReadViews):
            command = replace(command, user=CAROL)
        before = prepared.keys()
        if prepared.run(command, fast_path(script)) is None:
            assert prepared.keys() == before
        else:
            assert name in {"heartbeat", "get_presence"}


@pytest.mark.parametrize("name", NAMES)
def test_a_call_runs_the_smallest_script_with_its_commands(name: str) -> None:
    """Each function of a script is created again in each call."""
    smallest = min(len(script.text) for script in SCRIPTS.values() if name in script.commands)
    assert len(script_for(frozenset({name}), SETTINGS).text) == smallest


def test_a_call_that_mixes_commands_runs_everything() -> None:
    """No smaller script has these two."""
    assert script_for(frozenset({"export_user", "heartbeat"}), SETTINGS) == SCRIPTS["everything"]


def test_a_smaller_script_is_much_smaller() -> None:
    """The shortest are why there are five."""
    assert len(SCRIPTS["targets"].text) < len(SCRIPTS["everything"].text) / 3


def test_the_settings_are_part_of_a_script() -> None:
    """Durations are in ms, and other settings make another script."""
    text = assemble("targets", Settings(device_ttl=80, away_after=1.5)).text
    assert "device_ttl = 80000" in text
    assert "away_after = 1500" in text
    assert assemble("targets", Settings(device_ttl=80)).sha != assemble("targets", Settings()).sha


@pytest.mark.parametrize("name", RECIPES)
def test_a_part_comes_after_the_parts_that_it_uses(name: str) -> None:
    """A local function of Lua exists only below its definition."""
    text = SCRIPTS[name].text
    places = {one: text.index(part(one)) for one in PARTS if part(one) in text}
    assert len(places) >= len(in_order(RECIPES[name].parts))
    for one, place in places.items():
        assert text.count(part(one)) == 1
        for used in re.findall(r"^-- Uses: (.+)\.$", part(one), re.MULTILINE):
            assert all(places[other] < place for other in used.split(", ")), one


def test_every_part_is_in_a_script() -> None:
    """There is no part that nothing uses."""
    assert [name for name in PARTS if not any(part(name) in script.text for script in SCRIPTS.values())] == []


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_short_and_opens_with_its_purpose(name: str) -> None:
    """The first line is a comment about what the part has."""
    lines = part(name).splitlines()
    assert re.match(r"-- [A-Z]", lines[0])
    assert len(lines) <= LINES


def test_a_script_is_printed_with_line_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """An error of Redis names a line of the assembled script."""
    main(["devices"])
    lines = capsys.readouterr().out.splitlines()
    text = assemble("devices", Settings()).text.splitlines()
    assert lines == [f"{number:4}  {line}" for number, line in enumerate(text, 1)]


def test_an_error_names_a_line_that_is_printed(redis_client: redis.Redis) -> None:
    """The number in the message leads to the line that failed."""
    prepared, command = prepare(redis_client, "get_privacy")
    text = SCRIPTS["everything"].text.replace("hide_from = filled(", "hide_from = nothing.at_all(")
    found = re.search(r"user_script:(\d+)", prepared.run(command, text)["failed"])
    assert found
    assert "nothing.at_all" in text.splitlines()[int(found[1]) - 1]
