"""docs/protocol.md says the truth: its examples are messages and frames."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict, TypeAdapter, with_config

from shared.messages import (
    ACTIONS,
    BatchFrame,
    ErrorFrame,
    PresenceFrame,
    QueryFrame,
    Record,
    SelfFrame,
    SnapshotFrame,
    parse_message,
)

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")
EXAMPLES = [
    (kind, json.loads(text)) for kind, text in re.findall(r"```json (client|server|record)\n(.+?)```", TEXT, re.DOTALL)
]
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


def _closed(frame: Any) -> TypeAdapter[Any]:
    """An adapter that refuses fields which the type does not name."""
    return TypeAdapter(with_config(ConfigDict(extra="forbid", strict=True))(frame))


@pytest.mark.parametrize("example", [value for kind, value in EXAMPLES if kind == "client"], ids=str)
def test_every_message_of_a_client_is_one(example: dict[str, Any]) -> None:
    """A message that the document shows is accepted by the service, and loses no field."""
    message = parse_message(json.dumps(example))
    assert set(example) <= set(type(message).model_fields)


@pytest.mark.parametrize("example", [value for kind, value in EXAMPLES if kind == "server"], ids=str)
def test_every_frame_of_the_service_is_one(example: dict[str, Any]) -> None:
    """A frame that the document shows has the fields of its type, and no other."""
    _closed(FRAMES[example["type"]]).validate_python(example)


@pytest.mark.parametrize("example", [value for kind, value in EXAMPLES if kind == "record"], ids=str)
def test_the_record_is_one(example: dict[str, Any]) -> None:
    """The record that the document shows is a whole one."""
    _closed(Record).validate_python(example)
    assert set(example) == set(Record.__annotations__)


def test_nothing_is_left_out() -> None:
    """Every action and every frame has an example."""
    assert {value["action"] for kind, value in EXAMPLES if kind == "client"} == set(ACTIONS)
    assert {value["type"] for kind, value in EXAMPLES if kind == "server"} == set(FRAMES)
