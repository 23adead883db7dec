"""API Gateway's WebSocket side on real sockets: handshakes, routes, events, quotas, cuts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode

from local.invocation import Throttled
from local.websocket_connection import Connection, Cuts
from shared.routes import WEBSOCKET_ROUTES
from tests.support.local_gateway import PATIENCE, Event, Gateway, WarpedLoop, allow, crash, running_gateway

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


@contextlib.asynccontextmanager
async def connected(gateway: Gateway, url: str = "", **options: Any) -> AsyncIterator[ClientConnection]:
    """A client of the library `websockets`, and the gateway's event of its connection already there."""
    async with websockets.connect(url or gateway.websocket_url, **options) as client:
        yield client


async def received(client: ClientConnection) -> Any:
    """The client's next frame."""
    async with asyncio.timeout(PATIENCE):
        return json.loads(await client.recv())


async def closed(client: ClientConnection) -> tuple[int | None, str | None]:
    """Code and reason with which the client was closed."""
    async with asyncio.timeout(PATIENCE):
        await client.wait_closed()
    return client.close_code, client.close_reason


async def refusal(gateway: Gateway, path: str = "/live?token=t", **options: Any) -> tuple[int, Event]:
    """Status and body with which a handshake is refused."""
    async with aiohttp.ClientSession() as session:
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        } | options.pop("headers", {})
        async with session.get(gateway.url + path, headers=headers, **options) as response:
            return response.status, json.loads(await response.text())


def the_connection(gateway: Gateway) -> Connection:
    """The gateway's only open connection."""
    (connection,) = gateway.websocket_api.connections.values()
    return connection


def reason_of(event: Event) -> tuple[int, str]:
    """Why a `$disconnect` event says that the connection ended."""
    context = event["requestContext"]
    return context["disconnectStatusCode"], context["disconnectReason"]


# Events


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
        gateway.functions.answers["connect"] = {"statusCode": 200, "headers": {"Sec-WebSocket-Protocol": "presence.v1"}}
        async with connected(gateway, url, subprotocols=["presence.v1", "jwt"], user_agent_header=None):
            event = await gateway.functions.event("connect")
    assert list(event) == ["headers", "multiValueHeaders", "requestContext", "isBase64Encoded"]
    assert event["requestContext"]["identity"] == {"sourceIp": "127.0.0.1"}


async def test_headers_have_one_case_whatever_the_client_writes(gateway: Gateway) -> None:
    """A client that writes its headers in lower case looks to functions like any other."""
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
        await refusal(gateway, "/live", headers={"Sec-WebSocket-Protocol": "presence.v1, jwt"})
        event = gateway.functions.events_of("authorize")[0]
    assert event["queryStringParameters"] == event["multiValueQueryStringParameters"] == {}


async def test_a_message_has_the_keys_of_a_captured_event(gateway: Gateway) -> None:
    """A message carries its context and body and nothing else, on the same connection since the same moment."""
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
    """`$disconnect` carries code and reason where AWS has them, the authorizer's context, and AWS's odd headers."""
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


async def test_the_authorizers_context_rides_on_every_later_event_as_strings(gateway: Gateway) -> None:
    """What the authorizer says about the user comes with each event, numbers and booleans as strings."""
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


# Handshakes


@pytest.mark.parametrize("path", ["/live", "/live?token=", "/live?v=1", "/live?Token=t"])
async def test_without_a_token_the_authorizer_is_not_asked(gateway: Gateway, path: str) -> None:
    """A handshake without the identity source is 401, and no function is invoked."""
    status, body = await refusal(gateway, path)
    assert (status, body["message"]) == (401, "Unauthorized")
    assert gateway.functions.events == []


async def test_with_the_subprotocol_as_identity_source_a_token_in_the_query_is_none() -> None:
    """There is exactly one identity source."""
    async with running_gateway(token_source="subprotocol") as gateway:
        assert (await refusal(gateway))[0] == 401
        assert gateway.functions.events == []


def policy(*statements: Mapping[str, Any]) -> Event:
    """An authorizer's answer with these statements."""
    return {"principalId": "alice", "policyDocument": {"Version": "2012-10-17", "Statement": list(statements)}}


