"""The HTTP API: calls of users without a WebSocket, calls of the application's backend, and the service's health."""

from __future__ import annotations

from typing import Any

from functions.api import routes as _routes  # noqa: F401 - the calls register themselves
from functions.api.resolver import answer
from shared.events import Event
from shared.runtime import entrypoint


@entrypoint
def handler(event: Event, context: Any) -> dict[str, Any]:
    return answer(event, context)
