"""Many users at once, in one process: they connect, change, come back, and note how soon each contact sees it.

What is said on a connection is a `Language`'s matter, so that others' services can be put under the same load; numbers
are kept in a `Tally`. Made to be frugal: ten thousand connections take one event loop and a task each.
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
from load.protocol import Conversation, Language, Over
from load.session import OPEN_PATIENCE
from load.statistics import Tally

UNDER_WAY = 50
"""Connections that are not yet shown their contacts, at most: more would only wait for each other, and be refused."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0
"""Seconds: before attempt n, a reconnect waits for a random part of FIRST_WAIT · 2ⁿ, and of LONGEST_WAIT at most."""
DRAIN = 5.0
"""Seconds after the last change for which deliveries are waited for. A lost frame is noticed after two."""
STANDSTILL = 60.0
"""Seconds without one more connection after which connecting is given up."""
TICK = 0.05
"""Seconds between looks at who has something to say by now."""
CLOSING = 200
"""Connections that are closed at once, in the end."""
MOST_FRAME_BYTES = 256 * 1024

Progress = Callable[[float, float], None]
"""Is told how much is done, and how much there is."""


class _Line:
    """One device of one user, and its connection while it has one."""

    __slots__ = ("conversation", "device", "leaving", "live_at", "seen", "socket", "user", "wake_at")

    def __init__(self, user: int, device: str) -> None:
        self.user, self.device = user, device
        self.socket: aiohttp.ClientWebSocketResponse | None = None
        self.conversation: Conversation | None = None
        self.live_at: float | None = None
        """Since when its contacts are shown."""
        self.wake_at = float("inf")
        self.seen: dict[int, int] = {}
        """Contact → number of the change that is shown."""
        self.leaving = False
        """Whether its connection ends by our doing."""


