"""Events as API Gateway sends them, read into the service's own words."""

from __future__ import annotations

import base64

import pytest

from shared.connection import Connection
from shared.events import Handshake, HandshakeRefused, accepted_protocol, body_of, connection_of, denial, policy
from tests.support.events import METHOD_ARN, authorize, connect, disconnect, message, vouched

ALICE = vouched("alice", 1_732_400_000, 1_732_403_600)


def test_all_events_of_a_connection_are_about_the_same_connection() -> None:
    """`$connect`, a message and `$disconnect` give the same connection, whose facts are the authorizer's."""
    context = vouched(
        "alice", 1_732_400_000, 1_732_403_600, deviceId="d1", deviceType="mobile", status="busy", active="false"
    )
    expected = Connection(
        user_id="alice",
        id="BFaT_fALIAMCKug=",
        connected_at=1_732_400_000_000,
        token_issued_at=1_732_400_000,
        token_expires_at=1_732_403_600,
        device_id="d1",
        device_type="mobile",
        status="busy",
        active=False,
    )
    assert connection_of(connect(context)) == expected
    assert connection_of(message(context, "{}")) == expected
    assert connection_of(disconnect(context)) == expected
    assert not expected.polling


def test_what_a_message_says_about_its_sender_is_not_read() -> None:
    """A message that names another user is still one of the user whom the authorizer vouched for."""
    event = message(ALICE, '{"action":"heartbeat","userId":"mallory","connectionId":"x"}')
    event["queryStringParameters"] = {"userId": "mallory"}
    assert connection_of(event).user_id == "alice"
    assert connection_of(event).id == "BFaT_fALIAMCKug="


def test_an_event_that_no_authorizer_vouched_for_is_an_error() -> None:
    """Without the authorizer's context there is no connection: better no answer than somebody's."""
    event = message(ALICE, "{}")
    del event["requestContext"]["authorizer"]
    with pytest.raises(KeyError):
        connection_of(event)


def test_a_handshake_is_read_from_the_query() -> None:
    """Everything that the protocol's URL can say is read, the same before and in `$connect`."""
    query = {
        "v": "1",
        "token": "a.b.c",
        "deviceId": "d1",
        "deviceType": "desktop",
        "platform": "linux",
        "status": "away",
        "active": "false",
    }
    handshake = Handshake.of(connect(ALICE, query=query), "query")
    assert handshake == Handshake.of(authorize(query), "query")
    handshake.check()
    assert handshake.token == "a.b.c"
    assert handshake.context("alice", 5, 6) == {
        "userId": "alice",
        "iat": "5",
        "exp": "6",
        "deviceId": "d1",
        "deviceType": "desktop",
        "platform": "linux",
        "status": "away",
        "active": "false",
    }


def test_a_handshake_without_a_query_has_the_protocols_defaults() -> None:
    """A `$connect` without a query is of this version, on the web, active, and of no device."""
    handshake = Handshake.of(connect(ALICE), "query")
    handshake.check()
    assert handshake.token == ""
    assert (handshake.device_type, handshake.device_id, handshake.status, handshake.active) == ("web", "", "", "true")


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ({"v": "2"}, "v=2"),
        ({"v": "1.0"}, "v=1.0"),
        ({"deviceId": "a b"}, "deviceId"),
        ({"deviceId": "d\n"}, "deviceId"),
        ({"deviceId": "d" * 65}, "deviceId"),
        ({"deviceId": "dé"}, "deviceId"),
        ({"status": "offline"}, "status"),
        ({"status": "Busy"}, "status"),
        ({"active": "1"}, "active"),
    ],
)
def test_a_malformed_handshake_is_refused_by_name(query: dict[str, str], word: str) -> None:
    """What the protocol does not know is refused, by name, and never gets into the context either."""
    handshake = Handshake.of(connect(ALICE, query=query), "query")
    with pytest.raises(HandshakeRefused, match=word):
        handshake.check()
    context = handshake.context("alice", 5, 6)
    assert (context["deviceId"], context["status"], context["active"]) == ("", "", "true")


def test_an_unknown_device_type_is_the_web_and_a_long_platform_is_cut() -> None:
    """An unknown kind of device is `web`, and a platform is at most 64 characters."""
    handshake = Handshake.of(authorize({"deviceType": "fridge", "platform": "p" * 1000}), "query")
    handshake.check()
    assert handshake.device_type == "web"
    assert len(handshake.platform) == 64


@pytest.mark.parametrize("name", ["Sec-WebSocket-Protocol", "sec-websocket-protocol"])
def test_a_token_may_travel_as_a_subprotocol(name: str) -> None:
    """Where the deployment says so, the token is the second subprotocol offered, however the header is spelt."""
    event = connect(ALICE, query={"token": "other"}, headers={name: "presence.v1, a.b.c"})
    assert Handshake.of(event, "subprotocol").token == "a.b.c"
    assert accepted_protocol(event) == {"Sec-WebSocket-Protocol": "presence.v1"}


@pytest.mark.parametrize("offered", ["", "presence.v1", "presence.v1,", ", ,"])
def test_without_a_second_subprotocol_there_is_no_token(offered: str) -> None:
    """A client that offers no token has none, even if its query holds one."""
    event = authorize({"token": "a.b.c"}, {"Sec-WebSocket-Protocol": offered})
    assert Handshake.of(event, "subprotocol").token == ""


def test_a_token_is_read_from_one_place_only() -> None:
    """A token in the place that the deployment did not choose is no token."""
    event = authorize({"token": "query"}, {"Sec-WebSocket-Protocol": "presence.v1, header"})
    assert Handshake.of(event, "query").token == "query"
    assert Handshake.of(event, "subprotocol").token == "header"


def test_a_protocol_that_was_not_offered_is_not_accepted() -> None:
    """The answer names no protocol that the client did not offer, or a browser would hang up."""
    assert accepted_protocol(connect(ALICE)) == {}
    assert accepted_protocol(connect(ALICE, headers={"Sec-WebSocket-Protocol": "chat"})) == {}


def test_the_authorizers_answers_are_about_this_one_handshake() -> None:
    """Allow and deny name the method that was asked for and nothing wider, and a denial says nothing else."""
    event = authorize()
    allowed = policy(event, "alice", {"userId": "alice"})
    [statement] = allowed["policyDocument"]["Statement"]
    assert statement == {"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": METHOD_ARN}
    assert allowed["principalId"] == "alice"
    assert allowed["context"] == {"userId": "alice"}
    denied = denial(event)
    assert denied["policyDocument"]["Statement"][0]["Effect"] == "Deny"
    assert "context" not in denied


def test_a_body_is_text_however_it_was_carried() -> None:
    """A body that came in base64 is decoded, bytes that are no UTF-8 become text, and no body is empty text."""
    assert body_of(message(ALICE, "héllo")) == "héllo"
    assert body_of(message(ALICE, base64.b64encode("héllo".encode()).decode(), base64=True)) == "héllo"
    assert body_of(message(ALICE, base64.b64encode(b"\xff\xfe{").decode(), base64=True)).endswith("{")
    assert body_of(connect(ALICE)) == ""
