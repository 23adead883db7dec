"""What one connection of a client must send, and when: the client's half of docs/protocol.md, without sockets.

`Session` is given frames and the time. Who opens the connection and sends what is due is the caller's business: one
client in `cli/client.py`, thousands in `clients.py`.
"""

from __future__ import annotations

import random
import sys
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

from load.state import Change, Frame, Picture
from shared.events import SUBPROTOCOL
from shared.messages import PROTOCOL_VERSION

TokenSource = Literal["query", "subprotocol"]
"""Where in a handshake the service looks for the token."""
HEARTBEAT = 30.0
"""Seconds between heartbeats, until the service has said how often it wants them."""
OPEN_PATIENCE = 15.0
"""Seconds that a handshake may take: behind it two functions may have to start."""
HOLE_PATIENCE = 2.0
"""Seconds that a missing frame may be late."""
SILENCE = 120.0
"""Seconds without any frame, after which we ask whether anybody is there."""
ANSWER_PATIENCE = 5.0
"""Seconds that an answer to `sync` may take."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds: before attempt n, a reconnect waits for a random part of FIRST_WAIT · 2ⁿ, and of LONGEST_WAIT at most."""
SHORTEST_LIFE = 1.0
"""Seconds that a connection is used at least, however short its token's life is."""

Message = dict[str, Any]


class Silent(Exception):
    """The connection is open and nobody answers on it."""


class Link(NamedTuple):
    """How the connection is."""

    state: Literal["live", "stale", "lost"]
    """`live`: the picture is right. `stale`: connected, but the service cannot say. `lost`: not connected."""
    reason: str = ""
    again_in: float = 0.0
    """Seconds until the next attempt."""


class Session:
    """What one connection owes the service, and when. Times are seconds of any clock that only goes forward.

    `replaces` is an older connection that this one takes the place of; `active` is what heartbeats say of the person.
    """

    def __init__(
        self, picture: Picture, rng: random.Random, now: float, replaces: str | None = None, *, active: bool = False
    ) -> None:
        self.link: Link | None = None
        """How it is with the service; None before it has answered."""
        self.rotate_at = float("inf")
        """When to go over to a new connection: before the service or the token's end cuts this one."""
        self._picture, self._rng, self._replaces, self._active = picture, rng, replaces, active
        self._opened_at = self._heard_at = self._beat_at = now
        self._sync_at: float | None = now
        self._answer_by: float | None = None
        self._hole_at: float | None = None
        self._failures = self._requests = 0
        self._asked: dict[str, int | None] = {}
        """The last `sync` and the last heartbeat: the id of each, and the `seq` that it carried."""
        picture.reconnected()

    def receive(self, frame: Frame, now: float) -> list[Change]:
        """Take a frame; gives what it changed in the picture."""
        self._heard_at = now
        before = self._picture.own
        changes = self._picture.receive(frame, self._asked.get(frame.get("id", "")))
        if frame.get("type") == "presence_snapshot":
            self.link, self._answer_by, self._failures, self._replaces = Link("live"), None, 0, None
        if frame.get("type", "error") == "error":
            self._failed(frame, now)
        if self._picture.own is not before:
            self._schedule_rotation()
        if not self._picture.has_hole:
            self._hole_at = None
        elif self._hole_at is None:
            self._hole_at = now + HOLE_PATIENCE
        return changes

    def due(self, now: float) -> list[Message]:
        """What is to be sent by now.

        Raises:
            Silent: nobody has answered in time.
        """
        if self._answer_by is not None and now >= self._answer_by:
            raise Silent
        if self._hole_at is not None and now >= self._hole_at:
            self._hole_at, self._sync_at = None, now
        if now >= self._heard_at + SILENCE and self._answer_by is None:
            self._sync_at = now
        if self._sync_at is not None and now >= self._sync_at:
            self._sync_at, self._answer_by, self._beat_at = None, now + ANSWER_PATIENCE, now
            return [self._message("sync", **({"replaces": self._replaces} if self._replaces else {}))]
        if now >= self._beat_at + self._heartbeat_every:
            self._beat_at = now
            return [self._message("heartbeat", active=self._active)]
        return []

    @property
    def wake_at(self) -> float:
        """When `due` has something to say, or the connection is to be rotated, if nothing comes before."""
        times = [self._beat_at + self._heartbeat_every, self.rotate_at, self._sync_at, self._answer_by, self._hole_at]
        if self._answer_by is None:
            times.append(self._heard_at + SILENCE)
        return min(time for time in times if time is not None)

    @property
    def _heartbeat_every(self) -> float:
        every: float | None = (self._picture.own or {}).get("heartbeatEvery")
        return every / 1000 if every else HEARTBEAT

    def _message(self, action: str, **fields: Any) -> Message:
        self._requests += 1
        id, seq = f"{action}-{self._requests}", self._picture.seq
        self._asked = {other: asked for other, asked in self._asked.items() if not other.startswith(action)} | {id: seq}
        return {"action": action, "id": id, **fields, **({} if seq is None else {"seq": seq})}

    def _failed(self, frame: Frame, now: float) -> None:
        """The service could not do what we asked: what we have is stale until it can."""
        self.link, self._answer_by = Link("stale", frame.get("message", "")), None
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0**self._failures)
        self._failures += 1
        self._sync_at = now + frame.get("retryAfter", 0) / 1000 + self._rng.uniform(0, longest)

    def _schedule_rotation(self) -> None:
        """Reckon from the service's own times, so that nothing depends on this machine's clock; jittered."""
        own = self._picture.own or {}
        devices = own.get("devices", [])
        began = [device["connectedAt"] for device in devices if device["connectionId"] == own.get("connectionId")]
        if began:
            life = (own["rotateAt"] - began[0]) / 1000 * self._rng.uniform(0.9, 1.0)
            self.rotate_at = self._opened_at + max(SHORTEST_LIFE, life)


def handshake(ws_url: str, token: str, token_source: TokenSource, device_id: str) -> tuple[str, list[str]]:
    """The URL of a handshake, and the subprotocols that it offers."""
    query = {"v": PROTOCOL_VERSION, "deviceId": device_id, "deviceType": "desktop", "platform": sys.platform}
    offered: list[str] = []
    if token and token_source == "subprotocol":
        offered = [SUBPROTOCOL, token]
    elif token:
        query["token"] = token
    return f"{ws_url}?{urlencode(query)}", offered