class Crowd:
    """Users who see each other.

    Args:
        language: how they speak to the service.
        users: their ids.
        contacts: for each, the places of its contacts in `users`.
        devices: connections of each.
        tally: where everything is counted.
        rng: who changes, and who comes back.
    """

    def __init__(
        self,
        language: Language,
        users: Sequence[str],
        contacts: Sequence[Sequence[int]],
        devices: int,
        tally: Tally,
        rng: random.Random,
    ) -> None:
        self._language, self._users, self._contacts = language, users, contacts
        self._tally, self._rng = tally, rng
        self._place = {user: place for place, user in enumerate(users)}
        self._lines_of = [[_Line(user, f"load-{device}") for device in range(devices)] for user in range(len(users))]
        self._lines = [line for lines in zip(*self._lines_of, strict=True) for line in lines]
        self._sent: list[list[float]] = [[] for _ in users]
        """For each user, when its changes were sent."""
        self._live: set[_Line] = set()
        self._diary: list[tuple[float, int, _Line, Conversation]] = []
        """Who has something to say, and when: a heap. The number keeps lines from being compared."""
        self._entries = itertools.count()
        self._opening = asyncio.Semaphore(UNDER_WAY)
        self._tasks: dict[_Line, asyncio.Task[None]] = {}
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=True,
        )

    @property
    def size(self) -> int:
        """How many connections there are to be."""
        return len(self._lines)

    @property
    def live(self) -> int:
        """How many are open and shown their contacts now."""
        return len(self._live)

    def count_anew(self, tally: Tally) -> None:
        """Count everything in another tally from now on; what is still under way is in none."""
        self._tally = tally
        for line in self._live:
            line.live_at = time.perf_counter()

    @contextlib.asynccontextmanager
    async def gathered(self) -> AsyncIterator[None]:
        """The time in which the crowd is there; everybody leaves at its end."""
        async with self._session:
            tending = asyncio.create_task(self._tend())
            try:
                yield
            finally:
                tending.cancel()
                await asyncio.gather(tending, return_exceptions=True)
                await self._leave()
                if self._failure.done():
                    self._failure.exception()

    async def connect(self, rate: float, tell: Progress) -> None:
        """Connect everybody, and wait until all are shown their contacts: `rate` a second, or as fast as they get in.

        Raises:
            LoadError: nobody gets in, or nobody more.
        """

        async def open_all() -> None:
            began = since = time.perf_counter()
            begun = most = 0
            while self.live < self.size:
                now = time.perf_counter()
                while begun < min(self.size, self.live + UNDER_WAY, 1 + (now - began) * rate):
                    line = self._lines[begun]
                    self._tasks[line] = asyncio.create_task(self._keep(line))
                    begun += 1
                if self.live > most:
                    most, since = self.live, now
                elif now > since + STANDSTILL:
                    raise LoadError(self._standstill())
                tell(self.live, self.size)
                await asyncio.sleep(min(TICK, 1 / rate))
            tell(self.live, self.size)

        began = time.perf_counter()
        await self._unless_it_fails(open_all())
        self._tally.connecting = time.perf_counter() - began

    def _standstill(self) -> str:
        refused = ", ".join(f"{why}: {count:,}" for why, count in self._tally.refused.most_common())
        words = f"{self.live:,} of {self.size:,} connections are open, and no other one in {STANDSTILL:g} s"
        return words + (f" (refused: {refused})" if refused else "")

    async def change(self, rate: float, seconds: float, churn: float, tell: Progress) -> None:
        """Make changes for some time: `rate` a second, evenly, by everybody in turn; `churn` a second come back.

        Changes leave when it is their time, however late earlier ones are seen.

        Raises:
            LoadError: the service is not there any more.
        """
        changers = [place for place in range(len(self._users)) if self._contacts[place]]
        self._rng.shuffle(changers)
        turns = itertools.cycle(changers)

        async def change(due: float) -> None:
            for place in itertools.islice(turns, len(changers)):
                if live := [line for line in self._lines_of[place] if line in self._live]:
                    self._tally.late.append(max(0.0, time.perf_counter() - due))
                    await self._change(self._rng.choice(live))
                    return

        async def come_back(_: float) -> None:
            if live := [line for line in self._rng.sample(self._lines, min(8, self.size)) if line in self._live]:
                await self._cut(live[0])

        async def all_of_it() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(_evenly(rate if changers else 0, seconds, change))
                group.create_task(_evenly(churn, seconds, come_back))
                group.create_task(_evenly(1 / (4 * TICK), seconds, watch))

        began, cpu = time.perf_counter(), time.process_time()

        async def watch(now: float) -> None:
            tell(now - began, seconds)

        try:
            await self._unless_it_fails(all_of_it())
        finally:
            self._tally.seconds += time.perf_counter() - began
            self._tally.cpu += time.process_time() - cpu

    async def drain(self, seconds: float = DRAIN) -> None:
        """Wait for deliveries that are under way, for some seconds at most.

        Raises:
            LoadError: the service is not there any more.
        """

        async def wait() -> None:
            for _ in range(round(seconds / TICK)):
                if not self._tally.outstanding:
                    return
                await asyncio.sleep(TICK)

        await self._unless_it_fails(wait())

    async def _unless_it_fails(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, self._failure}, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # One line

    async def _keep(self, line: _Line) -> None:
        """Keep a line connected, whatever happens to its connections."""
        attempt = 0
        while True:
            began = time.perf_counter()
            socket = await self._open(line)
            if socket is not None:
                self._tally.opened += 1
                self._tally.handshakes.append(time.perf_counter() - began)
                was_live = await self._serve(line, socket, began)
                attempt = 0 if was_live else attempt + 1
            else:
                attempt += 1
            await asyncio.sleep(self._rng.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt)))

    async def _open(self, line: _Line) -> aiohttp.ClientWebSocketResponse | None:
        url, subprotocols = self._language.handshake(self._users[line.user], line.device)
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
            self._tally.refused[str(refused.status)] += 1
            if refused.status in (401, 403):
                self._fail(LoadError(f"{shown} refuses the token: was it made for this service?"))
            elif refused.status < 429:
                self._fail(LoadError(f"{shown} answers {refused.status}: is it a WebSocket API of presence?"))
        except TimeoutError:
            self._tally.refused["no answer"] += 1
            self._fail(LoadError(f"{shown} does not answer"))
        except (aiohttp.ClientError, OSError) as error:
            self._tally.refused["no connection"] += 1
            tls = isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError))
            self._fail(LoadError(f"{shown} speaks no TLS that this machine trusts") if tls else Unreachable(shown))
        return None

    def _fail(self, error: LoadError) -> None:
        """Give up, if nobody at all is connected: of one in a crowd nothing follows."""
        if not self._live and not self._failure.done():
            self._failure.set_exception(error)

    async def _serve(self, line: _Line, socket: aiohttp.ClientWebSocketResponse, began: float) -> bool:
        """Use a connection until it ends; gives whether it was of use."""
        conversation = self._language.conversation(time.perf_counter())
        line.socket, line.conversation, line.seen, line.leaving = socket, conversation, {}, False
        line.wake_at = float("inf")
        try:
            await self._say(line, conversation)
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
                self._take(line, conversation, message.data, began)
        finally:
            was_live = line.live_at is not None
            self._drop(line)
            await socket.close()
        if not line.leaving:
            self._tally.closed[str(socket.close_code or 1006)] += 1
        return was_live

    def _take(self, line: _Line, conversation: Conversation, text: str, began: float) -> None:
        now = time.perf_counter()
        heard = conversation.receive(text, now)
        self._tally.frames[heard.kind] += 1
        if heard.error:
            self._tally.errors[heard.error] += 1
        if line.live_at is None:
            line.seen.update((self._place[user], number) for user, number in heard.shown if user in self._place)
            if conversation.is_live:
                line.live_at = now
                self._live.add(line)
                self._tally.pictures.append(now - began)
        else:
            for user, number in heard.shown:
                if user in self._place:
                    self._show(line, line.live_at, self._place[user], number, now)
        self._note(line, conversation)

    def _show(self, line: _Line, live_at: float, user: int, number: int, now: float) -> None:
        """A contact is shown after the change of this number, and thereby after all before it."""
        before = line.seen.get(user, 0)
        if number <= before:
            return
        line.seen[user] = number
        sent = self._sent[user]
        for earlier in range(before, number):
            if sent[earlier] > live_at:
                self._tally.latencies.append(now - sent[earlier])
                self._tally.superseded += earlier + 1 < number

    def _drop(self, line: _Line) -> None:
        """A connection has ended: what was still to be shown on it is not any more."""
        if line.live_at is not None:
            for user in self._contacts[line.user]:
                unseen = self._sent[user][line.seen.get(user, 0) :]
                self._tally.withdrawn += sum(sent > line.live_at for sent in unseen)
        self._live.discard(line)
        line.live_at = line.socket = line.conversation = None

    async def _change(self, line: _Line) -> None:
        if line.socket is None or line.conversation is None:
            return
        sent = self._sent[line.user]
        message = line.conversation.change(len(sent) + 1)
        self._tally.changes += 1
        self._tally.expected += sum(
            other in self._live for contact in self._contacts[line.user] for other in self._lines_of[contact]
        )
        sent.append(time.perf_counter())
        with contextlib.suppress(ConnectionError):
            await line.socket.send_str(message)

    async def _cut(self, line: _Line) -> None:
        """End a connection, as a page does that is loaded anew; its line comes back by itself."""
        if line.socket is not None:
            line.leaving = True
            await line.socket.close()

    async def _say(self, line: _Line, conversation: Conversation) -> None:
        """Send what is due on a connection, and note when something will be."""
        socket = line.socket
        if socket is None:
            return
        try:
            for message in conversation.due(time.perf_counter()):
                with contextlib.suppress(ConnectionError):
                    await socket.send_str(message)
        except Over as over:
            self._tally.closed[str(over)] += 1
            await self._cut(line)
        else:
            line.wake_at = float("inf")
            self._note(line, conversation)

    def _note(self, line: _Line, conversation: Conversation) -> None:
        wake_at = conversation.wake_at
        if wake_at < line.wake_at:
            line.wake_at = wake_at
            heapq.heappush(self._diary, (wake_at, next(self._entries), line, conversation))

    async def _tend(self) -> None:
        """Let everybody say what is due when it is."""
        while True:
            while self._diary and self._diary[0][0] <= time.perf_counter():
                wake_at, _, line, conversation = heapq.heappop(self._diary)
                if line.conversation is conversation and line.wake_at == wake_at:
                    await self._say(line, conversation)
            await asyncio.sleep(TICK)

    async def _leave(self) -> None:
        for line in self._lines:
            line.leaving = True
        tasks = list(self._tasks.values())
        for start in range(0, len(tasks), CLOSING):
            some = tasks[start : start + CLOSING]
            for task in some:
                task.cancel()
            await asyncio.gather(*some, return_exceptions=True)


async def _evenly(rate: float, seconds: float, act: Callable[[float], Coroutine[Any, Any, None]]) -> None:
    """For some seconds do something `rate` times a second; it is told when its time was."""
    began = time.perf_counter()
    for number in range(round(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await act(due)
    await asyncio.sleep(max(0.0, began + seconds - time.perf_counter()))
