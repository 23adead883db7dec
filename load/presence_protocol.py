"""The presence protocol as simulated clients speak it. Changes are numbered, and the custom status is the number."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Protocol

from load.protocol import Conversation, Received, Reconnect
from load.session import Session, Silent, TokenSource, handshake
from load.state import Change, State, changes


class Tokens(Protocol):
    """Makes users' tokens."""

    @property
    def token_source(self) -> TokenSource:
        """Where in a handshake the service looks for the token."""

    def token(self, user_id: str, ttl: int) -> str:
        """A token of a user, valid for `ttl` seconds."""


class PresenceProtocol:
    """The `WireProtocol` of this service.

    Args:
        ws_url: the WebSocket API's URL, without a query.
        tokens: makes users' tokens.
        ttl: the tokens' validity, in seconds.
    """

    def __init__(self, ws_url: str, tokens: Tokens, ttl: int) -> None:
        self._ws_url, self._tokens, self._ttl = ws_url, tokens, ttl
        self._rng = random.Random()  # noqa: S311 - jitter needs no secrecy

    def handshake(self, user: str, device: str) -> tuple[str, Sequence[str]]:
        """The URL of a handshake, and the subprotocols that it offers."""
        return handshake(self._ws_url, self._tokens.token(user, self._ttl), self._tokens.token_source, device)

    def conversation(self, now: float) -> Conversation:
        """The protocol on a connection that has just opened."""
        return _Conversation(self._rng, now)


class _Conversation:
    """A client that behaves as docs/protocol.md requires."""

    def __init__(self, rng: random.Random, now: float) -> None:
        self._session = Session(State(), rng, now, active=True)
        self._updates = 0
        self.is_live = False

    @property
    def wake_at(self) -> float:
        return self._session.wake_at

    def due(self, now: float) -> list[str]:
        if now >= self._session.rotate_at:
            raise Reconnect("rotated")
        try:
            return [json.dumps(message) for message in self._session.due(now)]
        except Silent:
            raise Reconnect("silent") from None

    def receive(self, text: str, now: float) -> Received:
        frame = json.loads(text)
        before = self._session.state
        self._session.receive(frame, now)
        after = self._session.state
        if after.seq is not None:
            self.is_live = True
        error = frame["code"] if frame.get("type") == "error" else "" if "type" in frame else str(frame.get("message"))
        shown = [number for change in changes(before, after) if (number := _shown(change))]
        return Received(frame.get("type", "gateway"), shown, error)

    def change(self, number: int) -> str:
        self._updates += 1
        status = "busy" if number % 2 else "online"
        self._session.choose(status, self._updates)
        change = {"status": status, "customStatus": {"text": str(number)}, "n": self._updates}
        return json.dumps({"action": "presence_update", **change})


def _shown(change: Change) -> tuple[str, int] | None:
    """A contact and the number of its latest change, if it has made one."""
    custom = (change.after or {}).get("customStatus")
    return (change.after["userId"], int(custom["text"])) if change.after and custom else None
