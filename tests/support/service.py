"""A `PresenceService` in a test bench: real script, real store, and surroundings that a test controls.

The test advances the time, functions die where the test decides, posts arrive or not, and every round trip is
recorded. Everything else is the product's own code. How clients interpret frames is in `client.py`. The test
chooses the Redis. Nothing here asserts anything about presence.

    bench = Bench(redis_client)                      # the graph is loaded; no user is online
    alice = bench.open("alice", device="phone")      # handshake and first sync
    with bench.counted() as round_trips:             # the commands of each round trip
        bench.service.update_heartbeat(alice, Heartbeat(action="heartbeat"))
    assert len(round_trips) == 1
    bench.clock.advance(75)
    bench.sweep()                                    # settles every user who is due; time stands still
    bench.pusher.to(bob.id)                          # the frames that were posted to a connection, as dictionaries
    with bench.killed(at=2):                         # the function dies after its second step (a round trip or a post)
        bench.service.contacts.change("alice", ["bob"])
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from shared.commands import Command
from shared.connection import Connection
from shared.delivery import Post, Unavailable
from shared.frames import Record
from shared.messages import Heartbeat, PresenceUpdate, Sync
from shared.presence import PresenceService
from shared.settings import Settings
from shared.store import FACTS, AnyResponse, Store
from shared.upkeep import Upkeep
from tests.support.clock import Clock
from tests.support.metrics import Counts

TOKEN_LIFE = 30 * 86_400
"""Default lifetime of a test's token, in seconds: longer than any history."""
CHANGES = ("user_online", "user_offline", "presence_status", "presence_batch")
"""The types of frames that announce a contact's change."""
LIVELOCK = 10_000
"""Round trips without time passing that indicate an endless loop."""


AnyCommand = Command[Any]
Connect = Callable[[Settings, Counts, Callable[[], int]], Any]
OnRoundTrip = Callable[[list[AnyCommand], int], None]


class Killed(BaseException):
    """The function died here: out of time or memory, or its machine failed. No `except Exception` catches it."""


class Steps:
    """The steps of functions: each is a round trip or a post. A function may die right after any of them."""

    def __init__(self) -> None:
        self.taken = 0
        self.fatal: int | None = None

    def take(self) -> None:
        """Count a completed step; raises `Killed` if it was the last."""
        self.taken += 1
        if self.fatal is not None and self.taken >= self.fatal:
            self.fatal = None
            raise Killed


class Pusher:
    """Records what is posted and closed.

    Attributes:
        frames: everything posted to open sockets, in order, whether or not it arrived.
        closed: connections that the service closed.
        gone: connections whose socket is gone: posting to them gets 410.
        drop: decides which frames are accepted and then lost, as API Gateway may do.
        deliver: called with every frame that arrives.
    """

    def __init__(self, steps: Steps) -> None:
        self.frames: list[Post] = []
        self.closed: list[str] = []
        self.gone: set[str] = set()
        self.drop: Callable[[Post], bool] = lambda _frame: False
        self.deliver: Callable[[Post], None] = lambda _frame: None
        self._steps = steps

    def post(self, frames: Sequence[Post], within: float = math.inf) -> set[str]:
        gone = set()
        for frame in frames:
            if frame.connection_id in self.gone:
                gone.add(frame.connection_id)
            else:
                self.frames.append(frame)
                if not self.drop(frame):
                    self.deliver(frame)
            self._steps.take()
        return gone

    def close(self, connection_ids: Iterable[str], within: float = math.inf) -> None:
        for connection_id in connection_ids:
            self.closed.append(connection_id)
            self.gone.add(connection_id)

    def to(self, connection_id: str) -> list[dict[str, Any]]:
        """The frames posted to one connection, in order."""
        return [json.loads(frame.data) for frame in self.frames if frame.connection_id == connection_id]

    def changes(self, connection_id: str, user_id: str = "") -> list[dict[str, Any]]:
        """The changes of contacts posted to one connection, with batches unfolded; of one user, if given."""
        frames = [frame for frame in self.to(connection_id) if frame["type"] in CHANGES]
        events = [event for frame in frames for event in frame.get("events", [frame])]
        return [event for event in events if user_id in ("", event["userId"])]

    def clear(self) -> None:
        """Forget the frames so far."""
        self.frames.clear()


