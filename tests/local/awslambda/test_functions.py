"""How many workers a function has, and that none remains."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys

import pytest

from local.awslambda.functions import SERVICE, Function, FunctionError, Policy, Throttled
from local.awslambda.invocation import ROOT
from shared.routes import FUNCTIONS
from tests.support.functions import HANDLER, PATIENCE, WORKERS, Lines, Telephone, running, start


def test_every_function_of_the_service_is_there() -> None:
    """Every function has an entry; API Gateway waits for 29 s; the sweeper's runs may overlap."""
    assert set(SERVICE) == set(FUNCTIONS)
    for name, function in SERVICE.items():
        assert function.handler == f"functions.{name}.handler.handler"
        assert importlib.util.find_spec(function.handler.removesuffix(".handler"))
        assert function.timeout <= 29 or name == "sweeper"
    assert SERVICE["sweeper"].timeout > 150
    assert SERVICE["sweeper"].most == 2


async def test_one_worker_serves_successive_events() -> None:
    """The warm worker handles all of them."""
    async with running() as functions:
        pids = functions.pids("f")
        for number in range(1, 20):
            assert (await functions.invoke("f", {"do": "tell"}))["served"] == number
        assert functions.pids("f") == pids
        assert len(pids) == 1


async def test_more_workers_start_one_after_the_other_up_to_the_functions_limit(telephone: Telephone) -> None:
    """More workers start only while events wait, and no more than the function may have."""
    async with running(f=Function(HANDLER, most=3), policy=Policy(throttle_after=3)) as functions:
        held = []
        for number in range(1, 4):
            held.append((start(functions, {"do": "call", "port": telephone.port}), await telephone.answer()))
            assert len(functions.pids("f")) == number
        with pytest.raises(Throttled):
            await functions.invoke("f", {"do": "answer", "value": 1})
        assert len(functions.pids("f")) == 3
        for task, line in held:
            line.say("go on")
            await task


async def test_all_functions_together_have_a_limit_that_leaves_each_its_first_worker(telephone: Telephone) -> None:
    """The limit of all workers together leaves every function its first one."""
    policy = Policy(total=3, throttle_after=3)
    async with running(a=Function(HANDLER), b=Function(HANDLER), policy=policy) as functions:
        event = {"do": "call", "port": telephone.port}
        held = [(start(functions, event, "a"), await telephone.answer()) for _ in range(2)]
        with pytest.raises(Throttled):
            await functions.invoke("a", {"do": "answer", "value": 1})
        functions.kill_workers()
        for task, line in held:
            await line.dead()
            with pytest.raises(FunctionError):
                await task
        assert await functions.invoke("b", {"do": "answer", "value": 2}) == 2
        assert await functions.invoke("a", {"do": "answer", "value": 3}) == 3


async def test_idle_workers_make_room(telephone: Telephone) -> None:
    """After a rush for one function, its idle workers make room for another."""
    policy = Policy(total=3, throttle_after=PATIENCE, spare=0.1)
    async with running(a=Function(HANDLER), b=Function(HANDLER), policy=policy) as functions:
        event = {"do": "call", "port": telephone.port}
        for name in ("a", "b"):
            held = [(start(functions, event, name), await telephone.answer()) for _ in range(2)]
            assert (len(functions.pids("a")), len(functions.pids("b"))) == ((2, 1) if name == "a" else (1, 2))
            for task, line in held:
                line.say("go on")
                await task


async def test_a_worker_beyond_the_first_ends_after_idle_time(telephone: Telephone) -> None:
    """The one that was used last stays."""
    async with running(policy=Policy(idle=0.3)) as functions:
        first_call = start(functions, {"do": "call", "port": telephone.port})
        first_line = await telephone.answer()
        second_call = start(functions, {"do": "call", "port": telephone.port})
        second_line = await telephone.answer()
        first, second = functions._pools["f"].environments
        first_line.say("go on")
        await first_call
        async with asyncio.timeout(PATIENCE):
            # It asks for the next event a moment after its answer.
            while first not in functions._pools["f"]._idle:  # noqa: ASYNC110 - nothing tells of that
                await asyncio.sleep(0)
            second_line.say("go on")
            await second_call
            await first.life
        assert functions.pids("f") == [second.pid]
        assert (await functions.invoke("f", {"do": "tell"}))["served"] == 2


