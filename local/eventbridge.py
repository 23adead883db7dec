"""EventBridge Scheduler on a laptop: starts functions at a fixed rate.

A run is started whether or not the one before has ended, as AWS does: a function whose runs may overlap settles that
itself (the sweeper by a lease). What a run answers is nobody's business here.
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
    """Starts each of `schedules` while it is entered (`async with`): at once, then every `every_minutes`.

    Starts that were missed because the laptop slept are made up for by one. A run that fails is logged, not repeated:
    the next one comes at its time, and the deployed schedule has no retries either.

    `clock` gives seconds that only go up, and `sleep` waits for some.
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
            self._begin(self._keep(schedule))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, schedule: Schedule) -> None:
        due = self._clock()
        while True:
            self._begin(self._run(schedule))
            due = max(due + schedule.every_minutes * 60, self._clock())
            await self._sleep(due - self._clock())

    async def _run(self, schedule: Schedule) -> None:
        try:
            await self._functions.invoke(schedule.function, event(schedule, self._region, datetime.now(UTC)))
        except (FunctionError, Throttled) as error:
            logger.error("scheduled run of %s failed: %s", schedule.function, error)


def event(schedule: Schedule, region: str, now: datetime) -> dict[str, Any]:
    """What Scheduler gives a Lambda function when its schedule has no input of its own (captured from AWS)."""
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
