"""The HTTP API as users call it: which tokens are accepted, and what each call does and returns."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from functions.api.requests import MAX_LISTED_USERS
from shared.routes import HTTP_ROUTES, HttpRoute
from shared.runtime import metrics
from tests.support.http_calls import ask, ask_as, ask_route, bearer, body_of, name, target_of, token
from tests.support.http_events import request
from tests.support.warm_environment import SECRET, WarmEnvironment

USERS = [route for route in HTTP_ROUTES if route.access == "user"]
HEARTBEAT, LEAVE, ME = "/v1/me/heartbeat", "/v1/me/leave", "/v1/me"
STRANGER = {"userId": "bob", "status": "offline"}


@pytest.fixture
def environment(start: Callable[..., WarmEnvironment]) -> WarmEnvironment:
    """An environment whose graph is loaded, in which alice and bob see each other."""
    environment = start()
    ask(environment, "PUT", "/v1/graph", {"loaded": True})
    ask(environment, "PUT", "/v1/users/alice/contacts", {"add": ["bob"]})
    return environment


def poll(environment: WarmEnvironment, user: str, **fields: Any) -> Any:
    """A successful poll."""
    status, answer = ask_as(environment, user, "POST", HEARTBEAT, {"deviceId": "d1", **fields})
    assert status == 200, answer
    return answer


def real(environment: WarmEnvironment, user: str) -> Any:
    """A user's real state, as the backend sees it."""
    return ask(environment, "GET", f"/v1/users/{user}/presence")[1]


def frames_about(environment: WarmEnvironment, connection: str, user: str, count: int) -> list[Any]:
    """The frames about a user that a connection got, once there are `count`: some wait for the viewer's window."""
    until = time.monotonic() + 5
    while True:
        frames = [frame for frame in environment.frames(connection) if frame.get("userId") == user]
        if len(frames) >= count or time.monotonic() > until:
            return frames
        environment.sweep()


# Tokens


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer a b",
        "Bearer a,Bearer b",
        "token",
        "AWS4-HMAC-SHA256 Credential=x",
    ],
)
@pytest.mark.parametrize("route", USERS, ids=name)
def test_without_a_token_a_users_call_is_401_with_a_challenge(
    environment: WarmEnvironment, route: HttpRoute, header: str
) -> None:
    """A missing or malformed header is 401 with the challenge; a backend's signature is not a token."""
    headers = {"authorization": header} if header else None
    answer = environment.invoke("api", request(route.method, target_of(route), body_of(route), headers=headers))
    assert answer["statusCode"] == 401
    assert answer["headers"]["WWW-Authenticate"] == "Bearer"


BAD_TOKENS: dict[str, Callable[[], str]] = {
    "expired": lambda: token("alice", lasts=-60),
    "not valid yet": lambda: token("alice", issued=600),
    "another secret": lambda: token("alice", key="another secret of thirty-two characters"),
    "no algorithm": lambda: jwt.encode({"sub": "alice", "exp": 4e9}, "", "none"),
    "another algorithm": lambda: jwt.encode({"sub": "alice", "exp": 4e9}, SECRET * 2, "HS512"),
    "no end": lambda: jwt.encode({"sub": "alice"}, SECRET, "HS256"),
    "no user": lambda: token("a/b"),
    "rubbish": lambda: "x.y.z",
}


@pytest.mark.parametrize("make", BAD_TOKENS.values(), ids=BAD_TOKENS)
@pytest.mark.parametrize("route", USERS, ids=name)
def test_a_bad_token_is_401_without_a_reason(
    environment: WarmEnvironment, route: HttpRoute, make: Callable[[], str]
) -> None:
    """Whatever is wrong with a token, the response is the same, nothing changes, and it is counted."""
    before = environment.redis.dbsize()
    status, problem = ask_route(environment, route, headers={"authorization": f"Bearer {make()}"})
    assert (status, problem["detail"]) == (401, "the token is not valid")
    assert environment.redis.dbsize() == before
    assert metrics()._counts["TokensRefused"] == 1


