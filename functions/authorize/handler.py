"""The authorizer: before `$connect`, verifies the token of the handshake."""

from __future__ import annotations

from typing import Any

from shared.auth import Authenticator, Refused
from shared.events import Event, Handshake, denial, policy
from shared.runtime import authenticator, entrypoint, logger, metrics, now_ms, settings


@entrypoint
def handler(event: Event, context: Any) -> dict[str, Any]:
    handshake = Handshake.of(event, settings().token_source)
    try:
        user = authenticator(Authenticator).verify(handshake.token, now_ms() / 1000)
    except Refused as error:
        logger.warning("token refused", reason=str(error))
        metrics().count("TokensRefused")
        return denial(event)
    return policy(event, user.user_id, handshake.context(user.user_id, user.issued_at, user.expires_at))
