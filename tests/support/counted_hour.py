"""Simulates hours of the service in seconds and counts everything that AWS would bill.

Clients are real WebSockets, the gateway is that of `presence run`, the functions are the deployed handlers, and the
state is in a real Redis. The clock jumps from one event to the next while the sweeper sleeps, so an hour has all
its heartbeats, deadlines and sweeps.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import math
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import jwt
import websockets
from websockets.asyncio.client import ClientConnection

from bench.environment import YEAR, Environment, warm_environment
from bench.transports import CREDENTIALS
from local.apigateway.http_api import HttpApi
from local.apigateway.server import HOST, serve
from local.apigateway.websocket_api import WebSocketApi
from local.iam import KeyPair, SignatureVerifier
from shared import runtime
from shared.delivery import Post
from shared.routes import AUTHORIZER, HTTP_ROUTES, WEBSOCKET_ROUTES
from tests.support.clock import EPOCH

SECRET = "a secret of thirty-two characters"
PATIENCE = 20.0
"""Seconds that a test waits for what normally happens immediately."""
REASONS = {
    "heartbeat": "heartbeats",
    "connect": "connections",
    "disconnect": "connections",
    "sync": "syncs",
    "read_views": "views",
    "update": "updates",
    "find_targets": "fan-out",
    "announced": "fan-out",
    "settle": "settling",
    "get_due": "looks",
}
"""Command of the state machine → its cause in the cost model. If a round trip has several commands, the later row is
its cause: an arrival's snapshot is read in the round trip that finds its targets."""


class Counted:
    """What was counted: everything that `cost/counts.py` has a number for."""

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        """From clients, by action."""
        self.posts: Counter[str] = Counter()
        """Frames to clients, by type."""
        self.invocations: Counter[str] = Counter()
        self.round_trips: Counter[str] = Counter()
        """By cause; the sweeper's consistency check is "check"."""
        self.calls: Counter[str] = Counter()
        """Script calls, likewise."""
        self.scripts_in_redis = 0
        """Script calls, as Redis itself counts them."""
        self.metrics: set[str] = set()
        """The names of the functions' metrics."""


class Socket:
    """A client's connection.

    Attributes:
        id: the connection's id, from the first snapshot on.
        seq: the number of the newest frame.
    """

    def __init__(self, client: ClientConnection) -> None:
        self.client, self.id, self.seq = client, "", 0


