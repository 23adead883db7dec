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

from local.awslambda.functions import LAPTOP, SERVICE, Policy
from local.awslambda.invocation import (
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

Handler = Callable[[Any, Any], Any]

OWN = ("functions", "shared")
"""The packages that every sandbox has a copy of."""


class InProcess:
    """The functions in this process, while it is entered (`async with`).

    As in workers, a sandbox (here: its own copy of the service's modules) handles one event at a time, events and
    answers are JSON, and AWS's own code calls the handler and words its errors.

    What differs: the environment is this process's, set on entering and restored on leaving; a thread cannot be killed,
    so a handler whose time is over works on, unheard, in a sandbox that gets no more events; a start blocks the event
    loop; what handlers write goes to this process's output.
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
        self._places: dict[str, asyncio.Semaphore] = {}
        self._idle: dict[str, list[Handler]] = {}

    async def __aenter__(self) -> Self:
        self._before = dict(os.environ)
        os.environ.update(environment_of("in-process", Function(""), self._environment))
        self._places = {name: asyncio.Semaphore(function.most) for name, function in self._functions.items()}
        self._idle = {name: [] for name in self._functions}
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in os.environ.keys() - self._before.keys():
            del os.environ[name]
        os.environ.update(self._before)

    async def invoke(self, name: str, event: dict[str, Any]) -> Any:
        """The JSON value that function `name` answers `event` with; raises what `Functions.invoke` raises."""
        function = require(name, self._functions)
        body = encode(event)
        place = self._places[name]
        try:
            async with asyncio.timeout(self._policy.throttle_after):
                await place.acquire()
        except TimeoutError:
            raise Throttled(f"{name}: no sandbox was free for {self._policy.throttle_after:g} s") from None
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
        arguments = (handler, function, function_arn(name, self._environment), call, loop)
        threading.Thread(target=_run, args=arguments, name=name, daemon=True).start()
        try:
            async with asyncio.timeout(function.timeout):
                return decode(await asyncio.shield(call.answer))
        except TimeoutError:
            call.answer.remove_done_callback(over)
            place.release()
            raise timeout_error(call.request_id, function) from None


class _Exit(FunctionError):
    """The handler ended its process: its sandbox is no more."""


class _Answers:
    """What AWS's code takes for its client of the Runtime API: it carries one answer from the thread to the loop."""

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


def _load(name: str, function: Function) -> Handler:
    """The handler of a new sandbox: imported with copies of its own module and of the service's packages."""
    module = function.handler.rpartition(".")[0]

    def own() -> list[str]:
        return [known for known in sys.modules if known == module or known.partition(".")[0] in OWN]

    others = {known: sys.modules.pop(known) for known in own()}
    os.environ["AWS_LAMBDA_FUNCTION_NAME"] = name
    try:
        handler: Handler = bootstrap._get_handler(function.handler)  # noqa: SLF001 - it words AWS's import errors
    except FaultException as error:
        raise FunctionError(error.exception_type, error.msg) from None
    except Exception as error:
        raise FunctionError(type(error).__name__, str(error)) from error
    finally:
        for known in own():
            del sys.modules[known]
        sys.modules.update(others)

    def named(event: Any, context: Any) -> Any:
        context.function_name = name  # AWS's code takes it from the environment, which all functions share here.
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
