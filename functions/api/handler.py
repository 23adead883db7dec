"""The HTTP API: what the application's backend asks for, and the health of the service."""

from __future__ import annotations

from typing import Any

from functions.api.routes import answer
from shared.events import Event
from shared.runtime import entrypoint


@entrypoint
def handler(event: Event, context: Any) -> dict[str, Any]:
    return answer(event, context)
