"""AWS Lambda on a laptop: the service's functions, invoked by name, each in worker processes.

This module decides how many workers there are, and which of them gets an event. Callers (the gateways, the schedule)
accept any `Invoker`. One worker with its Runtime API is in `environment.py`, threads instead are in `inprocess.py`.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from local.awslambda.environment import Environment, OnLogLine, Owner
from local.awslambda.invocation import Call, Function, FunctionError, Invoker, Throttled, decode, encode, require
from shared.routes import FUNCTIONS, SCHEDULES

__all__ = ["SERVICE", "Function", "FunctionError", "Functions", "Invoker", "Policy", "Throttled"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How many execution environments there are, and how long an event waits for one. Times are in seconds.

    Every function keeps one warm. AWS starts an environment for every event that finds none free. On a few cores that
    would be slower: more processes than cores only compete.
    """

    more_after: float = 0.02
    """Another environment starts when the oldest event has waited this long and none is starting."""
    throttle_after: float = 2.0
    """An event is throttled after this wait. The wait for a function's first environment does not count."""
    idle: float = 300.0
    """An environment beyond a function's first ends after this time without an event."""
    start: float = 30.0
    """A start that takes longer has failed. (AWS allows 10 s, but does not start all functions on two cores.)"""
    retry: float = 1.0
    """After a failed start, events fail with its error for this time, before another start."""
    total: int = 16
    """The number of environments of all functions together."""
    spare: float = 1.0
    """When that number is reached, environments beyond a function's first end after this idle time."""


LAPTOP = Policy()
"""The policy for a laptop with two cores."""


SERVICE: Mapping[str, Function] = {name: Function(f"functions.{name}.handler.handler") for name in FUNCTIONS} | {
    # A run works until a newer one takes its lease, at most 150 s, so two can overlap for a moment.
    schedule.function: Function(f"functions.{schedule.function}.handler.handler", timeout=180.0, most=2)
    for schedule in SCHEDULES
}
"""The service's functions. API Gateway waits 29 s for a response, so only a scheduled function may take longer."""


