"""Thousands of simulated clients in one process: they connect, make changes, reconnect, and record what they receive.

The messages come from a `WireProtocol`, so other services can be measured with the same load. Numbers go to
`Statistics`. Ten thousand connections take one event loop and a task each.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import aiohttp

from load.errors import LoadError, Unreachable
from load.protocol import Conversation, Reconnect, WireProtocol
from load.session import OPEN_PATIENCE
from load.statistics import Statistics

MOST_CONNECTING = 50
"""Clients that connect at the same time. With more, they would only wait for each other, and be refused."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0
"""Seconds. Before attempt n, a reconnect waits for a random part of FIRST_WAIT · 2ⁿ, or of LONGEST_WAIT if less."""
DRAIN = 5.0
"""Seconds to wait for deliveries after the last change. Clients detect a lost frame after two."""
STALLED = 60.0
"""Seconds without a new connection after which connecting fails."""
TICK = 0.05
"""Seconds between two checks of the timers."""
CLOSED_TOGETHER = 200
"""Connections that close together at the end."""
MOST_FRAME_BYTES = 256 * 1024

Progress = Callable[[float, float], None]
"""Called with the amount that is done, and the total."""


class _Client:
    """One device of one user, with its connection while it has one."""

    __slots__ = ("conversation", "device", "leaving", "live_at", "seen", "socket", "user", "wake_at")

    def __init__(self, user: int, device: str) -> None:
        self.user, self.device = user, device
        self.socket: aiohttp.ClientWebSocketResponse | None = None
        self.conversation: Conversation | None = None
        self.live_at: float | None = None
        """When it received the state of its contacts."""
        self.wake_at = float("inf")
        self.seen: dict[int, int] = {}
        """Contact → number of its latest change that this client knows."""
        self.leaving = False
        """Whether the load generator closes its connection."""


