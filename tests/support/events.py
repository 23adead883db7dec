"""Events as API Gateway sends them, key for key: a handler's input, without a gateway.

The shapes are those of captured events (AWS's developer guide and the fixtures of Powertools for AWS Lambda): a
`$connect` has headers and no body, a message has a body and no headers, a `$disconnect` may have a code and a reason,
and all three carry the authorizer's context as strings.
"""

from __future__ import annotations

from typing import Any

Event = dict[str, Any]

API, STAGE = "gw2ab3cd4e", "live"
METHOD_ARN = f"arn:aws:execute-api:eu-central-1:123456789012:{API}/{STAGE}/$connect"


def vouched(user_id: str, issued_at: int, expires_at: int, **more: str) -> dict[str, Any]:
    """The authorizer's context as events carry it; times in seconds."""
    return {
        "principalId": user_id,
        "integrationLatency": 12,
        "userId": user_id,
        "iat": str(issued_at),
        "exp": str(expires_at),
        "deviceId": "",
        "deviceType": "web",
        "platform": "",
        "status": "",
        "active": "true",
        **more,
    }


def authorize(query: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> Event:
    """The event of a REQUEST authorizer, before `$connect`."""
    query, headers = query or {}, {"Connection": "upgrade", "Upgrade": "websocket", **(headers or {})}
    return {
        "type": "REQUEST",
        "methodArn": METHOD_ARN,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": query,
        "multiValueQueryStringParameters": {name: [value] for name, value in query.items()},
        "stageVariables": {},
        "requestContext": _context("$connect", "CONNECT", "BFaT_fALIAMCKug=", 1_732_400_000_000),
    }


def connect(
    authorizer: dict[str, Any],
    connection_id: str = "BFaT_fALIAMCKug=",
    connected_at: int = 1_732_400_000_000,
    *,
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Event:
    """The event of `$connect`: without a query it has no query keys at all, and it never has a `body`."""
    headers = {
        "Host": f"{API}.execute-api.eu-central-1.amazonaws.com",
        "Sec-WebSocket-Version": "13",
        **(headers or {}),
    }
    event: Event = {
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "requestContext": _context("$connect", "CONNECT", connection_id, connected_at, authorizer),
        "isBase64Encoded": False,
    }
    if query:
        event["queryStringParameters"] = query
        event["multiValueQueryStringParameters"] = {name: [value] for name, value in query.items()}
    return event


def message(
    authorizer: dict[str, Any],
    body: str,
    connection_id: str = "BFaT_fALIAMCKug=",
    connected_at: int = 1_732_400_000_000,
    *,
    route: str = "$default",
    base64: bool = False,
) -> Event:
    """The event of a message's route: `requestContext`, `body` and `isBase64Encoded`, and nothing else."""
    context = _context(route, "MESSAGE", connection_id, connected_at, authorizer)
    return {"requestContext": context | {"messageId": "BFaT_cdXIAMCKug="}, "body": body, "isBase64Encoded": base64}


def disconnect(
    authorizer: dict[str, Any],
    connection_id: str = "BFaT_fALIAMCKug=",
    connected_at: int = 1_732_400_000_000,
    *,
    code: int = 1005,
    reason: str = "Client-side close frame status not set",
) -> Event:
    """The event of `$disconnect`."""
    context = _context("$disconnect", "DISCONNECT", connection_id, connected_at, authorizer)
    return {
        "headers": {"Host": f"{API}.execute-api.eu-central-1.amazonaws.com", "x-api-key": "", "x-restapi": ""},
        "multiValueHeaders": {},
        "requestContext": context | {"disconnectStatusCode": code, "disconnectReason": reason},
        "isBase64Encoded": False,
    }


def _context(
    route: str, kind: str, connection_id: str, connected_at: int, authorizer: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "routeKey": route,
        **({"authorizer": authorizer} if authorizer else {}),
        "eventType": kind,
        "extendedRequestId": "PJqB0E1tKRcF-Qw=",
        "requestTime": "23/Nov/2024:22:13:20 +0000",
        "messageDirection": "IN",
        "stage": STAGE,
        "connectedAt": connected_at,
        "requestTimeEpoch": connected_at + 3,
        "identity": {"sourceIp": "192.0.2.1"},
        "requestId": "PJqB0E1tKRcF-Qw=",
        "domainName": f"{API}.execute-api.eu-central-1.amazonaws.com",
        "connectionId": connection_id,
        "apiId": API,
    }
