"""The functions of the WebSocket API and the sweeper, invoked as API Gateway and the schedule do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from shared.delivery import Unavailable
from shared.routes import FUNCTIONS, WEBSOCKET_ROUTES
from shared.runtime import metrics, now_ms
from tests.support import events
from tests.support.http_events import request
from tests.support.service import Bench
from tests.support.warm_environment import SECRET, WarmEnvironment

ID = "BFaT_fALIAMCKug="
MESSAGES = {
    "heartbeat": '{"action":"heartbeat","id":"m1"}',
    "update": '{"action":"presence_update","status":"busy","id":"m1"}',
    "query": '{"action":"get_presence","userIds":["bob"],"id":"m1"}',
}
"""A message for each function that handles messages."""


def token(secret: str = SECRET, **claims: Any) -> str:
    """Alice's token, valid for an hour."""
    now = now_ms() // 1000
    return jwt.encode({"sub": "alice", "iat": now, "exp": now + 3600} | claims, secret, "HS256")


def vouched(**claims: str) -> dict[str, Any]:
    """The authorizer's context of alice's connection, issued just now."""
    now = now_ms() // 1000
    return events.vouched("alice", now, now + 3600, **claims)


def connect(environment: WarmEnvironment, context: dict[str, Any] | None = None, **handshake: dict[str, str]) -> Any:
    """The response to a handshake by alice."""
    return environment.invoke("connect", events.connect(context or vouched(), ID, now_ms(), **handshake))


def real(environment: WarmEnvironment, user: str = "alice") -> dict[str, Any]:
    """A user's real state, as the backend sees it."""
    answer = environment.invoke("api", request("GET", f"/v1/users/{user}/presence"))
    state: dict[str, Any] = json.loads(answer["body"])
    return state


def contacts(environment: WarmEnvironment, user: str, *others: str) -> None:
    """Let users see each other."""
    for path, body in ((f"/v1/users/{user}/contacts", {"add": others}), ("/v1/graph", {"loaded": True})):
        assert environment.invoke("api", request("PUT", path, json.dumps(body)))["statusCode"] == 204


def denial() -> dict[str, Any]:
    """The authorizer's only form of denial."""
    statement = {"Action": "execute-api:Invoke", "Effect": "Deny", "Resource": events.METHOD_ARN}
    return {"principalId": "nobody", "policyDocument": {"Version": "2012-10-17", "Statement": [statement]}}


# Before the handshake


def test_a_good_token_lets_its_user_in(environment: WarmEnvironment) -> None:
    """The authorizer allows this one handshake and passes on the user and what the client sent about its device."""
    query = {"token": token(), "deviceId": "phone", "deviceType": "mobile", "status": "busy", "active": "false"}
    answer = environment.invoke("authorize", events.authorize(query))
    assert answer["principalId"] == "alice"
    [statement] = answer["policyDocument"]["Statement"]
    assert statement == {"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": events.METHOD_ARN}
    context = answer["context"]
    assert context["userId"] == "alice"
    assert int(context["exp"]) - int(context["iat"]) == 3600
    assert (context["deviceId"], context["deviceType"]) == ("phone", "mobile")
    assert (context["status"], context["active"]) == ("busy", "false")
    assert all(isinstance(value, str) for value in context.values())


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "rubbish",
        token("another secret of thirty-two chars"),
        token(exp=now_ms() // 1000 - 60),
        token(sub="a/b"),
        token(sub=None),
        token().rpartition(".")[0] + ".",
    ],
    ids=["none", "rubbish", "wrong key", "expired", "bad user", "no user", "unsigned"],
)
def test_a_bad_token_is_refused_without_a_reason(environment: WarmEnvironment, bad: str) -> None:
    """Whatever is wrong with a token, the authorizer returns the same denial."""
    answer = environment.invoke("authorize", events.authorize({"token": bad}))
    assert answer == denial()
    assert environment.redis.dbsize() == 0