@pytest.mark.parametrize("route", USERS, ids=name)
def test_after_a_sign_out_everywhere_older_tokens_are_401(environment: WarmEnvironment, route: HttpRoute) -> None:
    """Every call refuses a token that was issued before it, and changes nothing; a later token is accepted."""
    poll(environment, "alice")
    ask(environment, "POST", "/v1/users/alice/disconnect")
    before = real(environment, "alice"), ask(environment, "GET", "/v1/users/alice/privacy")
    assert ask_route(environment, route, headers=bearer("alice", issued=-60))[0] == 401
    assert (real(environment, "alice"), ask(environment, "GET", "/v1/users/alice/privacy")) == before
    assert ask_route(environment, route, headers=bearer("alice", issued=1))[0] in (200, 204)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_has_no_case(environment: WarmEnvironment, scheme: str) -> None:
    """`bearer` is `Bearer` (RFC 9110)."""
    headers = {"authorization": f"{scheme} {token('alice')}"}
    assert ask(environment, "GET", ME, signed=False, headers=headers)[0] == 200


@pytest.mark.parametrize("place", ["query", "cookie", "other header", "body"])
def test_a_token_in_the_wrong_place_is_ignored(environment: WarmEnvironment, place: str) -> None:
    """Tokens in URLs, cookies and bodies are ignored: those end up in logs."""
    good = token("alice")
    event = request("POST", f"{HEARTBEAT}?token={good}" if place == "query" else HEARTBEAT, '{"deviceId":"d1"}')
    if place == "cookie":
        event["cookies"] = [f"token={good}", f"authorization=Bearer {good}"]
    if place == "other header":
        event["headers"] |= {"sec-websocket-protocol": f"presence.v2, {good}", "x-authorization": f"Bearer {good}"}
    if place == "body":
        event["body"] = f'{{"deviceId":"d1","token":"{good}","authorization":"Bearer {good}"}}'
    assert environment.invoke("api", event)["statusCode"] == 401


# Queries


@pytest.mark.parametrize("way", ["GET", "POST"])
def test_a_query_returns_the_same_as_get_presence(environment: WarmEnvironment, way: str) -> None:
    """Records come in the requested order; strangers and unknown users are offline, without further fields."""
    environment.open("bob", "B=", deviceType="mobile")
    environment.open("carol", "C=")
    requested = ["carol", "bob", "nobody", "alice"]
    if way == "GET":
        status, answer = ask_as(environment, "alice", "GET", f"/v1/presence?userIds={','.join(requested)}")
    else:
        status, answer = ask_as(environment, "alice", "POST", "/v1/presence/query", {"userIds": requested})
    assert status == 200
    carol, bob, nobody, _alice = answer["users"]
    assert [user["userId"] for user in answer["users"]] == requested
    assert (bob["status"], bob["deviceType"]) == ("online", "mobile")
    assert carol == {"userId": "carol", "status": "offline"}
    assert nobody == {"userId": "nobody", "status": "offline"}


