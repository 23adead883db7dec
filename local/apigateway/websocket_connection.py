"""One open WebSocket of the gateway: bytes in, messages out, quotas and cuts.

Everything that touches the socket after the handshake is here; routes and functions are not. The codec is that of
`websockets`, without its I/O: aiohttp's own WebSocket only delivers whole messages, and API Gateway's quota is for
frames.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Event, Protocol, Side, State

from local.apigateway.websocket_events import Client

FRAME_LIMIT = 32 * 1024
"""Bytes of a client's frame (API Gateway's quota)."""
MESSAGE_LIMIT = 128 * 1024
"""Bytes of a client's message, and of a message posted to it (API Gateway's quota)."""
CLOSE_TIMEOUT = 10.0
"""Seconds within which a client must reply to a close frame before its socket is cut."""

NO_STATUS = (1005, "Client-side close frame status not set")
"""The code and reason in the `$disconnect` event of a client that closed without a code."""
GOING_AWAY = (1001, "Going away")
UNSUPPORTED_DATA = (1003, "")
ABNORMAL = (1006, "")
INVALID_TEXT = (1007, "")


@dataclass(frozen=True, slots=True)
class Cuts:
    """When API Gateway closes a connection, in seconds; the defaults are its quotas."""

    idle: float = 600.0
    """Time without a message in either direction. Pings do not count: AWS does not document that they do."""
    hard: float = 7200.0
    """Time after the handshake, in any case."""


class Connection:
    """One client's open socket.

    `on_message(connection, text)` is called for each message. `on_end(connection, code, reason)` is called once, when
    the connection has ended for the gateway; its socket may still be closing.

    aiohttp calls `feed_data` and `feed_eof`, as it does for its own WebSocket.
    """

    __slots__ = (
        "_active_at",
        "_close_timer",
        "_cut_timer",
        "_cuts",
        "_ended",
        "_fragments",
        "_loop",
        "_on_end",
        "_on_message",
        "_opened_at",
        "_protocol",
        "_transport",
        "client",
        "closed",
    )

    def __init__(
        self,
        client: Client,
        transport: asyncio.Transport,
        cuts: Cuts,
        on_message: Callable[[Connection, str], None],
        on_end: Callable[[Connection, int, str], None],
    ) -> None:
        self.client = client
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done when the socket is closed."""
        self._transport = transport
        self._cuts = cuts
        self._on_message = on_message
        self._on_end = on_end
        self._protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=(MESSAGE_LIMIT, FRAME_LIMIT))
        self._fragments: list[bytes] = []
        self._ended = False
        self._opened_at = self._active_at = self._loop.time()
        self._close_timer: asyncio.TimerHandle | None = None
        self._cut_timer = self._loop.call_at(self._cut_at(), self._cut)

    @property
    def idle_for(self) -> float:
        """Seconds since the last message in either direction."""
        return self._loop.time() - self._active_at

    def send(self, text: bytes) -> bool:
        """Send a text frame. Frames are sent in the order of calls.

        Returns False if the client reads too slowly: then the frame is not sent, and earlier frames still wait here.
        """
        if self._transport.get_write_buffer_size() > MESSAGE_LIMIT:
            return False
        if self._protocol.state is State.OPEN:
            self._active_at = self._loop.time()
            self._protocol.send_text(text)
            self._flush()
        return True

    def close(self, code: int, reason: str) -> None:
        """Close from the gateway's side, with a close frame. For the gateway, the connection has ended."""
        if not self._ended:
            self._protocol.send_close(code, reason)
            self._end(code, reason)
            self._flush()

    def abort(self) -> None:
        """Cut the socket, and drop unsent data. For the gateway it looks like a client that vanished."""
        self._transport.abort()

    def leave(self) -> None:
        """Close as a stopping server does: send a close frame, and do not wait for the reply."""
        self._fail(*GOING_AWAY)
        self._flush()
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    # Called by aiohttp.

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Handle bytes from the socket."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            # A message before the close frame in the same packet counts; nothing after the end does.
            if not self._ended:
                self._receive(event)
        if not self._ended and self._protocol.close_sent is not None:
            # The codec refused the data: 1002, or 1009 above the quota.
            self._end(self._protocol.close_sent.code, "")
        self._flush()
        return False, b""

    def feed_eof(self) -> None:
        """Handle the end of the socket."""
        self._end(*ABNORMAL)
        if self._close_timer is not None:
            self._close_timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    def _receive(self, event: Event) -> None:
        match event:
            case Frame(opcode=Opcode.TEXT | Opcode.CONT, data=data, fin=fin):
                self._fragments.append(bytes(data))
                if fin:
                    message = b"".join(self._fragments)
                    self._fragments.clear()
                    self._receive_message(message)
            case Frame(opcode=Opcode.BINARY):
                self._fail(*UNSUPPORTED_DATA)
            case Frame(opcode=Opcode.CLOSE, data=data):
                close = Close.parse(data)
                self._end(*(NO_STATUS if close.code == NO_STATUS[0] else (close.code, close.reason)))

    def _receive_message(self, message: bytes) -> None:
        try:
            text = message.decode()
        except UnicodeDecodeError:
            self._fail(*INVALID_TEXT)
            return
        self._active_at = self._loop.time()
        self._on_message(self, text)

    def _fail(self, code: int, reason: str) -> None:
        self._protocol.fail(code, reason)
        self._end(code, reason)

    def _end(self, code: int, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._cut_timer.cancel()
            self._on_end(self, code, reason)

    def _cut_at(self) -> float:
        return min(self._active_at + self._cuts.idle, self._opened_at + self._cuts.hard)

    def _cut(self) -> None:
        # A message only records its time; the timer is reset once per cut, not once per message.
        if self._loop.time() < self._cut_at():
            self._cut_timer = self._loop.call_at(self._cut_at(), self._cut)
        else:
            self.close(*GOING_AWAY)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            elif self._transport.can_write_eof():
                # Close only this direction: a full close while the client still sends would reset the socket, and the
                # close frame would be lost.
                self._transport.write_eof()
        if self._protocol.close_expected() and self._close_timer is None:
            self._close_timer = self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)