def test_a_token_as_a_subprotocol_is_read_if_the_setting_says_so(start: Callable[..., WarmEnvironment]) -> None:
    """With `token_source` subprotocol a token in the query is ignored."""
    environment = start(token_source="subprotocol")
    offered = {"Sec-WebSocket-Protocol": f"presence.v2, {token()}"}
    assert environment.invoke("authorize", events.authorize(headers=offered))["principalId"] == "alice"
    assert environment.invoke("authorize", events.authorize({"token": token()})) == denial()


# The handshake


def test_a_handshake_makes_the_user_online_and_posts_nothing(environment: WarmEnvironment) -> None:
    """`$connect` returns 200. A socket that is still opening accepts no posts, so the first message announces."""
    contacts(environment, "alice", "bob")
    environment.open("bob", "B=")
    before = len(environment.management.requests)
    assert connect(environment, vouched(deviceType="mobile"), query={"v": "2"}) == {"statusCode": 200, "headers": {}}
    assert len(environment.management.requests) == before
    state = real(environment)
    assert (state["status"], [device["connectionId"] for device in state["devices"]]) == ("online", [ID])


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"v": "1"}, "v=1"),
        ({"deviceId": "a/b"}, "deviceId"),
        ({"deviceId": "d" * 65}, "deviceId"),
        ({"status": "offline"}, "status"),
        ({"active": "perhaps"}, "active"),
    ],
)
def test_a_malformed_handshake_is_400(environment: WarmEnvironment, query: dict[str, str], named: str) -> None:
    """A value that the protocol does not have is refused by name, and the user does not come online."""
    answer = connect(environment, query=query)
    assert answer["statusCode"] == 400
    assert named in answer["body"]
    assert environment.redis.dbsize() == 0


def test_the_offered_protocol_is_accepted(environment: WarmEnvironment) -> None:
    """A browser that offered `presence.v2` hangs up unless it is accepted; a protocol that was not offered never is."""
    accepted = connect(environment, headers={"Sec-WebSocket-Protocol": "presence.v2, a.b.c"})
    assert accepted == {"statusCode": 200, "headers": {"Sec-WebSocket-Protocol": "presence.v2"}}
    assert connect(environment, headers={"Sec-WebSocket-Protocol": "chat"}) == {"statusCode": 200, "headers": {}}


