"""AWS Lambda on a laptop: the service's functions, invoked by name, each in worker processes.

Here it is decided how many workers there are and which of them gets an event. Who invokes (the gateways, the schedule)
takes any `Invoker`. One worker and its Runtime API are `sandbox.py`'s matter; threads instead are `inprocess.py`'s.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from local.awslambda.environment import OnLine, Owner, Sandbox
from local.awslambda.invocation import Call, Function, FunctionError, Invoker, Throttled, decode, encode, require
from shared.routes import FUNCTIONS, SCHEDULES

__all__ = ["SERVICE", "Function", "FunctionError", "Functions", "Invoker", "Policy", "Throttled"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How many sandboxes there are, and how long an event waits for one. Times in seconds.

    Every function keeps one warm. AWS starts a sandbox for every event that finds none free; on a few cores, more
    processes than work at once only slow each other down.
    """

    more_after: float = 0.02
    """When the oldest event has waited so long and none is starting, another is started."""
    throttle_after: float = 2.0
    """An event that waited so long is throttled. The wait for a function's first sandbox does not count."""
    idle: float = 300.0
    """A sandbox beyond a function's first ends after so long without an event."""
    start: float = 30.0
    """A start that takes longer has failed. (AWS allows 10 s, but does not start all functions on two cores.)"""
    retry: float = 1.0
    """After a failed start, events are answered with its error for so long before another is tried."""
    total: int = 16
    """All functions' sandboxes together."""
    spare: float = 1.0
    """When there are so many, those beyond a function's first that were idle for so long make room for others."""


LAPTOP = Policy()
"""What a laptop of two cores is good for."""


SERVICE: Mapping[str, Function] = {name: Function(f"functions.{name}.handler.handler") for name in FUNCTIONS} | {
    # A run works until a newer one takes its lease, at most 150 s: for a moment there are two.
    schedule.function: Function(f"functions.{schedule.function}.handler.handler", timeout=180.0, most=2)
    for schedule in SCHEDULES
}
"""The service's functions. API Gateway waits 29 s for an answer, so only a scheduled one may take longer."""


class Functions:
    """The functions in worker processes, while it is entered (`async with`); entering waits until each has a warm one.

    `environment` is what every function gets beside Lambda's own variables: settings, credentials, region. `on_line`
    takes what they write. `native=False` puts the plain Python client in the place of `awslambdaric`'s extension.

    A worker cannot outlive this process, however that ends.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        on_line: OnLine,
        *,
        functions: Mapping[str, Function] = SERVICE,
        policy: Policy = LAPTOP,
        native: bool = importlib.util.find_spec("runtime_client") is not None,
    ) -> None:
        self._environment = environment
        self._on_line = on_line
        self._functions = functions
        self._policy = policy
        self._native = native
        self._pools: dict[str, _Pool] = {}
        self._reaper: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._pools = {name: self._pool(name, function) for name, function in self._functions.items()}
        try:
            for pool in self._pools.values():
                pool.start()
            for pool in self._pools.values():
                await pool.settled.wait()
        except BaseException:
            await self.__aexit__()
            raise
        self._reap()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reaper:
            self._reaper.cancel()
        lives = [sandbox.life for pool in self._pools.values() for sandbox in pool.stop()]
        await asyncio.gather(*lives, return_exceptions=True)

    async def invoke(self, name: str, event: dict[str, Any]) -> Any:
        """The JSON value that function `name` answers `event` with.

        If the caller is cancelled, the handler still runs to its end, as in AWS.

        Raises:
            FunctionError: the handler raised, its process died or could not start, or it timed out.
            Throttled: no sandbox was free in time.
        """
        require(name, self._functions)
        return decode(await self._pools[name].submit(encode(event)))

    def pids(self, name: str) -> list[int]:
        """The process ids of function `name`'s workers."""
        return [sandbox.pid for sandbox in self._pools[name].sandboxes if sandbox.pid is not None]

    def kill_workers(self) -> None:
        """SIGKILL every worker, whatever it does: what a lost machine is to Lambda. Events in hand fail."""
        for pool in self._pools.values():
            for sandbox in pool.sandboxes:
                sandbox.kill()

    def _pool(self, name: str, function: Function) -> _Pool:
        def start(owner: Owner) -> Sandbox:
            return Sandbox(
                name,
                function,
                self._environment,
                owner,
                self._on_line,
                start_limit=self._policy.start,
                native=self._native,
            )

        return _Pool(name, self._policy, start, lambda count: self._room(count, function))

    def _room(self, count: int, function: Function) -> bool:
        """Whether a function that has `count` sandboxes may have one more; each function's first is reserved for it.

        Where there is no room, it is made: there may be some soon.
        """
        if count == 0 or count >= function.most:
            return count == 0
        extra = sum(max(0, len(pool.sandboxes) - 1) for pool in self._pools.values())
        if extra < self._policy.total - len(self._pools):
            return True
        for pool in self._pools.values():
            pool.reap(self._policy.spare)
        return False

    def _reap(self) -> None:
        for pool in self._pools.values():
            pool.reap(self._policy.idle)
        self._reaper = asyncio.get_running_loop().call_later(self._policy.idle / 10, self._reap)


