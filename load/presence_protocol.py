"""The presence protocol, as the load generator speaks it: changes are numbered, and the custom status is the number."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Protocol

from load.protocol import Conversation, Heard, Over
from load.session import Session, Silent, TokenSource, handshake
from load.state import Change, Picture


class Tokens(Protocol):
    """What makes users' tokens."""

    @property
    def token_source(self) -> TokenSource:
        """Where in a handshake the service looks for the token."""

    def token(self, user_id: str, ttl: int) -> str:
        """A token of a user that is valid for `ttl` seconds."""


class Presence:
    """How one speaks to this service: a `Language` of `crowd.py`.

    Args:
        ws_url: where it answers, without a query.
        tokens: what makes users' tokens.
        ttl: seconds that these are good for.
    """

    def __init__(self, ws_url: str, tokens: Tokens, ttl: int) -> None:
        self._ws_url, self._tokens, self._ttl = ws_url, tokens, ttl
        self._rng = random.Random()  # noqa: S311 - jitter needs no secrecy

    def handshake(self, user: str, device: str) -> tuple[str, Sequence[str]]:
        """The URL of a handshake, and the subprotocols that it offers."""
        return handshake(self._ws_url, self._tokens.token(user, self._ttl), self._tokens.token_source, device)

    def conversation(self, now: float) -> Conversation:
        """What is said on a connection that was just opened."""
        return _Conversation(self._rng, now)


class _Conversation:
    """A client as docs/protocol.md wants one, whose changes are numbered: the number is the custom status."""

    def __init__(self, rng: random.Random, now: float) -> None:
        self._picture = Picture()
        self._session = Session(self._picture, rng, now, active=True)
        self._updates = 0
        self.is_live = False

    @property
    def wake_at(self) -> float:
        return self._session.wake_at

    def due(self, now: float) -> list[str]:
        if now >= self._session.rotate_at:
            raise Over("rotated")
        try:
            return [json.dumps(message) for message in self._session.due(now)]
        except Silent:
            raise Over("silent") from None

    def receive(self, text: str, now: float) -> Heard:
        frame = json.loads(text)
        changes = self._session.receive(frame, now)
        if frame.get("type") == "presence_snapshot" and self._picture.seq is not None:
            self.is_live = True
        error = frame["code"] if frame.get("type") == "error" else "" if "type" in frame else str(frame.get("message"))
        return Heard(frame.get("type", "gateway"), [shown for change in changes if (shown := _shown(change))], error)

    def change(self, number: int) -> str:
        self._updates += 1
        status = "busy" if number % 2 else "online"
        change = {"status": status, "customStatus": {"text": str(number)}, "n": self._updates}
        return json.dumps({"action": "presence_update", **change})


def _shown(change: Change) -> tuple[str, int] | None:
    """A contact and the number of its last change, if it ever made one."""
    custom = (change.after or {}).get("customStatus")
    return (change.after["userId"], int(custom["text"])) if change.after and custom else None
