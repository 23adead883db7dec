"""The events of a WebSocket API, compared with the keys of events captured in AWS."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from tests.support.local_gateway import (
    Gateway,
    allow,
    connected,
    crash,
    refusal,
    running_gateway,
)

ID = re.compile(r"[A-Za-z0-9_-]{15}=")

# Key order as in events captured in AWS: aws-powertools/powertools-lambda-python, tests/events/
# apiGatewayWebSocketApi{Connect,Message,Disconnect}.json and apiGatewayAuthorizerWebSocketEvent.json; `authorizer`
# follows the route key (mousabaker/aws-lambda-typing, pull request 65).
CONTEXT_AFTER_ROUTE = ["eventType", "extendedRequestId", "requestTime", "messageDirection"]
CONTEXT_FROM_STAGE = [
    "stage",
    "connectedAt",
    "requestTimeEpoch",
    "identity",
    "requestId",
    "domainName",
    "connectionId",
    "apiId",
]


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """A gateway with the service's own routes."""
    async with running_gateway() as running:
        yield running


async def test_connect_has_the_keys_of_a_captured_event(gateway: Gateway) -> None:
    """`$connect` carries headers, query and context in AWS's order, and no body."""
    async with connected(gateway, gateway.websocket_url + "&v=1&v=2&empty=", user_agent_header="agent/1"):
        event = await gateway.functions.event("connect")
    assert list(event) == [
        "headers",
        "multiValueHeaders",
        "queryStringParameters",
        "multiValueQueryStringParameters",
        "requestContext",
        "isBase64Encoded",
    ]
    assert event["queryStringParameters"] == {"token": "t", "v": "2", "empty": ""}
    assert event["multiValueQueryStringParameters"] == {"token": ["t"], "v": ["1", "2"], "empty": [""]}
    assert list(event["headers"]) == [
        "Host",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "User-Agent",
        "X-Amzn-Trace-Id",
        "X-Forwarded-For",
        "X-Forwarded-Port",
        "X-Forwarded-Proto",
    ]
    assert event["headers"]["X-Forwarded-Port"] == str(gateway.port)
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}", event["headers"]["X-Amzn-Trace-Id"])
    assert event["multiValueHeaders"] == {name: [value] for name, value in event["headers"].items()}
    context = event["requestContext"]
    assert list(context) == ["routeKey", "authorizer", *CONTEXT_AFTER_ROUTE, *CONTEXT_FROM_STAGE]
    assert context["identity"] == {"userAgent": "agent/1", "sourceIp": "127.0.0.1"}
    assert (context["routeKey"], context["eventType"], context["messageDirection"]) == ("$connect", "CONNECT", "IN")
    assert (context["stage"], context["domainName"]) == ("live", f"127.0.0.1:{gateway.port}")
    assert re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000", context["requestTime"])
    assert 0 <= context["requestTimeEpoch"] - context["connectedAt"] < 5000
    assert ID.fullmatch(context["connectionId"])
    assert ID.fullmatch(context["requestId"])
    assert context["requestId"] == context["extendedRequestId"] != context["connectionId"]


async def test_a_client_without_user_agent_or_query_has_no_such_keys() -> None:
    """Without a query there are no keys for one, and without a User-Agent the identity is the address alone."""
    async with running_gateway(token_source="subprotocol") as gateway:
        url = gateway.websocket_url.partition("?")[0]
        gateway.functions.answers["connect"] = {"statusCode": 200, "headers": {"Sec-WebSocket-Protocol": "presence.v2"}}
        async with connected(gateway, url, subprotocols=["presence.v2", "jwt"], user_agent_header=None):
            event = await gateway.functions.event("connect")
    assert list(event) == ["headers", "multiValueHeaders", "requestContext", "isBase64Encoded"]
    assert event["requestContext"]["identity"] == {"sourceIp": "127.0.0.1"}


async def test_headers_have_one_case(gateway: Gateway) -> None:
    """Functions see no difference if a client writes its headers in lower case."""
    gateway.functions.answers["connect"] = {"statusCode": 400}
    await refusal(gateway, headers={"origin": "https://example.com", "sec-websocket-protocol": "a"})
    headers = gateway.functions.events_of("connect")[0]["headers"]
    assert {"Origin", "Sec-WebSocket-Protocol", "Sec-WebSocket-Key"} <= set(headers)
    assert not {"Connection", "Upgrade", "Content-Length"} & set(headers)