class _Pool:
    """One function's sandboxes, and the events that wait for them."""

    def __init__(
        self, name: str, policy: Policy, start: Callable[[Owner], Sandbox], room: Callable[[int], bool]
    ) -> None:
        self.sandboxes: list[Sandbox] = []
        self.settled = asyncio.Event()
        """Set once a start has succeeded or failed."""
        self._name = name
        self._policy = policy
        self._start = start
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._idle: list[Sandbox] = []
        self._waiting: deque[Call] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._failure: FunctionError | None = None
        self._retry_at = 0.0
        self._stopped = False

    def start(self) -> None:
        """Start one more sandbox."""
        self.sandboxes.append(self._start(self))

    def stop(self) -> Iterable[Sandbox]:
        """End all sandboxes and throttle who still waits; returns those whose end is to be awaited."""
        self._stopped = True
        for call in self._waiting:
            call.fail(Throttled(f"{self._name} is being stopped"))
        self._waiting.clear()
        for sandbox in self.sandboxes:
            sandbox.end()
        return self.sandboxes

    def reap(self, idle: float) -> None:
        """End who was idle for so many seconds, except for one."""
        spare = sum(not sandbox.ending for sandbox in self.sandboxes) - 1
        before = self._loop.time() - idle
        while spare > 0 and self._idle and self._idle[0].idle_since <= before:
            self._idle.pop(0).end()
            spare -= 1

    def submit(self, event: bytes) -> asyncio.Future[bytes]:
        """Give `event` to a sandbox, now or when one is free; returns the answer's future."""
        if self._stopped:
            raise Throttled(f"{self._name} was stopped")
        call = Call(event, self._loop.time(), self._loop.create_future())
        if not self._give(call):
            if self._failure and not self.sandboxes and self._loop.time() < self._retry_at:
                raise FunctionError(self._failure.error_type, self._failure.message)
            self._waiting.append(call)
            self._tend()
        return call.answer

    def _give(self, call: Call) -> bool:
        # The most recently used one: so the others grow old, and can be reaped.
        while self._idle:
            if self._idle.pop().give(call):
                return True
        return False

    def _tend(self) -> None:
        """Throttle whom it is time to throttle, start what it is time to start; soon again while anybody waits."""
        now = self._loop.time()
        cold = all(sandbox.starting for sandbox in self.sandboxes)
        while self._waiting:
            oldest = self._waiting[0]
            waited = now - oldest.since
            if not oldest.answer.done() and (cold or waited < self._policy.throttle_after):
                break
            self._waiting.popleft().fail(Throttled(f"{self._name}: no sandbox was free for {waited:.1f} s"))
        if not self._waiting or self._stopped:
            return
        starting = any(sandbox.starting for sandbox in self.sandboxes)
        late = not self.sandboxes or now - self._waiting[0].since >= self._policy.more_after
        if late and not starting and now >= self._retry_at and self._room(len(self.sandboxes)):
            self.start()
        if self._timer is None:
            self._timer = self._loop.call_later(self._policy.more_after, self._tend_again)

    def _tend_again(self) -> None:
        self._timer = None
        self._tend()

    def started(self, sandbox: Sandbox) -> None:
        if all(other.starting for other in self.sandboxes if other is not sandbox):
            for call in self._waiting:  # From now on it is a queue that they wait in.
                call.since = self._loop.time()
        self._failure = None
        self.settled.set()

    def ready(self, sandbox: Sandbox) -> None:
        while self._waiting and self._waiting[0].answer.done():
            self._waiting.popleft()
        if self._waiting and sandbox.give(self._waiting[0]):
            self._waiting.popleft()
        else:
            self._idle.append(sandbox)

    def ended(self, sandbox: Sandbox) -> None:
        self.sandboxes.remove(sandbox)
        if sandbox in self._idle:
            self._idle.remove(sandbox)
        if sandbox.failure:
            self._failure = sandbox.failure
            self._retry_at = self._loop.time() + self._policy.retry
            if not self.sandboxes:
                for call in self._waiting:
                    call.fail(FunctionError(sandbox.failure.error_type, sandbox.failure.message))
                self._waiting.clear()
        elif sandbox.served and not self.sandboxes and not self._stopped:
            # One that never served is replaced when an event comes: a crash right after the start must not go round.
            self.start()
        self.settled.set()
        self._tend()
