"""docs/protocol.md is right: its examples are valid messages, frames, bodies and responses; so is the schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from functions.api import routes
from functions.api.requests import ProblemDetails
from functions.api.resolver import OPERATIONS
from shared.frames import BatchFrame, ErrorFrame, PresenceFrame, QueryFrame, Record, SelfFrame, SnapshotFrame
from shared.messages import ACTIONS, parse_message
from tools.openapi import EXAMPLES as BODIES

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")
EXAMPLES = [
    (kind, json.loads(text)) for kind, text in re.findall(r"```json (client|server|record)\n(.+?)```", TEXT, re.DOTALL)
]
CALLS = re.findall(r"```json (body|answer) (\S+ \S+)\n(.+?)```", TEXT, re.DOTALL)
PROBLEMS = re.findall(r"```json problem\n(.+?)```", TEXT, re.DOTALL)
FRAMES: dict[str, Any] = {
    "user_online": PresenceFrame,
    "user_offline": PresenceFrame,
    "presence_status": PresenceFrame,
    "presence_batch": BatchFrame,
    "presence_self": SelfFrame,
    "presence_snapshot": SnapshotFrame,
    "presence": QueryFrame,
    "error": ErrorFrame,
}


def _check(kind: Any, example: Any) -> None:
    """An example is valid for this type and has no unknown field."""
    TypeAdapter(kind).validate_python(example, strict=True, extra="forbid")


@pytest.mark.parametrize("example", [value for kind, value in EXAMPLES if kind == "client"], ids=str)
def test_every_client_message_is_valid(example: dict[str, Any]) -> None:
    """The service accepts each message in the document without dropping a field."""
    message = parse_message(json.dumps(example))
    assert set(example) <= set(type(message).model_fields)


@pytest.mark.parametrize("example", [value for kind, value in EXAMPLES if kind == "server"], ids=str)
def test_every_frame_is_valid(example: dict[str, Any]) -> None:
    """Each frame in the document has exactly the fields of its type."""
    _check(FRAMES[example["type"]], example)


@pytest.mark.parametrize("example", [value for kind, value in EXAMPLES if kind == "record"], ids=str)
def test_the_record_is_complete(example: dict[str, Any]) -> None:
    """The record in the document has every field."""
    _check(Record, example)
    assert set(example) == set(Record.__annotations__)


def test_every_action_and_frame_type_has_an_example() -> None:
    """Every action and every frame type has an example."""
    assert {value["action"] for kind, value in EXAMPLES if kind == "client"} == set(ACTIONS)
    assert {value["type"] for kind, value in EXAMPLES if kind == "server"} == set(FRAMES)


# HTTP


@pytest.mark.parametrize(("kind", "call", "text"), CALLS, ids=[f"{kind} {call}" for kind, call, _ in CALLS])
def test_every_body_and_response_is_valid(kind: str, call: str, text: str) -> None:
    """Each body and response in the document has exactly the fields that its call reads or returns."""
    assert routes.__doc__
    [operation] = [o for o in OPERATIONS if f"{o.route.method} {o.route.path}" == call]
    if kind == "answer":
        _check(operation.answer, json.loads(text))
    else:
        assert operation.body
        body = operation.body.model_validate_json(text)
        assert set(json.loads(text)) == body.model_fields_set - {"scope"}


@pytest.mark.parametrize("text", PROBLEMS)
def test_the_problem_details_are_valid(text: str) -> None:
    """The problem details in the document have exactly their fields."""
    _check(ProblemDetails, json.loads(text))


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.body], ids=lambda o: o.function.__name__)
def test_every_openapi_example_is_a_valid_body(operation: Any) -> None:
    """Each call that reads a body has examples, and accepts them."""
    for example in BODIES[operation.function.__name__]:
        operation.body.model_validate_json(json.dumps(example))


def test_every_route_is_documented() -> None:
    """Each route of the HTTP API appears in the document."""
    documented = re.sub(r"`([A-Z]+)`, `([A-Z]+) (/v1/[^`? ]+)`", r"`\1 \3` `\2 \3`", TEXT)
    for operation in OPERATIONS:
        assert f"`{operation.route.method} {operation.route.path}" in documented, operation.route
