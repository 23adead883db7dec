"""What must hold at any time, checked with each script call and each frame.

The ledger knows what the application and users asked for and the service confirmed. A fact is certain from the moment a
call that wrote it returned until another call about it begins, or the store loses it. So a hidden user may be shown
only what was read before the hide returned: from then on a record is the frozen one, or that of a stranger.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared import commands
from shared.commands import Command
from shared.delivery import Post
from shared.frames import MAX_FRAME_BYTES
from shared.responses import MessageOutcome
from shared.settings import Settings
from tests.simulation.scheduler import Task

SKEW = 3_000
"""How far the clock of an execution environment may be off, in ms."""
LATE = 2_000
"""Milliseconds after the TTL at which a user without a device must be offline."""

UNKNOWN_LOSS = 75_000
"""Milliseconds after which a lost tail has been found, and numbers have moved on: a minute, if another was found just
before. Until then a number may be given twice, where numbers were ahead of the clock; a snapshot follows."""

Fact = tuple[str, str, str]
"""What is certain or not: a kind, and the users (or the node) that it is about."""
_MESSAGES = (
    commands.Connect,
    commands.Heartbeat,
    commands.Sync,
    commands.GetPresence,
    commands.Update,
    commands.Poll,
    commands.PollUpdate,
)
"""The commands for what a connection sends."""
_PEOPLE = ("user_online", "user_offline", "presence_status")


class Violation(Exception):
    """An invariant does not hold.

    Attributes:
        invariant: its name.
    """

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant


@dataclass(slots=True)
class _State:
    value: bool | None = None
    """None: not certain."""
    since: int = 0
    in_flight: int = 0
    is_mixed: bool = False
    """Two calls about it overlap: what comes out is not certain."""


class Ledger:
    """What is certain about relations and privacy.

    Args:
        clock: the time, in ms.
        node_of: gives the node that stores a user.
    """

    def __init__(self, clock: Callable[[], int], node_of: Callable[[str], int]) -> None:
        self._clock, self._node_of = clock, node_of
        self._facts: dict[Fact, _State] = {}
        self._lost: dict[int, int] = {}

    def begin(self, facts: Iterable[Fact]) -> None:
        """A call that writes these facts begins."""
        for fact in facts:
            state = self._facts.setdefault(fact, _State())
            state.in_flight += 1
            state.is_mixed |= state.in_flight > 1
            state.value = None

    def end(self, facts: Iterable[tuple[Fact, bool]]) -> None:
        """It returned, so they are as it wrote them."""
        for fact, value in facts:
            state = self._facts[fact]
            state.in_flight -= 1
            if state.in_flight == 0:
                certain = None if state.is_mixed else value
                self._facts[fact] = _State(certain, self._clock())

    def lose(self, node: int, since: int) -> None:
        """A node went back to what it had then: what was written later is not certain."""
        self._lost[node] = self._clock()
        for (kind, user, _), state in self._facts.items():
            on = int(user) if kind == "loaded" else self._node_of(user)
            if on == node and (state.in_flight or state.since >= since):
                state.value, state.is_mixed = None, state.in_flight > 0

    def lost_at(self, user: str) -> float:
        """When the user's node last lost something."""
        return self._lost.get(self._node_of(user), -math.inf)

    def hidden_since(self, user: str, viewer: str) -> float:
        """Since when it is certain that the viewer may see nothing of the user; infinity if it is not."""
        hiding = [
            (("contact", user, viewer), False),
            (("invisible", user, ""), True),
            (("hide", user, viewer), True),
            (("block", user, viewer), True),
            (("loaded", str(self._node_of(user)), ""), False),
        ]
        found = (self._facts.get(fact, _State()) for fact, _ in hiding)
        return min(
            (state.since for state, (_, value) in zip(found, hiding, strict=True) if state.value is value),
            default=math.inf,
        )

    def shown_since(self, user: str, viewer: str) -> float:
        """Since when it is certain that the viewer may see the user; infinity if it is not."""
        showing = [
            (("contact", user, viewer), True),
            (("invisible", user, ""), False),
            (("hide", user, viewer), False),
            (("block", user, viewer), False),
            (("block", viewer, user), False),
            (("loaded", str(self._node_of(user)), ""), True),
        ]
        states = [(self._facts.get(fact, _State()), value) for fact, value in showing]
        return max((state.since if state.value is value else math.inf for state, value in states), default=math.inf)