def test_a_token_from_before_sign_out_everywhere_is_403(environment: WarmEnvironment) -> None:
    """After signing out everywhere, an old token that has not expired opens no connection."""
    old = vouched(iat=str(now_ms() // 1000 - 60))
    environment.invoke("api", request("POST", "/v1/users/alice/disconnect"))
    assert connect(environment, old) == {"statusCode": 403}
    assert real(environment)["status"] == "offline"


def test_a_connection_that_has_closed_already_is_403(environment: WarmEnvironment) -> None:
    """A `$disconnect` that overtakes its `$connect` leaves no ghost."""
    context = vouched()
    assert environment.invoke("disconnect", events.disconnect(context, ID, now_ms())) == {"statusCode": 200}
    assert connect(environment, context) == {"statusCode": 403}
    assert real(environment)["devices"] == []


def test_a_handshake_beyond_the_number_of_sockets_is_429(start: Callable[..., WarmEnvironment]) -> None:
    """One more socket than `max_sockets` is refused with 429 and the reason."""
    environment = start(max_sockets=1)
    assert connect(environment)["statusCode"] == 200
    now = now_ms()
    event = events.connect(events.vouched("alice", now // 1000, now // 1000 + 60), "B=", now)
    assert environment.invoke("connect", event) == {"statusCode": 429, "body": "a user has at most 1 sockets open"}


def test_while_redis_is_away_handshakes_are_let_in(cut_off: WarmEnvironment) -> None:
    """A client that is let in recovers with its first heartbeat; a refused one would reconnect immediately."""
    assert connect(cut_off) == {"statusCode": 200, "headers": {}}
    assert connect(cut_off, query={"v": "1"})["statusCode"] == 400


# The end of a connection


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1005, "Client-side close frame status not set"), (1001, ""), (1000, "Connection Closed Normally"), (1006, "")],
)
def test_a_disconnect_starts_the_grace(environment: WarmEnvironment, code: int, reason: str) -> None:
    """However a socket closed, its user stays unchanged for the grace; a second notice has no effect."""
    context = environment.open("alice", ID)
    for _ in range(2):
        event = events.disconnect(context, ID, now_ms(), code=code, reason=reason)
        assert environment.invoke("disconnect", event) == {"statusCode": 200}
        state = real(environment)
        assert (state["status"], state["devices"]) == ("online", [])
        assert "grace" in state["why"]


def test_without_a_grace_contacts_are_notified_immediately(start: Callable[..., WarmEnvironment]) -> None:
    """The function that handles a disconnect announces it, once the grace is over."""
    environment = start(grace=0)
    contacts(environment, "alice", "bob")
    context = environment.open("alice", ID)
    environment.open("bob", "B=")
    environment.invoke("disconnect", events.disconnect(context, ID, now_ms()))
    [frame] = [frame for frame in environment.frames("B=") if frame["type"] == "user_offline"]
    assert frame["userId"] == "alice"
    assert frame["lastSeen"] is not None


# Messages


def test_the_first_sync_gets_a_snapshot(environment: WarmEnvironment) -> None:
    """`sync` returns everything that the user may see, with the message's id, and announces the user."""
    contacts(environment, "alice", "bob")
    environment.open("bob", "B=")
    context = vouched()
    connect(environment, context)
    environment.say(context, ID, '{"action":"sync","id":"s1"}')
    [snapshot] = environment.frames(ID)
    assert (snapshot["type"], snapshot["id"], snapshot["resumed"]) == ("presence_snapshot", "s1", False)
    assert [(user["userId"], user["status"]) for user in snapshot["users"]] == [("bob", "online")]
    assert snapshot["self"]["connectionId"] == ID
    [announced] = [frame for frame in environment.frames("B=") if frame["type"] == "user_online"]
    assert announced["userId"] == "alice"


def test_a_heartbeat_that_missed_nothing_gets_no_response(environment: WarmEnvironment) -> None:
    """Each response costs: a heartbeat keeps the connection alive and posts nothing."""
    context = environment.open("alice", ID)
    before = len(environment.management.requests)
    environment.say(context, ID, '{"action":"heartbeat","active":true}', function="heartbeat")
    assert len(environment.management.requests) == before


def test_a_heartbeat_brings_a_lost_connection_back(environment: WarmEnvironment) -> None:
    """After Redis has lost everything, one heartbeat restores the user."""
    context = environment.open("alice", ID)
    environment.redis.flushall()
    environment.say(context, ID, '{"action":"heartbeat","status":"busy"}', function="heartbeat")
    assert real(environment)["status"] == "busy"


def test_an_update_reaches_contacts_and_its_sender(environment: WarmEnvironment) -> None:
    """`presence_update` is one frame to each contact, and `presence_self` to the user."""
    contacts(environment, "alice", "bob")
    context = environment.open("alice", ID)
    environment.open("bob", "B=")  # last, so that no frame has just been posted to it: a second one would wait a moment
    environment.say(context, ID, '{"action":"presence_update","status":"busy","n":1}', function="update")
    [announced] = [frame for frame in environment.frames("B=") if frame["type"] == "presence_status"]
    assert (announced["userId"], announced["status"]) == ("alice", "busy")
    own = environment.frames(ID)[-1]
    assert (own["type"], own["self"]["status"], own["self"]["n"]["status"]) == ("presence_self", "busy", 1)


def test_an_update_that_changes_nothing_is_confirmed_only_if_numbered(environment: WarmEnvironment) -> None:
    """The second `busy` gets no frame without an `n`; with one it gets the `presence_self` that contains it."""
    context = environment.open("alice", ID)
    update = '{"action":"presence_update","status":"busy"}'
    environment.say(context, ID, update, function="update")
    before = len(environment.frames(ID))
    environment.say(context, ID, update, function="update")
    assert len(environment.frames(ID)) == before
    environment.say(context, ID, update.replace("}", ',"n":1}'), function="update")
    [frame] = environment.frames(ID)[before:]
    assert (frame["type"], frame["self"]["n"]["status"]) == ("presence_self", 1)


def test_a_query_gets_its_response_on_its_own_connection(environment: WarmEnvironment) -> None:
    """`get_presence` returns records in the requested order; strangers are offline."""
    contacts(environment, "alice", "bob")
    environment.open("bob", "B=")
    context = environment.open("alice", ID)
    environment.say(context, ID, '{"action":"get_presence","userIds":["eve","bob"],"id":"q1"}')
    answer = environment.frames(ID)[-1]
    assert (answer["type"], answer["id"]) == ("presence", "q1")
    assert answer["users"][0] == {"userId": "eve", "status": "offline"}
    assert (answer["users"][1]["userId"], answer["users"][1]["status"]) == ("bob", "online")


def test_leave_closes_the_connection(environment: WarmEnvironment) -> None:
    """`leave` has no grace, and the socket is closed."""
    context = environment.open("alice", ID)
    environment.say(context, ID, '{"action":"leave"}')
    assert environment.closed() == [ID]
    assert real(environment)["status"] == "offline"


def test_a_message_of_a_closed_connection_closes_it(environment: WarmEnvironment) -> None:
    """A message after `leave` is ignored, and its connection is closed."""
    context = environment.open("alice", ID)
    environment.say(context, ID, '{"action":"leave"}')
    environment.say(context, ID, '{"action":"heartbeat"}', function="heartbeat")
    assert environment.closed() == [ID, ID]
    assert real(environment)["status"] == "offline"


# Messages that are refused


@pytest.mark.parametrize("function", MESSAGES)
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("rubbish", {"code": "invalid_message"}),
        ("[]", {"code": "invalid_message"}),
        ("", {"code": "invalid_message"}),
        ('{"id":"m1"}', {"code": "invalid_message", "field": "action", "id": "m1"}),
        ('{"action":"shout","id":"m1"}', {"code": "unknown_action", "field": "action", "id": "m1"}),
        ('{"action":"heartbeat","active":1}', {"code": "invalid_message", "field": "active"}),
        ('{"action":"presence_update","status":"offline"}', {"code": "invalid_message", "field": "status"}),
        (
            '{"action":"presence_update","status":"busy","scope":"user","until":1,"id":"m1"}',
            {"code": "invalid_message", "field": "until", "id": "m1"},
        ),
        ('{"action":"get_presence","userIds":[]}', {"code": "invalid_message", "field": "userIds"}),
        ('{"action":"heartbeat","x":"' + "x" * 4096 + '"}', {"code": "too_large"}),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_an_invalid_message_gets_one_error_frame(
    environment: WarmEnvironment, function: str, body: str, error: dict[str, str]
) -> None:
    """In each function an error names code, field and id, the connection stays open, and it is only counted."""
    context = environment.open("alice", ID)
    before, state = len(environment.management.requests), environment.stored()
    environment.say(context, ID, body, function=function)
    assert len(environment.management.requests) == before + 1
    frame = environment.frames(ID)[-1]
    assert frame.pop("type") == "error"
    assert frame.pop("message")
    assert frame == error
    assert environment.stored() == state


def test_bytes_are_a_message_only_if_they_are_text(environment: WarmEnvironment) -> None:
    """A body in base64 is decoded; if it is not UTF-8, the client gets an error frame."""
    context = environment.open("alice", ID)
    for body, refused in (("eyJhY3Rpb24iOiJoZWFydGJlYXQifQ==", 0), ("//79", 1)):
        before = len(environment.frames(ID))
        event = events.message(context, body, ID, now_ms(), base64=True)
        assert environment.invoke("query", event) == {"statusCode": 200}
        assert [frame["type"] for frame in environment.frames(ID)[before:]] == ["error"] * refused


def test_too_many_messages_get_the_time_to_wait(start: Callable[..., WarmEnvironment]) -> None:
    """A connection over its burst gets `rate_limited`, with the id and the time to wait."""
    environment = start(rate_limit=0.1, rate_burst=1)
    context = environment.open("alice", ID)
    environment.say(context, ID, MESSAGES["heartbeat"], function="heartbeat")
    frame = environment.frames(ID)[-1]
    assert (frame["type"], frame["code"], frame["id"]) == ("error", "rate_limited", "m1")
    assert 0 < frame["retryAfter"] <= 10_000


@pytest.mark.parametrize("function", MESSAGES)
def test_while_redis_is_away_messages_get_unavailable(cut_off: WarmEnvironment, function: str) -> None:
    """A message that cannot be processed now gets `unavailable`, with its id and the time to wait."""
    cut_off.say(vouched(), ID, MESSAGES[function], function=function)
    [frame] = cut_off.frames(ID)
    assert frame.pop("message")
    assert frame == {"type": "error", "code": "unavailable", "id": "m1", "retryAfter": 1000}


@pytest.mark.parametrize("function", MESSAGES)
def test_while_redis_is_away_an_invalid_message_is_still_invalid(cut_off: WarmEnvironment, function: str) -> None:
    """An invalid message is not worth retrying."""
    cut_off.say(vouched(), ID, "rubbish", function=function)
    [frame] = cut_off.frames(ID)
    assert (frame["code"], "retryAfter" in frame) == ("invalid_message", False)


def test_a_disconnect_fails_visibly_while_redis_is_away(cut_off: WarmEnvironment) -> None:
    """`$disconnect` has no client to notify: Lambda counts the error, and the TTL ends the connection."""
    with pytest.raises(Unavailable):
        cut_off.invoke("disconnect", events.disconnect(vouched(), ID, now_ms()))
    assert cut_off.management.requests == []


@pytest.mark.parametrize("function", sorted({route.function for route in WEBSOCKET_ROUTES}))
def test_an_event_without_the_authorizers_context_is_an_error(environment: WarmEnvironment, function: str) -> None:
    """An event without the authorizer's context is an internal error, counted, and nothing is written."""
    event = events.message({}, MESSAGES.get(function, ""), ID, now_ms())
    with pytest.raises(KeyError):
        environment.invoke(function, event)
    assert metrics()._counts["Errors"] == 1
    assert environment.redis.dbsize() == 0


# The schedule


def test_the_sweeper_settles_silent_connections(environment: WarmEnvironment) -> None:
    """A user who fell silent minutes ago is offline after a sweep, and an online viewer is notified."""
    bench = Bench(environment.redis)
    bench.clock.now = now_ms() - 600_000
    bench.service.contacts.change("alice", ["bob"])
    bench.open("alice", ID)
    assert environment.sweep()["settled"] >= 1
    assert real(environment)["status"] == "offline"


def test_the_sweeper_of_an_empty_system_settles_nobody(environment: WarmEnvironment) -> None:
    """If no user is live, there is none to settle."""
    assert environment.sweep() == {"settled": 0}


# The start of an environment


def test_a_start_loads_no_more_than_it_needs() -> None:
    """No handler loads an AWS SDK, only the HTTP API loads its resolver, and settings are read with the first event."""
    program = (
        "import importlib, sys\n"
        f"for name in {[name for name in FUNCTIONS if name != 'api']}:\n"
        "    importlib.import_module(f'functions.{name}.handler')\n"
        "loaded = {'aws_lambda_powertools.event_handler'} & sys.modules.keys()\n"
        "importlib.import_module('functions.api.handler')\n"
        "print(sorted(loaded | {'boto3', 'botocore.session'} & sys.modules.keys()))\n"
    )
    environment = {"PATH": "", "PRESENCE_NO_SUCH_SETTING": "1"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")
