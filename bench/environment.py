"""A warm Lambda execution environment in this process: the deployed handlers, on a real Redis and a real endpoint.

Its clock moves only when a benchmark moves it, so that no event waits for the window of another.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import redis

import shared.environment
from bench.measure import environment
from bench.transports import CREDENTIALS
from shared import push, runtime
from shared.connection import Connection
from shared.messages import parse_message
from shared.presence import PresenceService
from shared.push import Pusher
from shared.routes import FUNCTIONS
from shared.script import RECIPES, Script, assemble
from shared.settings import Settings
from shared.store import Store
from tests.support import events
from tests.support.clock import EPOCH, Clock

YEAR = 365 * 86_400
PATIENT: dict[str, Any] = {
    "device_ttl": 10 * 86_400,
    "away_after": 10 * 86_400,
    "rate_limit": 1000,
    "rate_burst": 10**6,
}
"""Settings that let a benchmark move the clock, and a connection send any number of messages."""

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """The part of Lambda's context that handlers read."""

    aws_request_id: str = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"


class Enough(Exception):
    """The sweeper was about to wait: all users that were due are settled."""


class Environment:
    """Invokes handlers, and records which script calls they make.

    Attributes:
        client: a client of Redis, to prepare the state.
        service: the service in this environment.
        scripts: the scripts of the state machine, by name.
    """

    def __init__(self, client: redis.Redis, service: PresenceService, clock: Clock) -> None:
        self.client, self.service, self.clock = client, service, clock
        self.store, self._pusher = cast("Store", service._store), cast("Pusher", service._pusher)
        self.scripts = {name: assemble(name, service._settings) for name in RECIPES}
        self._runs = 0
        self.refresh()
        self.empty()

    def empty(self) -> None:
        """Delete everything in the store, and mark the graph as loaded."""
        self.client.flushdb()
        self.service.contacts.set_graph_loaded(True)

    def refresh(self) -> None:
        """Reset Lua in Redis, and load the service's scripts: leftovers of a benchmark's own would slow them down."""
        self.client.script_flush("SYNC")
        for script in self.scripts.values():
            self.client.script_load(script.text)

    def event(self, body: dict[str, Any] | None, user_id: str, connection_id: str) -> Event:
        """A message of a connection or, without a body, its handshake."""
        vouched = events.vouched(user_id, EPOCH // 1000, EPOCH // 1000 + YEAR, deviceId="laptop")
        if body is None:
            query = {"v": "2", "token": "e30.e30.e30", "deviceId": "laptop"}
            return events.connect(vouched, connection_id, EPOCH, query=query)
        return events.message(vouched, json.dumps(body), connection_id, EPOCH, route=body["action"])

    def handler(self, function: str) -> Callable[[Event], object]:
        """A function's handler, to be called with an event."""
        handle = importlib.import_module(f"functions.{function}.handler").handler
        return lambda event: handle(event, Context())

    def send(self, body: dict[str, Any], connection: Connection) -> None:
        """Handle a client's message, without the function around it."""
        self.service.receive(connection, parse_message(json.dumps(body)))

    def open(self, connection: Connection) -> None:
        """Connect a client: handshake and first sync."""
        self.service.set_user_online(connection)
        self.send({"action": "sync"}, connection)

    def sweep(self) -> None:
        """Run the sweeper until it would wait for the first time."""
        self._runs += 1

        def nap(_seconds: float) -> None:
            raise Enough

        with contextlib.suppress(Enough):
            self.service.cleanup_stale_connections(f"run-{self._runs}", nap)

    def advance(self, seconds: float = 2) -> None:
        """Let time pass, also for the pusher, whose rate limit uses real time: it may post a burst again."""
        self.clock.now += round(seconds * 1000)
        self._pusher._rate_limit = push.RateLimiter(push.POSTS_PER_SECOND, push.BURST)

    def recorded(self, work: Callable[[], object]) -> list[RoundTrip]:
        """Do some work. Returns its script calls, by round trip."""
        round_trips: list[RoundTrip] = []
        run_all = self.store._run_all

        def record(calls: Any, now: int) -> list[Any]:
            round_trips.append([ScriptCall(call.script, call.keys, call.body) for call in calls])
            return run_all(calls, now)

        self.store._run_all = record  # type: ignore[method-assign] # the real one with a recorder
        try:
            work()
        finally:
            self.store._run_all = run_all  # type: ignore[method-assign]
        return round_trips

    def replay(self, client: redis.Redis, round_trips: Sequence[RoundTrip]) -> None:
        """Repeat round trips as bare calls of redis-py: one EVALSHA each, or a pipeline of them."""
        now = self.clock.now
        for round_trip in round_trips:
            if len(round_trip) == 1:
                round_trip[0].run(client, now)
                continue
            pipeline = client.pipeline(transaction=False)
            for call in round_trip:
                call.run(pipeline, now)
            pipeline.execute()


class ScriptCall(NamedTuple):
    """A script call of the store."""

    script: Script
    keys: list[str]
    body: str

    def run(self, client: redis.Redis, now: int) -> Any:
        """Repeat it as a bare EVALSHA, or add it to a pipeline."""
        return client.evalsha(self.script.sha, len(self.keys), *self.keys, now, self.body)


RoundTrip = list[ScriptCall]


def connection(user_id: str, connection_id: str, device_id: str = "laptop") -> Connection:
    """A connection, as the authorizer describes it."""
    return Connection(
        user_id,
        connection_id,
        EPOCH,
        token_issued_at=EPOCH // 1000,
        token_expires_at=EPOCH // 1000 + YEAR,
        device_id=device_id,
    )


@contextlib.contextmanager
def warm_environment(redis_url: str, callback_url: str, **settings: Any) -> Iterator[Environment]:
    """An environment on an empty Redis; posts go to `callback_url`. Handlers use the latest one."""
    given = Settings(redis_url=redis_url, callback_url=callback_url, **settings)
    for function in FUNCTIONS:  # imports read the real clock
        importlib.import_module(f"functions.{function}.handler")
    warm: Any = shared.environment
    clock, real = Clock(), warm.now_ms
    kept = [value for module in (runtime, warm) for value in vars(module).values() if hasattr(value, "cache_clear")]
    with (
        environment({**CREDENTIALS, **given.to_env()}),
        redis.Redis.from_url(redis_url) as client,
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),  # lines of metrics go to stdout
    ):
        warm.now_ms = clock
        for cached in kept:
            cached.cache_clear()
        running = Environment(client, warm.service(), clock)
        try:
            yield running
        finally:
            warm.now_ms = real
            running.store.close()
            running._pusher.shutdown()
            for cached in kept:
                cached.cache_clear()