@pytest.mark.parametrize(
    ("method", "target", "body", "field"),
    [
        ("GET", "/v1/presence", None, "userIds"),
        ("GET", "/v1/presence?userIds=", None, "userIds.0"),
        ("GET", "/v1/presence?userIds=a,,b", None, "userIds.1"),
        ("GET", "/v1/presence?userIds=a%20b", None, "userIds.0"),
        ("GET", "/v1/presence?userIds=" + ",".join(f"u{n}" for n in range(101)), None, "userIds"),
        ("POST", "/v1/presence/query", {}, "userIds"),
        ("POST", "/v1/presence/query", {"userIds": []}, "userIds"),
        ("POST", "/v1/presence/query", {"userIds": "bob"}, "userIds"),
        ("POST", "/v1/presence/query", {"userIds": [f"u{n}" for n in range(101)]}, "userIds"),
        ("GET", "/v1/me/contacts/presence?seq=x", None, "seq"),
        ("GET", "/v1/me/contacts/presence?seq=-1", None, "seq"),
        ("GET", "/v1/me/contacts/presence?seq=1.5", None, "seq"),
        ("POST", HEARTBEAT, {}, "deviceId"),
        ("POST", HEARTBEAT, {"deviceId": "a b"}, "deviceId"),
        ("POST", HEARTBEAT, {"deviceId": "d1\n"}, "deviceId"),
        ("POST", HEARTBEAT, {"deviceId": "d" * 65}, "deviceId"),
        ("POST", HEARTBEAT, {"deviceId": "d1", "status": "offline"}, "status"),
        ("POST", HEARTBEAT, {"deviceId": "d1", "active": 1}, "active"),
        ("POST", HEARTBEAT, {"deviceId": "d1", "seq": "1"}, "seq"),
        ("POST", HEARTBEAT, {"deviceId": "d1", "seq": None}, "seq"),
        ("POST", HEARTBEAT, {"deviceId": "d1", "status": None}, "status"),
        ("POST", LEAVE, {}, "body"),
        ("POST", LEAVE, {"deviceId": "d1", "grac": True}, "grac"),
        ("POST", LEAVE, {"deviceId": "d1", "connectionId": "A="}, "body"),
        ("POST", LEAVE, {"connectionId": "a b"}, "connectionId"),
        ("PUT", "/v1/me/status", {"deviceId": "d1"}, "body"),
        ("PUT", "/v1/me/status", {"deviceId": None, "status": "busy"}, "deviceId"),
        ("PUT", "/v1/me/status", {"status": None}, "status"),
        ("PUT", "/v1/me/status", {"status": "busy", "untl": 4102444800000}, "untl"),
        ("PUT", "/v1/me/status", {"customStatus": {"txt": "hi"}}, "customStatus.txt"),
        ("PUT", "/v1/me/status", {"status": "offline"}, "status"),
        ("PUT", "/v1/me/status", {"status": "busy", "scope": "device"}, "body"),
        ("PUT", "/v1/me/status", {"status": "busy", "deviceId": "d1", "until": 99999999999999}, "until"),
        ("PUT", "/v1/me/status", {"status": "busy", "until": 1}, "until"),
        ("PUT", "/v1/me/privacy", {}, "body"),
        ("PUT", "/v1/me/privacy", {"invisible": None}, "invisible"),
        ("PUT", "/v1/me/privacy", {"hideFrom": None}, "hideFrom"),
        ("PUT", "/v1/me/privacy", {"hideFrom": ["bob", "alice"]}, "hideFrom.1"),
        ("PUT", "/v1/me/privacy", {"hidefrom": ["bob"]}, "hidefrom"),
        ("PUT", "/v1/me/privacy", {"blocks": ["bob"]}, "blocks"),
        ("PUT", "/v1/me/privacy", {"hideFrom": ["u"] * (MAX_LISTED_USERS + 1)}, "hideFrom"),
        ("PUT", "/v1/me/blocks/alice", None, "userId"),
        ("PUT", "/v1/me/blocks/a%20b", None, "userId"),
        ("DELETE", "/v1/me/blocks/..", None, "userId"),
    ],
)
def test_an_invalid_request_is_refused(
    environment: WarmEnvironment, method: str, target: str, body: Any, field: str
) -> None:
    """400 names the first invalid field, and nothing is written."""
    before = environment.redis.dbsize()
    status, problem = ask_as(environment, "alice", method, target, body)
    assert status == 400
    assert problem["errors"][0]["field"] == field
    assert environment.redis.dbsize() == before


USER_ID_WORDS = "must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ | + = - and not . or .."


@pytest.mark.parametrize(
    ("method", "target", "body", "errors"),
    [
        ("GET", "/v1/presence?userIds=", None, {"userIds.0": USER_ID_WORDS}),
        ("POST", "/v1/presence/query", {"userIds": ["a b"]}, {"userIds.0": USER_ID_WORDS}),
        ("POST", "/v1/presence/query", {"userIds": []}, {"userIds": "at least one user"}),
        ("GET", "/v1/presence?userIds=" + ",".join(["u"] * 101), None, {"userIds": "at most 100 users"}),
        ("GET", "/v1/me/contacts/presence?seq=-1", None, {"seq": "must be at least 0"}),
        ("POST", HEARTBEAT, {"deviceId": "d1", "seq": -1}, {"seq": "must be at least 0"}),
        ("POST", HEARTBEAT, {"deviceId": "a b"}, {"deviceId": "must be 1 to 64 characters of A-Z a-z 0-9 . _ -"}),
        (
            "POST",
            LEAVE,
            {"connectionId": "a b"},
            {"connectionId": "must be a connectionId as the service gave it"},
        ),
        ("PUT", "/v1/me/status", {"status": "busy", "untl": 1}, {"untl": "unknown field"}),
        ("PUT", "/v1/me/privacy", {"hideFrom": ["alice"]}, {"hideFrom.0": "nobody hides from themselves"}),
    ],
)
def test_each_mistake_is_named_once_and_in_plain_terms(
    environment: WarmEnvironment, method: str, target: str, body: Any, errors: dict[str, str]
) -> None:
    """Each invalid field has one error, in the terms of the protocol."""
    problem = ask_as(environment, "alice", method, target, body)[1]
    assert [(error["field"], error["message"]) for error in problem["errors"]] == list(errors.items())