ALLOW = {"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": "arn:aws:execute-api:*/live/$connect"}
DENY = ALLOW | {"Effect": "Deny"}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (crash("Unauthorized", "Exception"), 401),
        (crash(), 500),
        (Throttled(), 500),
        (policy(DENY), 403),
        (policy(ALLOW, DENY), 403),
        (policy(), 403),
        (policy(ALLOW | {"Resource": "arn:aws:execute-api:eu-central-1:000000000000:presencews/test/*"}), 403),
        (policy(ALLOW | {"Resource": []}), 403),
        (policy(ALLOW | {"Action": "s3:*"}), 403),
        (policy(ALLOW | {"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}), 500),
        (policy("no statement"), 500),  # type: ignore[arg-type]
        (None, 500),
        ("Allow", 500),
        ({"principalId": "alice"}, 500),
        ({"policyDocument": policy(ALLOW)["policyDocument"]}, 500),
        (policy(ALLOW) | {"principalId": 1}, 500),
        (policy(ALLOW) | {"context": {"nested": {"a": 1}}}, 500),
        (policy(ALLOW) | {"context": {"none": None}}, 500),
        (policy(ALLOW) | {"context": {"long": "x" * 8192}}, 500),
    ],
)
async def test_what_the_authorizer_says_is_the_handshakes_status(gateway: Gateway, answer: Any, status: int) -> None:
    """Only a policy that allows the connection opens it; `$connect` is not invoked otherwise."""
    gateway.functions.answers["authorize"] = answer
    refused, body = await refusal(gateway)
    assert refused == status
    assert list(body) == ["message", "connectionId", "requestId"]
    assert gateway.functions.events_of("connect") == []
    assert gateway.websocket_api.connections == {}


@pytest.mark.parametrize(
    "statements",
    [
        [ALLOW],
        [ALLOW | {"Resource": ["x", "*"]}],
        [ALLOW | {"Action": ["execute-api:*"]}],
        [ALLOW | {"Action": "EXECUTE-API:invok?"}],
        [ALLOW | {"Sid": "a"}, DENY | {"Resource": "arn:aws:execute-api:*/test/*"}],
    ],
)
async def test_a_policy_that_allows_the_connection_opens_it(gateway: Gateway, statements: list[Any]) -> None:
    """Lists, wildcards and statements about other things are read as IAM reads them."""
    gateway.functions.answers["authorize"] = policy(*statements)
    async with connected(gateway):
        assert len(gateway.websocket_api.connections) == 1


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        ({"statusCode": 400, "body": "ignored"}, 400, "Bad Request"),
        ({"statusCode": 403}, 403, "Forbidden"),
        ({"statusCode": 500}, 500, "Internal server error"),
        ({"statusCode": 499}, 499, "499"),
        (crash(), 502, "Internal server error"),
        (crash(error_type="Sandbox.Timedout"), 502, "Internal server error"),
        (None, 502, "Internal server error"),
        ({"statusCode": "200"}, 502, "Internal server error"),
        ({"statusCode": 99}, 502, "Internal server error"),
        ({}, 502, "Internal server error"),
        (Throttled(), 429, "Too Many Requests"),
    ],
)
async def test_what_connect_says_is_the_handshakes_status(
    gateway: Gateway, answer: Any, status: int, message: str
) -> None:
    """A status that is not 2xx refuses the handshake with it; a crash or nonsense is 502, a throttle 429."""
    gateway.functions.answers["connect"] = answer
    refused, body = await refusal(gateway)
    assert (refused, body["message"]) == (status, message)
    assert body["connectionId"] == gateway.functions.events_of("connect")[0]["requestContext"]["connectionId"]
    assert gateway.websocket_api.connections == {}


@pytest.mark.parametrize(
    ("headers", "subprotocol"),
    [({}, None), ({"Sec-WebSocket-Protocol": "presence.v1"}, "presence.v1"), ({"sec-websocket-protocol": "b"}, "b")],
)
async def test_a_subprotocol_is_echoed_only_if_connects_answer_carries_it(
    gateway: Gateway, headers: dict[str, str], subprotocol: str | None
) -> None:
    """The gateway chooses no subprotocol by itself."""
    gateway.functions.answers["connect"] = {"statusCode": 200, "headers": headers}
    async with connected(gateway, subprotocols=["presence.v1", "b"]) as client:
        assert client.subprotocol == subprotocol


async def test_compression_is_not_negotiated(gateway: Gateway) -> None:
    """An offer to compress is not taken up."""
    async with connected(gateway, compression="deflate") as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers


