"""The WebSocket protocol as a JSON Schema, made of the types in `shared.messages`: `docs/protocol.schema.json`.

`python -m tools.protocol_schema` writes it anew; a test says when that is to be done. What a schema cannot say, such as
that an `until` must not be past, stands in docs/protocol.md. The HTTP side has an OpenAPI document, which it serves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from shared.messages import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, PROTOCOL_VERSION, Frame, Message

PATH = Path(__file__).parents[1] / "docs" / "protocol.schema.json"


class _Untitled(GenerateJsonSchema):
    """Fields have names; a title that is made of one says nothing more."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False


def schema() -> dict[str, Any]:
    """The document, JSON Schema 2020-12: a text frame of either side is one of its two definitions."""
    adapters: list[tuple[str, Any, TypeAdapter[Any]]] = [
        ("Message", "validation", TypeAdapter(Message)),
        ("Frame", "validation", TypeAdapter(Frame)),
    ]
    top, definitions = TypeAdapter.json_schemas(adapters, schema_generator=_Untitled)
    about = {
        "Message": f"What a client sends, at most {MAX_MESSAGE_BYTES} bytes.",
        "Frame": f"What the service sends, at most {MAX_FRAME_BYTES} bytes.",
    }
    sides = {name: {"description": about[name], **whole} for (name, _), whole in top.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"The presence protocol, version {PROTOCOL_VERSION}",
        "description": "Text frames of the WebSocket, in both directions. docs/protocol.md says what they mean.",
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in sides],
        "$defs": {**sides, **definitions["$defs"]},
    }


def text(document: Mapping[str, Any]) -> str:
    """The document as it is kept."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(schema()), "utf-8")