class World:
    """The service and its clients.

    Attributes:
        counted: counts since the last `begin`.
        clock: the time, in ms.
    """

    def __init__(self, running: Environment, port: int) -> None:
        self.environment, self.clock, self.counted = running, running.clock, Counted()
        self._port = port
        self._ids = itertools.count()
        self._todo: list[tuple[int, int, Callable[[], Awaitable[object]]]] = []
        self._one_at_a_time, self._happened = asyncio.Lock(), asyncio.Condition()
        self._listening: dict[Socket, asyncio.Task[None]] = {}
        self._runs, self._end, self._next_run = 0, 0, 0
        self._posted = self._received = 0

    # The service

    async def invoke(self, name: str, event: dict[str, Any]) -> Any:
        """Invoke a function for the gateway, one event at a time, so that the order is always the same."""
        async with self._one_at_a_time:
            answer = await asyncio.to_thread(self.environment.handler(name), json.loads(json.dumps(event)))
        async with self._happened:
            self.counted.invocations[name] += 1
            self._happened.notify_all()
        return answer

    def count_round_trip(self, calls: list[Any]) -> None:
        """Count one round trip, by the commands in it."""
        commands = {request["command"] for call in calls for request in json.loads(call.body)}
        reasons = [reason for command, reason in REASONS.items() if command in commands]
        reason = reasons[-1] if reasons else "check"
        self.counted.round_trips[reason] += 1
        self.counted.calls[reason] += len(calls)

    def count_posts(self, posts: Sequence[Post]) -> None:
        """Count frames that are posted."""
        self._posted += len(posts)
        self.counted.posts.update(json.loads(post.data)["type"] for post in posts)

    # Clients

    async def open(self, user_id: str, device_id: str, replaces: Socket | None = None) -> Socket:
        """Connect and sync. The service closes the connection that it `replaces`."""
        token = jwt.encode({"sub": user_id, "iat": EPOCH // 1000, "exp": EPOCH // 1000 + 10 * YEAR}, SECRET, "HS256")
        opened = await websockets.connect(
            f"ws://{HOST}:{self._port}/live?v=2&token={token}&deviceId={device_id}", ping_interval=None
        )
        socket = Socket(opened)
        answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._listening[socket] = asyncio.create_task(self._listen(socket, answered))
        sync: dict[str, Any] = {"action": "sync"}
        await self.send(socket, sync | ({"replaces": replaces.id, "seq": replaces.seq} if replaces else {}), "query")
        snapshot = await asyncio.wait_for(answered, PATIENCE)
        socket.id = snapshot["self"]["connectionId"]
        if replaces:
            assert snapshot["resumed"], "a client that missed nothing must get nothing again"
            await self._until("disconnect", self.counted.invocations["disconnect"] + 1, replaces.client.wait_closed())
        return socket

    async def send(self, socket: Socket, message: dict[str, Any], function: str) -> None:
        """Send a message and wait until its function has handled it."""
        self.counted.messages[message["action"]] += 1
        await self._until(function, self.counted.invocations[function] + 1, socket.client.send(json.dumps(message)))

    async def close(self, socket: Socket) -> None:
        """Close a socket, as a closed page does."""
        await self._until("disconnect", self.counted.invocations["disconnect"] + 1, socket.client.close(1001))

    async def _listen(self, socket: Socket, answered: asyncio.Future[dict[str, Any]]) -> None:
        async for data in socket.client:
            frame = json.loads(data)
            self._received += 1
            socket.seq = frame["seq"]
            if not answered.done():
                answered.set_result(frame)

    async def _until(self, function: str, number: int, deed: Awaitable[object]) -> None:
        async with asyncio.timeout(PATIENCE):
            await deed
            async with self._happened:
                await self._happened.wait_for(lambda: self.counted.invocations[function] >= number)

    # Time

    def at(self, seconds: float, deed: Callable[[], Awaitable[object]]) -> None:
        """Schedule something this many seconds from now."""
        heapq.heappush(self._todo, (self.clock.now + round(seconds * 1000), next(self._ids), deed))

    def begin(self) -> None:
        """Start counting."""
        self.counted = Counted()
        self.environment.client.config_resetstat()

    async def live(self, seconds: float) -> Counted:
        """Let this much time pass with sweepers running; returns the counts since `begin`."""
        self._end, self._next_run = self.clock.now + round(seconds * 1000), self.clock.now
        loop = asyncio.get_running_loop()

        def nap(seconds: float) -> None:
            asyncio.run_coroutine_threadsafe(self._pass(round(seconds * 1000)), loop).result()

        while self.clock.now < self._end:
            self._runs += 1
            self._next_run += 60_000
            self.counted.invocations["sweeper"] += 1
            await asyncio.to_thread(self.environment.service.cleanup_stale_connections, f"run-{self._runs}", nap)
        stats: dict[str, Any] = self.environment.client.info("commandstats")
        self.counted.scripts_in_redis = stats["cmdstat_evalsha"]["calls"]
        metrics = runtime.metrics()
        self.counted.metrics = {*metrics._counts, *metrics._times}
        return self.counted

    async def _pass(self, ms: int) -> None:
        wake = self.clock.now + ms
        while self._todo and self._todo[0][0] <= wake:
            at, _, deed = heapq.heappop(self._todo)
            self.clock.now = max(self.clock.now, at)
            await deed()
        self.clock.now = wake
        if wake >= min(self._next_run, self._end):  # another run takes over
            self.environment.client.hset("presence:{0}:meta", "sweeper", "a newer run")

    async def end(self) -> None:
        """Close every client after receiving every frame that was posted to it."""
        self.counted = Counted()
        for opened, listening in self._listening.items():
            await opened.client.close()
            await listening
        assert self._received == self._posted


def play(redis_url: str, scenario: Callable[[World], Awaitable[Counted]], **settings: Any) -> Counted:
    """Play a scenario on an empty Redis whose graph is loaded. Returns what was counted."""
    runtime.authenticator.cache_clear()
    with (
        socket.create_server((HOST, 0)) as listener,
        warm_environment(
            redis_url, f"http://{HOST}:{listener.getsockname()[1]}/live", jwt_secret=SECRET, **settings
        ) as running,
    ):
        counted = asyncio.run(_play(running, listener, scenario))
    runtime.authenticator.cache_clear()
    return counted


async def _play(
    running: Environment, listener: socket.socket, scenario: Callable[[World], Awaitable[Counted]]
) -> Counted:
    here = World(running, listener.getsockname()[1])
    run_all, post = running.store._run_all, running._pusher.post

    def counted_run_all(calls: Any, now: int) -> list[Any]:
        here.count_round_trip(calls)
        return run_all(calls, now)

    def counted_post(posts: Sequence[Post], within: float = math.inf) -> set[str]:
        here.count_posts(posts)
        return post(posts, within)

    running.store._run_all = counted_run_all  # type: ignore[method-assign] # the real ones with recorders
    running._pusher.post = counted_post  # type: ignore[method-assign]
    key_pair = KeyPair(CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
    verifier = SignatureVerifier(key_pair, CREDENTIALS["AWS_REGION"])
    websocket_api = WebSocketApi(
        here,
        verifier,
        routes=WEBSOCKET_ROUTES,
        authorizer=AUTHORIZER,
        token_source="query",
        clock=lambda: running.clock.now / 1000,
    )
    http_api = HttpApi(here, verifier, routes=HTTP_ROUTES, cors_origins=())
    async with serve(websocket_api, http_api, listener):
        counted = await scenario(here)
        await here.end()
    return counted