def test_a_poll_of_a_newer_client_is_accepted(environment: WarmEnvironment) -> None:
    """A poll is the heartbeat of a client without a WebSocket: fields that this version does not know are ignored."""
    assert ask_as(environment, "alice", "POST", HEARTBEAT, {"deviceId": "d1", "mood": "good"})[0] == 200


def test_the_snapshot_is_available_without_a_connection(environment: WarmEnvironment) -> None:
    """It has every contact; with its `seq` sent back it only confirms that nothing is new, until something changes."""
    status, first = ask_as(environment, "alice", "GET", "/v1/me/contacts/presence")
    assert (status, first["resumed"], [user["userId"] for user in first["users"]]) == (200, False, ["bob"])
    again = ask_as(environment, "alice", "GET", f"/v1/me/contacts/presence?seq={first['seq']}")[1]
    assert (again["resumed"], "users" in again, again["seq"]) == (True, False, first["seq"])
    environment.open("bob", "B=")
    newer = ask_as(environment, "alice", "GET", f"/v1/me/contacts/presence?seq={first['seq']}")[1]
    assert (newer["resumed"], newer["users"][0]["status"]) == (False, "online")
    assert real(environment, "alice")["status"] == "offline", "a query is not a heartbeat"


# Polling devices


def test_a_polling_device_keeps_its_user_online(environment: WarmEnvironment) -> None:
    """Each poll is a heartbeat of the same device; contacts are notified as for any other device."""
    environment.open("bob", "B=")
    answer = poll(environment, "alice", deviceType="mobile", status="busy")
    assert (answer["type"], answer["part"], answer["parts"], answer["resumed"]) == ("presence_snapshot", 1, 1, False)
    assert [user["userId"] for user in answer["users"]] == ["bob"]
    [device] = answer["self"]["devices"]
    assert (device["deviceId"], device["deviceType"], device["status"]) == ("d1", "mobile", "busy")
    assert device["connectionId"] == answer["self"]["connectionId"]
    assert answer["self"]["heartbeatEvery"] == 30_000
    [announced] = [frame for frame in environment.frames("B=") if frame["type"] == "user_online"]
    assert (announced["userId"], announced["status"]) == ("alice", "busy")
    again = poll(environment, "alice", seq=answer["seq"], status="busy")
    assert (again["resumed"], "users" in again) == (True, False)
    assert [device["connectionId"] for device in again["self"]["devices"]] == [answer["self"]["connectionId"]]


def test_a_polling_device_learns_of_changes_at_its_next_poll(environment: WarmEnvironment) -> None:
    """Changes between two polls come with the next one, since nothing can be posted to the device."""
    first = poll(environment, "alice")
    environment.open("bob", "B=")
    second = poll(environment, "alice", seq=first["seq"])
    assert (second["resumed"], second["users"][0]["status"]) == (False, "online")
    assert environment.frames(first["self"]["connectionId"]) == []


def test_the_status_of_a_polling_device(environment: WarmEnvironment) -> None:
    """With `deviceId` a status applies to that device; without one, or with scope `user`, it is a claim."""
    poll(environment, "alice")
    assert ask_as(environment, "alice", "PUT", "/v1/me/status", {"deviceId": "d1", "status": "away"}) == (204, None)
    assert (real(environment, "alice")["status"], real(environment, "alice")["rule"]) == ("away", "device")
    assert ask_as(environment, "alice", "PUT", "/v1/me/status", {"status": "busy"})[0] == 204
    claimed = real(environment, "alice")
    assert (claimed["claim"], claimed["rule"]) == ({"status": "busy", "until": None}, "claim")
    body = {"deviceId": "d1", "status": "online", "scope": "user", "customStatus": {"text": "Lunch"}, "n": 7, "seq": 3}
    assert ask_as(environment, "alice", "PUT", "/v1/me/status", body)[0] == 204
    assert (real(environment, "alice")["status"], real(environment, "alice")["claim"]) == ("away", None)
    assert real(environment, "alice")["customStatus"]["text"] == "Lunch"


