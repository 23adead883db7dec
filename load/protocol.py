"""What the load generator must know of a service's wire protocol. With it, any WebSocket service can be measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Reconnect(Exception):
    """The connection is of no more use and must be replaced; the message is the reason."""


class Received(NamedTuple):
    """What one frame contained."""

    kind: str
    """The frame's type, by which it is counted."""
    shown: Sequence[tuple[str, int]] = ()
    """The contacts in it, each with the number of its latest change."""
    error: str = ""
    """The error code, if the frame is an error."""


class Conversation(Protocol):
    """The protocol on one connection, without I/O. Times are seconds of `time.perf_counter`."""

    @property
    def is_live(self) -> bool:
        """Whether the client knows the state of all its contacts."""

    @property
    def wake_at(self) -> float:
        """When `due` next has something to send, unless a frame arrives before."""

    def due(self, now: float) -> Sequence[str]:
        """The messages to send now; raises Reconnect."""

    def receive(self, text: str, now: float) -> Received:
        """Handle a frame."""

    def change(self, number: int) -> str:
        """The message that makes the user's change of this number, counted from 1."""


class WireProtocol(Protocol):
    """How clients connect to a service and talk to it."""

    def handshake(self, user: str, device: str) -> tuple[str, Sequence[str]]:
        """The URL of a handshake, and the subprotocols that it offers."""

    def conversation(self, now: float) -> Conversation:
        """The protocol on a connection that has just opened."""
