"""Impersonation: each known way to act as another user, on both APIs, against the handlers as deployed.

Attacks that only a gateway can refuse (wrong signatures) are in `tests/end_to_end/test_http_api.py`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from shared.routes import HTTP_ROUTES, HttpRoute
from shared.runtime import now_ms
from tests.support import events
from tests.support.http_calls import BODIES, ask, ask_as, bearer, body_of, name, target_of, token
from tests.support.http_events import request
from tests.support.warm_environment import SECRET, WarmEnvironment

BACKEND = [route for route in HTTP_ROUTES if route.access == "backend"]
USERS = [route for route in HTTP_ROUTES if route.access == "user"]


@pytest.fixture
def environment(start: Callable[..., WarmEnvironment]) -> WarmEnvironment:
    """An environment in which alice is online, alice and bob see each other, and mallory is nobody's contact."""
    environment = start()
    ask(environment, "PUT", "/v1/graph", {"loaded": True})
    ask(environment, "PUT", "/v1/users/alice/contacts", {"add": ["bob"]})
    environment.open("alice", "A=", deviceId="phone")
    return environment


def of(environment: WarmEnvironment, user: str) -> Any:
    """Everything that the backend sees of a user, except the times of housekeeping."""
    whole = [ask(environment, "GET", f"/v1/users/{user}/{what}")[1] for what in ("presence", "privacy", "contacts")]
    for device in whole[0]["devices"]:
        del device["lastActive"]
    return whole


def decision(environment: WarmEnvironment, presented: str) -> str:
    """The decision of the WebSocket API's authorizer on a token."""
    answer = environment.invoke("authorize", events.authorize({"token": presented}))
    effect: str = answer["policyDocument"]["Statement"][0]["Effect"]
    return effect


# 1-3: another user's id


@pytest.mark.parametrize(
    "message",
    [
        {"action": "presence_update", "status": "busy", "userId": "alice", "sub": "alice", "n": 1},
        {"action": "presence_update", "status": "busy", "scope": "user", "user": "alice", "principalId": "alice"},
        {"action": "leave", "userId": "alice", "connectionId": "A="},
        {"action": "sync", "requestContext": {"authorizer": {"userId": "alice"}, "connectionId": "A="}},
    ],
)
def test_another_users_id_in_a_message(environment: WarmEnvironment, message: dict[str, Any]) -> None:
    """A message acts for the user in the authorizer's context, whatever the message contains."""
    context = environment.open("mallory", "M=")
    before = of(environment, "alice")
    environment.say(
        context, "M=", json.dumps(message), function="update" if "presence" in message["action"] else "query"
    )
    assert of(environment, "alice") == before
    assert "A=" not in environment.closed()


@pytest.mark.parametrize("route", USERS, ids=name)
def test_another_users_id_in_body_query_and_headers(environment: WarmEnvironment, route: HttpRoute) -> None:
    """A user's request acts for the token's user: ids elsewhere are ignored or refused."""
    before = of(environment, "alice")
    body = json.loads(BODIES.get((route.method, route.path), "{}")) | {"userId": "alice", "sub": "alice", "me": "alice"}
    target = target_of(route)
    target += ("&" if "?" in target else "?") + "userId=alice&id=alice&sub=alice&user=alice"
    headers = {**bearer("mallory"), "x-user-id": "alice", "x-amzn-user": "alice"}
    event = request(route.method, target, json.dumps(body), signed=False, headers=headers)
    event["pathParameters"] = {**event.get("pathParameters", {}), "id": "alice"}
    answer = environment.invoke("api", event)
    assert answer["statusCode"] in (200, 204, 400)
    assert of(environment, "alice") == before
    if answer["statusCode"] == 200 and "me" in route.path:
        assert json.loads(answer["body"]).get("userId", "mallory") == "mallory"


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("route", BACKEND, ids=name)
def test_a_users_token_on_the_backends_calls(environment: WarmEnvironment, route: HttpRoute, signed: bool) -> None:
    """Whether the path names the caller or another user, it is 403 without a signature that the gateway verified.

    A signature alone does not authenticate a user either.
    """
    before = of(environment, "alice")
    if not signed:
        for user in ("alice", "mallory"):
            event = request(route.method, target_of(route), body_of(route), signed=False, headers=bearer(user))
            assert environment.invoke("api", event)["statusCode"] == 403
    else:
        for mine in USERS:
            assert ask(environment, mine.method, target_of(mine), body_of(mine))[0] == 401
    assert of(environment, "alice") == before


