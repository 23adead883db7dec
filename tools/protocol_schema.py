"""Generates the JSON Schema of the WebSocket protocol from the types in `shared.messages`.

Rules that a schema cannot express, such as that an `until` must lie in the future, are in docs/protocol.md.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from shared.frames import MAX_FRAME_BYTES, Frame
from shared.messages import MAX_MESSAGE_BYTES, PROTOCOL_VERSION, Message


class Untitled(GenerateJsonSchema):
    """Leaves out the titles that pydantic derives from field names: they add nothing."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002, D102 - pydantic's signature
        return False


def document() -> dict[str, Any]:
    """The document, in JSON Schema 2020-12. A text frame matches one of its two top definitions, by direction."""
    adapters: list[tuple[str, Any, TypeAdapter[Any]]] = [
        ("Message", "validation", TypeAdapter(Message)),
        ("Frame", "validation", TypeAdapter(Frame)),
    ]
    top, definitions = TypeAdapter.json_schemas(adapters, schema_generator=Untitled)
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