def test_a_polling_device_leaves_and_comes_again(environment: WarmEnvironment) -> None:
    """Leaving has no grace; a late poll with a `seq` does not bring the device back, a first poll does."""
    first = poll(environment, "alice")
    assert ask_as(environment, "alice", "POST", LEAVE, {"deviceId": "d1"}) == (204, None)
    assert real(environment, "alice")["status"] == "offline"
    answer = environment.invoke(
        "api",
        request("POST", HEARTBEAT, f'{{"deviceId":"d1","seq":{first["seq"]}}}', headers=bearer("alice")),
    )
    assert (answer["statusCode"], answer["headers"]["Retry-After"]) == (409, "5")
    assert ask_as(environment, "alice", "PUT", "/v1/me/status", {"deviceId": "d1", "status": "busy"})[0] == 409
    assert real(environment, "alice")["status"] == "offline"
    assert poll(environment, "alice")["self"]["connectionId"] == first["self"]["connectionId"]
    assert real(environment, "alice")["status"] == "online"


def test_reloading_a_polling_page_is_no_event(environment: WarmEnvironment) -> None:
    """Leaving with `grace` works like closing a socket: a late poll changes nothing, a first poll continues."""
    environment.open("bob", "B=")
    first = poll(environment, "alice", status="busy")
    before = len(environment.frames("B="))
    assert ask_as(environment, "alice", "POST", LEAVE, {"deviceId": "d1", "grace": True}) == (204, None)
    assert (real(environment, "alice")["status"], real(environment, "alice")["rule"]) == ("busy", "grace")
    assert ask_as(environment, "alice", "POST", HEARTBEAT, {"deviceId": "d1", "seq": first["seq"]})[0] == 409
    again = poll(environment, "alice")
    assert [device["status"] for device in again["self"]["devices"]] == ["busy"]
    assert real(environment, "alice")["rule"] == "device"
    assert environment.frames("B=")[before:] == []


def test_a_socket_takes_over_from_a_polling_page_that_was_left(environment: WarmEnvironment) -> None:
    """A page that polled is reloaded and has a WebSocket now: the same device, with its status, and no event."""
    environment.open("bob", "B=")
    poll(environment, "alice", status="busy")
    before = len(environment.frames("B="))
    ask_as(environment, "alice", "POST", LEAVE, {"deviceId": "d1", "grace": True})
    context = environment.open("alice", "A=", deviceId="d1")
    environment.say(context, "A=", '{"action":"sync"}')
    assert [(one["connectionId"], one["status"]) for one in real(environment, "alice")["devices"]] == [("A=", "busy")]
    assert environment.frames("B=")[before:] == []


def test_a_renewed_token_lengthens_a_polling_devices_life(start: Callable[..., WarmEnvironment]) -> None:
    """A polling device outlives its first token, since each poll brings a token."""
    environment = start()
    ask_as(environment, "alice", "POST", HEARTBEAT, {"deviceId": "d1"})
    ends = []
    for lasts in (20, 2000):
        headers = bearer("alice", lasts=lasts)
        own = ask(environment, "POST", HEARTBEAT, {"deviceId": "d1"}, signed=False, headers=headers)[1]["self"]
        ends.append((own["rotateAt"] - own["devices"][0]["connectedAt"]) / 1000)
    assert ends == pytest.approx([10, 2000 - 30], abs=5)


def test_the_number_of_polling_devices_is_limited(start: Callable[..., WarmEnvironment]) -> None:
    """One more than `max_devices` is 409 and names the limit; the others keep working."""
    environment = start(max_devices=2)
    assert [
        ask_as(environment, "alice", "POST", HEARTBEAT, {"deviceId": f"d{number}"})[0] for number in (1, 2, 3, 1)
    ] == [
        200,
        200,
        409,
        200,
    ]


