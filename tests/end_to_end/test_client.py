"""The browser client against the whole service: the module that applications install, in Node, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import PATIENCE, Join, People
from tests.support.deployment import Deployment

DRIVER = Path(__file__).parents[1] / "client" / "driver.mjs"
LONGEST_LINE = 1024 * 1024
SHORT_LIFE = 5
"""Lifetime of a token, in seconds, in the test that waits for its end."""

Report = dict[str, Any]


class Application:
    """An application with the client in it, in its own process, and everything that it reported so far."""

    def __init__(self, process: Process, tokens: Callable[[], str]) -> None:
        self.process, self._tokens = process, tokens
        self.reports: list[Report] = []
        self._news = asyncio.Condition()
        self._listener = asyncio.create_task(self._listen())

    def order(self, what: str, *arguments: Any) -> None:
        """Make it call a method of the client."""
        self._write({"do": what, "with": arguments})

    async def until(self, holds: Callable[[list[Report]], Any]) -> Any:
        """Wait until its reports satisfy `holds`; returns what `holds` returns."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: holds(self.reports))
        return holds(self.reports)

    async def sees(self, user: str, status: str) -> None:
        """Wait until the last record of a user that it received has this status."""
        await self.until(lambda _: [was["status"] for was in self.records_of(user)][-1:] == [status])

    async def is_in(self, state: str) -> None:
        """Wait until the connection is in this state."""
        await self.until(lambda _: self.states()[-1:] == [state])

    def records_of(self, user: str) -> list[Report]:
        """The records of a user that it received, in order."""
        return [report["user"] for report in self.events("change") if report["userId"] == user]

    def states(self) -> list[str]:
        """The states of its connection, in order."""
        return [report["state"] for report in self.events("connection")]

    def events(self, name: str) -> list[Report]:
        """The events that its listeners received."""
        return [report["detail"] for report in self.reports if report.get("event") == name]

    def snapshots(self) -> list[Report]:
        """The snapshots that arrived on its sockets."""
        frames = (report["frame"] for report in self.reports if "frame" in report)
        return [frame for frame in frames if frame.get("type") == "presence_snapshot"]

    async def end(self) -> None:
        """Release everything that belongs to it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()
        await self._listener

    def _write(self, order: Report) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            report = json.loads(line)
            if report.get("wants") == "token":
                self._write({"token": self._tokens()})
            async with self._news:
                self.reports.append(report)
                self._news.notify_all()


Start = Callable[..., Any]


@pytest.fixture
async def start(deployment: Deployment) -> AsyncIterator[Start]:
    """Starts a user's application, up to its first state; it is ended after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(user: str, *, ttl: int = 3600, state: str = "online", **options: Any) -> Application:
            where = {
                "url": deployment.ws_url,
                "httpUrl": deployment.url,
                "tokenSource": deployment.identity_provider.token_source,
                "reconnectWithin": 100,
            }
            process = await asyncio.create_subprocess_exec(
                "node", str(DRIVER), json.dumps(where | options), stdin=PIPE, stdout=PIPE, limit=LONGEST_LINE
            )
            application = Application(process, lambda: deployment.identity_provider.token(user, ttl))
            stack.push_async_callback(application.end)
            await application.is_in(state)
            return application

        yield begin


async def test_two_users_see_each_other(people: People, start: Start) -> None:
    """Online, busy, a custom status, a claim, and gone: each is announced once, and `self` confirms each."""
    alice, bob = await people("alice", "bob")
    viewer = await start(bob)
    client = await start(alice, deviceId="laptop")
    await viewer.sees(alice, "online")
    client.order("setStatus", "busy")
    await viewer.sees(alice, "busy")
    client.order("setCustomStatus", {"text": "Lunch", "emoji": "🍜"})
    await viewer.until(lambda _: (viewer.records_of(alice)[-1]["customStatus"] or {}).get("text") == "Lunch")
    client.order("setClaim", "away")
    await viewer.sees(alice, "away")
    await client.until(lambda report: len([one for one in report if "gave" in one]) == 3)
    assert client.events("self")[-1]["claim"] == {"status": "away", "until": None}
    client.order("query", [bob, "nobody"])
    answer = await client.until(lambda report: next((one["gave"] for one in report if one.get("gave")), None))
    assert [(user["userId"], user["status"]) for user in answer] == [(bob, "online"), ("nobody", "offline")]
    client.order("leave")
    await viewer.sees(alice, "offline")
    # Offline in the first state; a superseded status may arrive together with the next one.
    statuses = [was["status"] for was in viewer.records_of(alice)]
    assert statuses == ["offline", "online", "busy", "busy", "away", "offline"]


async def test_a_refusal_reaches_the_caller(people: People, start: Start) -> None:
    """The promise is rejected with the field that was wrong, and the connection stays open."""
    [alice] = await people("alice")
    client = await start(alice)
    client.order("setCustomStatus", {"text": "long" * 100})
    error = await client.until(lambda _: client.events("error"))
    assert (error[0]["code"], error[0]["field"]) == ("invalid_message", "customStatus.text")
    assert client.states() == ["connecting", "online"]


