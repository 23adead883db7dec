"""What a warm execution environment keeps for handlers that use the service, and how a message's error is answered."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from shared.delivery import Unavailable
from shared.events import Event, body_of, connection_of
from shared.messages import MessageRefused, id_of
from shared.presence import PresenceService
from shared.push import Pusher
from shared.runtime import Handler, entrypoint, logger, metrics, now_ms, settings, user_of
from shared.store import Store


@functools.cache
def store() -> Store:
    """The state."""
    return Store.connect(settings(), metrics())


@functools.cache
def pusher() -> Pusher:
    """What reaches clients."""
    return Pusher(settings(), metrics())


@functools.cache
def service() -> PresenceService:
    """The service: created with the first event, kept while the environment is warm."""
    return PresenceService(store(), pusher(), settings(), now_ms, metrics())


def message_entrypoint(handler: Callable[[Event], None]) -> Handler:
    """An `entrypoint` for messages. A refused message, or one that cannot be handled now, is answered with an error
    frame.
    """

    @functools.wraps(handler)
    def handle(event: Event, context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes a context
        try:
            handler(event)
        except MessageRefused as error:
            service().refuse(connection_of(event), error)
        except Unavailable as error:
            logger.warning("unavailable", user=user_of(event), reason=str(error))
            text, wait = "presence is unavailable; try again", error.retry_after
            unavailable = MessageRefused("unavailable", text, id=id_of(body_of(event)), retry_after=wait)
            service().refuse(connection_of(event), unavailable)
        return {"statusCode": 200}

    return entrypoint(handle)