@pytest.mark.parametrize("path", ["/", "/test?token=t", "/live/more?token=t", "/v1/health?token=t"])
async def test_a_handshake_with_another_stage_is_forbidden(gateway: Gateway, path: str) -> None:
    """There is one stage."""
    status, body = await refusal(gateway, path)
    assert (status, body["message"]) == (403, "Forbidden")
    assert gateway.functions.events == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upgrade": "h2c"}, 426),
        ({"Sec-WebSocket-Version": "12"}, 400),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Key": "bm90IHNpeHRlZW4="}, 400),
    ],
)
async def test_what_is_no_handshake_is_refused(gateway: Gateway, headers: dict[str, str], status: int) -> None:
    """A plain request to the WebSocket URL is 426, a wrong handshake 400."""
    assert (await refusal(gateway, headers=headers))[0] == status
    assert gateway.functions.events == []


async def test_a_url_longer_than_the_quota_is_refused(gateway: Gateway) -> None:
    """A token that makes the URL longer than 4,096 characters does not come through here either."""
    path = "/live?token="
    gateway.functions.answers["authorize"] = policy(DENY)
    assert (await refusal(gateway, path + "x" * (4096 - len(path))))[0] == 403
    assert (await refusal(gateway, path + "x" * (4097 - len(path))))[0] == 414


async def test_a_client_gone_during_connect_is_disconnected_at_once(gateway: Gateway) -> None:
    """Who leaves while `$connect` runs gets a `$disconnect`, or a ghost would stay."""
    release = asyncio.Event()

    async def slow(event: Event) -> Event:
        await release.wait()
        return {"statusCode": 200}

    gateway.functions.answers["connect"] = slow
    _, writer = await raw_handshake(gateway)
    await gateway.functions.event("connect")
    writer.transport.abort()
    async with connected_once(gateway):
        release.set()
        event = await gateway.functions.event("disconnect")
    assert reason_of(event) == (1006, "")
    assert (
        gateway.functions.events_of("connect")[0]["requestContext"]["connectionId"]
        == (event["requestContext"]["connectionId"])
    )


@contextlib.asynccontextmanager
async def connected_once(gateway: Gateway) -> AsyncIterator[None]:
    """A whole HTTP exchange: after it the gateway has seen what happened to sockets before."""
    async with aiohttp.ClientSession() as session, session.get(gateway.url + "/v1/nothing") as response:
        assert response.status == 404
    yield


