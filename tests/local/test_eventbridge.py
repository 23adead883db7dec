"""When scheduled functions start, with which event, and that nothing stops the schedule. A test moves the clock."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from local.awslambda.invocation import FunctionError, Throttled
from local.eventbridge import Scheduler, event
from shared.routes import SCHEDULES, Schedule
from tests.support.clock import Clock

SWEEPER = Schedule("sweeper", every_minutes=1)
PATIENCE = 5.0
"""Seconds that a test waits for what happens at once when all is well."""


class Time:
    """A clock, and sleepers that wake when a test moves it past their time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    async def sleep(self, seconds: float) -> None:
        wake = asyncio.Event()
        self._sleepers.append((self.clock.seconds() + seconds, wake))
        await wake.wait()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        due = [wake for when, wake in self._sleepers if when <= self.clock.seconds()]
        self._sleepers = [(when, wake) for when, wake in self._sleepers if when > self.clock.seconds()]
        for wake in due:
            wake.set()


class Recorder:
    """An invoker that records what was started, and responds as `answers` says: by default, never."""

    def __init__(self, *answers: Exception | None) -> None:
        self.started: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self._answers = list(answers)

    async def invoke(self, name: str, event: dict[str, Any]) -> Any:
        self.started.put_nowait((name, event))
        if not self._answers:
            await asyncio.Event().wait()
        if answer := self._answers.pop(0):
            raise answer

    async def next(self) -> str:
        async with asyncio.timeout(PATIENCE):
            name, _ = await self.started.get()
        return name


async def settled() -> None:
    """Let everything that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def scheduler(recorder: Recorder, time: Time, *schedules: Schedule) -> Scheduler:
    """A scheduler of `schedules`, by default the sweeper's."""
    return Scheduler(recorder, "eu-north-1", schedules or (SWEEPER,), clock=time.clock.seconds, sleep=time.sleep)


async def test_a_run_starts_immediately_and_then_at_its_rate() -> None:
    """Then once each minute."""
    recorder, time = Recorder(None, None, None), Time()
    async with scheduler(recorder, time):
        await recorder.next()
        for _ in range(2):
            await settled()
            time.advance(59.5)
            await settled()
            assert recorder.started.empty()
            time.advance(0.5)
            await recorder.next()
            await settled()
            assert recorder.started.empty()


async def test_a_run_does_not_wait_for_the_one_before() -> None:
    """A running one does not keep the next one from starting."""
    recorder, time = Recorder(), Time()
    async with scheduler(recorder, time):
        for _ in range(3):
            await recorder.next()
            await settled()
            time.advance(60)


async def test_each_schedule_has_its_own_rate() -> None:
    """Each schedule has its own rate."""
    recorder, time = Recorder(), Time()
    async with scheduler(recorder, time, SWEEPER, Schedule("report", every_minutes=5)):
        names = [await recorder.next(), await recorder.next()]
        for _ in range(5):
            await settled()
            time.advance(60)
            await settled()
    while not recorder.started.empty():
        names.append(await recorder.next())
    assert (names.count("sweeper"), names.count("report")) == (6, 2)


async def test_a_failed_run_is_logged_and_the_next_one_starts(caplog: pytest.LogCaptureFixture) -> None:
    """So is a throttled one."""
    recorder, time = (
        Recorder(FunctionError("LookupError", "no store"), Throttled("no execution environment was free"), None),
        Time(),
    )
    with caplog.at_level(logging.ERROR, logger="local.eventbridge"):
        async with scheduler(recorder, time):
            for _ in range(3):
                await recorder.next()
                await settled()
                time.advance(60)
    assert [record.getMessage() for record in caplog.records] == [
        "scheduled run of sweeper failed: LookupError: no store",
        "scheduled run of sweeper failed: no execution environment was free",
    ]


async def test_one_run_replaces_all_missed_ones() -> None:
    """After an hour of sleep one run starts immediately, and the next after a minute."""
    recorder, time = Recorder(), Time()
    async with scheduler(recorder, time):
        await recorder.next()
        await settled()
        time.advance(3600)
        await recorder.next()
        await settled()
        assert recorder.started.empty()
        time.advance(60)
        await recorder.next()


async def test_leaving_stops_the_schedule_and_waits_for_no_run() -> None:
    """It cancels what has started."""
    recorder, time = Recorder(), Time()
    async with asyncio.timeout(PATIENCE):
        async with scheduler(recorder, time):
            await recorder.next()
            await settled()
        time.advance(60)
        await settled()
    assert recorder.started.empty()


def test_the_event_is_what_scheduler_sends() -> None:
    """The event has the keys of a captured one, its time in UTC, and its detail as text."""
    given = event(SWEEPER, "us-east-2", datetime(2024, 6, 13, 12, 30, tzinfo=UTC))
    assert len(given.pop("id")) == 36
    assert given == {
        "version": "0",
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": "000000000000",
        "time": "2024-06-13T12:30:00Z",
        "region": "us-east-2",
        "resources": ["arn:aws:scheduler:us-east-2:000000000000:schedule/default/sweeper"],
        "detail": "{}",
    }


async def test_the_services_schedules_are_the_default() -> None:
    """They start unless others are given."""
    recorder = Recorder()
    async with Scheduler(recorder, "eu-north-1"):
        assert {await recorder.next() for _ in SCHEDULES} == {schedule.function for schedule in SCHEDULES}
