"""The events of API Gateway's WebSocket APIs: the same keys in the same order.

Key order and presence follow events captured in AWS (fixtures of aws-powertools/powertools-lambda-python,
`apiGatewayWebSocketApi*.json` and `apiGatewayAuthorizerWebSocketEvent.json`, and of awslabs/aws-lambda-rust-runtime,
`example-apigw-websocket-request-disconnect-route.json`): `$connect` has no `body`, a message has no headers, an
authorizer gets empty objects where `$connect` has no key. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from aiohttp import web

from local import iam
from local.apigateway import gateway

API_ID = "presencews"
STAGE = "live"

_NOT_PASSED_ON = frozenset({"connection", "content-length", "upgrade"})

Values = Mapping[str, list[str]]
"""Headers or query parameters: each name with all its values."""
Event = dict[str, Any]


@dataclass(slots=True)
class Client:
    """What the handshake reveals about a client; each of its events contains it."""

    connection_id: str
    connected_at: int
    """Milliseconds since the epoch; the same on every event of the connection."""
    domain_name: str
    source_ip: str
    user_agent: str | None
    authorizer: dict[str, Any] = field(default_factory=dict)
    """principalId, the authorizer's context as strings, and integrationLatency in ms; empty before its response."""

    @property
    def identity(self) -> dict[str, str]:
        """`requestContext.identity`, without `userAgent` for clients that send no `User-Agent`."""
        agent = {} if self.user_agent is None else {"userAgent": self.user_agent}
        return {**agent, "sourceIp": self.source_ip}


@dataclass(frozen=True, slots=True)
class Handshake:
    """The client's HTTP request, in the form of events."""

    headers: Values
    query: Values

    @classmethod
    def read(cls, request: web.Request) -> Handshake:
        """The request's headers in canonical case, without hop-by-hop headers, with those that API Gateway adds."""
        headers: dict[str, list[str]] = {}
        for name, value in request.headers.items():
            if name.lower() not in _NOT_PASSED_ON:
                headers.setdefault(_canonical(name), []).append(value)
        for name, value in gateway.forwarded(request).items():
            headers[name] = [value]
        query = parse_qs(gateway.split_target(request)[1], keep_blank_values=True)
        return cls(dict(sorted(headers.items())), query)


def method_arn(region: str) -> str:
    """The resource that the authorizer decides about."""
    return f"arn:aws:execute-api:{region}:{iam.ACCOUNT}:{API_ID}/{STAGE}/$connect"


def authorizer_event(client: Client, handshake: Handshake, region: str, request_id: str, now: float) -> Event:
    """Input of a REQUEST authorizer."""
    headers = {**handshake.headers, "Connection": ["upgrade"], "Upgrade": ["websocket"], "content-length": ["0"]}
    headers = dict(sorted(headers.items(), key=lambda item: item[0].lower()))
    return {
        "type": "REQUEST",
        "methodArn": method_arn(region),
        "headers": _last(headers),
        "multiValueHeaders": headers,
        "queryStringParameters": _last(handshake.query),
        "multiValueQueryStringParameters": dict(handshake.query),
        "stageVariables": {},
        "requestContext": _context(client, "$connect", "CONNECT", request_id, now),
    }


def connect_event(client: Client, handshake: Handshake, request_id: str, now: float) -> Event:
    """Input of the `$connect` integration."""
    query = {}
    if handshake.query:
        query = {
            "queryStringParameters": _last(handshake.query),
            "multiValueQueryStringParameters": dict(handshake.query),
        }
    return {
        "headers": _last(handshake.headers),
        "multiValueHeaders": dict(handshake.headers),
        **query,
        "requestContext": _context(client, "$connect", "CONNECT", request_id, now),
        "isBase64Encoded": False,
    }


def message_event(client: Client, route_key: str, body: str, request_id: str, now: float) -> Event:
    """Input of a message's integration."""
    return {
        "requestContext": _context(
            client, route_key, "MESSAGE", request_id, now, after_route={"messageId": gateway.new_id()}
        ),
        "body": body,
        "isBase64Encoded": False,
    }


def disconnect_event(client: Client, code: int, reason: str, request_id: str, now: float) -> Event:
    """Input of the `$disconnect` integration."""
    headers = {"Host": client.domain_name, "x-api-key": "", "X-Forwarded-For": client.source_ip, "x-restapi": ""}
    return {
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "requestContext": _context(
            client,
            "$disconnect",
            "DISCONNECT",
            request_id,
            now,
            after_route={"disconnectStatusCode": code},
            after_direction={"disconnectReason": reason},
        ),
        "isBase64Encoded": False,
    }


def _context(
    client: Client,
    route_key: str,
    event_type: str,
    request_id: str,
    now: float,
    *,
    after_route: Event | None = None,
    after_direction: Event | None = None,
) -> Event:
    return {
        "routeKey": route_key,
        **(after_route or {}),
        **({"authorizer": client.authorizer} if client.authorizer else {}),
        "eventType": event_type,
        "extendedRequestId": request_id,
        "requestTime": gateway.request_time(now),
        "messageDirection": "IN",
        **(after_direction or {}),
        "stage": STAGE,
        "connectedAt": client.connected_at,
        "requestTimeEpoch": int(now * 1000),
        "identity": client.identity,
        "requestId": request_id,
        "domainName": client.domain_name,
        "connectionId": client.connection_id,
        "apiId": API_ID,
    }


def _last(values: Values) -> dict[str, str]:
    return {name: all_values[-1] for name, all_values in values.items()}


def _canonical(name: str) -> str:
    """A header name in AWS's case, like `Sec-WebSocket-Key`, whatever case the client used."""
    return "-".join(part.capitalize() for part in name.split("-")).replace("Websocket", "WebSocket")
