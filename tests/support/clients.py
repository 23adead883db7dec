"""Clients of the service that we did not write: npm's `ws`, each in its own process, and Python's `websockets`.

`Client` does what docs/protocol.md requires of a client: a first sync, heartbeats, and the rules of `load.state`. It
records what it receives, and lets a test wait for it. What it should receive is for the tests to decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
from asyncio.subprocess import PIPE, Process
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from load.state import Record, State, Step, Users, changes, next_tick, receive, tick

PATIENCE = 60.0
"""Seconds that a test waits for what happens immediately on an idle machine."""
DRIVER = Path(__file__).parents[1] / "third_party_clients" / "ws.mjs"
LONGEST_LINE = 1024 * 1024

Frame = dict[str, Any]


class HandshakeRefused(Exception):
    """The service refused a handshake."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class Closed(Exception):
    """The connection ended; `code` is 1006 if no close frame came."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


class Socket(Protocol):
    """A WebSocket, whichever library provides it."""

    subprotocol: str
    """The subprotocol that the service chose, or ""."""

    async def send(self, text: str) -> None: ...

    async def receive(self) -> str:
        """The next text frame; raises Closed."""

    async def close(self) -> None:
        """Close it from this side, as a page does when it is left. Does not wait."""

    async def end(self) -> None:
        """Release everything that belongs to it."""


class NodeSocket:
    """npm's `ws` in its own process: what happens to the process happens to the client."""

    def __init__(self, process: Process) -> None:
        self.subprotocol = ""
        self._process = process

    @classmethod
    async def open(cls, url: str, subprotocols: Sequence[str]) -> Self:
        socket = cls(
            await asyncio.create_subprocess_exec(
                "node", str(DRIVER), url, *subprotocols, stdin=PIPE, stdout=PIPE, limit=LONGEST_LINE
            )
        )
        try:
            event = await socket._next_event()
            if "refused" in event:
                raise HandshakeRefused(event["refused"])
            socket.subprotocol = event["open"]
        except BaseException:
            await socket.end()
            raise
        return socket

    async def send(self, text: str) -> None:
        self._order({"send": text})

    async def receive(self) -> str:
        text: str = (await self._next_event())["frame"]
        return text

    async def close(self) -> None:
        self._order({"close": 1000})

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()  # also ends a stopped process
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        # The pipe may still be open when the loop that reads it ends; asyncio has no public method to close it.
        self._process._transport.close()  # type: ignore[attr-defined]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the client's process."""
        self._process.send_signal(number)

    def _order(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _next_event(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        event: dict[str, Any] = json.loads(line) if line else {"closed": 1006}
        if "closed" in event:
            raise Closed(event["closed"])
        return event


class PythonSocket:
    """Python's `websockets`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.subprotocol = str(connection.subprotocol or "")
        self._connection = connection

    @classmethod
    async def open(cls, url: str, subprotocols: Sequence[str]) -> Self:
        offered = [Subprotocol(name) for name in subprotocols] or None
        try:
            return cls(await connect(url, subprotocols=offered, ping_interval=None, close_timeout=1))
        except InvalidStatus as refused:
            raise HandshakeRefused(refused.response.status_code) from None

    async def send(self, text: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._connection.send(text)

    async def receive(self) -> str:
        try:
            return await self._connection.recv(decode=True)
        except ConnectionClosed as closed:
            raise Closed(closed.rcvd.code if closed.rcvd else 1006) from None

    async def close(self) -> None:
        await self._connection.close()

    async def end(self) -> None:
        await self._connection.close()


class Client:
    """A user's connection, and everything it received.

    Args:
        user: the user's id.
        socket: the open WebSocket.
        active: whether its heartbeats report that the person uses the device.
    """

    def __init__(self, user: str, socket: Socket, *, active: bool = True) -> None:
        self.user = user
        self.socket = socket
        self.frames: list[Frame] = []
        """All frames, in order of arrival."""
        self.state = State()
        """What the client knows after them."""
        self.code: int | None = None
        """The code with which the connection ended, once it has ended."""
        self.chosen: Frame = {}
        """The `status` and `n` that heartbeats carry, in case the service lost them."""
        self._active = active
        self._changes: defaultdict[str, deque[Frame]] = defaultdict(deque)
        self._answers: defaultdict[str, deque[Frame]] = defaultdict(deque)
        self._parts: defaultdict[str, list[Frame]] = defaultdict(list)
        """Id of a message → the parts of its response that have arrived."""
        self._ids = map("message-{}".format, itertools.count())
        self._types: dict[tuple[str, int], str] = {}
        """User and number → the type of the change with that number."""
        self._news = asyncio.Condition()
        self._listener = asyncio.create_task(self._listen())
        self._beater: asyncio.Task[None] | None = None

    @property
    def own(self) -> Record:
        """The user's own state; empty before the first snapshot."""
        return self.state.own or {}

    @property
    def records(self) -> Users:
        """The record of each contact."""
        return self.state.users

    async def sync(self, **fields: Any) -> Frame:
        """Send `sync` and, with the first, start heartbeats; returns the snapshot, with the users of all its parts."""
        parts = await self._parts_of("sync", **fields)
        if self._beater is None:
            self._beater = asyncio.create_task(self._beat())
        return {**parts[0], "users": [user for part in parts for user in part["users"]]}

    async def send(self, action: str, **fields: Any) -> None:
        """Send a message of the protocol."""
        await self.send_text(json.dumps({"action": action, **fields}))

    async def send_text(self, text: str) -> None:
        """Send any text."""
        await self.socket.send(text)

    async def change(self, user: str, patience: float = PATIENCE) -> Frame:
        """The next change of a contact's record that the test has not read yet, with the `type` of the frame.

        The first snapshot changes nothing.
        """
        changes = self._changes[user]
        await self.until(lambda: bool(changes), patience)
        return changes.popleft()

    def unread(self, user: str) -> list[Frame]:
        """The changes of a contact that the test has not read yet."""
        return list(self._changes[user])

    async def answer(self, kind: str) -> Frame:
        """The next frame of a type that is not a contact's change."""
        answers = self._answers[kind]
        await self.until(lambda: bool(answers))
        return answers.popleft()

    def waiting(self, kind: str) -> int:
        """How many frames of a type the test has not read yet; frames without a type count as "gateway"."""
        return len(self._answers[kind])

    async def query(self, *users: str) -> list[Frame]:
        """The response to `get_presence` for these users."""
        return [user for part in await self._parts_of("get_presence", userIds=users) for user in part["users"]]

    async def applied(self, n: int) -> None:
        """Wait until `self` shows that this connection's update number `n` was applied."""
        await self.until(lambda: n in self.own["n"].values())

    async def until(self, holds: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait for frames until a condition holds."""
        async with asyncio.timeout(patience), self._news:
            await self._news.wait_for(holds)

    async def until_more_than(self, frames: int) -> None:
        """Wait until more than this many frames have arrived."""
        await self.until(lambda: len(self.frames) > frames)

    async def sees(self, statuses: Mapping[str, str]) -> None:
        """Wait until these are the statuses of all users this client may see, whichever frames bring them."""
        await self.until(lambda: {user: record["status"] for user, record in self.records.items()} == statuses)

    async def until_closed(self) -> int:
        """Wait until the connection has ended; returns the close code."""
        await self.until(lambda: self.code is not None)
        assert self.code is not None
        return self.code

    async def close(self) -> None:
        """Close the connection, as a page does when it is left."""
        await self.fall_silent()
        await self.socket.close()

    async def kill(self) -> None:
        """Kill the client's process without a farewell; its system closes the socket."""
        assert isinstance(self.socket, NodeSocket)
        await self.fall_silent()
        self.socket.signal(signal.SIGKILL)

    async def cut_off(self) -> None:
        """Stop the client's process with its socket open: to the service, frames still seem to arrive."""
        assert isinstance(self.socket, NodeSocket)
        await self.fall_silent()
        self.socket.signal(signal.SIGSTOP)

    async def fall_silent(self) -> None:
        """Send no more heartbeats."""
        if self._beater is not None:
            self._beater.cancel()
            await asyncio.gather(self._beater, return_exceptions=True)

    async def end(self) -> None:
        """Release everything that belongs to it."""
        await self.fall_silent()
        await self.socket.end()
        await self._listener

    async def _beat(self) -> None:
        while self.code is None:
            await asyncio.sleep(self.own["heartbeatEvery"] / 1000)
            await self.send("heartbeat", active=self._active, seq=self.state.seq, **self.chosen)

    async def _parts_of(self, action: str, **fields: Any) -> list[Frame]:
        """Send a message; returns all parts of its response."""
        message_id = next(self._ids)
        parts = self._parts[message_id]
        await self.send(action, **fields, id=message_id)
        await self.until(lambda: bool(parts) and len(parts) == parts[0]["parts"])
        return sorted(parts, key=itemgetter("part"))

    async def _listen(self) -> None:
        time = asyncio.get_running_loop().time
        while self.code is None:
            due = next_tick(self.state)
            try:
                async with asyncio.timeout_at(None if due is None else due / 1000):
                    frame = json.loads(await self.socket.receive())
            except TimeoutError:
                step = tick(self.state, round(time() * 1000))
            except Closed as closed:
                self.code = closed.code
                step = Step(self.state)
            else:
                self._file(frame)
                step = receive(self.state, frame, round(time() * 1000))
            self._record_changes(step.state)
            self.state = step.state
            if step.sync and self._beater is not None and not self._beater.done():
                await self.send("sync", **({} if self.state.seq is None else {"seq": self.state.seq}))
            async with self._news:
                self._news.notify_all()

    def _file(self, frame: Frame) -> None:
        """Keep a frame for the test, under its type or the message that it responds to."""
        self.frames.append(frame)
        match frame:
            case {"type": "user_online" | "user_offline" | "presence_status"}:
                self._types[frame["userId"], frame["seq"]] = frame["type"]
            case {"type": "presence_batch"}:
                self._types |= {(event["userId"], frame["seq"]): event["type"] for event in frame["events"]}
            case {"type": "presence" | "presence_snapshot", "id": str(message_id)} if message_id in self._parts:
                self._parts[message_id].append(frame)
            case _:
                self._answers[frame.get("type", "gateway")].append(frame)

    def _record_changes(self, after: State) -> None:
        """Keep the changes of contacts' records for the test. A contact that is no longer listed is none."""
        if self.state.seq is None:
            return
        for change in changes(self.state, after):
            if change.after:
                user: str = change.after["userId"]
                kind = self._types.get((user, after.at[user]), "presence_snapshot")
                self._changes[user].append({"type": kind, **change.after})


Join = Callable[..., Awaitable[Client]]
"""Connects a user up to the first snapshot: `await join(user, NodeSocket, deviceId="phone")`."""
People = Callable[..., Awaitable[list[str]]]
"""Makes users who see each other: `alice, bob = await people("alice", "bob")`."""