async def test_a_killed_worker_fails_only_its_event(telephone: Telephone) -> None:
    """When all workers are killed, their events fail; waiting and later events get new workers."""
    async with running(f=Function(HANDLER, most=1)) as functions:
        held = start(functions, {"do": "call", "port": telephone.port})
        await telephone.answer()
        waiting = start(functions, {"do": "answer", "value": 1})
        await asyncio.sleep(0)
        functions.kill_workers()
        with pytest.raises(FunctionError, match=r"Runtime\.ExitError: .*signal: killed"):
            await held
        assert await waiting == 1
        for number in range(10):
            functions.kill_workers()
            assert await functions.invoke("f", {"do": "answer", "value": number}) == number


async def test_a_worker_that_died_idle_loses_no_event() -> None:
    """An idle worker that was killed is replaced, and the next event succeeds."""
    async with running() as functions:
        assert (await functions.invoke("f", {"do": "tell"}))["served"] == 1
        (environment,) = functions._pools["f"].environments
        os.kill(environment.pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            await environment.life
        assert (await functions.invoke("f", {"do": "tell"}))["served"] == 1


async def test_a_failed_start_is_not_retried_immediately() -> None:
    """For a while, events fail with its error before another start."""
    lines = Lines()
    broken = Function("tests.support.broken_handler.handler")

    def starts() -> int:
        return sum('"errorMessage": "no settings"' in line for _, line in lines.written)

    async with running(lines=lines, broken=broken, policy=Policy(retry=3600)) as functions:
        for _ in range(50):
            with pytest.raises(FunctionError, match="no settings"):
                await functions.invoke("broken", {})
        assert starts() == 1
    async with running(lines=lines, broken=broken, policy=Policy(retry=0)) as functions:
        for _ in range(2):
            with pytest.raises(FunctionError, match="no settings"):
                await functions.invoke("broken", {})
        assert starts() == 4


async def test_a_start_that_ends_the_process_has_failed() -> None:
    """The error contains how it ended and its last line, and it is not retried immediately."""
    lines = Lines()
    dying = Function("tests.support.dying_handler.handler")
    async with running(lines=lines, dying=dying, policy=Policy(retry=3600)) as functions:
        for _ in range(3):
            with pytest.raises(FunctionError, match=r"ended while starting \(exit status 3\): no way to go on"):
                await functions.invoke("dying", {})
    assert [line for _, line in lines.written] == ["no way to go on"]


async def test_a_start_that_takes_too_long_has_failed() -> None:
    """It does not delay others."""
    async with running(
        f=Function(HANDLER), slow=Function("tests.support.slow_handler.handler"), policy=Policy(start=3)
    ) as functions:
        with pytest.raises(FunctionError, match=r"Sandbox\.Timedout: slow did not start in 3 seconds"):
            await functions.invoke("slow", {})
        assert await functions.invoke("f", {"do": "answer", "value": 1}) == 1


async def test_leaving_ends_every_worker(telephone: Telephone) -> None:
    """Idle and busy workers end, and waiting events fail."""
    async with running(f=Function(HANDLER, most=2)) as functions:
        idle = start(functions, {"do": "call", "port": telephone.port, "keep": True})
        lines = [await telephone.answer()]
        busy = start(functions, {"do": "call", "port": telephone.port})
        lines.append(await telephone.answer())
        lines[0].say("go on")
        await idle
        held = start(functions, {"do": "call", "port": telephone.port})
        lines.append(await telephone.answer())
        waiting = start(functions, {"do": "answer", "value": 1})
        await asyncio.sleep(0)
    for line in lines:
        await line.dead()
    outcomes = await asyncio.gather(busy, held, waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [FunctionError, FunctionError, Throttled]
    with pytest.raises(Throttled):
        await functions.invoke("f", {"do": "answer", "value": 1})


PARENT = """
import asyncio, signal, sys
from tests.support.functions import running, start

async def main(port):
    async with running(sys.argv[2]) as functions:
        call = {"do": "call", "port": port, "keep": True}
        await asyncio.gather(functions.invoke("f", call), functions.invoke("f", call))

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a script
asyncio.run(main(int(sys.argv[1])))
"""


@pytest.mark.parametrize("mode", WORKERS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_workers_do_not_outlive_their_parent(mode: str, number: signal.Signals, telephone: Telephone) -> None:
    """When the process that started them is killed or interrupted, idle and busy workers end."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(telephone.port), mode, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
    )
    idle, busy = await telephone.answer(), await telephone.answer()
    idle.say("go on")
    parent.send_signal(number)
    async with asyncio.timeout(PATIENCE):
        await parent.wait()
    await idle.dead()
    await busy.dead()
