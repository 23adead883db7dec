"""`$connect`: a socket opens. While Redis is unavailable it is let in all the same: its first heartbeat creates it."""

from __future__ import annotations

from typing import Any

from shared.delivery import Unavailable
from shared.environment import service
from shared.events import Event, Handshake, HandshakeRefused, accepted_protocol, connection_of
from shared.messages import LimitReached
from shared.runtime import entrypoint, settings


@entrypoint
def handler(event: Event, context: Any) -> dict[str, Any]:
    try:
        Handshake.of(event, settings().token_source).check()
        live = service().set_user_online(connection_of(event))
    except (HandshakeRefused, LimitReached) as error:
        return {"statusCode": 429 if isinstance(error, LimitReached) else 400, "body": str(error)}
    except Unavailable:
        live = True
    return {"statusCode": 200, "headers": accepted_protocol(event)} if live else {"statusCode": 403}