class RecordingStore:
    """A `Store` that reports the commands of each round trip, after which a function may die."""

    def __init__(self, store: Any, steps: Steps, record: OnRoundTrip) -> None:
        self.store, self.buckets = store, store.buckets
        self._steps, self._record = steps, record
        self._last, self._since = 0, 0

    def call(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse]:
        return self._recorded(self.store.call, commands, now)

    def call_each(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse | Unavailable]:
        return self._recorded(self.store.call_each, commands, now)

    def _recorded(self, call: Callable[[Any, int], list[Any]], commands: Sequence[AnyCommand], now: int) -> list[Any]:
        if not commands:
            return []
        self._since = self._since + 1 if now == self._last else 0
        self._last = now
        assert self._since < LIVELOCK, f"{LIVELOCK} round trips without time passing: {commands[:3]}"
        responses = call(commands, now)
        self._record(list(commands), now)
        self._steps.take()
        return responses

    def users(self, cursor: str, count: int = 100, kinds: Sequence[str] = FACTS) -> tuple[set[str], str]:
        found: tuple[set[str], str] = self.store.users(cursor, count, kinds)
        return found

    def eviction_policy(self) -> str | None:
        policy: str | None = self.store.eviction_policy()
        return policy


class _Enough(Exception):
    """A sweeper was about to sleep past the end of the test's sweep."""