def test_a_device_that_polls_too_often_is_429(start: Callable[..., WarmEnvironment]) -> None:
    """The rate limit of a connection applies to a polling device too, and its error has the time to wait."""
    environment = start(rate_limit=0.5, rate_burst=2)
    statuses = [ask_as(environment, "alice", "POST", HEARTBEAT, {"deviceId": "d1"})[0] for _ in range(3)]
    assert statuses == [200, 200, 429]
    answer = environment.invoke("api", request("POST", HEARTBEAT, '{"deviceId":"d1"}', headers=bearer("alice")))
    assert answer["headers"]["Retry-After"] == "2"


def test_too_many_calls_of_a_user_are_429(start: Callable[..., WarmEnvironment]) -> None:
    """The calls of a user share a limit; 429 says when to retry, and other users go on."""
    environment = start(http_rate_limit=0.4, http_rate_burst=3)
    paths = [ME, "/v1/presence?userIds=bob", "/v1/me/contacts/presence", ME]
    assert [ask_as(environment, "alice", "GET", path)[0] for path in paths] == [200, 200, 200, 429]
    answer = environment.invoke("api", request("GET", ME, headers=bearer("alice")))
    assert (answer["headers"]["Retry-After"], json.loads(answer["body"])["detail"]) == (
        "3",
        "too many calls by this user",
    )
    assert ask_as(environment, "bob", "GET", ME)[0] == 200
    assert ask(environment, "GET", "/v1/users/alice/presence")[0] == 200


def test_a_socket_takes_over_from_a_polling_device(environment: WarmEnvironment) -> None:
    """`replaces` may name the polling device: its status is carried over, and no contact is notified."""
    environment.open("bob", "B=")
    polled = poll(environment, "alice", status="busy")
    before = len(environment.frames("B="))
    context = environment.open("alice", "A=", deviceId="d1")
    environment.say(context, "A=", f'{{"action":"sync","replaces":"{polled["self"]["connectionId"]}"}}')
    state = real(environment, "alice")
    assert ([device["connectionId"] for device in state["devices"]], state["status"]) == (["A="], "busy")
    assert environment.frames("B=")[before:] == []
    assert environment.closed() == []


# Leaving


def test_a_socket_is_ended_from_outside(environment: WarmEnvironment) -> None:
    """`connectionId` ends one of the user's own sockets, which is closed without a grace."""
    environment.open("alice", "A=")
    environment.open("alice", "A2=")
    assert ask_as(environment, "alice", "POST", LEAVE, {"connectionId": "A="}) == (204, None)
    assert environment.closed() == ["A="]
    assert [device["connectionId"] for device in real(environment, "alice")["devices"]] == ["A2="]


def test_another_users_connection_cannot_be_ended(environment: WarmEnvironment) -> None:
    """Another user's connection or device id closes nothing, leaves no trace, and gets the usual response."""
    context = environment.open("alice", "A=")
    polled = poll(environment, "alice")
    ask_as(environment, "bob", "GET", ME)
    keys = sorted(environment.redis.keys())
    for body in (
        {"connectionId": "A="},
        {"connectionId": polled["self"]["connectionId"]},
        {"deviceId": "d1"},
        {"connectionId": "never="},
    ):
        assert ask_as(environment, "bob", "POST", LEAVE, body) == (204, None)
    assert environment.closed() == []
    assert sorted(environment.redis.keys()) == keys
    environment.say(context, "A=", '{"action":"heartbeat"}', function="heartbeat")
    assert len(real(environment, "alice")["devices"]) == 2


# The user


