"""`sync`, `get_presence`, `leave`, and `$default`, where whatever is not a message is told so."""

from __future__ import annotations

from typing import Any

from shared.events import Event, body_of, connection_of
from shared.messages import parse_message
from shared.runtime import entrypoint, service


@entrypoint
def handler(event: Event, context: Any) -> dict[str, Any]:
    service().receive(connection_of(event), parse_message(body_of(event)))
    return {"statusCode": 200}
