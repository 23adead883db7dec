"""Invocations, wherever the handler runs: in workers, with either client, and in this process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from local.awslambda.functions import Function, FunctionError, Policy, Throttled
from local.awslambda.invocation import LARGEST_PAYLOAD
from tests.support.functions import HANDLER, MODES, PATIENCE, WORKERS, Telephone, running, start


@pytest.mark.parametrize("mode", MODES)
async def test_a_value_is_returned_unchanged(mode: str) -> None:
    """JSON values of every kind, any text, and several megabytes."""
    values: list[Any] = [None, True, 0, -1.5, "", "ä€😀\u2028\n\0", [], {}, {"a": [{"b": None}]}, "x" * 5_000_000]
    async with running(mode) as functions:
        for value in values:
            assert await functions.invoke("f", {"do": "answer", "value": value}) == value


@pytest.mark.parametrize("mode", MODES)
async def test_an_exception_is_the_functions_error(mode: str) -> None:
    """In any alphabet, and however deep it was raised."""
    async with running(mode) as functions:
        for message in ("no such user", "", "ä€😀\n\r\nX: y"):
            for depth in (0, 300):
                with pytest.raises(FunctionError) as raised:
                    await functions.invoke("f", {"do": "raise", "message": message, "depth": depth})
                assert (raised.value.error_type, raised.value.message) == ("LookupError", message)
        assert await functions.invoke("f", {"do": "answer", "value": 1}) == 1


@pytest.mark.parametrize("mode", MODES)
async def test_a_value_that_is_not_json_is_the_functions_error(mode: str) -> None:
    """The function fails with AWS's error."""
    async with running(mode) as functions:
        with pytest.raises(FunctionError, match=r"Runtime\.MarshalError: .*object is not JSON serializable"):
            await functions.invoke("f", {"do": "answer nonsense"})


@pytest.mark.parametrize("mode", MODES)
async def test_events_and_responses_have_lambdas_size_limit(mode: str) -> None:
    """Above 6 MB neither is delivered."""
    async with running(mode) as functions:
        with pytest.raises(FunctionError, match="RequestTooLargeException"):
            await functions.invoke("f", {"do": "answer", "value": "x" * LARGEST_PAYLOAD})
        with pytest.raises(FunctionError, match=r"Function\.ResponseSizeTooLarge"):
            await functions.invoke("f", {"do": "answer much", "bytes": LARGEST_PAYLOAD})
        assert len(await functions.invoke("f", {"do": "answer much", "bytes": LARGEST_PAYLOAD - 2})) == 6_291_554


@pytest.mark.parametrize("mode", MODES)
async def test_a_handler_may_end_its_process(mode: str) -> None:
    """That event fails; the next has a new execution environment."""
    async with running(mode) as functions:
        with pytest.raises(FunctionError, match=r"Runtime\.ExitError: .*exit status 3"):
            await functions.invoke("f", {"do": "exit", "status": 3})
        assert (await functions.invoke("f", {"do": "tell"}))["served"] == 1


@pytest.mark.parametrize("mode", MODES)
async def test_a_handler_may_time_out(mode: str, telephone: Telephone) -> None:
    """That event fails with AWS's error; the next has a new execution environment."""
    async with running(mode, f=Function(HANDLER, timeout=0.5)) as functions:
        with pytest.raises(FunctionError, match=r"Sandbox\.Timedout: RequestId: .* Task timed out after 0\.50 seconds"):
            await functions.invoke("f", {"do": "call", "port": telephone.port})
        line = await telephone.answer()
        if mode in WORKERS:
            await line.dead()
        assert (await functions.invoke("f", {"do": "tell"}))["served"] == 1
        line.say("too late")


