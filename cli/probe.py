"""A connection that asks one thing at a time and measures how long the answer takes.

It keeps no picture and never reconnects: a client that does is in `client.py`. What is asked is the caller's matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from cli.client import open_socket, why_not
from cli.errors import Complaint
from cli.identity_provider import Tokens
from load.session import TokenSource
from load.state import Frame

Wanted = Callable[[Frame], bool]


class Probe:
    """One connection of one user. Every method raises Complaint when what it waits for does not come.

    Args:
        user: whose it is.
        socket: what it speaks through, open.
        patience: seconds that an answer may take.
    """

    def __init__(self, user: str, socket: ClientConnection, patience: float) -> None:
        self.user = user
        self._socket, self._patience = socket, patience

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, ws_url: str, user: str, tokens: Tokens, patience: float) -> AsyncIterator[Self]:
        """A connection that lasts as long as the block."""
        device = f"doctor-{secrets.token_hex(4)}"
        try:
            socket = await open_socket(ws_url, tokens.token(user), tokens.token_source, device)
        except (OSError, InvalidHandshake) as error:
            raise Complaint(why_not(ws_url, error)) from None
        async with socket:
            yield cls(user, socket, patience)

    async def sync(self) -> Frame:
        """Say the first word; gives the last part of the snapshot, which holds `self` as all parts do."""
        return await self.ask(
            {"action": "sync"},
            lambda frame: frame.get("type") == "presence_snapshot" and frame["part"] == frame["parts"],
            "a snapshot",
        )

    async def ask(self, message: dict[str, Any], wanted: Wanted, what: str) -> Frame:
        """Send a message and wait for what answers it."""
        await self.send(message)
        return await self.hear(wanted, what)

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message that nothing answers."""
        try:
            await self._socket.send(json.dumps(message))
        except ConnectionClosed as closed:
            raise Complaint(self._ended(closed)) from None

    async def hear(self, wanted: Wanted, what: str) -> Frame:
        """The next frame that is wanted; what comes before it is let go. `what` names it with its article."""
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    frame: Frame = json.loads(await self._socket.recv())
                    if wanted(frame):
                        return frame
                    if frame.get("type", "error") == "error":
                        raise Complaint(f"{self.user} is told: {frame.get('message')}")
        except TimeoutError:
            raise Complaint(f"{self.user} did not get {what} within {self._patience:g} s") from None
        except ConnectionClosed as closed:
            raise Complaint(self._ended(closed)) from None

    async def until_closed(self) -> None:
        """Wait until the service closes the connection."""
        try:
            async with asyncio.timeout(self._patience):
                await self._socket.wait_closed()
        except TimeoutError:
            raise Complaint(f"the connection of {self.user} was not closed within {self._patience:g} s") from None

    def _ended(self, closed: ConnectionClosed) -> str:
        how = f"closed with {closed.rcvd.code}" if closed.rcvd else "cut"
        return f"the connection of {self.user} was {how}"


async def status_without_token(ws_url: str, token_source: TokenSource) -> int:
    """With which status a handshake is answered that carries no token; 101 when it is let in.

    Raises:
        Complaint: it is not answered.
    """
    try:
        socket = await open_socket(ws_url, "", token_source, "doctor")
    except InvalidStatus as refused:
        return refused.response.status_code
    except (OSError, InvalidHandshake) as error:
        raise Complaint(why_not(ws_url, error)) from None
    await socket.close()
    return 101
