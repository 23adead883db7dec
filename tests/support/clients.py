"""Clients of the service that are not ours: `ws` of npm, each in a process of its own, and Python's `websockets`.

`Client` owes the service what docs/protocol.md says (a first sync, heartbeats, `seq`, the highest `rev`), remembers
what it is told, and lets a test wait for it. What ought to be told is the tests' business.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from asyncio.subprocess import PIPE, Process
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

PATIENCE = 60.0
"""Seconds that a test waits for what happens at once when all is well and the machine is not busy."""
DRIVER = Path(__file__).parents[1] / "third_party_clients" / "ws.mjs"
LONGEST_LINE = 1024 * 1024

Frame = dict[str, Any]


class HandshakeRefused(Exception):
    """The service did not let a client in."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class Closed(Exception):
    """The connection is over; `code` is 1006 where no close frame came."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


class Socket(Protocol):
    """A WebSocket, whoever wrote it."""

    subprotocol: str
    """The one that the service chose, or ""."""

    async def send(self, text: str) -> None: ...

    async def receive(self) -> str:
        """The next text frame; raises Closed."""

    async def close(self) -> None:
        """Close it from this side, as a page does that is left; nothing is waited for."""

    async def end(self) -> None:
        """Let nothing of it be left."""


class NodeSocket:
    """`ws` of npm, in a process of its own: what happens to the process happens to the client."""

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
            said = await socket._hear()
            if "refused" in said:
                raise HandshakeRefused(said["refused"])
            socket.subprotocol = said["open"]
        except BaseException:
            await socket.end()
            raise
        return socket

    async def send(self, text: str) -> None:
        self._order({"send": text})

    async def receive(self) -> str:
        text: str = (await self._hear())["frame"]
        return text

    async def close(self) -> None:
        self._order({"close": 1000})

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()  # which ends one that is stopped, too
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        # Its pipe may still be open when the loop that reads it ends, and asyncio has no public word for that.
        self._process._transport.close()  # type: ignore[attr-defined]

    def signal(self, number: signal.Signals) -> None:
        """Do something to the process that the client is."""
        self._process.send_signal(number)

    def _order(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        said: dict[str, Any] = json.loads(line) if line else {"closed": 1006}
        if "closed" in said:
            raise Closed(said["closed"])
        return said


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
    """A user's connection, and everything that it was told.

    Args:
        user: whose it is.
        socket: what it speaks through, already open.
        active: whether its heartbeats say that the person uses the device.
    """

    def __init__(self, user: str, socket: Socket, *, active: bool = True) -> None:
        self.user = user
        self.socket = socket
        self.frames: list[Frame] = []
        """All that came, in order."""
        self.own: Frame = {}
        """The newest `self`."""
        self.records: dict[str, Frame] = {}
        """The record with the highest `rev` of everybody that it was told about."""
        self.code: int | None = None
        """The code with which the connection ended, once it has."""
        self.status: str | None = None
        """The status that heartbeats carry, for a service that lost it."""
        self._active = active
        self._changes: defaultdict[str, deque[Frame]] = defaultdict(deque)
        self._answers: defaultdict[str, deque[Frame]] = defaultdict(deque)
        self._heard: dict[str, int] = {}
        self._seq = 0
        self._early: set[int] = set()
        self._news = asyncio.Condition()
        self._listener = asyncio.create_task(self._listen())
        self._beater: asyncio.Task[None] | None = None

    async def sync(self) -> Frame:
        """Say the first word of a connection, and beat from then on; gives the snapshot."""
        await self.send("sync")
        snapshot = await self.answer("presence_snapshot")
        if self._beater is None:
            self._beater = asyncio.create_task(self._beat())
        return snapshot

    async def send(self, action: str, **fields: Any) -> None:
        """Send a message of the protocol."""
        await self.send_text(json.dumps({"action": action, **fields}))

    async def send_text(self, text: str) -> None:
        """Send anything."""
        await self.socket.send(text)

    async def change(self, user: str, patience: float = PATIENCE) -> Frame:
        """The next change of a contact that this client was told and nobody has asked for yet."""
        changes = self._changes[user]
        await self.until(lambda: bool(changes), patience)
        return changes.popleft()

    def unread(self, user: str) -> list[Frame]:
        """The changes of a contact that nobody has asked for yet."""
        return list(self._changes[user])

    async def answer(self, kind: str) -> Frame:
        """The next frame of a type that tells of no contact's change."""
        answers = self._answers[kind]
        await self.until(lambda: bool(answers))
        return answers.popleft()

    def waiting(self, kind: str) -> int:
        """How many frames of a type nobody has asked for yet; "gateway" is the type of those that have none."""
        return len(self._answers[kind])

    async def query(self, *users: str) -> list[Frame]:
        """What `get_presence` answers about these users."""
        await self.send("get_presence", userIds=users)
        found: list[Frame] = (await self.answer("presence"))["users"]
        return found

    async def applied(self, n: int) -> None:
        """Wait until `self` shows that this connection's update number `n` was applied."""
        await self.until(lambda: n in self.own["n"].values())

    async def until(self, holds: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait for frames until something holds."""
        async with asyncio.timeout(patience), self._news:
            await self._news.wait_for(holds)

    async def until_more_than(self, frames: int) -> None:
        """Wait for the next frame after so many."""
        await self.until(lambda: len(self.frames) > frames)

    async def sees(self, statuses: Mapping[str, str]) -> None:
        """Wait until these are the statuses of all whom this client may see, however it learns of them."""
        await self.until(lambda: {user: record["status"] for user, record in self.records.items()} == statuses)

    async def until_closed(self) -> int:
        """Wait until the connection is over; gives the code with which it ended."""
        await self.until(lambda: self.code is not None)
        assert self.code is not None
        return self.code

    async def close(self) -> None:
        """Close the connection, as a page does that is left."""
        await self.fall_silent()
        await self.socket.close()

    async def kill(self) -> None:
        """End the client's process, without a word from itself; its system closes the socket."""
        assert isinstance(self.socket, NodeSocket)
        await self.fall_silent()
        self.socket.signal(signal.SIGKILL)

    async def cut_off(self) -> None:
        """Let the client be silent for ever, with its socket open: it takes what comes, as far as anybody can tell."""
        assert isinstance(self.socket, NodeSocket)
        await self.fall_silent()
        self.socket.signal(signal.SIGSTOP)

    async def fall_silent(self) -> None:
        """Send no more heartbeats."""
        if self._beater is not None:
            self._beater.cancel()
            await asyncio.gather(self._beater, return_exceptions=True)

    async def end(self) -> None:
        """Let nothing of it be left."""
        await self.fall_silent()
        await self.socket.end()
        await self._listener

    async def _beat(self) -> None:
        while self.code is None:
            await asyncio.sleep(self.own["heartbeatEvery"] / 1000)
            status = {"status": self.status} if self.status else {}
            await self.send("heartbeat", active=self._active, seq=self._seq, **status)

    async def _listen(self) -> None:
        while self.code is None:
            try:
                frame = json.loads(await self.socket.receive())
            except Closed as closed:
                self.code = closed.code
            else:
                self._take(frame)
            async with self._news:
                self._news.notify_all()

    def _take(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.own = frame.get("self", self.own)
        match frame.get("type"):
            case "user_online" | "user_offline" | "presence_status":
                self._learn(frame, frame["seq"])
            case "presence_batch":
                for event in frame["events"]:
                    self._learn(event, frame["seq"])
            case "presence_snapshot":
                self._replace(frame)
                self._answers["presence_snapshot"].append(frame)
            case other:
                self._answers[other or "gateway"].append(frame)
        self._number(frame)

    def _learn(self, event: Frame, seq: int) -> None:
        if self._is_news(event):
            self.records[event["userId"]] = event
            self._changes[event["userId"]].append(event)
        self._heard[event["userId"]] = max(seq, self._heard.get(event["userId"], 0))

    def _replace(self, snapshot: Frame) -> None:
        """Take a snapshot for all there is, except what was told since it was made."""
        assert snapshot["parts"] == 1
        if snapshot["resumed"]:
            return
        told_since = {user for user, seq in self._heard.items() if seq > snapshot["seq"]}
        said = {record["userId"]: record for record in snapshot["users"]}
        for user in self.records.keys() - said.keys() - told_since:
            del self.records[user]
        self.records |= {user: record for user, record in said.items() if self._is_news(record)}

    def _is_news(self, record: Frame) -> bool:
        """Whether a record is newer than the one that is known; one of a stranger has no `rev`, and always is."""
        known = self.records.get(record["userId"], {})
        return bool("rev" not in record or record["rev"] > known.get("rev", -1))

    def _number(self, frame: Frame) -> None:
        """Keep the highest number that was received without a hole."""
        if frame.get("type") == "presence_snapshot":
            self._seq = max(self._seq, frame["seq"])
        elif "seq" in frame:
            self._early.add(frame["seq"])
        while self._seq + 1 in self._early:
            self._seq += 1


Join = Callable[..., Awaitable[Client]]
"""Connects a user up to the first snapshot: `await join(user, NodeSocket, deviceId="phone")`."""
People = Callable[..., Awaitable[list[str]]]
"""Makes users who see each other: `alice, bob = await people("alice", "bob")`."""