@pytest.mark.parametrize("mode", MODES)
async def test_the_context_is_lambdas(mode: str) -> None:
    """It has the function's name, ARN and memory, the request, and the remaining time."""
    environment = {"AWS_REGION": "eu-north-1"}
    async with running(mode, environment=environment, beat=Function(HANDLER, timeout=7, memory=256)) as functions:
        first, second = [await functions.invoke("beat", {"do": "tell"}) for _ in range(2)]
    assert first["name"] == "beat"
    assert first["arn"] == "arn:aws:lambda:eu-north-1:000000000000:function:beat"
    assert 5000 < first["remaining"] <= 7000
    assert isinstance(first["remaining"], int)
    assert first["request"] != second["request"]
    assert (first["served"], second["served"]) == (1, 2)


@pytest.mark.parametrize("mode", MODES)
async def test_a_function_that_cannot_be_imported_says_why(mode: str) -> None:
    """Every event fails with the reason, and other functions work."""
    async with running(
        mode,
        f=Function(HANDLER),
        absent=Function("tests.support.absent.handler"),
        nameless=Function("tests.support.handlers.nobody"),
        broken=Function("tests.support.broken_handler.handler"),
    ) as functions:
        for name, words in {
            "absent": r"Runtime\.ImportModuleError: Unable to import module 'tests\.support\.absent'",
            "nameless": r"Runtime\.HandlerNotFound: Handler 'nobody' missing on module 'tests\.support\.handlers'",
            "broken": "LookupError: no settings",
            "unknown": "ResourceNotFoundException: Function not found: unknown",
        }.items():
            for _ in range(2):
                with pytest.raises(FunctionError, match=words):
                    await functions.invoke(name, {})
        assert await functions.invoke("f", {"do": "answer", "value": 1}) == 1


@pytest.mark.parametrize("mode", MODES)
async def test_an_environment_has_one_event_at_a_time(mode: str, telephone: Telephone) -> None:
    """An event that arrives while one is busy goes to another, which shares nothing with it."""
    async with running(mode) as functions:
        held = start(functions, {"do": "call", "port": telephone.port})
        line = await telephone.answer()
        assert (await functions.invoke("f", {"do": "tell"}))["served"] == 1
        line.say("go on")
        assert await held == {"said": "go on", "served": 1}


@pytest.mark.parametrize("mode", MODES)
async def test_an_event_without_a_free_environment_is_throttled(mode: str, telephone: Telephone) -> None:
    """If a function may have no more environments, an event waits for one, and is throttled after some time."""
    async with running(mode, policy=Policy(throttle_after=1), f=Function(HANDLER, most=1)) as functions:
        held = start(functions, {"do": "call", "port": telephone.port})
        line = await telephone.answer()
        with pytest.raises(Throttled):
            await functions.invoke("f", {"do": "answer", "value": 1})
        waiting = start(functions, {"do": "answer", "value": 2})
        line.say("go on")
        assert (await held)["said"] == "go on"
        assert await waiting == 2


@pytest.mark.parametrize("mode", MODES)
async def test_a_canceled_caller_does_not_stop_the_handler(mode: str, telephone: Telephone) -> None:
    """The handler finishes, and its environment takes the next event."""
    async with running(mode) as functions:
        held = start(functions, {"do": "call", "port": telephone.port})
        line = await telephone.answer()
        held.cancel()
        await asyncio.wait([held])
        line.say("go on")
        async with asyncio.timeout(PATIENCE):
            while (await functions.invoke("f", {"do": "tell"}))["served"] < 2:
                pass


@pytest.mark.parametrize("mode", MODES)
async def test_a_thousand_parallel_events_get_their_own_responses(mode: str) -> None:
    """No response is mixed up."""
    async with running(mode, policy=Policy(throttle_after=PATIENCE), a=Function(HANDLER), b=Function(HANDLER)) as both:
        events = [("ab"[number % 2], number) for number in range(1000)]
        answers = await asyncio.gather(*(both.invoke(name, {"do": "answer", "value": n}) for name, n in events))
    assert answers == list(range(1000))