class Bench:
    """A service, its state, and its surroundings.

    Args:
        client: the Redis that holds the state; the test empties it between uses.
        settings: the service's settings.
        loaded: whether to mark the graph as loaded.
        connect: makes the store, where it is not on that one Redis.

    Attributes:
        clock, steps, pusher, metrics, settings: see their classes; all environments share them.
        store: the `Store` itself; calls through it are not recorded.
        round_trips: the commands of each round trip so far.
        on_round_trip: called after each round trip with its commands and the time that they ran with.
        service, upkeep: execution environments with the right clock.
    """

    def __init__(
        self, client: Any, settings: Settings | None = None, *, loaded: bool = True, connect: Connect | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.client, self.clock, self.steps, self.metrics = client, Clock(), Steps(), Counts()
        self.pusher = Pusher(self.steps)
        self.round_trips: list[list[AnyCommand]] = []
        self.on_round_trip: OnRoundTrip = lambda _commands, _now: None
        self._drawn = 0
        connect = connect or (lambda settings, metrics, random: Store(client, settings, metrics, random=random))
        self.store = connect(self.settings, self.metrics, self._random)
        self.service, self.upkeep = self.environment(), self.sweeper()
        self._opened, self._runs = 0, 0
        if loaded:
            self.service.contacts.set_graph_loaded(True)

    def _random(self) -> int:
        """No two are alike; their last four digits, which decide how far numbers move, only depend on the time."""
        self._drawn += 1
        return self._drawn * 10_000 + self.clock() % 10_000

    def close(self) -> None:
        """Close the store's threads and connections."""
        self.store.close()

    def environment(self, skew: float = 0) -> PresenceService:
        """Another execution environment over the same state, whose clock is off by `skew` seconds."""
        store = RecordingStore(self.store, self.steps, self._record)
        return PresenceService(
            store, self.pusher, self.settings, lambda: self.clock() + round(skew * 1000), self.metrics
        )

    def sweeper(self, skew: float = 0) -> Upkeep:
        """The same, for upkeep."""
        store = RecordingStore(self.store, self.steps, self._record)
        return Upkeep(store, self.pusher, self.settings, lambda: self.clock() + round(skew * 1000), self.metrics)

    def connection(self, user_id: str, connection_id: str = "", **claims: Any) -> Connection:
        """A connection with its authorizer's context, before its first message.

        Args:
            user_id: the connection's user.
            connection_id: generated if not given.
            claims: other fields of `Connection`; `device` is short for `device_id`.
        """
        self._opened += 1
        now = self.clock()
        claims = {"token_issued_at": now // 1000, "token_expires_at": now // 1000 + TOKEN_LIFE, **claims}
        if "device" in claims:
            claims["device_id"] = claims.pop("device")
        return Connection(user_id, connection_id or f"{user_id}-{self._opened}=", claims.pop("at", now), **claims)

    def open(self, user_id: str, connection_id: str = "", **claims: Any) -> Connection:
        """A client's usual start: handshake and first sync. Arguments as for `connection`."""
        connection = self.connection(user_id, connection_id, **claims)
        self.service.set_user_online(connection)
        self.service.sync(connection, Sync(action="sync"))
        return connection

    def beat(self, connection: Connection, **fields: Any) -> None:
        """A heartbeat; `fields` override the protocol's defaults."""
        self.service.update_heartbeat(connection, Heartbeat(action="heartbeat", **fields))

    def update(self, connection: Connection, **fields: Any) -> None:
        """A `presence_update` with these fields."""
        self.service.update_user_status(connection, PresenceUpdate(action="presence_update", **fields))

    def make_changes_wait(self, connection: Connection) -> None:
        """Send so many changes now that the next one waits for viewers who got none lately."""
        for number in range(5):
            self.update(connection, customStatus={"text": f"change {number}"})

    def live(self, seconds: float, *connections: Connection, active: bool = True) -> None:
        """Let time pass as on a healthy system: sweepers run, and these connections send heartbeats on schedule."""
        until, every = self.clock() + round(seconds * 1000), round(self.settings.heartbeat_interval * 1000)
        while self.clock() + every <= until:
            self.sweep(every / 1000)
            for connection in connections:
                self.beat(connection, active=active)
        self.sweep((until - self.clock()) / 1000)

    def sweep(self, seconds: float = 0, *, upkeep: Upkeep | None = None) -> int:
        """Run sweepers for this long, which advances the clock; returns the number of round trips."""
        until, before = self.clock() + round(seconds * 1000), len(self.round_trips)

        def sleep(nap: float) -> None:
            """Nothing else happens while the test sweeps: sleeps in which no user becomes due are skipped.

            Users who are due already are settled before time goes on.
            """
            if self._next_due() <= self.clock():
                return
            wake = max(self.clock() + round(nap * 1000), min(self._next_due(), until))
            if wake > until:
                raise _Enough
            self.clock.now = wake

        while True:
            self._runs += 1
            try:
                (upkeep or self.upkeep).cleanup_stale_connections(f"run-{self._runs}", sleep)
            except _Enough:
                break
            if self.clock() >= until:
                break
        self.clock.now = max(self.clock.now, until)
        return len(self.round_trips) - before

    def _next_due(self) -> int:
        """When the next user is due, in any bucket; far in the future if no user is."""
        heads = (self.client.zrange(f"presence:{{{b}}}:due", 0, 0, withscores=True) for b in range(self.store.buckets))
        return min((int(head[0][1]) for head in heads if head), default=sys.maxsize)

    def _record(self, commands: list[AnyCommand], now: int) -> None:
        self.round_trips.append(commands)
        self.on_round_trip(commands, now)

    def sees(self, viewer: str, user_id: str) -> Record:
        """What a viewer may see of a user, now."""
        return self.service.get_user_presence(viewer, user_id)

    @contextmanager
    def counted(self) -> Iterator[list[list[AnyCommand]]]:
        """The round trips of the block: a list with one list of commands for each."""
        round_trips: list[list[AnyCommand]] = []
        before = len(self.round_trips)
        yield round_trips
        round_trips += self.round_trips[before:]

    @contextmanager
    def killed(self, at: int) -> Iterator[None]:
        """Let the function in the block die right after step number `at`, counted from 1; it may have fewer."""
        self.steps.fatal = self.steps.taken + at
        try:
            yield
        except Killed:
            pass
        finally:
            self.steps.fatal = None