async def test_a_cut_connection_is_resumed_unnoticed(people: People, start: Start) -> None:
    """The client reconnects within the grace with its last number, gets no user again, and keeps its status."""
    alice, bob = await people("alice", "bob")
    viewer = await start(bob)
    client = await start(alice, deviceId="laptop")
    client.order("setStatus", "busy")
    await viewer.sees(alice, "busy")
    before = len(viewer.records_of(alice))
    client.order("cut")
    await client.is_in("connecting")
    await client.is_in("online")
    assert [frame["resumed"] for frame in client.snapshots()][-1] is True
    client.order("setCustomStatus", {"text": "back"})
    await viewer.until(lambda _: (viewer.records_of(alice)[-1]["customStatus"] or {}).get("text") == "back")
    assert [was["status"] for was in viewer.records_of(alice)[before:]] == ["busy"]
    assert len(client.records_of(bob)) == 1


async def test_a_reload_goes_unnoticed(people: People, start: Start, join: Join) -> None:
    """The process is killed and another is started on the same device: the contact is not notified."""
    alice, bob = await people("alice", "bob")
    viewer = await join(bob)
    client = await start(alice, deviceId="laptop")
    assert (await viewer.change(alice))["status"] == "online"
    client.process.kill()
    again = await start(alice, deviceId="laptop")
    again.order("setCustomStatus", {"text": "reloaded"})
    change = await viewer.change(alice)
    assert (change["status"], change["customStatus"]["text"]) == ("online", "reloaded")


async def test_a_reconnect_with_a_new_token_goes_unnoticed(people: People, start: Start, join: Join) -> None:
    """The new connection replaces the old one; neither the application nor a contact sees a gap."""
    alice, bob = await people("alice", "bob")
    viewer = await join(bob)
    client = await start(alice, deviceId="laptop")
    assert (await viewer.change(alice))["status"] == "online"
    client.order("reconnect")
    await client.until(lambda _: len({frame["self"]["connectionId"] for frame in client.snapshots()}) == 2)
    client.order("setCustomStatus", {"text": "here"})
    change = await viewer.change(alice)
    assert (change["status"], change["customStatus"]["text"]) == ("online", "here")
    assert [report["renew"] for report in client.reports if report.get("wants")] == [False, True]
    assert client.states() == ["connecting", "online"]


async def test_privacy_takes_effect_immediately(people: People, start: Start) -> None:
    """Privacy and blocks by the client's own methods: contacts see them live, `me` shows them, mistakes are named."""
    alice, bob = await people("alice", "bob")
    viewer = await start(bob)
    client = await start(alice)
    await viewer.sees(alice, "online")
    client.order("setPrivacy", {"hideFrom": [bob]})
    await viewer.sees(alice, "offline")
    client.order("setPrivacy", {"hideFrom": []})
    await viewer.sees(alice, "online")
    client.order("block", bob)
    await viewer.sees(alice, "offline")
    client.order("me")
    me = await client.until(lambda report: next((one["gave"] for one in report if one.get("gave")), None))
    assert (me["hideFrom"], me["blocks"], me["status"], me["rule"]) == ([], [bob], "online", "device")
    client.order("unblock", bob)
    await viewer.sees(alice, "online")
    client.order("setPrivacy", {"hidefrom": [bob]})
    refusal = await client.until(lambda report: next((one for one in report if "code" in one), None))
    assert (refusal["code"], refusal["field"]) == ("invalid_message", "hidefrom")


async def test_without_a_websocket_it_polls(people: People, start: Start, deployment: Deployment) -> None:
    """If handshakes fail, the HTTP API carries everything: who is online, chosen statuses, queries, and leaving."""
    alice, bob = await people("alice", "bob")
    viewer = await start(bob)
    client = await start(alice, state="polling", deviceId="laptop", url=f"{deployment.ws_url}-is-not-here")
    await viewer.sees(alice, "online")
    await client.sees(bob, "online")
    client.order("setStatus", "busy")
    await viewer.sees(alice, "busy")
    viewer.order("setStatus", "away")
    await client.sees(bob, "away")
    client.order("query", [bob])
    answer = await client.until(lambda report: next((one["gave"] for one in report if one.get("gave")), None))
    assert [(user["userId"], user["status"]) for user in answer] == [(bob, "away")]
    client.order("leave")
    await viewer.sees(alice, "offline")
    assert [was["status"] for was in viewer.records_of(alice)] == ["offline", "online", "busy", "offline"]


async def test_a_wrong_token_source_is_named(people: People, start: Start, deployment: Deployment) -> None:
    """Handshakes with the token in the wrong place are refused: the client polls, and reports what may be wrong."""
    [alice] = await people("alice")
    wrong = {"query": "subprotocol", "subprotocol": "query"}[deployment.identity_provider.token_source]
    client = await start(alice, state="polling", tokenSource=wrong)
    assert [(error["code"], error["field"]) for error in client.events("error")] == [("no_websocket", "tokenSource")]


async def test_before_its_token_expires_it_moves_to_a_new_connection(people: People, start: Start, join: Join) -> None:
    """With short-lived tokens it rotates and requests new ones, and neither the application nor a contact notices."""
    alice, bob = await people("alice", "bob")
    viewer = await join(bob)
    client = await start(alice, ttl=SHORT_LIFE, deviceId="laptop")
    assert (await viewer.change(alice))["status"] == "online"
    await client.until(lambda _: len({frame["self"]["connectionId"] for frame in client.snapshots()}) >= 3)
    assert client.states() == ["connecting", "online"]
    assert [report["renew"] for report in client.reports if report.get("wants")][:3] == [False, True, True]
    assert len(client.events("self")[-1]["devices"]) == 1
    assert viewer.unread(alice) == []
