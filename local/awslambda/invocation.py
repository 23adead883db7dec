"""An invocation, wherever the handler runs: the function, the event, the response and the errors.

Handlers run in `environment.py` (worker processes) or `inprocess.py` (threads).
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
"""Bytes of an event or a response: Lambda's quota for a synchronous invocation."""


class FunctionError(Exception):
    """The function failed: its handler raised, its process died, it could not be imported, or it timed out.

    `error_type` is the name of the handler's exception, or AWS's name (`Sandbox.Timedout`, `Runtime.ExitError`,
    `Runtime.ImportModuleError`). `message` is what AWS would return as `errorMessage`.
    """

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(f"{error_type}: {message}")
        self.error_type = error_type
        self.message = message

    @classmethod
    def from_json(cls, error: bytes | str) -> FunctionError:
        """The error that a runtime client reports: an object with `errorType` and `errorMessage`."""
        report = json.loads(error)
        return cls(report["errorType"], report["errorMessage"])


@dataclass(frozen=True, slots=True)
class Function:
    """A function's configuration. `timeout` is in seconds, `memory` in MB (passed to the function, not enforced)."""

    handler: str
    timeout: float = 29.0
    memory: int = 512
    most: int = 4
    """How many execution environments it may have."""


@dataclass(slots=True, eq=False)
class Call:
    """An event for a function; `answer` becomes the JSON text that the function returns."""

    event: bytes
    since: float
    answer: asyncio.Future[bytes]
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def succeed(self, answer: bytes) -> None:
        """Return `answer` to the caller, if it still waits."""
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Return `error` to the caller, if it still waits."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Throttled(Exception):
    """The event waited too long for an execution environment; the function did not receive it."""


class Invoker(Protocol):
    """Invokes the service's functions by name."""

    async def invoke(self, name: str, event: dict[str, Any]) -> Any:
        """The JSON value that function `name` returns for `event`.

        Raises:
            FunctionError: the handler raised, its process died, or it timed out.
            Throttled: no execution environment was free in time.
        """


def variables_of(name: str, function: Function, given: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that Lambda sets for function `name`, and `given`.

    From AWS's "Defined runtime environment variables". The variables of a single execution environment are added when
    it starts.
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
    """AWS's error for an invocation that timed out."""
    text = f"RequestId: {request_id} Error: Task timed out after {function.timeout:.2f} seconds"
    return FunctionError("Sandbox.Timedout", text)


def exit_error(request_id: str, how: str) -> FunctionError:
    """AWS's error for an invocation whose process ended; `how` is `exit status 1` or `signal: killed`."""
    return FunctionError("Runtime.ExitError", f"RequestId: {request_id} Error: Runtime exited with error: {how}")


def function_arn(name: str, given: Mapping[str, str]) -> str:
    """The function's ARN, as in `context.invoked_function_arn`."""
    return f"arn:aws:lambda:{given.get('AWS_REGION', 'us-east-1')}:{ACCOUNT}:function:{name}"


def require(name: str, functions: Mapping[str, Function]) -> Function:
    """The function of that name; raises AWS's FunctionError if there is none."""
    if name not in functions:
        raise FunctionError("ResourceNotFoundException", f"Function not found: {name}")
    return functions[name]


def encode(event: dict[str, Any]) -> bytes:
    """The JSON text of an event; raises FunctionError if it is too large."""
    body = json.dumps(event).encode()
    if len(body) > LARGEST_PAYLOAD:
        raise FunctionError("RequestTooLargeException", f"Request must be smaller than {LARGEST_PAYLOAD} bytes")
    return body


def decode(answer: bytes) -> Any:
    """The value of a function's JSON text; raises FunctionError if it is too large."""
    if len(answer) > LARGEST_PAYLOAD:
        text = f"Response payload size exceeded maximum allowed payload size ({LARGEST_PAYLOAD} bytes)."
        raise FunctionError("Function.ResponseSizeTooLarge", text)
    return json.loads(answer)