class SimulatedClients:
    """Users who see each other.

    Args:
        protocol: how they talk to the service.
        users: their ids.
        contacts: for each user, the places of its contacts in `users`.
        devices: connections of each user.
        statistics: where everything is recorded.
        rng: chooses who changes, and who reconnects.
    """

    def __init__(
        self,
        protocol: WireProtocol,
        users: Sequence[str],
        contacts: Sequence[Sequence[int]],
        devices: int,
        statistics: Statistics,
        rng: random.Random,
    ) -> None:
        self._protocol, self._users, self._contacts = protocol, users, contacts
        self._statistics, self._rng = statistics, rng
        self._place = {user: place for place, user in enumerate(users)}
        self._clients_of = [
            [_Client(user, f"load-{device}") for device in range(devices)] for user in range(len(users))
        ]
        self._clients = [client for clients in zip(*self._clients_of, strict=True) for client in clients]
        self._sent: list[list[float]] = [[] for _ in users]
        """For each user, when its changes were sent."""
        self._live: set[_Client] = set()
        self._timers: list[tuple[float, int, _Client, Conversation]] = []
        """A heap of times at which a client has something to send. The number makes entries comparable."""
        self._timer_ids = itertools.count()
        self._opening = asyncio.Semaphore(MOST_CONNECTING)
        self._tasks: dict[_Client, asyncio.Task[None]] = {}
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=True,
        )

    @property
    def size(self) -> int:
        """How many clients there are."""
        return len(self._clients)

    @property
    def live(self) -> int:
        """How many are connected and know the state of their contacts."""
        return len(self._live)

    def record_in(self, statistics: Statistics) -> None:
        """Record in other statistics from now on. Deliveries that have not arrived are recorded in neither."""
        self._statistics = statistics
        for client in self._live:
            client.live_at = time.perf_counter()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Allow clients to connect while the block lasts; all of them disconnect at its end."""
        async with self._session:
            timers = asyncio.create_task(self._run_timers())
            try:
                yield
            finally:
                timers.cancel()
                await asyncio.gather(timers, return_exceptions=True)
                await self._close_all()
                if self._failure.done():
                    self._failure.exception()

    async def connect(self, rate: float, progress: Progress) -> None:
        """Connect all clients, at most `rate` a second, and wait until each knows the state of its contacts.

        Raises:
            LoadError: no client can connect, or no further one.
        """

        async def open_all() -> None:
            began = since = time.perf_counter()
            begun = most = 0
            while self.live < self.size:
                now = time.perf_counter()
                while begun < min(self.size, self.live + MOST_CONNECTING, 1 + (now - began) * rate):
                    client = self._clients[begun]
                    self._tasks[client] = asyncio.create_task(self._stay_connected(client))
                    begun += 1
                if self.live > most:
                    most, since = self.live, now
                elif now > since + STALLED:
                    raise LoadError(self._stalled())
                progress(self.live, self.size)
                await asyncio.sleep(min(TICK, 1 / rate))
            progress(self.live, self.size)

        began = time.perf_counter()
        await self._until_failure(open_all())
        self._statistics.connecting = time.perf_counter() - began

    def _stalled(self) -> str:
        refused = ", ".join(f"{why}: {count:,}" for why, count in self._statistics.refused.most_common())
        text = f"{self.live:,} of {self.size:,} connections are open, and no other opened within {STALLED:g} s"
        return text + (f" (refused: {refused})" if refused else "")

    async def change(self, rate: float, seconds: float, churn: float, progress: Progress) -> None:
        """Make `rate` changes a second, evenly, by all users in turn; meanwhile `churn` clients a second reconnect.

        Each change is sent at its time, even while earlier ones are still on their way.

        Raises:
            LoadError: the service is no longer reachable.
        """
        changers = [place for place in range(len(self._users)) if self._contacts[place]]
        self._rng.shuffle(changers)
        turns = itertools.cycle(changers)

        async def change(due: float) -> None:
            for place in itertools.islice(turns, len(changers)):
                if live := [client for client in self._clients_of[place] if client in self._live]:
                    self._statistics.late.append(max(0.0, time.perf_counter() - due))
                    await self._change(self._rng.choice(live))
                    return

        async def reconnect(_: float) -> None:
            if live := [
                client for client in self._rng.sample(self._clients, min(8, self.size)) if client in self._live
            ]:
                await self._close(live[0])

        async def run_all() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(_evenly(rate if changers else 0, seconds, change))
                group.create_task(_evenly(churn, seconds, reconnect))
                group.create_task(_evenly(1 / (4 * TICK), seconds, watch))

        began, cpu = time.perf_counter(), time.process_time()

        async def watch(now: float) -> None:
            progress(now - began, seconds)

        try:
            await self._until_failure(run_all())
        finally:
            self._statistics.seconds += time.perf_counter() - began
            self._statistics.cpu += time.process_time() - cpu

    async def drain(self, seconds: float = DRAIN) -> None:
        """Wait until all deliveries have arrived, but at most `seconds`.

        Raises:
            LoadError: the service is no longer reachable.
        """

        async def wait() -> None:
            for _ in range(round(seconds / TICK)):
                if not self._statistics.outstanding:
                    return
                await asyncio.sleep(TICK)

        await self._until_failure(wait())

    async def _until_failure(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, self._failure}, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # One client

    async def _stay_connected(self, client: _Client) -> None:
        """Connect a client, and reconnect it whenever its connection ends."""
        attempt = 0
        while True:
            began = time.perf_counter()
            socket = await self._open(client)
            if socket is not None:
                self._statistics.opened += 1
                self._statistics.handshakes.append(time.perf_counter() - began)
                was_live = await self._serve(client, socket, began)
                attempt = 0 if was_live else attempt + 1
            else:
                attempt += 1
            await asyncio.sleep(self._rng.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt)))

    async def _open(self, client: _Client) -> aiohttp.ClientWebSocketResponse | None:
        url, subprotocols = self._protocol.handshake(self._users[client.user], client.device)
        shown = url.partition("?")[0]
        try:
            async with self._opening, asyncio.timeout(OPEN_PATIENCE):
                return await self._session.ws_connect(
                    url,
                    protocols=subprotocols,
                    max_msg_size=MOST_FRAME_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                )
        except aiohttp.WSServerHandshakeError as refused:
            self._statistics.refused[str(refused.status)] += 1
            if refused.status in (401, 403):
                self._fail(LoadError(f"{shown} refuses the token: was it made for this service?"))
            elif refused.status < 429:
                self._fail(LoadError(f"{shown} answers {refused.status}: is it a WebSocket API of this service?"))
        except TimeoutError:
            self._statistics.refused["no answer"] += 1
            self._fail(LoadError(f"{shown} does not answer"))
        except (aiohttp.ClientError, OSError) as error:
            self._statistics.refused["no connection"] += 1
            tls = isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError))
            self._fail(LoadError(f"{shown} speaks no TLS that this machine trusts") if tls else Unreachable(shown))
        return None

    def _fail(self, error: LoadError) -> None:
        """Stop the load if no client is connected. While others are connected, a single failure means little."""
        if not self._live and not self._failure.done():
            self._failure.set_exception(error)

    async def _serve(self, client: _Client, socket: aiohttp.ClientWebSocketResponse, began: float) -> bool:
        """Use a connection until it ends. Returns whether the client got the state of its contacts."""
        conversation = self._protocol.conversation(time.perf_counter())
        client.socket, client.conversation, client.seen, client.leaving = socket, conversation, {}, False
        client.wake_at = float("inf")
        try:
            await self._send_due(client, conversation)
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
                self._receive(client, conversation, message.data, began)
        finally:
            was_live = client.live_at is not None
            self._disconnected(client)
            await socket.close()
        if not client.leaving:
            self._statistics.closed[str(socket.close_code or 1006)] += 1
        return was_live

    def _receive(self, client: _Client, conversation: Conversation, text: str, began: float) -> None:
        now = time.perf_counter()
        received = conversation.receive(text, now)
        self._statistics.frames[received.kind] += 1
        if received.error:
            self._statistics.errors[received.error] += 1
        if client.live_at is None:
            client.seen.update((self._place[user], number) for user, number in received.shown if user in self._place)
            if conversation.is_live:
                client.live_at = now
                self._live.add(client)
                self._statistics.snapshots.append(now - began)
        else:
            for user, number in received.shown:
                if user in self._place:
                    self._shown(client, client.live_at, self._place[user], number, now)
        self._schedule(client, conversation)

    def _shown(self, client: _Client, live_at: float, user: int, number: int, now: float) -> None:
        """Record that a contact's change of this number, and all before it, arrived at a client."""
        before = client.seen.get(user, 0)
        if number <= before:
            return
        client.seen[user] = number
        sent = self._sent[user]
        for earlier in range(before, number):
            if sent[earlier] > live_at:
                self._statistics.latencies.append(now - sent[earlier])
                self._statistics.superseded += earlier + 1 < number

    def _disconnected(self, client: _Client) -> None:
        """Record that a connection ended, and withdraw the deliveries that it was waiting for."""
        if client.live_at is not None:
            for user in self._contacts[client.user]:
                unseen = self._sent[user][client.seen.get(user, 0) :]
                self._statistics.withdrawn += sum(sent > client.live_at for sent in unseen)
        self._live.discard(client)
        client.live_at = client.socket = client.conversation = None

    async def _change(self, client: _Client) -> None:
        if client.socket is None or client.conversation is None:
            return
        sent = self._sent[client.user]
        message = client.conversation.change(len(sent) + 1)
        self._statistics.changes += 1
        self._statistics.expected += sum(
            other in self._live for contact in self._contacts[client.user] for other in self._clients_of[contact]
        )
        sent.append(time.perf_counter())
        with contextlib.suppress(ConnectionError):
            await client.socket.send_str(message)

    async def _close(self, client: _Client) -> None:
        """Close a connection, as a reloaded page does. The client reconnects by itself."""
        if client.socket is not None:
            client.leaving = True
            await client.socket.close()

    async def _send_due(self, client: _Client, conversation: Conversation) -> None:
        """Send the messages that are due on a connection, and schedule the next ones."""
        socket = client.socket
        if socket is None:
            return
        try:
            for message in conversation.due(time.perf_counter()):
                with contextlib.suppress(ConnectionError):
                    await socket.send_str(message)
        except Reconnect as reason:
            self._statistics.closed[str(reason)] += 1
            await self._close(client)
        else:
            client.wake_at = float("inf")
            self._schedule(client, conversation)

    def _schedule(self, client: _Client, conversation: Conversation) -> None:
        wake_at = conversation.wake_at
        if wake_at < client.wake_at:
            client.wake_at = wake_at
            heapq.heappush(self._timers, (wake_at, next(self._timer_ids), client, conversation))

    async def _run_timers(self) -> None:
        """Send each client's messages when they are due."""
        while True:
            while self._timers and self._timers[0][0] <= time.perf_counter():
                wake_at, _, client, conversation = heapq.heappop(self._timers)
                if client.conversation is conversation and client.wake_at == wake_at:
                    await self._send_due(client, conversation)
            await asyncio.sleep(TICK)

    async def _close_all(self) -> None:
        for client in self._clients:
            client.leaving = True
        tasks = list(self._tasks.values())
        for start in range(0, len(tasks), CLOSED_TOGETHER):
            some = tasks[start : start + CLOSED_TOGETHER]
            for task in some:
                task.cancel()
            await asyncio.gather(*some, return_exceptions=True)


async def _evenly(rate: float, seconds: float, act: Callable[[float], Coroutine[Any, Any, None]]) -> None:
    """Call `act` `rate` times a second, for some seconds, each time with the time at which the call was due."""
    began = time.perf_counter()
    for number in range(round(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await act(due)
    await asyncio.sleep(max(0.0, began + seconds - time.perf_counter()))
