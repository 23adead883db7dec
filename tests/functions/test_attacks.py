"""Acting as somebody else: each way that was thought of, on both APIs, against the handlers as they are deployed.

What only a gateway can refuse (signatures that are wrong) is tried in `tests/end_to_end/test_http_api.py`.
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
    """An environment in which alice is online, sees bob and is seen by him, and mallory is nobody's contact."""
    environment = start()
    ask(environment, "PUT", "/v1/graph", {"loaded": True})
    ask(environment, "PUT", "/v1/users/alice/contacts", {"add": ["bob"]})
    environment.open("alice", "A=", deviceId="phone")
    return environment


def of(environment: WarmEnvironment, user: str) -> Any:
    """Everything that the backend sees of a user, but for the times of what keeps it up to date."""
    whole = [ask(environment, "GET", f"/v1/users/{user}/{what}")[1] for what in ("presence", "privacy", "contacts")]
    for device in whole[0]["devices"]:
        del device["lastActive"]
    return whole


def decision(environment: WarmEnvironment, presented: str) -> str:
    """What the WebSocket API's authorizer says to a token."""
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
    """A message acts for whoever the authorizer vouched for, whatever it says."""
    context = environment.open("mallory", "M=")
    before = of(environment, "alice")
    environment.say(
        context, "M=", json.dumps(message), function="update" if "presence" in message["action"] else "query"
    )
    assert of(environment, "alice") == before
    assert "A=" not in environment.closed()


@pytest.mark.parametrize("route", USERS, ids=name)
def test_another_users_id_in_body_query_and_headers(environment: WarmEnvironment, route: HttpRoute) -> None:
    """A user's call acts for the token's user: ids elsewhere are not looked at, or refused."""
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
    """The path may name oneself or another: without a signature that the gateway has verified it is 403.

    Nor does a signature let anybody in as a user.
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
    """A token put together by hand."""
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
    """Refused by both APIs, without a reason."""
    presented = make()
    assert decision(environment, presented) == "Deny"
    headers = {"authorization": f"Bearer {presented}"}
    assert ask(environment, "GET", "/v1/me", signed=False, headers=headers)[0] == 401
    assert decision(environment, token("alice")) == "Allow"


def test_a_token_in_the_wrong_place(environment: WarmEnvironment) -> None:
    """A handshake's token counts where the deployment looks for it, and nowhere else; so does a call's."""
    good = token("alice")
    for headers in ({"Authorization": f"Bearer {good}"}, {"Sec-WebSocket-Protocol": f"presence.v1, {good}"}):
        answer = environment.invoke("authorize", events.authorize({}, headers))
        assert answer["policyDocument"]["Statement"][0]["Effect"] == "Deny"
    answer = environment.invoke("api", request("GET", f"/v1/me?token={good}&access_token={good}", signed=False))
    assert answer["statusCode"] == 401


# 7: a connection outlives its token


@pytest.mark.parametrize("function", ["heartbeat", "update", "query"])
def test_an_expired_token_on_an_open_socket(environment: WarmEnvironment, function: str) -> None:
    """A minute after its token's end a connection cannot speak any more: it is closed, and its user is offline."""
    now = now_ms() // 1000
    context = events.vouched("mallory", now - 3600, now - 61)
    bodies = {"heartbeat": "heartbeat", "update": "presence_update", "query": "sync"}
    said = {"action": bodies[function], **({"status": "busy"} if function == "update" else {})}
    environment.say(context, "M=", json.dumps(said), function=function)
    assert environment.closed() == ["M="]
    assert environment.frames("M=") == []
    assert of(environment, "mallory")[0]["status"] == "offline"
    assert environment.invoke("connect", events.connect(context, "M2=", now_ms()))["statusCode"] == 403


# 8-10: what belongs to somebody else


def test_a_foreign_connection_id_in_replaces(environment: WarmEnvironment) -> None:
    """`replaces` reaches one's own connections only."""
    context = environment.open("mallory", "M=")
    before = of(environment, "alice")
    environment.say(context, "M=", '{"action":"sync","replaces":"A="}')
    assert environment.closed() == []
    assert of(environment, "alice") == before


def test_a_foreign_connection_id_in_leave(environment: WarmEnvironment) -> None:
    """It closes nothing, marks nothing as closed, and the answer does not tell whether there is such a connection."""
    before, keys = of(environment, "alice"), sorted(environment.redis.keys())
    answers = [
        ask_as(environment, "mallory", "POST", "/v1/me/leave", {"connectionId": id}) for id in ("A=", "never=", "M=")
    ]
    assert answers == [(204, None)] * 3
    assert (environment.closed(), of(environment, "alice"), sorted(environment.redis.keys())) == ([], before, keys)


def test_a_foreign_device_id(environment: WarmEnvironment) -> None:
    """A device id is one's own: another user's device of that name, socket or polling, is another device."""
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
    """API Gateway gives connection ids; a handshake that asks for one, or for a user, gets neither."""
    event = events.authorize({"token": token("mallory"), "userId": "alice", "connectionId": "A="})
    assert environment.invoke("authorize", event)["context"]["userId"] == "mallory"


# And what nobody is told


def test_a_stranger_cannot_tell_who_exists(environment: WarmEnvironment) -> None:
    """Asking about somebody who is online and no contact, and about nobody, gives the same, on both APIs."""
    context = environment.open("mallory", "M=")
    environment.say(context, "M=", '{"action":"get_presence","userIds":["alice","nobody"]}')
    answers = [
        environment.frames("M=")[-1]["users"],
        ask_as(environment, "mallory", "GET", "/v1/presence?userIds=alice,nobody")[1]["users"],
        ask_as(environment, "mallory", "POST", "/v1/presence/query", {"userIds": ["alice", "nobody"]})[1]["users"],
    ]
    assert answers == [[{"userId": user, "status": "offline"} for user in ("alice", "nobody")]] * 3


def test_blocking_a_stranger_tells_nothing(environment: WarmEnvironment) -> None:
    """Whether there is such a user, and whether they see or block one, does not show in the answer to a block."""
    ask_as(environment, "alice", "PUT", "/v1/me/blocks/mallory")
    assert [ask_as(environment, "mallory", "PUT", f"/v1/me/blocks/{user}") for user in ("alice", "bob", "nobody")] == [
        (204, None)
    ] * 3
