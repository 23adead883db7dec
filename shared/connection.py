"""The connection that sends a message, as the authorizer vouched for it."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

from shared.commands import Sender
from shared.responses import DeviceType
from shared.settings import OnlineStatus

TOKEN_LEEWAY = 60
"""Seconds for which a connection may outlive its token."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection of a user. A polling device has no socket: it sends over HTTP, and nothing is posted to it."""

    user_id: str
    id: str
    connected_at: int
    """Milliseconds since the epoch."""
    token_issued_at: int
    """Seconds since the epoch; 0 when the token does not say."""
    token_expires_at: int
    """Seconds since the epoch; 0 when the token does not end."""
    device_id: str = ""
    device_type: DeviceType = "web"
    status: OnlineStatus | None = None
    """The status that the client gave at the handshake."""
    active: bool = True
    """Whether the client was in use at the handshake."""
    polling: bool = False

    @classmethod
    def of_polling_device(
        cls, user_id: str, device_id: str, device_type: DeviceType = "web", *, now: int, issued_at: int, expires_at: int
    ) -> Self:
        """A device without a socket. Its id is derived from the user's and the device's, so every poll has the same.

        Args:
            user_id: the user.
            device_id: the device.
            device_type: its type.
            now: the time, in ms.
            issued_at: when the token was issued, in seconds.
            expires_at: when the token ends, in seconds.
        """
        name = urlsafe_b64encode(blake2b(f"{user_id}/{device_id}".encode(), digest_size=15).digest()).decode()
        return cls(user_id, f"poll-{name}", now, issued_at, expires_at, device_id, device_type, polling=True)

    def sender(self, *, active: bool, idle: bool | None = None, status: OnlineStatus | None = None) -> Sender:
        """The connection as a command carries it.

        Args:
            active: whether the message is activity of the person.
            idle: whether the connection begins idle where the server lost it; None: as at the handshake.
            status: the status with which it begins then; None: as at the handshake.
        """
        sender: Sender = {
            "id": self.id,
            "type": self.device_type,
            "connected_at": self.connected_at,
            "issued_at": self.token_issued_at * 1000,
            "cap": (self.token_expires_at + TOKEN_LEEWAY) * 1000 if self.token_expires_at else 0,
            "active": active,
            "idle": not self.active if idle is None else idle,
            "polling": self.polling,
        }
        if self.device_id:
            sender["device"] = self.device_id
        if begins := status or self.status:
            sender["status"] = begins
        return sender
