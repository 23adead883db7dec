"""A client that stays connected and keeps the state of its contacts, as docs/protocol.md requires.

This module has the sockets. `load/session.py` decides what to send, and `load/state.py` keeps the state.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import Callable
from typing import NoReturn

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from cli.addresses import nothing_answers
from cli.errors import UserError
from cli.identity_provider import Tokens
from load.session import FIRST_WAIT, LONGEST_WAIT, OPEN_PATIENCE, Link, Session, Silent, TokenSource, handshake
from load.state import State
from shared.frames import MAX_FRAME_BYTES


class Client:
    """Keeps a user connected, and reconnects by itself.

    Args:
        ws_url: the WebSocket API's URL, without a query.
        user_id: the user that connects.
        tokens: makes the token of each handshake.
        on_state: is called with the states before and after each frame that changed something.
        on_link: is called when the state of the connection changes.
        rng: the source of jitter.
    """

    def __init__(
        self,
        ws_url: str,
        user_id: str,
        tokens: Tokens,
        on_state: Callable[[State, State], None],
        on_link: Callable[[Link], None],
        rng: random.Random | None = None,
    ) -> None:
        self._state = State()
        self._ws_url, self._user_id, self._tokens = ws_url, user_id, tokens
        self._on_state, self._on_link = on_state, on_link
        self._rng = rng or random.Random()  # noqa: S311 - jitter needs no secrecy
        self._device_id = f"watch-{self._rng.getrandbits(48):x}"
        self._link: Link | None = None

    async def run(self) -> NoReturn:
        """Stay connected until canceled. Then the socket closes, and the service's grace applies, as to a closed tab.

        Raises:
            UserError: the first connection failed. Later ones are retried forever.
        """
        attempt = 0
        while True:
            try:
                socket = await self._open()
            except (OSError, InvalidHandshake) as error:
                if self._link is None:
                    raise UserError(why_not(self._ws_url, error)) from None
                reason = why_not(self._ws_url, error)
            else:
                reason = await self._serve(socket)
            # Only a connection that became live counts as a success: a broken service may still accept connections.
            attempt = 0 if self._link and self._link.state == "live" else attempt + 1
            wait = self._rng.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt))
            self._tell(Link("lost", reason, wait))
            await asyncio.sleep(wait)

    async def _open(self) -> ClientConnection:
        """Open a connection; raises OSError or InvalidHandshake."""
        return await open_socket(
            self._ws_url, self._tokens.token(self._user_id), self._tokens.token_source, self._device_id
        )

    async def _serve(self, socket: ClientConnection) -> str:
        """Use a connection until it ends. Returns why it ended."""
        clock = asyncio.get_running_loop().time
        session = Session(self._state, self._rng, clock(), self._connection_id)
        try:
            while True:
                if clock() >= session.rotate_at:
                    socket, session = await self._rotate(socket, session)
                for message in session.due(clock()):
                    await socket.send(json.dumps(message))
                self._take(session.state)
                try:
                    async with asyncio.timeout_at(session.wake_at):
                        frame = json.loads(await socket.recv())
                except TimeoutError:
                    continue
                session.receive(frame, clock())
                if session.link:
                    self._tell(session.link)
                self._take(session.state)
        except ConnectionClosed as closed:
            return f"closed with {closed.rcvd.code}" if closed.rcvd else "cut"
        except Silent:
            return "no response"
        finally:
            await socket.close()

    async def _rotate(self, old: ClientConnection, session: Session) -> tuple[ClientConnection, Session]:
        """Switch to a new connection without a gap: it opens and sends which one it replaces; then the old one closes.

        If that fails, the old one stays in use while it lasts.
        """
        clock = asyncio.get_running_loop().time
        try:
            socket = await self._open()
        except (OSError, InvalidHandshake):
            session.rotate_at = clock() + self._rng.uniform(FIRST_WAIT, LONGEST_WAIT)
            return old, session
        session = Session(self._state, self._rng, clock(), self._connection_id)
        for message in session.due(clock()):
            await socket.send(json.dumps(message))
        await old.close()
        return socket, session

    @property
    def _connection_id(self) -> str | None:
        return (self._state.own or {}).get("connectionId")

    def _take(self, state: State) -> None:
        before, self._state = self._state, state
        if state is not before:
            self._on_state(before, state)

    def _tell(self, link: Link) -> None:
        if link != self._link:
            self._link = link
            self._on_link(link)


async def open_socket(ws_url: str, token: str, token_source: TokenSource, device_id: str) -> ClientConnection:
    """Open a connection of a device. With an empty token, the handshake carries none.

    Raises:
        OSError, InvalidHandshake: see `why_not` for their texts.
    """
    url, offered = handshake(ws_url, token, token_source, device_id)
    return await connect(
        url,
        subprotocols=[Subprotocol(name) for name in offered] or None,
        open_timeout=OPEN_PATIENCE,
        close_timeout=1,
        max_size=2 * MAX_FRAME_BYTES,
        ping_interval=None,  # API Gateway answers pings itself, so they prove nothing.
        proxy=True if ws_url.startswith("wss:") else None,
    )


def why_not(ws_url: str, error: OSError | InvalidHandshake) -> str:
    """The text for a failed handshake."""
    match error:
        case InvalidStatus(response=response) if response.status_code in (401, 403):
            return f"{ws_url} refuses the token: was it made for this service, and is it still valid?"
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
