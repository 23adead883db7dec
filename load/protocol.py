"""What the load generator must know about a service's wire protocol, so that any service can be measured with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Over(Exception):
    """A connection is of no use any more, and is to be opened anew; the message says why."""


class Heard(NamedTuple):
    """What one frame told."""

    kind: str
    """Its type, under which it is counted."""
    shown: Sequence[tuple[str, int]] = ()
    """Contacts, each with the number of the change that is shown of it now."""
    error: str = ""
    """The code of the error that it is, if it is one."""


class Conversation(Protocol):
    """What is said and heard on one connection. No I/O. Times are seconds of `time.perf_counter`."""

    @property
    def is_live(self) -> bool:
        """Whether it has been told everything that it may see."""

    @property
    def wake_at(self) -> float:
        """When `due` has something to say, if nothing comes before."""

    def due(self, now: float) -> Sequence[str]:
        """What is to be sent by now; raises Over."""

    def receive(self, text: str, now: float) -> Heard:
        """Take a frame."""

    def change(self, number: int) -> str:
        """The message with which its user makes the change of this number, counted from 1."""


class Language(Protocol):
    """How one speaks to a service."""

    def handshake(self, user: str, device: str) -> tuple[str, Sequence[str]]:
        """The URL of a handshake, and the subprotocols that it offers."""

    def conversation(self, now: float) -> Conversation:
        """What is said on a connection that was just opened."""
