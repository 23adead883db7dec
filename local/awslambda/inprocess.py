"""The functions in threads of this process, for a debugger and for tests. No worker process starts here."""

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

from local.awslambda.functions import LAPTOP, SERVICE, Policy
from local.awslambda.invocation import (
    Call,
    Function,
    FunctionError,
    Throttled,
    decode,
    encode,
    exit_error,
    function_arn,
    require,
    timeout_error,
    variables_of,
)

Handler = Callable[[Any, Any], Any]

OWN = ("functions", "shared")
"""The packages of which every execution environment has its own copy."""


class InProcess:
    """The functions in this process, while it is entered (`async with`).

    As in workers, an execution environment (here: its own copy of the service's modules) handles one event at a time,
    events and responses are JSON, and AWS's own code calls the handler and formats its errors.

    Differences: environment variables are those of this process, set on entering and restored on leaving. A thread
    cannot be killed, so a handler that timed out continues, its response is ignored, and its environment gets no more
    events. A start blocks the event loop. Handlers write to this process's output.
    """

    def __init__(
        self,
        variables: Mapping[str, str],
        *,
        functions: Mapping[str, Function] = SERVICE,
        policy: Policy = LAPTOP,
    ) -> None:
        self._variables = variables
        self._functions = functions
        self._policy = policy
        self._before: dict[str, str] = {}
        self._places: dict[str, asyncio.Semaphore] = {}
        self._idle: dict[str, list[Handler]] = {}

    async def __aenter__(self) -> Self:
        self._before = dict(os.environ)
        os.environ.update(variables_of("in-process", Function(""), self._variables))
        self._places = {name: asyncio.Semaphore(function.most) for name, function in self._functions.items()}
        self._idle = {name: [] for name in self._functions}
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in os.environ.keys() - self._before.keys():
            del os.environ[name]
        os.environ.update(self._before)

    async def invoke(self, name: str, event: dict[str, Any]) -> Any:
        """The JSON value that function `name` returns for `event`; raises what `Functions.invoke` raises."""
        function = require(name, self._functions)
        body = encode(event)
        place = self._places[name]
        try:
            async with asyncio.timeout(self._policy.throttle_after):
                await place.acquire()
        except TimeoutError:
            raise Throttled(
                f"{name}: no execution environment was free for {self._policy.throttle_after:g} s"
            ) from None
        try:
            handler = self._idle[name].pop() if self._idle[name] else _load(name, function)
        except FunctionError:
            place.release()
            raise

        loop = asyncio.get_running_loop()
        call = Call(body, loop.time(), loop.create_future())

        def over(answer: asyncio.Future[bytes]) -> None:
            if answer.exception() is None or not isinstance(answer.exception(), _Exit):
                self._idle[name].append(handler)
            place.release()

        call.answer.add_done_callback(over)
        arguments = (handler, function, function_arn(name, self._variables), call, loop)
        threading.Thread(target=_run, args=arguments, name=name, daemon=True).start()
        try:
            async with asyncio.timeout(function.timeout):
                return decode(await asyncio.shield(call.answer))
        except TimeoutError:
            call.answer.remove_done_callback(over)
            place.release()
            raise timeout_error(call.request_id, function) from None


class _Exit(FunctionError):
    """The handler ended its process, and thereby its execution environment."""


class _Answers:
    """Stands in for the client of the Runtime API in AWS's code: it passes one response from the thread to the loop."""

    marshaller = LambdaMarshaller()

    def __init__(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        self._call = call
        self._loop = loop

    def post_invocation_result(self, _id: str, answer: str | bytes, *_: object) -> None:
        self._pass(self._call.succeed, answer if isinstance(answer, bytes) else answer.encode())

    def post_invocation_error(self, _id: str, error: str, *_: object) -> None:
        self.fail(FunctionError.from_json(error))

    def fail(self, error: FunctionError) -> None:
        self._pass(self._call.fail, error)

    def log_error(self, lines: list[str]) -> None:
        sys.stderr.write("\n".join(lines) + "\n")

    def _pass(self, what: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # The loop ended before the handler.
            self._loop.call_soon_threadsafe(what, value)


def _load(name: str, function: Function) -> Handler:
    """The handler of a new execution environment, imported with copies of its module and of the service's packages."""
    module = function.handler.rpartition(".")[0]

    def own() -> list[str]:
        return [known for known in sys.modules if known == module or known.partition(".")[0] in OWN]

    others = {known: sys.modules.pop(known) for known in own()}
    os.environ["AWS_LAMBDA_FUNCTION_NAME"] = name
    try:
        handler: Handler = bootstrap._get_handler(function.handler)  # noqa: SLF001 - it makes AWS's import errors
    except FaultException as error:
        raise FunctionError(error.exception_type, error.msg) from None
    except Exception as error:
        raise FunctionError(type(error).__name__, str(error)) from error
    finally:
        for known in own():
            del sys.modules[known]
        sys.modules.update(others)

    def named(event: Any, context: Any) -> Any:
        context.function_name = name  # AWS's code reads it from an environment variable; all functions share these.
        return handler(event, context)

    return named


def _run(handler: Handler, function: Function, arn: str, call: Call, loop: asyncio.AbstractEventLoop) -> None:
    answers = _Answers(call, loop)
    deadline = int((time.time() + function.timeout) * 1000)
    try:
        bootstrap.handle_event_request(
            answers, handler, call.request_id, call.event, "application/json", None, None, arn, deadline, None, answers
        )
    except SystemExit as error:
        ended = exit_error(call.request_id, f"exit status {error.code}")
        answers.fail(_Exit(ended.error_type, ended.message))
