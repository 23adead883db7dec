"""A Lambda handler for the tests of `local`: it does what the event requests, well or badly.

Execution environments import it as `tests.support.handlers.handler`.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

served = 0
kept: list[socket.socket] = []


def handler(event: dict[str, Any], context: Any) -> Any:
    """Do `event["do"]`, one of the functions below."""
    global served  # noqa: PLW0603 - what a warm execution environment keeps from one event to the next
    served += 1
    deeds: dict[str, Callable[[dict[str, Any], Any], Any]] = {
        "answer": lambda event, _: event["value"],
        "raise": fail,
        "answer nonsense": lambda *_: {"connection": object()},
        "answer much": lambda event, _: "x" * event["bytes"],
        "exit": lambda event, _: sys.exit(event["status"]),
        "tell": tell,
        "write": write,
        "call": call,
        "answer another event": answer_another_event,
        "read": lambda *_: sys.stdin.read(),
    }
    return deeds[event["do"]](event, context)


def fail(event: dict[str, Any], _: Any) -> None:
    """Raise an error `depth` calls deep."""
    if event.get("depth"):
        fail({**event, "depth": event["depth"] - 1}, _)
    raise LookupError(event["message"])


def tell(_: dict[str, Any], context: Any) -> dict[str, Any]:
    """What the handler finds in its environment."""
    return {
        "name": context.function_name,
        "arn": context.invoked_function_arn,
        "request": context.aws_request_id,
        "memory": context.memory_limit_in_mb,
        "remaining": context.get_remaining_time_in_millis(),
        "environment": dict(os.environ),
        "served": served,
        "thread": threading.current_thread().name,
        "directory": os.getcwd(),  # noqa: PTH109 - as the system returns it, not as pathlib changes it
    }


def write(event: dict[str, Any], _: Any) -> None:
    """Write to both outputs."""
    sys.stdout.write(event["out"])
    sys.stderr.write(event["err"])


def call(event: dict[str, Any], _: Any) -> dict[str, Any]:
    """Call the test at `port` and wait for a line; with `keep`, leave the connection open afterwards."""
    line = socket.create_connection(("127.0.0.1", event["port"]))
    if event.get("keep"):
        kept.append(line)
    with line.makefile("rb") as lines:
        received = lines.readline().decode().strip()
    if not event.get("keep"):
        line.close()
    return {"said": received, "served": served}


def answer_another_event(*_: Any) -> int:
    """Respond to an event that this execution environment did not receive; returns the Runtime API's status."""
    api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    api.request("POST", "/2018-06-01/runtime/invocation/another/response", b"{}")
    status = api.getresponse().status
    api.close()
    return status