class Functions:
    """The functions in worker processes, while it is entered (`async with`). Entering waits until each has a warm one.

    `variables` are environment variables beside Lambda's own: settings, credentials, region. `on_log_line` receives the
    functions' output. `native=False` replaces the extension of `awslambdaric` by the client in plain Python.

    A worker cannot outlive this process, however the process ends.
    """

    def __init__(
        self,
        variables: Mapping[str, str],
        on_log_line: OnLogLine,
        *,
        functions: Mapping[str, Function] = SERVICE,
        policy: Policy = LAPTOP,
        native: bool = importlib.util.find_spec("runtime_client") is not None,
    ) -> None:
        self._variables = variables
        self._on_line = on_log_line
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
        lives = [environment.life for pool in self._pools.values() for environment in pool.stop()]
        await asyncio.gather(*lives, return_exceptions=True)

    async def invoke(self, name: str, event: dict[str, Any]) -> Any:
        """The JSON value that function `name` returns for `event`.

        If the caller is canceled, the handler still runs to its end, as in AWS.

        Raises:
            FunctionError: the handler raised, its process died or could not start, or it timed out.
            Throttled: no execution environment was free in time.
        """
        require(name, self._functions)
        return decode(await self._pools[name].submit(encode(event)))

    def pids(self, name: str) -> list[int]:
        """The process ids of the workers of function `name`."""
        return [environment.pid for environment in self._pools[name].environments if environment.pid is not None]

    def kill_workers(self) -> None:
        """Kill every worker with SIGKILL, like the loss of a machine in Lambda. Current events fail."""
        for pool in self._pools.values():
            for environment in pool.environments:
                environment.kill()

    def _pool(self, name: str, function: Function) -> _Pool:
        def start(owner: Owner) -> Environment:
            return Environment(
                name,
                function,
                self._variables,
                owner,
                self._on_line,
                start_limit=self._policy.start,
                native=self._native,
            )

        return _Pool(name, self._policy, start, lambda count: self._room(count, function))

    def _room(self, count: int, function: Function) -> bool:
        """Whether a function with `count` environments may start another. Each function's first one is reserved for it.

        If there is no room, idle environments are ended, so there may be room soon.
        """
        if count == 0 or count >= function.most:
            return count == 0
        extra = sum(max(0, len(pool.environments) - 1) for pool in self._pools.values())
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
    """The execution environments of one function, and the events that wait for one."""

    def __init__(
        self, name: str, policy: Policy, start: Callable[[Owner], Environment], room: Callable[[int], bool]
    ) -> None:
        self.environments: list[Environment] = []
        self.settled = asyncio.Event()
        """Set when a start has succeeded or failed."""
        self._name = name
        self._policy = policy
        self._start = start
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._idle: list[Environment] = []
        self._waiting: deque[Call] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._failure: FunctionError | None = None
        self._retry_at = 0.0
        self._stopped = False

    def start(self) -> None:
        """Start another environment."""
        self.environments.append(self._start(self))

    def stop(self) -> Iterable[Environment]:
        """End all environments and throttle waiting events. Returns the environments whose end to wait for."""
        self._stopped = True
        for call in self._waiting:
            call.fail(Throttled(f"{self._name} is being stopped"))
        self._waiting.clear()
        for environment in self.environments:
            environment.end()
        return self.environments

    def reap(self, idle: float) -> None:
        """End the environments that were idle for so many seconds, except one."""
        spare = sum(not environment.ending for environment in self.environments) - 1
        before = self._loop.time() - idle
        while spare > 0 and self._idle and self._idle[0].idle_since <= before:
            self._idle.pop(0).end()
            spare -= 1

    def submit(self, event: bytes) -> asyncio.Future[bytes]:
        """Give `event` to an environment, now or when one is free. Returns the future of the response."""
        if self._stopped:
            raise Throttled(f"{self._name} was stopped")
        call = Call(event, self._loop.time(), self._loop.create_future())
        if not self._give(call):
            if self._failure and not self.environments and self._loop.time() < self._retry_at:
                raise FunctionError(self._failure.error_type, self._failure.message)
            self._waiting.append(call)
            self._check_queue()
        return call.answer

    def _give(self, call: Call) -> bool:
        # The most recently used one first, so that the others become idle for long and can be ended.
        while self._idle:
            if self._idle.pop().give(call):
                return True
        return False

    def _check_queue(self) -> None:
        """Throttle events that waited too long, and start an environment if needed. Repeats while events wait."""
        now = self._loop.time()
        cold = all(environment.starting for environment in self.environments)
        while self._waiting:
            oldest = self._waiting[0]
            waited = now - oldest.since
            if not oldest.answer.done() and (cold or waited < self._policy.throttle_after):
                break
            self._waiting.popleft().fail(
                Throttled(f"{self._name}: no execution environment was free for {waited:.1f} s")
            )
        if not self._waiting or self._stopped:
            return
        starting = any(environment.starting for environment in self.environments)
        late = not self.environments or now - self._waiting[0].since >= self._policy.more_after
        if late and not starting and now >= self._retry_at and self._room(len(self.environments)):
            self.start()
        if self._timer is None:
            self._timer = self._loop.call_later(self._policy.more_after, self._check_queue_again)

    def _check_queue_again(self) -> None:
        self._timer = None
        self._check_queue()

    def started(self, environment: Environment) -> None:
        if all(other.starting for other in self.environments if other is not environment):
            for call in self._waiting:  # The wait for the first start does not count.
                call.since = self._loop.time()
        self._failure = None
        self.settled.set()

    def ready(self, environment: Environment) -> None:
        while self._waiting and self._waiting[0].answer.done():
            self._waiting.popleft()
        if self._waiting and environment.give(self._waiting[0]):
            self._waiting.popleft()
        else:
            self._idle.append(environment)

    def ended(self, environment: Environment) -> None:
        self.environments.remove(environment)
        if environment in self._idle:
            self._idle.remove(environment)
        if environment.failure:
            self._failure = environment.failure
            self._retry_at = self._loop.time() + self._policy.retry
            if not self.environments:
                for call in self._waiting:
                    call.fail(FunctionError(environment.failure.error_type, environment.failure.message))
                self._waiting.clear()
        elif environment.served and not self.environments and not self._stopped:
            # One that never served is replaced only for the next event, so that a crash after the start does not loop.
            self.start()
        self.settled.set()
        self._check_queue()
