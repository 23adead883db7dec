"""The presence protocol as simulated clients speak it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.identity_provider import IdentityProvider
from load.presence_protocol import PresenceProtocol
from load.protocol import Conversation, Received, Reconnect
from tests.support.frames import SEQ, event, snapshot

TOKENS = IdentityProvider("a secret of the tests, which is long enough", "query")


@pytest.fixture
def conversation() -> Conversation:
    """One that has sent its first message."""
    conversation = PresenceProtocol("ws://presence.example/live", TOKENS, 60).conversation(0.0)
    assert sent(conversation, 0.0) == [{"action": "sync"}]
    return conversation


def sent(conversation: Conversation, now: float) -> list[dict[str, Any]]:
    """The messages that are due."""
    return [json.loads(message) for message in conversation.due(now)]


def numbered(prev: int, seq: int, number: int) -> str:
    """A frame with the change of this number."""
    return json.dumps(event(prev, seq) | {"customStatus": {"text": str(number)}})


def test_a_client_is_live_with_its_snapshot(conversation: Conversation) -> None:
    """When all its parts have arrived."""
    first = snapshot()
    conversation.receive(json.dumps(first | {"parts": 2}), 1.0)
    assert not conversation.is_live
    conversation.receive(json.dumps(first | {"part": 2, "parts": 2, "users": []}), 1.0)
    assert conversation.is_live


def test_a_change_is_shown_in_its_turn(conversation: Conversation) -> None:
    """A frame beyond a hole shows nothing; with the missing one, the contact shows the later state."""
    conversation.receive(json.dumps(snapshot()), 1.0)
    assert conversation.receive(numbered(1500, 1600, 2), 2.0) == Received("presence_status", [])
    assert conversation.receive(numbered(SEQ, 1500, 1), 2.1) == Received("presence_status", [("alice", 2)])


def test_heartbeats_repeat_the_last_change(conversation: Conversation) -> None:
    """They carry its status and number, and the number of the last frame, which an update does not carry."""
    conversation.receive(json.dumps(snapshot()), 1.0)
    update = json.loads(conversation.change(7))
    assert update == {"action": "presence_update", "status": "busy", "customStatus": {"text": "7"}, "n": 1}
    assert sent(conversation, 31.0) == [
        {"action": "heartbeat", "active": True, "status": "busy", "n": 1, "seq": SEQ},
    ]


def test_a_service_that_does_not_respond_is_left(conversation: Conversation) -> None:
    """The connection is replaced."""
    with pytest.raises(Reconnect, match="silent"):
        conversation.due(60.0)


@pytest.mark.parametrize(
    ("frame", "received"),
    [
        ({"type": "error", "code": "rate_limited", "message": "too many"}, Received("error", [], "rate_limited")),
        ({"message": "Forbidden"}, Received("gateway", [], "Forbidden")),
    ],
)
def test_errors_are_counted(conversation: Conversation, frame: dict[str, Any], received: Received) -> None:
    """Those of the service by their code, those of API Gateway by their message."""
    assert conversation.receive(json.dumps(frame), 1.0) == received