async def raw_handshake(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A socket on which a handshake was sent, and no answer read yet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"GET /live?token=t HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    return reader, writer


# Messages


@pytest.mark.parametrize(
    ("text", "function", "route_key"),
    [
        ('{"action":"heartbeat"}', "heartbeat", "heartbeat"),
        ('{"action":"presence_update","x":{"action":"sync"}}', "update", "presence_update"),
        ('{"action":"leave"}', "query", "leave"),
        ('{"action":"unknown"}', "query", "$default"),
        ('{"action":"$connect"}', "query", "$default"),
        ('{"action":"$disconnect"}', "query", "$default"),
        ('{"action":1}', "query", "$default"),
        ('{"action":["heartbeat"]}', "query", "$default"),
        ('{"Action":"heartbeat"}', "query", "$default"),
        ("[1]", "query", "$default"),
        ("null", "query", "$default"),
        ("heartbeat", "query", "$default"),
        ("", "query", "$default"),
        ("[" * 30_000, "query", "$default"),
        ('{"action":' + "9" * 10_000 + "}", "query", "$default"),
    ],
)
async def test_the_route_is_the_action_in_the_body(gateway: Gateway, text: str, function: str, route_key: str) -> None:
    """`$request.body.action` selects the route; what is no JSON or names no route goes to `$default`."""
    async with connected(gateway) as client:
        await client.send(text)
        event = await gateway.functions.event(function)
    assert (event["requestContext"]["routeKey"], event["body"]) == (route_key, text)


async def test_without_a_default_route_a_message_without_a_route_is_forbidden() -> None:
    """Without `$default` the client gets a Forbidden frame, and the connection stays."""
    routes = tuple(route for route in WEBSOCKET_ROUTES if route.key != "$default")
    async with running_gateway(routes=routes) as gateway, connected(gateway) as client:
        await client.send("hello")
        frame = await received(client)
        assert (list(frame), frame["message"]) == (["message", "connectionId", "requestId"], "Forbidden")
        await client.send('{"action":"heartbeat"}')
        await gateway.functions.event("heartbeat")


@pytest.mark.parametrize("failure", [crash(), Throttled()])
async def test_a_function_that_fails_is_an_error_frame(gateway: Gateway, failure: Exception) -> None:
    """A failed or throttled function is told to the client, and the connection stays."""
    gateway.functions.answers["heartbeat"] = failure
    async with connected(gateway) as client:
        await client.send('{"action":"heartbeat"}')
        frame = await received(client)
        context = (await gateway.functions.event("heartbeat"))["requestContext"]
        assert frame == {
            "message": "Internal server error",
            "connectionId": context["connectionId"],
            "requestId": context["requestId"],
        }
        await client.send('{"action":"sync"}')
        await gateway.functions.event("query")


async def test_a_function_that_does_not_answer_is_an_error_frame() -> None:
    """After the integration's time is over the client gets an error frame, and the connection stays."""

    async def never(event: Event) -> None:
        await asyncio.Event().wait()

    async with running_gateway(integration_timeout=0.05) as gateway, connected(gateway) as client:
        gateway.functions.answers["heartbeat"] = never
        await client.send('{"action":"heartbeat"}')
        assert (await received(client))["message"] == "Internal server error"


async def test_what_a_function_answers_goes_nowhere(gateway: Gateway) -> None:
    """No route has a route response: a body, and even an error status, in a function's answer reach nobody."""
    gateway.functions.answers["heartbeat"] = {"statusCode": 500, "body": "for nobody"}
    gateway.functions.answers["query"] = crash()
    async with connected(gateway) as client:
        await client.send('{"action":"heartbeat"}')
        await gateway.functions.event("heartbeat")
        await client.send('{"action":"sync"}')
        assert (await received(client))["message"] == "Internal server error"


async def test_messages_of_one_connection_are_invoked_concurrently(gateway: Gateway) -> None:
    """A later message does not wait for an earlier one."""
    later = asyncio.Event()

    async def earlier(event: Event) -> None:
        await later.wait()

    async def set_later(event: Event) -> None:
        later.set()

    gateway.functions.answers |= {"heartbeat": earlier, "query": set_later}
    async with connected(gateway) as client:
        await client.send('{"action":"heartbeat"}')
        await client.send('{"action":"sync"}')
        async with asyncio.timeout(PATIENCE):
            await later.wait()


# Quotas


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"\x00", 1003),
        ("x" * (32 * 1024 + 1), 1009),
        (["x" * 32 * 1024] * 4 + ["x"], 1009),
        ([b"a", b"b"], 1003),
    ],
)
async def test_a_message_past_the_quotas_closes_the_connection(gateway: Gateway, message: Any, code: int) -> None:
    """A binary frame closes with 1003, a frame over 32 KB or a message over 128 KB with 1009."""
    async with connected(gateway) as client:
        with contextlib.suppress(websockets.ConnectionClosed):
            await client.send(message)
        assert (await closed(client))[0] == code
    assert reason_of(await gateway.functions.event("disconnect"))[0] == code
    assert {name for name, _ in gateway.functions.events} == {"authorize", "connect", "disconnect"}


@pytest.mark.parametrize("message", ["ä" * 16 * 1024, ["x" * 32 * 1024] * 4, ["", "", "x", ""]])
async def test_a_message_within_the_quotas_arrives_whole(gateway: Gateway, message: Any) -> None:
    """A frame of 32 KB, and a message of 128 KB in several frames, are within the quotas."""
    async with connected(gateway) as client:
        await client.send(message)
        assert (await gateway.functions.event("query"))["body"] == "".join(message)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([Frame(Opcode.TEXT, b"\xff")], 1007),
        ([Frame(Opcode.TEXT, "ä".encode()[:1], fin=False), Frame(Opcode.CONT, b"x")], 1007),
        ([Frame(Opcode.CONT, b"x")], 1002),
        ([Frame(Opcode.CLOSE, b"\x03")], 1002),
    ],
)
async def test_what_breaks_the_protocol_closes_the_connection(gateway: Gateway, frames: list[Frame], code: int) -> None:
    """Text that is no UTF-8 closes with 1007, what is no WebSocket with 1002."""
    reader, writer = await raw_handshake(gateway)
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"".join(frame.serialize(mask=True) for frame in frames))
        assert (await reader.readexactly(4))[2:] == code.to_bytes(2)
        await reader.read()
    writer.close()
    assert reason_of(await gateway.functions.event("disconnect"))[0] == code


