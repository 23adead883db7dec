"""The HTTP API over real sockets, beside clients on WebSockets; the same file runs against any deployment."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import replace
from typing import Any

import jwt
import pytest
from botocore.credentials import Credentials

from shared.routes import HTTP_ROUTES, HttpRoute
from tests.support.clients import HandshakeRefused, Join, NodeSocket, People
from tests.support.deployment import Deployment, of
from tests.support.http_calls import BODIES, QUERIES, name

USERS = [route for route in HTTP_ROUTES if route.access == "user"]
BACKEND = [route for route in HTTP_ROUTES if route.access == "backend"]
HEARTBEAT, LEAVE = "/v1/me/heartbeat", "/v1/me/leave"


def call_of(route: HttpRoute, user: str) -> tuple[str, str, Any]:
    """Method, path and body of a valid request about a user."""
    path = route.path.replace("{id}", user).replace("{userId}", "nobody") + QUERIES.get((route.method, route.path), "")
    body = BODIES.get((route.method, route.path))
    return route.method, path, json.loads(body) if body else None


@pytest.mark.parametrize("route", USERS, ids=name)
async def test_every_call_of_a_user_is_there(deployment: Deployment, route: HttpRoute) -> None:
    """With a token each call of the table succeeds; without one, or with a bad one, it is 401."""
    user = f"visitor-{secrets.token_hex(4)}"
    call = call_of(route, user)
    assert (await deployment.call(*call, signed=False))[0] == 401
    assert (await deployment.call_as(user, *call, token="x.y.z"))[0] == 401
    status, answer = await deployment.call_as(user, *call)
    assert status in (200, 204), answer


async def test_a_polling_device_is_seen_and_sees(deployment: Deployment, people: People, join: Join) -> None:
    """A polling user is online to contacts on WebSockets, gets their changes with each poll, and leaves immediately."""
    alice, bob = await people("alice", "bob")
    viewer = await join(bob, NodeSocket)
    status, first = await deployment.call_as(alice, "POST", HEARTBEAT, {"deviceId": "d1", "status": "busy"})
    assert (status, [user["userId"] for user in first["users"]]) == (200, [bob])
    assert first["users"][0]["status"] == "online"
    assert (await viewer.change(alice))["status"] == "busy"
    assert (await deployment.call_as(alice, "PUT", "/v1/me/status", {"deviceId": "d1", "status": "away"}))[0] == 204
    assert (await viewer.change(alice))["status"] == "away"
    await viewer.send("presence_update", status="busy", n=1)
    await viewer.applied(1)
    second = (await deployment.call_as(alice, "POST", HEARTBEAT, {"deviceId": "d1", "seq": first["seq"]}))[1]
    assert (second["resumed"], second["users"][0]["status"]) == (False, "busy")
    assert (await deployment.call_as(alice, "POST", LEAVE, {"deviceId": "d1"}))[0] == 204
    assert (await viewer.change(alice))["status"] == "offline"
    polled = await deployment.call_as(bob, "GET", f"/v1/presence?userIds={alice}")
    assert polled[1]["users"][0]["status"] == "offline"


async def test_a_socket_takes_over_from_polling_without_an_event(
    deployment: Deployment, people: People, join: Join
) -> None:
    """A client that gets its WebSocket after all replaces the polling device: contacts notice nothing."""
    alice, bob = await people("alice", "bob")
    viewer = await join(bob)
    polled = (await deployment.call_as(alice, "POST", HEARTBEAT, {"deviceId": "d1", "status": "busy"}))[1]
    came = await viewer.change(alice)
    client = await join(alice, deviceId="d1")
    snapshot = await client.sync(replaces=polled["self"]["connectionId"])
    assert [device["connectionId"] for device in snapshot["self"]["devices"]] == [snapshot["self"]["connectionId"]]
    [seen] = await viewer.query(alice)
    assert seen["status"] == came["status"] == "busy"
    assert viewer.unread(alice) == []


async def test_a_block_over_http_acts_on_open_sockets(deployment: Deployment, people: People, join: Join) -> None:
    """Both sides get one ordinary offline and nothing else, and unblocking shows both to each other again."""
    alice, bob = await people("alice", "bob")
    one, other = await join(alice), await join(bob, NodeSocket)
    assert (await one.change(bob))["status"] == "online"
    assert (await deployment.call_as(alice, "PUT", f"/v1/me/blocks/{bob}"))[0] == 204
    assert (await one.change(bob))["status"] == "offline"
    assert (await other.change(alice))["status"] == "offline"
    mine, theirs = [(await deployment.call_as(user, "GET", "/v1/me"))[1] for user in (alice, bob)]
    assert (mine["blocks"], theirs["blocks"], theirs["status"]) == ([bob], [], "online")
    assert (await deployment.call_as(alice, "DELETE", f"/v1/me/blocks/{bob}"))[0] == 204
    assert (await one.change(bob))["status"] == "online"
    assert (await other.change(alice))["status"] == "online"


async def test_an_erased_user_is_gone(deployment: Deployment, people: People, join: Join) -> None:
    """Sockets are closed, contacts get one offline, old tokens are refused, and no data of the user can be read."""
    alice, bob = await people("alice", "bob")
    viewer, client = await join(bob), await join(alice, NodeSocket)
    await viewer.change(alice)
    token = deployment.identity_provider.token(alice)
    for _ in range(2):
        await deployment.ask("DELETE", f"/v1/users/{alice}")
    await client.until_closed()
    assert (await viewer.change(alice))["status"] == "offline"
    assert await viewer.query(alice) == [{"userId": alice, "status": "offline"}]
    assert (await deployment.call_as(alice, "GET", "/v1/me", token=token))[0] == 401
    assert await deployment.ask("GET", of(alice, "contacts")) == {"viewers": [], "sees": []}
    assert await deployment.ask("GET", of(bob, "contacts")) == {"viewers": [], "sees": []}


async def test_the_document_describes_every_call(deployment: Deployment) -> None:
    """The OpenAPI document is public, and has each route of the table and no other."""
    status, document = await deployment.call("GET", "/v1/openapi.json", signed=False)
    assert status == 200
    described = {(method.upper(), path) for path, calls in document["paths"].items() for method in calls}
    assert described == {(route.method, route.path) for route in HTTP_ROUTES}


@pytest.mark.parametrize("route", BACKEND, ids=name)
async def test_only_the_backend_makes_the_backends_calls(deployment: Deployment, route: HttpRoute) -> None:
    """Unsigned, signed by a stranger, or with a user's valid token: 403, and nothing changes."""
    victim = f"victim-{secrets.token_hex(4)}"
    call = call_of(route, victim)
    keys = deployment.credentials
    wrong = replace(deployment, credentials=Credentials(keys.access_key, "w" * 40, keys.token))
    unknown = replace(deployment, credentials=Credentials("AKIAIOSFODNN7EXAMPLE", "w" * 40))
    answers = await asyncio.gather(
        deployment.call(*call, signed=False),
        wrong.call(*call),
        unknown.call(*call),
        deployment.call_as(victim, *call),
        deployment.call_as("somebody-else", *call),
    )
    assert [status for status, _ in answers] == [403] * 5
    assert await deployment.ask("GET", of(victim, "contacts")) == {"viewers": [], "sees": []}


async def test_a_forged_token_opens_nothing(deployment: Deployment) -> None:
    """No algorithm, another secret, another user's signature under a new name: refused by both APIs."""
    good = deployment.identity_provider.token("mallory")
    header, _, signature = good.split(".")
    claims = {"sub": "alice", "iat": 1_700_000_000, "exp": 4_000_000_000}
    body = jwt.encode(claims, "k" * 32, "HS256").split(".")[1]
    forged = [
        jwt.encode(claims, "", "none"),
        jwt.encode(claims, "k" * 32, "HS256"),
        jwt.encode(claims, "k" * 64, "HS512"),
        f"{header}.{body}.{signature}",
        f"{header}.{body}.",
    ]
    for token in forged:
        assert (await deployment.call_as("alice", "GET", "/v1/me", token=token))[0] == 401
        url, subprotocols = deployment.handshake("alice", token)
        with pytest.raises(HandshakeRefused, match="403"):
            await NodeSocket.open(url, subprotocols)
