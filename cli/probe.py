"""A connection that sends one message at a time and waits for its response.

It keeps no state and never reconnects; the client that does is in `client.py`.
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
from cli.errors import UserError
from cli.identity_provider import Tokens
from load.session import TokenSource
from load.state import Frame, Parts, Record

Wanted = Callable[[Frame], bool]


class Probe:
    """One connection of one user. Every method raises UserError when the expected frame does not arrive.

    Args:
        user: the user's id.
        socket: an open connection.
        patience: seconds that a response may take.
    """

    def __init__(self, user: str, socket: ClientConnection, patience: float) -> None:
        self.user = user
        self._socket, self._patience = socket, patience

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, ws_url: str, user: str, tokens: Tokens, patience: float) -> AsyncIterator[Self]:
        """Open a connection that lasts as long as the block."""
        device = f"doctor-{secrets.token_hex(4)}"
        try:
            socket = await open_socket(ws_url, tokens.token(user), tokens.token_source, device)
        except (OSError, InvalidHandshake) as error:
            raise UserError(why_not(ws_url, error)) from None
        async with socket:
            yield cls(user, socket, patience)

    async def sync(self) -> Frame:
        """Send the first `sync` and wait for the whole snapshot. Returns its first part, which contains `self`."""
        await self.send({"action": "sync"})
        return (await self._parts("presence_snapshot", "a snapshot"))[1]

    async def query(self, *users: str) -> list[Record]:
        """The records of some users, as `get_presence` returns them."""
        await self.send({"action": "get_presence", "userIds": users})
        parts = await self._parts("presence", "a response to get_presence")
        return [record for number in sorted(parts) for record in parts[number]["users"]]

    async def _parts(self, kind: str, what: str) -> Parts:
        """Wait for all parts of a response, in any order."""
        parts: dict[int, Frame] = {}

        def is_last(frame: Frame) -> bool:
            if frame.get("type") == kind:
                parts[frame["part"]] = frame
            return frame.get("type") == kind and len(parts) == frame["parts"]

        await self.expect(is_last, what)
        return parts

    async def ask(self, message: dict[str, Any], wanted: Wanted, what: str) -> Frame:
        """Send a message and wait for its response."""
        await self.send(message)
        return await self.expect(wanted, what)

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message."""
        try:
            await self._socket.send(json.dumps(message))
        except ConnectionClosed as closed:
            raise UserError(self._ended(closed)) from None

    async def expect(self, wanted: Wanted, what: str) -> Frame:
        """Wait for a frame that is wanted, and ignore others. `what` names it, with its article, in the error."""
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    frame: Frame = json.loads(await self._socket.recv())
                    if wanted(frame):
                        return frame
                    if frame.get("type", "error") == "error":
                        raise UserError(f"{self.user} received an error: {frame.get('message')}")
        except TimeoutError:
            raise UserError(f"{self.user} did not receive {what} within {self._patience:g} s") from None
        except ConnectionClosed as closed:
            raise UserError(self._ended(closed)) from None

    async def until_closed(self) -> None:
        """Wait until the service closes the connection."""
        try:
            async with asyncio.timeout(self._patience):
                await self._socket.wait_closed()
        except TimeoutError:
            raise UserError(f"the connection of {self.user} was not closed within {self._patience:g} s") from None

    def _ended(self, closed: ConnectionClosed) -> str:
        how = f"closed with {closed.rcvd.code}" if closed.rcvd else "cut"
        return f"the connection of {self.user} was {how}"


async def status_without_token(ws_url: str, token_source: TokenSource) -> int:
    """The response status of a handshake without a token; 101 if it is accepted.

    Raises:
        UserError: there is no response.
    """
    try:
        socket = await open_socket(ws_url, "", token_source, "doctor")
    except InvalidStatus as refused:
        return refused.response.status_code
    except (OSError, InvalidHandshake) as error:
        raise UserError(why_not(ws_url, error)) from None
    await socket.close()
    return 101