async def test_a_message_cut_through_the_middle_of_a_character_arrives_whole(gateway: Gateway) -> None:
    """Frames may end anywhere, even inside a character."""
    reader, writer = await raw_handshake(gateway)
    await reader.readuntil(b"\r\n\r\n")
    first, second = "ä".encode()[:1], "ä".encode()[1:]
    for frame in (Frame(Opcode.TEXT, first, fin=False), Frame(Opcode.PING, b"p"), Frame(Opcode.CONT, second)):
        writer.write(frame.serialize(mask=True))
    assert (await gateway.functions.event("query"))["body"] == "ä"
    assert await reader.readexactly(3) == b"\x8a\x01p"
    writer.close()


async def test_the_client_may_speak_before_it_has_read_the_answer(gateway: Gateway) -> None:
    """Bytes that arrive with the handshake, before it is answered, are not lost."""
    _, writer = await raw_handshake(gateway)
    writer.write(Frame(Opcode.TEXT, b'{"action":"heartbeat"}').serialize(mask=True))
    await gateway.functions.event("heartbeat")
    writer.close()


# The end of a connection


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (1000, "", (1000, "")),
        (1001, "", (1001, "")),
        (4321, "why nöt", (4321, "why nöt")),
    ],
)
async def test_a_clients_code_and_reason_are_passed_on(
    gateway: Gateway, code: int, reason: str, expected: tuple[int, str]
) -> None:
    """A client's close code and reason are what `$disconnect` says, and what the client gets back."""
    async with connected(gateway) as client:
        await client.close(code, reason)
        assert client.close_code == code
    assert reason_of(await gateway.functions.event("disconnect")) == expected


async def test_a_close_without_a_code_is_1005(gateway: Gateway) -> None:
    """A client that closes without a code is described in AWS's words."""
    reader, writer = await raw_handshake(gateway)
    await reader.readuntil(b"\r\n\r\n")
    writer.write(Frame(Opcode.CLOSE, b"").serialize(mask=True))
    event = await gateway.functions.event("disconnect")
    assert reason_of(event) == (1005, "Client-side close frame status not set")
    async with asyncio.timeout(PATIENCE):
        assert await reader.read() == b"\x88\x00"
    writer.close()


async def test_a_message_right_before_the_close_is_invoked(gateway: Gateway) -> None:
    """A message in the same packet as the close frame counts: that is how an application says goodbye."""
    reader, writer = await raw_handshake(gateway)
    await reader.readuntil(b"\r\n\r\n")
    frames = [Frame(Opcode.TEXT, b'{"action":"leave"}'), Frame(Opcode.CLOSE, b"\x03\xe8"), Frame(Opcode.TEXT, b"late")]
    writer.write(b"".join(frame.serialize(mask=True) for frame in frames))
    assert (await gateway.functions.event("query"))["body"] == '{"action":"leave"}'
    await gateway.functions.event("disconnect")
    assert len(gateway.functions.events_of("query")) == 1
    writer.close()


@pytest.mark.parametrize("rudely", [True, False])
async def test_a_lost_socket_is_1006(gateway: Gateway, rudely: bool) -> None:
    """A socket that is reset, or ends without a close frame, is 1006."""
    reader, writer = await raw_handshake(gateway)
    await reader.readuntil(b"\r\n\r\n")
    if rudely:
        writer.transport.abort()
    else:
        writer.close()
    assert reason_of(await gateway.functions.event("disconnect")) == (1006, "")
    assert gateway.websocket_api.connections == {}


async def test_a_failing_disconnect_harms_nobody(gateway: Gateway) -> None:
    """A `$disconnect` that fails is lost, as in AWS; others go on."""
    gateway.functions.answers["disconnect"] = crash()
    async with connected(gateway) as other:
        async with connected(gateway):
            pass
        await gateway.functions.event("disconnect")
        await other.send('{"action":"heartbeat"}')
        await gateway.functions.event("heartbeat")


# Cuts