def test_a_user_sees_their_own_real_state_and_its_reason(environment: WarmEnvironment) -> None:
    """Devices, claim, settings, the rule that won, and what contacts see; never who blocks or hides from the user."""
    environment.open("alice", "A=", deviceId="phone", deviceType="mobile")
    ask_as(
        environment, "alice", "PUT", "/v1/me/privacy", {"invisible": True, "hideFrom": ["bob"], "lastSeen": "nobody"}
    )
    ask_as(environment, "alice", "PUT", "/v1/me/blocks/eve")
    ask_as(environment, "alice", "PUT", "/v1/me/status", {"status": "busy"})
    status, me = ask_as(environment, "alice", "GET", ME)
    assert status == 200
    [device] = me["devices"]
    assert (device["connectionId"], device["deviceId"], device["deviceType"]) == ("A=", "phone", "mobile")
    del me["devices"], me["lastSeen"]
    assert me == {
        "userId": "alice",
        "status": "busy",
        "customStatus": None,
        "claim": {"status": "busy", "until": None},
        "invisible": True,
        "lastSeenPolicy": "nobody",
        "visibleStatus": "offline",
        "rule": "claim",
        "why": "invisible: contacts see offline",
        "hideFrom": ["bob"],
        "blocks": ["eve"],
    }


def test_a_users_own_responses_do_not_reveal_blocks(environment: WarmEnvironment) -> None:
    """Blocked or hidden from, now and after later changes: the user's own responses differ only in bob."""
    environment.open("alice", "A=")
    before = ask_as(environment, "alice", "GET", ME)
    changes: list[dict[str, list[str]]] = [{"hideFrom": ["alice"]}, {"hideFrom": []}]
    for change in changes:
        ask_as(environment, "bob", "PUT", "/v1/me/privacy", change)
        ask_as(environment, "bob", "PUT", "/v1/me/blocks/alice")
        assert ask_as(environment, "alice", "GET", ME) == before
        assert ask_as(environment, "alice", "GET", "/v1/presence?userIds=bob")[1]["users"][0]["status"] == "offline"


def test_a_users_own_privacy_changes_only_the_given_fields(environment: WarmEnvironment) -> None:
    """Users the backend blocked stay blocked when the user changes other settings."""
    ask(environment, "PUT", "/v1/users/alice/privacy", {"blocks": ["eve"], "hideFrom": ["carol"]})
    assert ask_as(environment, "alice", "PUT", "/v1/me/privacy", {"hideFrom": ["bob"]}) == (204, None)
    assert ask(environment, "GET", "/v1/users/alice/privacy")[1] == {
        "invisible": False,
        "lastSeen": "everyone",
        "hideFrom": ["bob"],
        "blocks": ["eve"],
    }


# Blocks


def test_a_block_affects_both_sides_and_no_other_user(environment: WarmEnvironment) -> None:
    """Each side gets one ordinary `user_offline`; unblocking shows both again, and a repeated block has no effect."""
    for user, connection in (("alice", "A="), ("bob", "B=")):
        environment.open(user, connection)
    for _ in range(2):
        assert ask_as(environment, "alice", "PUT", "/v1/me/blocks/bob") == (204, None)
    for connection, other, seen in (("A=", "bob", ["user_online"]), ("B=", "alice", [])):
        frames = frames_about(environment, connection, other, len(seen) + 1)
        assert [frame["type"] for frame in frames] == [*seen, "user_offline"]
        assert "block" not in str(frames)
    assert ask_as(environment, "alice", "GET", ME)[1]["blocks"] == ["bob"]
    assert ask_as(environment, "bob", "GET", ME)[1]["blocks"] == []
    assert ask_as(environment, "bob", "DELETE", "/v1/me/blocks/alice") == (204, None)
    assert ask_as(environment, "bob", "GET", "/v1/presence?userIds=alice")[1]["users"][0]["status"] == "offline"
    for _ in range(2):
        assert ask_as(environment, "alice", "DELETE", "/v1/me/blocks/bob") == (204, None)
    assert ask_as(environment, "bob", "GET", "/v1/presence?userIds=alice")[1]["users"][0]["status"] == "online"


def test_the_number_of_blocks_is_limited(environment: WarmEnvironment) -> None:
    """The thousand and first block is 409; repeating an existing block is not."""
    ask(environment, "PUT", "/v1/users/alice/privacy", {"blocks": [f"u{number}" for number in range(1000)]})
    assert ask_as(environment, "alice", "PUT", "/v1/me/blocks/u7")[0] == 204
    status, problem = ask_as(environment, "alice", "PUT", "/v1/me/blocks/one-more")
    assert (status, problem["errors"][0]["field"]) == (409, "userId")
    assert ask_as(environment, "alice", "DELETE", "/v1/me/blocks/u7")[0] == 204
    assert ask_as(environment, "alice", "PUT", "/v1/me/blocks/one-more")[0] == 204


