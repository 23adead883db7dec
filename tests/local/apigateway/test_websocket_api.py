"""API Gateway's WebSocket API on real sockets: handshakes, routes, functions and faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets

from local.awslambda.invocation import Throttled
from shared.routes import WEBSOCKET_ROUTES
from tests.support.local_gateway import (
    PATIENCE,
    Event,
    Gateway,
    closed,
    connected,
    crash,
    exchange,
    raw_handshake,
    reason_of,
    received,
    refusal,
    running_gateway,
    the_connection,
)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """A gateway with the service's own routes."""
    async with running_gateway() as running:
        yield running


# Handshakes


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
async def test_connect_decides_the_handshakes_status(gateway: Gateway, answer: Any, status: int, message: str) -> None:
    """A status that is not 2xx refuses the handshake; a crash or an invalid result is 502, a throttle 429."""
    gateway.functions.answers["connect"] = answer
    refused, body = await refusal(gateway)
    assert (refused, body["message"]) == (status, message)
    assert body["connectionId"] == gateway.functions.events_of("connect")[0]["requestContext"]["connectionId"]
    assert gateway.websocket_api.connections == {}


@pytest.mark.parametrize(
    ("headers", "subprotocol"),
    [({}, None), ({"Sec-WebSocket-Protocol": "presence.v2"}, "presence.v2"), ({"sec-websocket-protocol": "b"}, "b")],
)
async def test_a_subprotocol_is_chosen_by_connect_only(
    gateway: Gateway, headers: dict[str, str], subprotocol: str | None
) -> None:
    """The gateway chooses no subprotocol by itself."""
    gateway.functions.answers["connect"] = {"statusCode": 200, "headers": headers}
    async with connected(gateway, subprotocols=["presence.v2", "b"]) as client:
        assert client.subprotocol == subprotocol


async def test_compression_is_not_negotiated(gateway: Gateway) -> None:
    """An offer to compress is ignored."""
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
async def test_an_invalid_handshake_is_refused(gateway: Gateway, headers: dict[str, str], status: int) -> None:
    """A plain request to the WebSocket URL is 426, a wrong handshake 400."""
    assert (await refusal(gateway, headers=headers))[0] == status
    assert gateway.functions.events == []


async def test_a_url_longer_than_the_quota_is_refused(gateway: Gateway) -> None:
    """A token that makes the URL longer than 4,096 characters is refused, as on AWS."""
    path = "/live?token="
    gateway.functions.answers["authorize"] = crash()
    assert (await refusal(gateway, path + "x" * (4096 - len(path))))[0] == 500
    assert (await refusal(gateway, path + "x" * (4097 - len(path))))[0] == 414


async def test_a_client_that_vanishes_during_connect_is_disconnected(gateway: Gateway) -> None:
    """It gets a `$disconnect`, or a ghost would remain."""
    release = asyncio.Event()

    async def slow(event: Event) -> Event:
        await release.wait()
        return {"statusCode": 200}

    gateway.functions.answers["connect"] = slow
    _, writer = await raw_handshake(gateway)
    await gateway.functions.event("connect")
    writer.transport.abort()
    await exchange(gateway)
    release.set()
    event = await gateway.functions.event("disconnect")
    assert reason_of(event) == (1006, "")
    assert (
        gateway.functions.events_of("connect")[0]["requestContext"]["connectionId"]
        == (event["requestContext"]["connectionId"])
    )


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
    """`$request.body.action` selects the route; invalid JSON and unknown actions go to `$default`."""
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
    """The client gets an error frame for a failed or throttled function, and the connection stays."""
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


async def test_a_timeout_is_an_error_frame() -> None:
    """The client gets an error frame after the integration's timeout, and the connection stays."""

    async def never(event: Event) -> None:
        await asyncio.Event().wait()

    async with running_gateway(integration_timeout=0.05) as gateway, connected(gateway) as client:
        gateway.functions.answers["heartbeat"] = never
        await client.send('{"action":"heartbeat"}')
        assert (await received(client))["message"] == "Internal server error"


async def test_a_functions_result_is_dropped(gateway: Gateway) -> None:
    """No route has a route response: neither a body nor an error status reaches the client."""
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


async def test_a_client_that_does_not_read_does_not_delay_the_stop() -> None:
    """A client with full buffers is cut when the gateway stops."""
    async with running_gateway() as gateway:
        client = await websockets.connect(gateway.websocket_url)
        client.transport.pause_reading()
        connection = the_connection(gateway)
        while connection.send(b"x" * 131_072):
            pass
    assert connection.closed.done()
    client.transport.abort()


async def test_a_stopping_gateway_closes_with_1001() -> None:
    """No function is invoked for it."""
    async with running_gateway() as gateway:
        client = await websockets.connect(gateway.websocket_url)
        functions = gateway.functions
    assert (await closed(client))[0] == 1001
    assert functions.events_of("disconnect") == []