# 4-6: tokens


def forged(header: dict[str, Any], claims: dict[str, Any], signature: str = "") -> str:
    """A hand-made token."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)]
    return ".".join([*parts, signature])


CLAIMS = {"sub": "alice", "iat": 1_700_000_000, "exp": 4_000_000_000}
OTHER_SECRET = "a secret that is not the service's own"
FORGERIES: dict[str, Callable[[], str]] = {
    "no algorithm": lambda: forged({"alg": "none", "typ": "JWT"}, CLAIMS),
    "no algorithm, in capitals": lambda: forged({"alg": "NONE"}, CLAIMS),
    "no algorithm, signed": lambda: forged({"alg": "none"}, CLAIMS, token("mallory").split(".")[2]),
    "signature of another token": lambda: forged({"alg": "HS256"}, CLAIMS, token("mallory").split(".")[2]),
    "no signature": lambda: forged({"alg": "HS256"}, CLAIMS),
    "another secret": lambda: jwt.encode(CLAIMS, OTHER_SECRET, "HS256"),
    "another algorithm": lambda: jwt.encode(CLAIMS, SECRET * 2, "HS512"),
    "a key in the header": lambda: jwt.encode(
        CLAIMS,
        OTHER_SECRET,
        "HS256",
        headers={"jwk": {"kty": "oct", "k": "YQ"}, "jku": "http://127.0.0.1:9/", "kid": "x"},
    ),
    "a user who is a list": lambda: jwt.encode({**CLAIMS, "sub": ["alice"]}, SECRET, "HS256"),
    "a user with a path": lambda: jwt.encode({**CLAIMS, "sub": "../alice"}, SECRET, "HS256"),
    "an end that is text": lambda: jwt.encode({**CLAIMS, "exp": "never"}, SECRET, "HS256"),
    "an end in milliseconds": lambda: jwt.encode({**CLAIMS, "exp": 4_000_000_000_000}, SECRET, "HS256"),
    "expired": lambda: token("alice", lasts=-60),
}


@pytest.mark.parametrize("make", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_token(environment: WarmEnvironment, make: Callable[[], str]) -> None:
    """Both APIs refuse it without a reason."""
    presented = make()
    assert decision(environment, presented) == "Deny"
    headers = {"authorization": f"Bearer {presented}"}
    assert ask(environment, "GET", "/v1/me", signed=False, headers=headers)[0] == 401
    assert decision(environment, token("alice")) == "Allow"


def test_a_token_in_the_wrong_place(environment: WarmEnvironment) -> None:
    """A handshake's token counts only where the deployment expects it; the same holds for a request's."""
    good = token("alice")
    for headers in ({"Authorization": f"Bearer {good}"}, {"Sec-WebSocket-Protocol": f"presence.v2, {good}"}):
        answer = environment.invoke("authorize", events.authorize({}, headers))
        assert answer["policyDocument"]["Statement"][0]["Effect"] == "Deny"
    answer = environment.invoke("api", request("GET", f"/v1/me?token={good}&access_token={good}", signed=False))
    assert answer["statusCode"] == 401


# 7: a connection outlives its token


@pytest.mark.parametrize("function", ["heartbeat", "update", "query"])
def test_an_expired_token_on_an_open_socket(environment: WarmEnvironment, function: str) -> None:
    """A minute after its token's end a connection is closed at its next message, and its user is offline."""
    now = now_ms() // 1000
    context = events.vouched("mallory", now - 3600, now - 61)
    bodies = {"heartbeat": "heartbeat", "update": "presence_update", "query": "sync"}
    sent = {"action": bodies[function], **({"status": "busy"} if function == "update" else {})}
    environment.say(context, "M=", json.dumps(sent), function=function)
    assert environment.closed() == ["M="]
    assert environment.frames("M=") == []
    assert of(environment, "mallory")[0]["status"] == "offline"
    assert environment.invoke("connect", events.connect(context, "M2=", now_ms()))["statusCode"] == 403


