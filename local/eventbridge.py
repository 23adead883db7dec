"""EventBridge Scheduler on a laptop: starts functions at a fixed rate.

As in AWS, a run starts even if the previous one has not ended. A function whose runs may overlap handles that itself
(the sweeper has a lease). The response of a run is ignored.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, Self

from local.awslambda.invocation import FunctionError, Invoker, Throttled
from local.iam import ACCOUNT
from shared.routes import SCHEDULES, Schedule

logger = logging.getLogger(__name__)


class Scheduler:
    """Starts each of `schedules` while it is entered (`async with`): immediately, then every `every_minutes`.

    If several starts were missed because the laptop slept, one replaces them. A failed run is logged, not repeated, as
    in the deployed schedule, which has no retries.

    `clock` returns monotonic seconds, and `sleep` waits for some seconds.
    """

    def __init__(
        self,
        functions: Invoker,
        region: str,
        schedules: Sequence[Schedule] = SCHEDULES,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._functions = functions
        self._region = region
        self._schedules = schedules
        self._clock = clock
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        for schedule in self._schedules:
            self._spawn(self._repeat(schedule))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _repeat(self, schedule: Schedule) -> None:
        due = self._clock()
        while True:
            self._spawn(self._run(schedule))
            due = max(due + schedule.every_minutes * 60, self._clock())
            await self._sleep(due - self._clock())

    async def _run(self, schedule: Schedule) -> None:
        try:
            await self._functions.invoke(schedule.function, event(schedule, self._region, datetime.now(UTC)))
        except (FunctionError, Throttled) as error:
            logger.error("scheduled run of %s failed: %s", schedule.function, error)


def event(schedule: Schedule, region: str, now: datetime) -> dict[str, Any]:
    """The event of a schedule without an input of its own (captured from AWS)."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": ACCOUNT,
        "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": [f"arn:aws:scheduler:{region}:{ACCOUNT}:schedule/default/{schedule.function}"],
        "detail": "{}",
    }
