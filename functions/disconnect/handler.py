"""`$disconnect`: a socket closed. API Gateway may not send it; a connection then ends with its TTL."""

from __future__ import annotations

from typing import Any

from shared.environment import service
from shared.events import Event, connection_of
from shared.runtime import entrypoint


@entrypoint
def handler(event: Event, context: Any) -> dict[str, Any]:
    connection = connection_of(event)
    service().set_user_offline(connection.user_id, connection.id)
    return {"statusCode": 200}