@dataclass
class Watch:
    """Looks at script calls and frames; raises `Violation`.

    Attributes:
        ledger: what may be shown.
        written: custom text → when the call that set it began. Each is set once.
        checks: how often each invariant was looked at.
    """

    settings: Settings
    clock: Callable[[], int]
    ledger: Ledger
    written: dict[str, int] = field(default_factory=dict)
    checks: Counter[str] = field(default_factory=Counter)
    _heard: dict[str, int] = field(default_factory=dict)
    """user → when a message of the user's last ran."""
    _alive: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    """user → connection → (since when it is live without a fault, when its last message ran)."""
    _numbers: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    """(viewer, number) → (the frame's content, when it was first posted)."""

    # Script calls

    def ran(self, calls: Sequence[Command[Any]], responses: Sequence[Any], task: Task | None) -> None:
        """A node has run these commands now."""
        now = self.clock()
        for command, response in zip(calls, responses, strict=True):
            match command:
                case _ if isinstance(command, _MESSAGES):
                    self._received(command, response)
                case commands.Leave(id=id) | commands.Disconnect(id=id):
                    self._ended(command.user, id)
                case commands.Gone(ids=ids):
                    self._ended(command.user, *ids)
                case commands.SignOut() | commands.EraseUser():
                    self._alive.pop(command.user, None)
                case commands.ReadView(viewer=viewer) if task:
                    task.reads[viewer, command.user] = now
                case commands.ReadViews(viewers=viewers) if task:
                    task.reads.update({(viewer, command.user): now for viewer in viewers})

    def _received(self, command: Any, response: Any) -> None:
        """A message of a user's connection was handled, or refused."""
        user, now = command.user, self.clock()
        if getattr(response, "result", "") == "live":
            self._heard[user] = now
            since = self._alive.get(user, {}).get(command.connection["id"], (now, 0))[0]
            self._alive.setdefault(user, {})[command.connection["id"]] = (since, now)
        if isinstance(command, commands.Sync) and command.replaces:
            self._ended(user, command.replaces)
        if isinstance(response, MessageOutcome):
            self._ended(user, *response.close)

    def _ended(self, user: str, *connections: str) -> None:
        for connection in connections:
            self._alive.get(user, {}).pop(connection, None)

    def lost(self, users: Iterable[str], since: float = math.inf) -> None:
        """The store lost something of these users: until their devices send again they may look offline.

        Numbers given `since` then are no longer known to have been.
        """
        for user in users:
            self._alive.pop(user, None)
            for number, (_, given) in list(self._numbers.items()):
                if number[0] == user and given >= since:
                    del self._numbers[number]

    # Frames

    def posted(self, viewer: str, post: Post, task: Task | None) -> dict[str, Any]:
        """A frame is about to be posted to a connection of the viewer; gives it."""
        self.checks["frame size"] += 1
        if len(post.data) > MAX_FRAME_BYTES:
            raise Violation("frame size", f"{len(post.data)} bytes for {viewer}")
        frame: dict[str, Any] = json.loads(post.data)
        if "prev" in frame:
            self._check_number(viewer, frame)
        self.read(viewer, frame, task)
        return frame

    def read(self, viewer: str, frame: dict[str, Any], task: Task | None) -> None:
        """A frame, or the answer to a poll, shows the viewer these records."""
        records = frame.get("events", frame.get("users", [frame] if frame.get("type") in _PEOPLE else []))
        for record in records:
            read = task.reads.get((viewer, record["userId"])) if task else self.clock()
            if read is None:
                raise Violation("records are read", f"{viewer} gets a record that was not read: {record}")
            self._check_privacy(viewer, record, read)
            self._check_ghost(viewer, record, read)
            self._check_false_offline(viewer, record, read)

    def _check_number(self, viewer: str, frame: dict[str, Any]) -> None:
        if self.ledger.lost_at(viewer) + UNKNOWN_LOSS > self.clock():
            return
        self.checks["numbers"] += 1
        own = ("connectionId", "n", "rotateAt")  # what differs between the user's connections
        content = dict(frame)
        if "self" in frame:
            content["self"] = {name: value for name, value in frame["self"].items() if name not in own}
        text = json.dumps(content, sort_keys=True)
        before, _ = self._numbers.setdefault((viewer, frame["seq"]), (text, self.clock()))
        if before != text:
            raise Violation("numbers", f"{viewer} got a number twice: {before} and {text}")

    def _check_privacy(self, viewer: str, record: dict[str, Any], read: int) -> None:
        since = self.ledger.hidden_since(record["userId"], viewer)
        if since >= read or record["userId"] == viewer:
            return
        self.checks["privacy"] += 1
        custom = record.get("customStatus") or {}
        written = self.written.get(re.split(" ", custom.get("text", ""))[0], 0)
        seen = record.get("lastSeen") or 0
        if record["status"] != "offline" or written > since or seen > since + 2 * SKEW:
            raise Violation("privacy", f"{viewer} is shown {record}, hidden since {since}, read at {read}")

    def _check_ghost(self, viewer: str, record: dict[str, Any], read: int) -> None:
        if record["status"] == "offline":
            return
        self.checks["ghosts"] += 1
        heard = self._heard.get(record["userId"], 0)
        if read - heard > self.settings.device_ttl * 1000 + LATE + 2 * SKEW:
            raise Violation("ghosts", f"{viewer} is shown {record} read at {read}, last heard at {heard}")

    def _check_false_offline(self, viewer: str, record: dict[str, Any], read: int) -> None:
        user = record["userId"]
        shown = self.ledger.shown_since(user, viewer)
        if record["status"] != "offline" or shown >= read or user == viewer:
            return
        self.checks["false offline"] += 1
        steady = self.settings.device_ttl * 1000 - 2 * SKEW
        for connection, (since, heard) in self._alive.get(user, {}).items():
            if since < read and read - heard < steady:
                text = f"{viewer} is shown {record} read at {read}, but {connection} is live since {since}"
                raise Violation("false offline", f"{text}, last heard at {heard}")
