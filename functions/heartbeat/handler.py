"""`heartbeat`: the connection is still here."""

from __future__ import annotations

from shared.environment import message_entrypoint, service
from shared.events import Event, body_of, connection_of
from shared.messages import parse_message


@message_entrypoint
def handler(event: Event) -> None:
    service().receive(connection_of(event), parse_message(body_of(event)))