# Erasing


def keys_about(environment: WarmEnvironment, user: str) -> dict[str, Any]:
    """Every key whose name or content names a user, with its content."""
    redis, found = environment.redis, {}
    for key in sorted(redis.scan_iter()):
        kind = redis.type(key)
        content: Any
        if kind == b"hash":
            content = redis.hgetall(key)
        elif kind == b"set":
            content = redis.smembers(key)
        else:
            content = redis.zrange(key, 0, -1)
        if user in key.decode() or user in str(content):
            found[key.decode()] = content
    return found


def test_erasing_leaves_nothing_of_a_user_anywhere(environment: WarmEnvironment) -> None:
    """Contacts, hiding, blocks and records are removed on both sides; a marker refuses old tokens for a day."""
    ask(environment, "PUT", "/v1/users/alice/contacts", {"add": ["carol"], "mutual": False})
    ask(environment, "PUT", "/v1/users/dave/contacts", {"add": ["alice"], "mutual": False})
    ask_as(environment, "bob", "PUT", "/v1/me/privacy", {"hideFrom": ["alice"]})
    ask_as(environment, "eve", "PUT", "/v1/me/blocks/alice")
    ask_as(environment, "alice", "PUT", "/v1/me/blocks/mallory")
    ask_as(environment, "alice", "PUT", "/v1/me/status", {"customStatus": {"text": "private text"}})
    for user, connection in (("alice", "A1="), ("alice", "A2="), ("bob", "B="), ("carol", "C=")):
        environment.open(user, connection)
    poll(environment, "alice")
    ask(environment, "PUT", "/v1/users/alice/contacts", {"remove": ["bob"], "add": ["frank"]})
    assert len(keys_about(environment, "alice")) > 8
    assert ask(environment, "DELETE", "/v1/users/alice") == (204, None)
    assert sorted(environment.closed()) == ["A1=", "A2="]
    assert [frame["type"] for frame in frames_about(environment, "C=", "alice", 1)] == ["user_offline"]
    [(key, content)] = keys_about(environment, "alice").items()
    assert key.endswith(":user:alice")
    assert list(content) == [b"erased"]
    assert 0 < environment.redis.ttl(key) <= 86_400
    assert ask_as(environment, "carol", "GET", "/v1/presence?userIds=alice")[1]["users"] == [
        {"userId": "alice", "status": "offline"}
    ]
    assert ask(environment, "GET", "/v1/users/bob/privacy")[1]["hideFrom"] == []


def test_an_erased_user_does_not_come_back_with_an_old_token(environment: WarmEnvironment) -> None:
    """A client that reconnects, and a message in transit, bring nothing back; a new token starts fresh."""
    old = environment.open("alice", "A=")
    ask(environment, "DELETE", "/v1/users/alice")
    environment.say(old, "A=", '{"action":"heartbeat"}', function="heartbeat")
    headers = bearer("alice", issued=-5)
    assert ask(environment, "POST", HEARTBEAT, {"deviceId": "d1"}, signed=False, headers=headers)[0] == 401
    assert real(environment, "alice")["devices"] == []
    kept = keys_about(environment, "alice")
    user, due = (next(key for key in kept if kind in key) for kind in (":user:", ":due"))
    assert kept.keys() == {user, due}
    assert kept[user].keys() == {b"erased", b"!A=", b"due"}  # the refusal of the late message is kept for a minute
    headers = bearer("alice", issued=1)
    assert ask(environment, "POST", HEARTBEAT, {"deviceId": "d1"}, signed=False, headers=headers)[0] == 200
    assert real(environment, "alice")["status"] == "online"


def test_erasing_twice_is_erasing_once(environment: WarmEnvironment) -> None:
    """Erasing a user who is gone, or never existed, succeeds, and no contact is notified."""
    environment.open("bob", "B=")
    environment.open("alice", "A=")
    for _ in range(2):
        assert ask(environment, "DELETE", "/v1/users/alice") == (204, None)
    assert ask(environment, "DELETE", "/v1/users/nobody") == (204, None)
    assert [frame["type"] for frame in frames_about(environment, "B=", "alice", 2)] == ["user_online", "user_offline"]
