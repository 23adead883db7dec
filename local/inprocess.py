"""The functions in threads of this process, for a debugger and for tests; no worker process is started here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from awslambdaric import bootstrap
from awslambdaric.lambda_runtime_exception import FaultException
from awslambdaric.lambda_runtime_marshaller import LambdaMarshaller

from local.awslambda import LAPTOP, SERVICE, Policy
from local.invocation import (
    Call,
    Function,
    FunctionError,
    Throttled,
    decode,
    encode,
    environment_of,
    exit_error,
    function_arn,
    require,
    timeout_error,
)


class InProcess:
    """The functions in threads of this process, while it is entered (`async with`): for a debugger and for tests.

    The event and the answer go through JSON, and AWS's own code calls the handler and words its errors, as in a worker.
    What differs: all functions share one memory and one environment, which is set on entering (a handler reads its
    settings once, so enter before it is first imported) and restored on leaving; a thread cannot be killed, so
    a handler whose time is over works on, unheard; what handlers write goes to this process's output.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        functions: Mapping[str, Function] = SERVICE,
        policy: Policy = LAPTOP,
    ) -> None:
        self._environment = environment
        self._functions = functions
        self._policy = policy
        self._before: dict[str, str] = {}
        self._free: dict[str, asyncio.Semaphore] = {}

    async def __aenter__(self) -> Self:
        self._before = dict(os.environ)
        os.environ.update(environment_of("in-process", Function(""), self._environment))
        self._free = {name: asyncio.Semaphore(function.most) for name, function in self._functions.items()}
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in os.environ.keys() - self._before.keys():
            del os.environ[name]
        os.environ.update(self._before)

    async def invoke(self, name: str, event: dict[str, Any]) -> Any:
        """The JSON value that function `name` answers `event` with; raises what `Functions.invoke` raises."""
        function = require(name, self._functions)
        body = encode(event)
        try:
            async with asyncio.timeout(self._policy.throttle_after):
                await self._free[name].acquire()
        except TimeoutError:
            raise Throttled(f"{name}: no thread was free for {self._policy.throttle_after:g} s") from None
        loop = asyncio.get_running_loop()
        call = Call(body, loop.time(), loop.create_future())
        arguments = (name, function, function_arn(name, self._environment), call, loop)
        threading.Thread(target=_run, args=arguments, name=name, daemon=True).start()
        try:
            async with asyncio.timeout(function.timeout):
                return decode(await call.answer)
        except TimeoutError:
            raise timeout_error(call.request_id, function) from None
        finally:
            self._free[name].release()


class _Answers:
    """What AWS's code sees as its client of the Runtime API: it carries one answer from the thread to the loop."""

    marshaller = LambdaMarshaller()

    def __init__(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        self._call = call
        self._loop = loop

    def post_invocation_result(self, _id: str, answer: str | bytes, *_: object) -> None:
        self._tell(self._call.succeed, answer if isinstance(answer, bytes) else answer.encode())

    def post_invocation_error(self, _id: str, error: str, *_: object) -> None:
        self.fail(FunctionError.from_json(error))

    def fail(self, error: FunctionError) -> None:
        self._tell(self._call.fail, error)

    def log_error(self, lines: list[str]) -> None:
        sys.stderr.write("\n".join(lines) + "\n")

    def _tell(self, what: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # The loop has ended before the handler did.
            self._loop.call_soon_threadsafe(what, value)


def _run(name: str, function: Function, arn: str, call: Call, loop: asyncio.AbstractEventLoop) -> None:
    answers = _Answers(call, loop)
    deadline = int((time.time() + function.timeout) * 1000)
    try:
        handler = bootstrap._get_handler(function.handler)  # noqa: SLF001 - AWS's own words when it cannot be imported

        def named(event: Any, context: Any) -> Any:
            context.function_name = name  # AWS's code takes it from the environment, which all functions share here.
            return handler(event, context)

        bootstrap.handle_event_request(
            answers, named, call.request_id, call.event, "application/json", None, None, arn, deadline, None, answers
        )
    except FaultException as error:
        answers.fail(FunctionError(error.exception_type, error.msg))
    except SystemExit as error:
        answers.fail(exit_error(call.request_id, f"exit status {error.code}"))
    except Exception as error:  # noqa: BLE001 - whatever importing the handler raised is the function's error
        answers.fail(FunctionError(type(error).__name__, str(error)))
