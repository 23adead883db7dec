"""What an invocation is, wherever the handler runs: the function, the event, the answer and what can go wrong.

Where handlers run is the matter of `sandbox.py` (worker processes) and `inprocess.py` (threads).
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from local.iam import ACCOUNT

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds `functions` and `shared`: Lambda's `/var/task`."""
LARGEST_PAYLOAD = 6_291_556
"""Bytes of an event or an answer: Lambda's quota of a synchronous invocation."""


class FunctionError(Exception):
    """The function failed: its handler raised, its process died, it could not be imported, or its time was over.

    `error_type` is the name of the handler's exception or AWS's word (`Sandbox.Timedout`, `Runtime.ExitError`,
    `Runtime.ImportModuleError`); `message` is what AWS would answer as `errorMessage`.
    """

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(f"{error_type}: {message}")
        self.error_type = error_type
        self.message = message

    @classmethod
    def from_json(cls, error: bytes | str) -> FunctionError:
        """The error that a runtime client reports: an object with `errorType` and `errorMessage`."""
        told = json.loads(error)
        return cls(told["errorType"], told["errorMessage"])


@dataclass(frozen=True, slots=True)
class Function:
    """What a function is to Lambda. `timeout` is in seconds, `memory` in MB (told to the function, not enforced)."""

    handler: str
    timeout: float = 29.0
    memory: int = 512
    most: int = 4
    """How many sandboxes it may have at once."""


@dataclass(slots=True, eq=False)
class Call:
    """An event on its way to a function; `answer` gets the JSON text that the function returned."""

    event: bytes
    since: float
    answer: asyncio.Future[bytes]
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def succeed(self, answer: bytes) -> None:
        """Hand `answer` to who waits, if anybody still does."""
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Hand `error` to who waits, if anybody still does."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Throttled(Exception):
    """The event waited too long for a sandbox and was never given to the function."""


class Invoker(Protocol):
    """What can invoke the service's functions by name."""

    async def invoke(self, name: str, event: dict[str, Any]) -> Any:
        """The JSON value that function `name` answers `event` with.

        Raises:
            FunctionError: the handler raised, its process died, or it timed out.
            Throttled: no sandbox was free in time.
        """


def environment_of(name: str, function: Function, given: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that Lambda sets for function `name`, with `given` beside them.

    From AWS's "Defined runtime environment variables"; those of the sandbox alone are added when it starts.
    """
    region = given.get("AWS_REGION", "us-east-1")
    return {
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "LAMBDA_TASK_ROOT": str(ROOT),
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "_HANDLER": function.handler,
        **given,
    }


def timeout_error(request_id: str, function: Function) -> FunctionError:
    """AWS's words for an invocation whose time is over."""
    words = f"RequestId: {request_id} Error: Task timed out after {function.timeout:.2f} seconds"
    return FunctionError("Sandbox.Timedout", words)


def exit_error(request_id: str, how: str) -> FunctionError:
    """AWS's words for an invocation whose process ended: `how` is `exit status 1` or `signal: killed`."""
    return FunctionError("Runtime.ExitError", f"RequestId: {request_id} Error: Runtime exited with error: {how}")


def function_arn(name: str, given: Mapping[str, str]) -> str:
    """The function's ARN, as `context.invoked_function_arn` has it."""
    return f"arn:aws:lambda:{given.get('AWS_REGION', 'us-east-1')}:{ACCOUNT}:function:{name}"


def require(name: str, functions: Mapping[str, Function]) -> Function:
    """The function of that name; raises FunctionError in AWS's words when there is none."""
    if name not in functions:
        raise FunctionError("ResourceNotFoundException", f"Function not found: {name}")
    return functions[name]


def encode(event: dict[str, Any]) -> bytes:
    """The JSON text of an event; raises FunctionError when it is too large."""
    body = json.dumps(event).encode()
    if len(body) > LARGEST_PAYLOAD:
        raise FunctionError("RequestTooLargeException", f"Request must be smaller than {LARGEST_PAYLOAD} bytes")
    return body


def decode(answer: bytes) -> Any:
    """The value of a JSON text that a function answered; raises FunctionError when it is too large."""
    if len(answer) > LARGEST_PAYLOAD:
        words = f"Response payload size exceeded maximum allowed payload size ({LARGEST_PAYLOAD} bytes)."
        raise FunctionError("Function.ResponseSizeTooLarge", words)
    return json.loads(answer)
