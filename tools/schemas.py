"""`make schemas`: writes the generated descriptions of the APIs and of the commands. A test fails while one is old.

`docs/protocol.schema.json` describes the WebSocket, `functions/api/openapi.json` the HTTP API, and `docs/commands.md`
the state machine. The second file is part of the function `api`, which serves it as it is: no Lambda carries the
generator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tools import lua, openapi, protocol_schema

ROOT = Path(__file__).parent.parent
DOCUMENTS: Mapping[str, Callable[[], dict[str, Any] | str]] = {
    "docs/commands.md": lua.document,
    "docs/protocol.schema.json": protocol_schema.document,
    "functions/api/openapi.json": openapi.document,
}
"""Each file, and what generates it."""


def text(document: Mapping[str, Any] | str) -> str:
    """A document as its file holds it."""
    return document if isinstance(document, str) else json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all files."""
    for path, generate in DOCUMENTS.items():
        (ROOT / path).write_text(text(generate()), "utf-8")


if __name__ == "__main__":
    main()
