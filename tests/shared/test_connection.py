"""The connection that sends a message: its sender, and the id of a polling device."""

from __future__ import annotations

from dataclasses import replace

from pydantic import TypeAdapter

from shared.connection import TOKEN_LEEWAY, Connection
from shared.messages import ConnectionId

NOW = 1_732_400_000_000
ALICE = Connection("alice", "BFaT_fALIAMCKug=", NOW, NOW // 1000, NOW // 1000 + 600)


def poll(user: str, device: str, now: int = NOW) -> Connection:
    """A polling device."""
    return Connection.of_polling_device(user, device, now=now, issued_at=now // 1000, expires_at=0)


def test_a_sender_has_times_in_milliseconds() -> None:
    """The token's seconds become ms, and the connection may live a leeway longer than its token."""
    assert ALICE.sender(active=True) == {
        "id": "BFaT_fALIAMCKug=",
        "type": "web",
        "connected_at": NOW,
        "issued_at": NOW,
        "cap": NOW + (600 + TOKEN_LEEWAY) * 1000,
        "active": True,
        "idle": False,
        "polling": False,
    }


def test_a_token_without_an_end_sets_no_cap() -> None:
    """The cap of such a connection is 0."""
    assert replace(ALICE, token_expires_at=0).sender(active=True)["cap"] == 0


def test_a_message_decides_before_the_handshake() -> None:
    """A connection that the server lost restarts with the values of the message, or else of the handshake."""
    inactive = replace(ALICE, status="busy", active=False, device_id="phone")
    from_handshake, from_message = (
        inactive.sender(active=False),
        inactive.sender(active=True, idle=False, status="away"),
    )
    assert (from_handshake["status"], from_handshake["idle"], from_handshake["device"]) == ("busy", True, "phone")
    assert (from_message["status"], from_message["idle"]) == ("away", False)


def test_every_poll_of_a_device_has_the_same_id() -> None:
    """The id depends on user and device, and is one that a client may name."""
    id = poll("alice", "d1").id
    assert id == poll("alice", "d1", NOW + 60_000).id
    assert len({id, poll("alice", "d2").id, poll("bob", "d1").id}) == 3
    assert TypeAdapter(ConnectionId).validate_python(id) == id
