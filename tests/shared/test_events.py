"""Events as API Gateway sends them, read into the service's own types."""

from __future__ import annotations

import base64

import pytest

from shared.connection import Connection
from shared.events import Handshake, HandshakeRefused, accepted_protocol, body_of, connection_of, denial, policy
from tests.support.events import METHOD_ARN, authorize, connect, disconnect, message, vouched

ALICE = vouched("alice", 1_732_400_000, 1_732_403_600)


def test_all_events_of_a_connection_are_about_the_same_connection() -> None:
    """`$connect`, a message and `$disconnect` give the same connection, with the authorizer's context."""
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


def test_a_messages_own_claims_about_its_sender_are_ignored() -> None:
    """A message that names another user still belongs to the user of the authorizer's context."""
    event = message(ALICE, '{"action":"heartbeat","userId":"mallory","connectionId":"x"}')
    event["queryStringParameters"] = {"userId": "mallory"}
    assert connection_of(event).user_id == "alice"
    assert connection_of(event).id == "BFaT_fALIAMCKug="


def test_an_event_without_an_authorizers_context_is_an_error() -> None:
    """Without the authorizer's context there is no connection, so there is no response either."""
    event = message(ALICE, "{}")
    del event["requestContext"]["authorizer"]
    with pytest.raises(KeyError):
        connection_of(event)


def test_a_handshake_is_read_from_the_query() -> None:
    """Every parameter of the protocol's URL is read, in the same way before and in `$connect`."""
    query = {
        "v": "2",
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
    """A `$connect` without a query is of this version, on the web, active, and without a device."""
    handshake = Handshake.of(connect(ALICE), "query")
    handshake.check()
    assert handshake.token == ""
    assert (handshake.device_type, handshake.device_id, handshake.status, handshake.active) == ("web", "", "", "true")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({"v": "1"}, "v=1"),
        ({"v": "2.0"}, "v=2.0"),
        ({"deviceId": "a b"}, "deviceId"),
        ({"deviceId": "d\n"}, "deviceId"),
        ({"deviceId": "d" * 65}, "deviceId"),
        ({"deviceId": "dé"}, "deviceId"),
        ({"status": "offline"}, "status"),
        ({"status": "Busy"}, "status"),
        ({"active": "1"}, "active"),
    ],
)
def test_a_malformed_handshake_is_refused_by_name(query: dict[str, str], name: str) -> None:
    """An unknown value is refused with the parameter's name, and never gets into the context."""
    handshake = Handshake.of(connect(ALICE, query=query), "query")
    with pytest.raises(HandshakeRefused, match=name):
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
    """If the deployment chose so, the token is the second subprotocol offered, in any spelling of the header."""
    event = connect(ALICE, query={"token": "other"}, headers={name: "presence.v2, a.b.c"})
    assert Handshake.of(event, "subprotocol").token == "a.b.c"
    assert accepted_protocol(event) == {"Sec-WebSocket-Protocol": "presence.v2"}


@pytest.mark.parametrize("offered", ["", "presence.v2", "presence.v2,", ", ,"])
def test_without_a_second_subprotocol_there_is_no_token(offered: str) -> None:
    """A client that offers no token has none, even if its query holds one."""
    event = authorize({"token": "a.b.c"}, {"Sec-WebSocket-Protocol": offered})
    assert Handshake.of(event, "subprotocol").token == ""


def test_a_token_is_read_from_one_place_only() -> None:
    """A token in a place that the deployment did not choose is ignored."""
    event = authorize({"token": "query"}, {"Sec-WebSocket-Protocol": "presence.v2, header"})
    assert Handshake.of(event, "query").token == "query"
    assert Handshake.of(event, "subprotocol").token == "header"


def test_a_protocol_that_was_not_offered_is_not_accepted() -> None:
    """The response names no protocol that the client did not offer, because a browser would close the connection."""
    assert accepted_protocol(connect(ALICE)) == {}
    assert accepted_protocol(connect(ALICE, headers={"Sec-WebSocket-Protocol": "chat"})) == {}


def test_the_authorizers_responses_are_about_this_one_handshake() -> None:
    """Allow and deny name the requested method and nothing wider, and a denial has nothing else."""
    event = authorize()
    allowed = policy(event, "alice", {"userId": "alice"})
    [statement] = allowed["policyDocument"]["Statement"]
    assert statement == {"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": METHOD_ARN}
    assert allowed["principalId"] == "alice"
    assert allowed["context"] == {"userId": "alice"}
    denied = denial(event)
    assert denied["policyDocument"]["Statement"][0]["Effect"] == "Deny"
    assert "context" not in denied


def test_a_body_is_text_in_any_encoding() -> None:
    """A body in base64 is decoded, bytes that are not UTF-8 become text, and a missing body is empty text."""
    assert body_of(message(ALICE, "héllo")) == "héllo"
    assert body_of(message(ALICE, base64.b64encode("héllo".encode()).decode(), base64=True)) == "héllo"
    assert body_of(message(ALICE, base64.b64encode(b"\xff\xfe{").decode(), base64=True)).endswith("{")
    assert body_of(connect(ALICE)) == ""
