"""Many clients of `client/presence.js` itself in one Node process, driven from Python under a virtual clock.

For histories and simulations: time moves only by `advance`, random numbers come from a seed, and sockets and HTTP calls
lead to the caller. One process serves many histories: `reset` forgets all clients. Not safe for threads.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

SCRIPT = Path(__file__).with_suffix(".mjs")


class Opening(NamedTuple):
    """A client opens a WebSocket. Answer with `opened`, or with `lose` if the handshake is refused."""

    at: int
    client: str
    socket: int
    url: str
    protocols: list[str]


class Sent(NamedTuple):
    """A client sent a message on a socket, as text."""

    at: int
    client: str
    socket: int
    data: str


class Closed(NamedTuple):
    """A client closed a socket."""

    at: int
    client: str
    socket: int
    code: int | None


class Requested(NamedTuple):
    """A client called the HTTP API. Answer with `respond` or `fail`."""

    at: int
    client: str
    request: int
    method: str
    url: str
    headers: dict[str, str]
    body: str | None


class Emitted(NamedTuple):
    """A client emitted an event: `change`, `self`, `connection` or `error`."""

    at: int
    client: str
    event: str
    detail: Any


class Settled(NamedTuple):
    """What a called method gave, or the error of its promise."""

    at: int
    client: str
    call: int
    value: Any
    error: dict[str, Any] | None


Action = Opening | Sent | Closed | Requested | Emitted | Settled
_KINDS: dict[str, type[Action]] = {
    "opening": Opening,
    "sent": Sent,
    "closed": Closed,
    "requested": Requested,
    "emitted": Emitted,
    "settled": Settled,
}


class Picture(NamedTuple):
    """What a client shows: `users` by their id, and the number up to which every frame has been applied."""

    users: dict[str, dict[str, Any]]
    self: dict[str, Any] | None
    connection: str
    stale: bool
    seq: int | None


class ClientCrashed(Exception):
    """The Node process ended: a client raised an error, or a command was wrong. Its message is Node's report."""


class ShippedClients:
    """Clients in one Node process. Each command returns what the clients did because of it, in order.

    Attributes:
        next_timer: when the first timer of all clients fires, in ms of the clock; None without timers.

    Raises:
        ClientCrashed: from each command after the process ended.
    """

    def __init__(self) -> None:
        self.next_timer: int | None = None
        self._calls = 0
        self._process = subprocess.Popen(
            ["node", str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def reset(self, now: int) -> None:
        """Forget all clients, and set the clock, in ms. Numbers of sockets and requests start again."""
        self._command("reset", now)

    def create(self, client: str, *, user: str, secret: str, url: str, seed: int = 0, **options: Any) -> list[Action]:
        """Create a client, which `call(client, "open")` opens.

        Args:
            client: its name, and its `deviceId` unless `options` has another.
            user: the subject of its tokens.
            secret: with which its tokens are signed (HS256).
            url: of the WebSocket API; `options["httpUrl"]` is that of the HTTP API.
            seed: of its random numbers.
            options: further options of `Presence`; `tokenLifetime` in seconds.
        """
        return self._act("create", client, seed, {"user": user, "secret": secret, "url": url, **options})

    def drop(self, client: str) -> list[Action]:
        """Its machine is gone: it sends nothing any more, and nobody closes its sockets."""
        return self._act("drop", client)

    def call(self, client: str, method: str, *values: Any) -> list[Action]:
        """Call a method of a client. What it returns follows as `Settled`, perhaps after later commands."""
        self._calls += 1
        return self._act("call", client, self._calls, method, values)

    def page(self, client: str, event: str, visibility: str | None = None) -> list[Action]:
        """Something happens in a client's page, like `pagehide`, `online` or, with `visibility`, `visibilitychange`."""
        return self._act("page", client, event, visibility)

    def advance(self, to: int) -> list[Action]:
        """Move the clock, in ms. Timers that are due fire in order."""
        return self._act("advance", to)

    def opened(self, socket: int) -> list[Action]:
        """The handshake of a socket succeeded."""
        return self._act("opened", socket)

    def deliver(self, socket: int, *frames: str) -> list[Action]:
        """Frames arrive on a socket, as text. Nothing happens if the client has closed it."""
        return self._act("deliver", socket, frames)

    def lose(self, socket: int, code: int = 1006) -> list[Action]:
        """A socket is closed by the service or the network, or its handshake is refused."""
        return self._act("lose", socket, code)

    def respond(self, request: int, status: int, body: str = "", headers: dict[str, str] | None = None) -> list[Action]:
        """An HTTP call gets a response."""
        return self._act("respond", request, status, headers or {}, body)

    def fail(self, request: int) -> list[Action]:
        """An HTTP call fails without a response."""
        return self._act("fail", request)

    def picture(self, client: str) -> Picture:
        """What a client shows."""
        gives = self._command("picture", client)["gives"]
        return Picture(**{**gives, "users": {record["userId"]: record for record in gives["users"]}})

    def _act(self, name: str, *values: Sequence[Any] | Any) -> list[Action]:
        return [_KINDS[kind](*fields) for kind, *fields in self._command(name, *values)["did"]]

    def _command(self, *command: Any) -> dict[str, Any]:
        stdin, stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        try:
            stdin.write(json.dumps(command).encode() + b"\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise ClientCrashed(_pipe(self._process.stderr).read().decode())
        answer: dict[str, Any] = json.loads(line)
        self.next_timer = answer["next"]
        return answer


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