# 8-10: resources of other users


def test_a_foreign_connection_id_in_replaces(environment: WarmEnvironment) -> None:
    """`replaces` affects only the user's own connections."""
    context = environment.open("mallory", "M=")
    before = of(environment, "alice")
    environment.say(context, "M=", '{"action":"sync","replaces":"A="}')
    assert environment.closed() == []
    assert of(environment, "alice") == before


def test_a_foreign_connection_id_in_leave(environment: WarmEnvironment) -> None:
    """It closes nothing, marks nothing as closed, and the response does not reveal whether the connection exists."""
    ask_as(environment, "mallory", "GET", "/v1/me")  # the count of mallory's calls is stored
    before, keys = of(environment, "alice"), sorted(environment.redis.keys())
    answers = [
        ask_as(environment, "mallory", "POST", "/v1/me/leave", {"connectionId": id}) for id in ("A=", "never=", "M=")
    ]
    assert answers == [(204, None)] * 3
    assert (environment.closed(), of(environment, "alice"), sorted(environment.redis.keys())) == ([], before, keys)


def test_a_foreign_device_id(environment: WarmEnvironment) -> None:
    """Device ids are per user: another user's device with the same id, socket or polling, is a different device."""
    polled = ask_as(environment, "alice", "POST", "/v1/me/heartbeat", {"deviceId": "laptop", "status": "busy"})[1]
    before = of(environment, "alice")
    mine = ask_as(environment, "mallory", "POST", "/v1/me/heartbeat", {"deviceId": "laptop", "status": "away"})[1]
    assert mine["self"]["connectionId"] != polled["self"]["connectionId"]
    assert mine["users"] == []
    for id in ("laptop", "phone", polled["self"]["connectionId"]):
        assert ask_as(environment, "mallory", "POST", "/v1/me/leave", {"deviceId": id})[0] == 204
    ask_as(environment, "mallory", "PUT", "/v1/me/status", {"deviceId": "laptop", "status": "online"})
    environment.open("mallory", "M=", deviceId="phone", status="away")
    assert of(environment, "alice") == before


def test_a_connection_that_takes_anothers_name(environment: WarmEnvironment) -> None:
    """API Gateway assigns connection ids; a handshake that requests one, or a user, gets neither."""
    event = events.authorize({"token": token("mallory"), "userId": "alice", "connectionId": "A="})
    assert environment.invoke("authorize", event)["context"]["userId"] == "mallory"


# What must not be revealed


def test_a_stranger_cannot_tell_who_exists(environment: WarmEnvironment) -> None:
    """A query about an online stranger and one about an unknown user give the same result, on both APIs."""
    context = environment.open("mallory", "M=")
    environment.say(context, "M=", '{"action":"get_presence","userIds":["alice","nobody"]}')
    answers = [
        environment.frames("M=")[-1]["users"],
        ask_as(environment, "mallory", "GET", "/v1/presence?userIds=alice,nobody")[1]["users"],
        ask_as(environment, "mallory", "POST", "/v1/presence/query", {"userIds": ["alice", "nobody"]})[1]["users"],
    ]
    assert answers == [[{"userId": user, "status": "offline"} for user in ("alice", "nobody")]] * 3


def test_blocking_a_stranger_reveals_nothing(environment: WarmEnvironment) -> None:
    """The response to a block does not reveal whether the user exists, or sees or blocks the caller."""
    ask_as(environment, "alice", "PUT", "/v1/me/blocks/mallory")
    assert [ask_as(environment, "mallory", "PUT", f"/v1/me/blocks/{user}") for user in ("alice", "bob", "nobody")] == [
        (204, None)
    ] * 3
