"""API Gateway's events, as small typed objects. Handlers read no event themselves.

Source: Amazon API Gateway Developer Guide, "Set up WebSocket API integration requests" and "REQUEST Lambda
authorizers"; each function repeats what it relies on.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from shared.connection import Connection
from shared.messages import DEVICE_ID, PROTOCOL_VERSION
from shared.responses import DeviceType
from shared.settings import OnlineStatus

SUBPROTOCOL = "presence.v2"
"""Browsers offer it before the token when the token is sent as a WebSocket subprotocol."""

Event = Mapping[str, Any]


class HandshakeRefused(ValueError):
    """A handshake with a value that the protocol does not have; the message names it."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a client sends in the URL, before it is authenticated.

    The authorizer's event and `$connect` both have it. Only `$connect` can answer 400, so only it calls `check`.
    """

    version: str
    token: str
    device_id: str
    device_type: str
    platform: str
    status: str
    active: str

    @classmethod
    def of(cls, event: Event, token_source: str) -> Handshake:
        """Read a handshake; a `$connect` without a query has no `queryStringParameters` at all."""
        query = event.get("queryStringParameters") or {}
        offered = _offered(event)
        token = offered[1] if len(offered) > 1 else ""
        device_type = query.get("deviceType") or "web"
        return cls(
            version=query.get("v") or PROTOCOL_VERSION,
            token=token if token_source == "subprotocol" else query.get("token") or "",
            device_id=query.get("deviceId") or "",
            device_type=device_type if device_type in get_args(DeviceType) else "web",
            platform=(query.get("platform") or "")[:64],
            status=query.get("status") or "",
            active=query.get("active") or "true",
        )

    def check(self) -> None:
        """Refuse values that the protocol does not have.

        Raises:
            HandshakeRefused: with what is wrong.
        """
        if self.version != PROTOCOL_VERSION:
            raise HandshakeRefused(f"v={self.version} is not a version of this protocol; {PROTOCOL_VERSION} is")
        if self.device_id and not DEVICE_ID.match(self.device_id):
            raise HandshakeRefused("deviceId is 1 to 64 characters of A-Z a-z 0-9 . _ -")
        if self.status and self.status not in get_args(OnlineStatus):
            raise HandshakeRefused("status is online, busy or away")
        if self.active not in ("true", "false"):
            raise HandshakeRefused("active is true or false")

    def context(self, user_id: str, issued_at: int, expires_at: int) -> dict[str, str]:
        """The authorizer's context, which is on every later event of the connection: strings, as API Gateway
        requires.
        """
        return {
            "userId": user_id,
            "iat": str(issued_at),
            "exp": str(expires_at),
            "deviceId": self.device_id if DEVICE_ID.match(self.device_id) else "",
            "deviceType": self.device_type,
            "platform": self.platform,
            "status": self.status if self.status in get_args(OnlineStatus) else "",
            "active": "false" if self.active == "false" else "true",
        }


def _offered(event: Event) -> list[str]:
    """The subprotocols that a client offers. Header names are in the client's case."""
    headers = event.get("headers") or {}
    line = next((value for name, value in headers.items() if name.lower() == "sec-websocket-protocol"), "")
    return [part.strip() for part in line.split(",") if part.strip()]


def accepted_protocol(event: Event) -> dict[str, str]:
    """The header with which `$connect` accepts an offered protocol; without it, the browser closes the connection."""
    return {"Sec-WebSocket-Protocol": SUBPROTOCOL} if SUBPROTOCOL in _offered(event) else {}


def policy(event: Event, user_id: str, context: Mapping[str, str]) -> dict[str, Any]:
    """An authorizer's response that allows this one handshake."""
    return {
        "principalId": user_id,
        "policyDocument": _document("Allow", event["methodArn"]),
        "context": dict(context),
    }


def denial(event: Event) -> dict[str, Any]:
    """An authorizer's response that refuses a handshake with 403, without a reason."""
    return {"principalId": "nobody", "policyDocument": _document("Deny", event["methodArn"])}


def _document(effect: str, arn: str) -> dict[str, Any]:
    statement = {"Action": "execute-api:Invoke", "Effect": effect, "Resource": arn}
    return {"Version": "2012-10-17", "Statement": [statement]}


def connection_of(event: Event) -> Connection:
    """The connection of an event, as the authorizer vouched for it.

    `$connect`, messages and `$disconnect` all have the authorizer's context, and the same `connectedAt`.
    """
    about = event["requestContext"]
    vouched = about["authorizer"]
    return Connection(
        user_id=vouched["userId"],
        id=about["connectionId"],
        connected_at=int(about["connectedAt"]),
        token_issued_at=int(vouched["iat"]),
        token_expires_at=int(vouched["exp"]),
        device_id=vouched["deviceId"],
        device_type=vouched["deviceType"],
        status=vouched["status"] or None,
        active=vouched["active"] == "true",
    )


def body_of(event: Event) -> str:
    """The text of a message. Bytes that are not UTF-8 become text that is not a message."""
    body: str = event.get("body") or ""
    return base64.b64decode(body).decode("utf-8", "replace") if event.get("isBase64Encoded") else body