async def test_the_authorizer_has_the_keys_of_a_captured_event(gateway: Gateway) -> None:
    """The authorizer's event has empty objects where `$connect` has no key, and the headers of the upgrade."""
    async with connected(gateway):
        event = await gateway.functions.event("authorize")
    assert list(event) == [
        "type",
        "methodArn",
        "headers",
        "multiValueHeaders",
        "queryStringParameters",
        "multiValueQueryStringParameters",
        "stageVariables",
        "requestContext",
    ]
    assert event["type"] == "REQUEST"
    assert event["methodArn"] == "arn:aws:execute-api:eu-central-1:000000000000:presencews/live/$connect"
    assert event["headers"]["Connection"] == "upgrade"
    assert event["headers"]["Upgrade"] == "websocket"
    assert event["headers"]["content-length"] == "0"
    assert event["stageVariables"] == {}
    assert list(event["requestContext"]) == ["routeKey", *CONTEXT_AFTER_ROUTE, *CONTEXT_FROM_STAGE]


async def test_the_authorizer_sees_an_empty_query_as_an_empty_object() -> None:
    """An authorizer gets `{}` for a query that is not there."""
    async with running_gateway(token_source="subprotocol") as gateway:
        gateway.functions.answers["authorize"] = crash()
        await refusal(gateway, "/live", headers={"Sec-WebSocket-Protocol": "presence.v2, jwt"})
        event = gateway.functions.events_of("authorize")[0]
    assert event["queryStringParameters"] == event["multiValueQueryStringParameters"] == {}


async def test_a_message_has_the_keys_of_a_captured_event(gateway: Gateway) -> None:
    """A message has its context and body and nothing else, with the connection's id and time."""
    text = '{"action": "heartbeat", "ä": 1}'
    async with connected(gateway) as client:
        await client.send(text)
        event = await gateway.functions.event("heartbeat")
        connect = await gateway.functions.event("connect")
    assert list(event) == ["requestContext", "body", "isBase64Encoded"]
    assert (event["body"], event["isBase64Encoded"]) == (text, False)
    context = event["requestContext"]
    assert list(context) == ["routeKey", "messageId", "authorizer", *CONTEXT_AFTER_ROUTE, *CONTEXT_FROM_STAGE]
    assert (context["routeKey"], context["eventType"]) == ("heartbeat", "MESSAGE")
    assert ID.fullmatch(context["messageId"])
    for constant in ("connectedAt", "connectionId", "identity", "authorizer", "domainName"):
        assert context[constant] == connect["requestContext"][constant]
    assert context["requestId"] != connect["requestContext"]["requestId"]


async def test_disconnect_has_the_keys_of_a_captured_event(gateway: Gateway) -> None:
    """`$disconnect` has code and reason where AWS has them, the authorizer's context, and AWS's odd headers."""
    async with connected(gateway):
        pass
    event = await gateway.functions.event("disconnect")
    assert list(event) == ["headers", "multiValueHeaders", "requestContext", "isBase64Encoded"]
    assert list(event["headers"]) == ["Host", "x-api-key", "X-Forwarded-For", "x-restapi"]
    assert list(event["requestContext"]) == [
        "routeKey",
        "disconnectStatusCode",
        "authorizer",
        *CONTEXT_AFTER_ROUTE,
        "disconnectReason",
        *CONTEXT_FROM_STAGE,
    ]
    assert event["requestContext"]["eventType"] == "DISCONNECT"


async def test_the_authorizers_context_is_in_every_later_event(gateway: Gateway) -> None:
    """Numbers and booleans are strings."""
    gateway.functions.answers["authorize"] = allow(userId="alice", iat=1700000000, active=True, share=0.5)
    async with connected(gateway) as client:
        await client.send('{"action":"heartbeat"}')
        await gateway.functions.event("heartbeat")
    await gateway.functions.event("disconnect")
    for name in ("connect", "heartbeat", "disconnect"):
        authorizer = dict(gateway.functions.events_of(name)[0]["requestContext"]["authorizer"])
        assert isinstance(authorizer.pop("integrationLatency"), int)
        assert authorizer == {
            "principalId": "alice",
            "userId": "alice",
            "iat": "1700000000",
            "active": "true",
            "share": "0.5",
        }
