"""`make schemas`: writes the generated descriptions of the two APIs. A test fails while they are out of date.

`docs/protocol.schema.json` describes the WebSocket, `functions/api/openapi.json` the HTTP API. The second file is part
of the function `api`, which serves it as it is: no Lambda carries the generator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tools import openapi, protocol_schema

ROOT = Path(__file__).parent.parent
DOCUMENTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "docs/protocol.schema.json": protocol_schema.document,
    "functions/api/openapi.json": openapi.document,
}
"""Each file, and what generates it."""


def text(document: Mapping[str, Any]) -> str:
    """A document as its file holds it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all files."""
    for path, generate in DOCUMENTS.items():
        (ROOT / path).write_text(text(generate()), "utf-8")


if __name__ == "__main__":
    main()
