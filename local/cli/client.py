"""A client of the service, as docs/protocol.md wants one: it stays connected and keeps a `Picture` of all contacts.

`Session` knows what a connection owes the service and when, and does no I/O; `Client` has the socket. What is made of
changes is the caller's matter.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, NoReturn
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from local.cli.complaint import Complaint
from local.cli.home import TokenSource
from local.cli.identity_provider import Tokens
from local.cli.picture import Change, Frame, Picture
from local.cli.target import nothing_answers
from shared.events import SUBPROTOCOL
from shared.messages import MAX_FRAME_BYTES, PROTOCOL_VERSION

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


class Client:
    """Keeps a user connected and tells what happens; reconnects by itself.

    Args:
        ws_url: where the service answers, without a query.
        user_id: who connects.
        tokens: where the token of each handshake comes from.
        picture: is kept up to date.
        on_change: is told each change of a contact, in order.
        on_link: is told when the connection comes, goes, or is of no use.
        rng: where jitter comes from.
    """

    def __init__(
        self,
        ws_url: str,
        user_id: str,
        tokens: Tokens,
        picture: Picture,
        on_change: Callable[[Change], None],
        on_link: Callable[[Link], None],
        rng: random.Random | None = None,
    ) -> None:
        self._picture = picture
        self._ws_url, self._user_id, self._tokens = ws_url, user_id, tokens
        self._on_change, self._on_link = on_change, on_link
        self._rng = rng or random.Random()  # noqa: S311 - jitter needs no secrecy
        self._device_id = f"watch-{self._rng.getrandbits(48):x}"
        self._link: Link | None = None

    async def run(self) -> NoReturn:
        """Stay connected until cancelled. The socket is closed then, and the service grants its grace, as to a tab.

        Raises:
            Complaint: the first connection was not to be had. Later ones are tried for again and again.
        """
        attempt = 0
        while True:
            try:
                socket = await self._open()
            except (OSError, InvalidHandshake) as error:
                if self._link is None:
                    raise Complaint(why_not(self._ws_url, error)) from None
                reason = why_not(self._ws_url, error)
            else:
                reason = await self._serve(socket)
            # Only a connection that was of use counts as a success: a service may let everybody in and help nobody.
            attempt = 0 if self._link and self._link.state == "live" else attempt + 1
            wait = self._rng.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt))
            self._tell(Link("lost", reason, wait))
            await asyncio.sleep(wait)

    async def _open(self) -> ClientConnection:
        """A new connection; raises OSError or InvalidHandshake."""
        return await open_socket(
            self._ws_url, self._tokens.token(self._user_id), self._tokens.token_source, self._device_id
        )

    async def _serve(self, socket: ClientConnection) -> str:
        """Do what is due on a connection until it ends; gives why it did."""
        clock = asyncio.get_running_loop().time
        session = Session(self._picture, self._rng, clock(), self._connection_id)
        try:
            while True:
                if clock() >= session.rotate_at:
                    socket, session = await self._rotate(socket, session)
                for message in session.due(clock()):
                    await socket.send(json.dumps(message))
                try:
                    async with asyncio.timeout_at(session.wake_at):
                        frame = json.loads(await socket.recv())
                except TimeoutError:
                    continue
                changes = session.receive(frame, clock())
                if session.link:
                    self._tell(session.link)
                for change in changes:
                    self._on_change(change)
        except ConnectionClosed as closed:
            return f"closed with {closed.rcvd.code}" if closed.rcvd else "cut"
        except Silent:
            return "nobody answers"
        finally:
            await socket.close()

    async def _rotate(self, old: ClientConnection, session: Session) -> tuple[ClientConnection, Session]:
        """Go over to a new connection without a moment between: it is open, and told what it replaces, before the old
        one closes. Where that fails the old one is used for as long as it lasts.
        """
        clock = asyncio.get_running_loop().time
        try:
            socket = await self._open()
        except (OSError, InvalidHandshake):
            session.rotate_at = clock() + self._rng.uniform(FIRST_WAIT, LONGEST_WAIT)
            return old, session
        session = Session(self._picture, self._rng, clock(), self._connection_id)
        for message in session.due(clock()):
            await socket.send(json.dumps(message))
        await old.close()
        return socket, session

    @property
    def _connection_id(self) -> str | None:
        return (self._picture.own or {}).get("connectionId")

    def _tell(self, link: Link) -> None:
        if link != self._link:
            self._link = link
            self._on_link(link)


async def open_socket(ws_url: str, token: str, token_source: TokenSource, device_id: str) -> ClientConnection:
    """A new connection of a device, on which nothing was said yet; without a token nothing takes its place.

    Raises:
        OSError, InvalidHandshake: `why_not` has words for them.
    """
    url, offered = handshake(ws_url, token, token_source, device_id)
    return await connect(
        url,
        subprotocols=offered or None,
        open_timeout=OPEN_PATIENCE,
        close_timeout=1,
        max_size=2 * MAX_FRAME_BYTES,
        ping_interval=None,  # API Gateway answers pings by itself: they prove nothing.
        proxy=True if ws_url.startswith("wss:") else None,
    )


def handshake(ws_url: str, token: str, token_source: TokenSource, device_id: str) -> tuple[str, list[Subprotocol]]:
    """The URL of a handshake, and the subprotocols that it offers."""
    query = {"v": PROTOCOL_VERSION, "deviceId": device_id, "deviceType": "desktop", "platform": sys.platform}
    offered = []
    if token and token_source == "subprotocol":
        offered = [Subprotocol(SUBPROTOCOL), Subprotocol(token)]
    elif token:
        query["token"] = token
    return f"{ws_url}?{urlencode(query)}", offered


def why_not(ws_url: str, error: OSError | InvalidHandshake) -> str:
    """In words, why a connection was not to be had."""
    match error:
        case InvalidStatus(response=response) if response.status_code in (401, 403):
            return f"{ws_url} refuses the token: was it made for this service, and is it still good?"
        case InvalidStatus(response=response):
            return f"{ws_url} answers {response.status_code}"
        case TimeoutError():
            return f"{ws_url} does not answer"
        case ssl.SSLError():
            return f"{ws_url} speaks no TLS that this machine trusts"
        case OSError():
            return nothing_answers(ws_url)
        case _:
            return f"{ws_url} does not speak WebSocket"