def test_a_connection_is_cut_after_ten_minutes_without_a_message() -> None:
    """Messages in either direction put the idle cut off, pings do not; `$disconnect` follows."""

    async def ten_minutes(clock: WarpedLoop) -> None:
        async with running_gateway() as gateway, connected(gateway, ping_interval=None) as client:
            clock.warp(599)
            await client.send("from the client")
            await gateway.functions.event("query")
            clock.warp(599)
            assert the_connection(gateway).send(b'"to the client"')
            assert await received(client) == "to the client"
            clock.warp(599)
            await (await client.ping())
            assert len(gateway.websocket_api.connections) == 1
            clock.warp(1)
            assert await closed(client) == (1001, "Going away")
            assert reason_of(await gateway.functions.event("disconnect")) == (1001, "Going away")

    WarpedLoop.run(ten_minutes)


def test_a_connection_is_cut_after_two_hours_whatever_happens() -> None:
    """The hard cut comes two hours after the handshake, however lively the connection."""

    async def two_hours(clock: WarpedLoop) -> None:
        async with running_gateway() as gateway, connected(gateway, ping_interval=None) as client:
            for number in range(1, 13):
                clock.warp(599)
                await client.send("still here")
                await gateway.functions.event("query", number)
            clock.warp(12)
            assert await closed(client) == (1001, "Going away")

    WarpedLoop.run(two_hours)


def test_both_cuts_can_be_set() -> None:
    """A demonstration or a test may want shorter ones."""

    async def short(clock: WarpedLoop) -> None:
        async with running_gateway(cuts=Cuts(idle=5, hard=8)) as gateway:
            for message, cut in ((None, 5), ("once", 4)):
                async with connected(gateway, ping_interval=None) as client:
                    clock.warp(4)
                    if message:
                        await client.send(message)
                        await gateway.functions.event("query")
                    await (await client.ping())
                    assert len(gateway.websocket_api.connections) == 1
                    clock.warp(cut)
                    assert await closed(client) == (1001, "Going away")

    WarpedLoop.run(short)


def test_a_client_that_does_not_answer_the_close_is_gone_at_once_and_cut_later() -> None:
    """After the gateway closed, the connection is over for functions; its socket has ten seconds to say goodbye."""

    async def silent(clock: WarpedLoop) -> None:
        async with running_gateway() as gateway:
            reader, writer = await raw_handshake(gateway)
            await reader.readuntil(b"\r\n\r\n")
            connection = the_connection(gateway)
            connection.close(1001, "Going away")
            assert gateway.websocket_api.connections == {}
            writer.write(Frame(Opcode.TEXT, b'{"action":"heartbeat"}').serialize(mask=True))
            assert reason_of(await gateway.functions.event("disconnect")) == (1001, "Going away")
            assert not connection.closed.done()
            clock.warp(10)
            async with asyncio.timeout(PATIENCE):
                await connection.closed
            assert gateway.functions.events_of("heartbeat") == []
            writer.transport.abort()

    WarpedLoop.run(silent)


async def test_a_gateway_that_stops_says_goodbye() -> None:
    """When the gateway stops, clients are told with 1001, and no function is invoked for it."""
    async with running_gateway() as gateway:
        client = await websockets.connect(gateway.websocket_url)
        functions = gateway.functions
    assert (await closed(client))[0] == 1001
    assert functions.events_of("disconnect") == []


# Faults


async def test_a_lost_connection_vanishes_without_disconnect(gateway: Gateway) -> None:
    """`lose` cuts a socket, and no `$disconnect` is ever invoked for it."""
    async with connected(gateway) as other, connected(gateway) as client:
        lost = (await gateway.functions.event("connect", 2))["requestContext"]["connectionId"]
        gateway.websocket_api.lose(lost)
        assert (await closed(client))[0] == 1006
        await other.close()
        event = await gateway.functions.event("disconnect")
        assert event["requestContext"]["connectionId"] != lost
    assert len(gateway.functions.events_of("disconnect")) == 1


async def test_disconnects_can_be_dropped(gateway: Gateway) -> None:
    """With the switch on, no `$disconnect` is invoked; with it off again, it is."""
    gateway.faults.drop_disconnects = 1.0
    async with connected(gateway):
        pass
    gateway.faults.drop_disconnects = 0.0
    async with connected(gateway):
        pass
    event = await gateway.functions.event("disconnect")
    second = gateway.functions.events_of("connect")[1]
    assert event["requestContext"]["connectionId"] == second["requestContext"]["connectionId"]
