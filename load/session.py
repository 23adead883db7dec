"""What a client must send on one connection, and when: the client's half of docs/protocol.md.

No I/O: `Session` receives frames and the time, and returns the messages to send. The sockets are in `cli/client.py`
(one client) and in `clients.py` (thousands).
"""

from __future__ import annotations

import random
import sys
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

from load.state import Frame, State, Step, next_tick, receive, tick
from shared.events import SUBPROTOCOL
from shared.messages import PROTOCOL_VERSION

TokenSource = Literal["query", "subprotocol"]
"""Where in a handshake the service looks for the token."""
HEARTBEAT = 30.0
"""Seconds between heartbeats, until the service has sent the interval that it wants."""
OPEN_PATIENCE = 15.0
"""Seconds that a handshake may take. It may have to wait until two functions have started."""
SILENCE = 120.0
"""Seconds without a frame after which the client asks for a response."""
ANSWER_PATIENCE = 5.0
"""Seconds that the response to `sync` may take."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds. Before attempt n, a reconnect waits for a random part of FIRST_WAIT · 2ⁿ, or of LONGEST_WAIT if less."""
SHORTEST_LIFE = 1.0
"""Seconds that a connection is used at least, even if its token's life is shorter."""

Message = dict[str, Any]


class Silent(Exception):
    """The connection is open, but the service does not respond."""


class Link(NamedTuple):
    """The state of the connection."""

    state: Literal["live", "stale", "lost"]
    """`live`: the contacts are up to date. `stale`: connected, but the service has an error. `lost`: not connected."""
    reason: str = ""
    again_in: float = 0.0
    """Seconds until the next attempt."""


class Session:
    """The protocol on one connection. Times are seconds of any clock that only moves forward.

    `state` is what the client knows from earlier connections, and `replaces` the id of an older connection that this
    one replaces. `active` is the activity that heartbeats report.
    """

    def __init__(
        self, state: State, rng: random.Random, now: float, replaces: str | None = None, *, active: bool = False
    ) -> None:
        self.state = state
        """What the client knows after the last frame."""
        self.link: Link | None = None
        """The state of the connection; None before the first response."""
        self.rotate_at = float("inf")
        """When to switch to a new connection: before the service closes this one, or its token ends."""
        self._rng, self._replaces, self._active = rng, replaces, active
        self._opened_at = self._heard_at = self._beat_at = now
        self._sync_at: float | None = now
        self._answer_by: float | None = None
        self._failures = 0
        self._chosen: Message = {}

    def receive(self, frame: Frame, now: float) -> None:
        """Handle a frame."""
        self._heard_at = now
        own = self.state.own
        self._take(step := receive(self.state, frame, _ms(now)), now)
        if frame.get("type", "error") == "error":
            self._answer_by = None
            if not step.sync:
                self._failed(frame, now)
        if frame.get("type") == "presence_snapshot" and frame.get("snapshot") not in self.state.parts:
            self.link, self._answer_by, self._failures, self._replaces = Link("live"), None, 0, None
        if self.state.own is not own:
            self._schedule_rotation()

    def choose(self, status: str, n: int) -> None:
        """Repeat a device status in each heartbeat, in case the service loses it. `n` is the number of its update."""
        self._chosen = {"status": status, "n": n}

    def due(self, now: float) -> list[Message]:
        """The messages to send now.

        Raises:
            Silent: the service did not respond in time.
        """
        if self._answer_by is not None and now >= self._answer_by:
            raise Silent
        self._take(tick(self.state, _ms(now)), now)
        if now >= self._heard_at + SILENCE and self._answer_by is None:
            self._sync_at = now
        if self._sync_at is not None and now >= self._sync_at:
            self._sync_at, self._beat_at = None, now
            self._answer_by = self._answer_by or now + ANSWER_PATIENCE
            return [self._message("sync", **({"replaces": self._replaces} if self._replaces else {}))]
        if now >= self._beat_at + self._heartbeat_every:
            self._beat_at = now
            return [self._message("heartbeat", active=self._active, **self._chosen)]
        return []

    @property
    def wake_at(self) -> float:
        """When `due` next has something to send, or the connection must be replaced, unless a frame arrives before."""
        hole = next_tick(self.state)
        times = [self._beat_at + self._heartbeat_every, self.rotate_at, self._sync_at, self._answer_by]
        times.append(None if hole is None else hole / 1000)
        if self._answer_by is None:
            times.append(self._heard_at + SILENCE)
        return min(time for time in times if time is not None)

    @property
    def _heartbeat_every(self) -> float:
        every: float | None = (self.state.own or {}).get("heartbeatEvery")
        return every / 1000 if every else HEARTBEAT

    def _take(self, step: Step, now: float) -> None:
        self.state = step.state
        if step.sync:
            self._sync_at = now

    def _message(self, action: str, **fields: Any) -> Message:
        return {"action": action, **fields, **({} if self.state.seq is None else {"seq": self.state.seq})}

    def _failed(self, frame: Frame, now: float) -> None:
        """The service returned an error: the state is stale until a `sync` succeeds."""
        self.link = Link("stale", frame.get("message", ""))
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0**self._failures)
        self._failures += 1
        self._sync_at = now + frame.get("retryAfter", 0) / 1000 + self._rng.uniform(0, longest)

    def _schedule_rotation(self) -> None:
        """Compute `rotate_at`, with jitter. Only differences of the service's times count, not this machine's clock."""
        own = self.state.own or {}
        devices = own.get("devices", [])
        began = [device["connectedAt"] for device in devices if device["connectionId"] == own.get("connectionId")]
        if began:
            life = (own["rotateAt"] - began[0]) / 1000 * self._rng.uniform(0.9, 1.0)
            self.rotate_at = self._opened_at + max(SHORTEST_LIFE, life)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def handshake(ws_url: str, token: str, token_source: TokenSource, device_id: str) -> tuple[str, list[str]]:
    """The URL of a handshake, and the subprotocols that it offers."""
    query = {"v": PROTOCOL_VERSION, "deviceId": device_id, "deviceType": "desktop", "platform": sys.platform}
    offered: list[str] = []
    if token and token_source == "subprotocol":
        offered = [SUBPROTOCOL, token]
    elif token:
        query["token"] = token
    return f"{ws_url}?{urlencode(query)}", offered
