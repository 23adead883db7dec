"""Redis stops, hangs, refuses, restarts empty or loses its last seconds; clocks differ. No status is shown wrong."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from local.elasticache import RedisServer, free_port
from shared import runtime
from shared.connection import Connection
from shared.delivery import Post, Unavailable
from shared.environment import service
from shared.messages import Heartbeat, PresenceUpdate, Sync
from shared.presence import PresenceService
from shared.settings import Settings
from shared.store import PAUSE, TIMEOUT
from tests.model.client import Client
from tests.support import events
from tests.support.crowd import USERS, Crowd
from tests.support.service import Bench
from tests.support.warm_environment import WarmEnvironment, warm_environment

ID = "BFaT_fALIAMCKug="


def everywhere_unavailable(service: PresenceService, connection: Connection) -> None:
    """Each use case raises `Unavailable` and nothing else."""
    calls: list[Callable[[], object]] = [
        lambda: service.set_user_online(connection),
        lambda: service.set_user_offline(connection.user_id, connection.id),
        lambda: service.sync(connection, Sync(action="sync")),
        lambda: service.update_heartbeat(connection, Heartbeat(action="heartbeat")),
        lambda: service.update_user_status(connection, PresenceUpdate(action="presence_update", status="busy")),
        lambda: service.get_user_presence("bob", "alice"),
        lambda: service.contacts.change("alice", ["bob"]),
        lambda: service.contacts.set_privacy("alice", invisible=True),
        lambda: service.contacts.graph_page(""),
    ]
    for call in calls:
        with pytest.raises(Unavailable):
            call()


def test_28_a_redis_restarted_empty_shows_nobody_until_the_graph_is_loaded() -> None:
    """Line 28: Redis stops and restarts empty: first `unavailable`, then nobody is visible, then everything is right.

    All clients send heartbeats throughout. No status is shown before the graph is loaded. One heartbeat after that,
    every client shows every user right.
    """
    port = free_port()
    with redis.Redis(port=port, protocol=2, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
        with RedisServer.start(port):
            bench = Bench(client, Settings(buckets=4))
            bench.store._monotonic = itertools.count(0, 2 * PAUSE).__next__  # a failure does not delay the next call
            crowd = Crowd(bench)
            crowd.tell_graph()
            crowd.open()
            crowd.choose("alice", "busy")
            bench.sweep(3)
            crowd.check()
        everywhere_unavailable(bench.service, crowd.connections["alice"])
        with pytest.raises(Unavailable):
            bench.upkeep.health()
        bench.clock.advance(30)
        everywhere_unavailable(bench.service, crowd.connections["alice"])
        with RedisServer.start(port):
            bench.pusher.clear()
            for _ in range(3):
                bench.clock.advance(15)
                crowd.beat()
                bench.sweep(0)
                for viewer in USERS:
                    assert set(crowd.served(viewer).values()) == {"offline"}
                assert bench.upkeep.health()["graph"] == "not_loaded"
            told = [change for user in USERS for change in bench.pusher.changes(crowd.connections[user].id)]
            assert told == []
            crowd.tell_graph()
            bench.sweep(29)
            crowd.beat()
            bench.sweep(1)
            crowd.check()


def copy(client: redis.Redis) -> list[tuple[Any, int, Any]]:
    """Everything in a Redis, as a replica holds it."""
    return [(key, max(0, client.pttl(key)), client.dump(key)) for key in client.scan_iter()]


def fail_over(client: redis.Redis, replica: list[tuple[Any, int, Any]]) -> None:
    """Promote a replica that is some seconds behind."""
    client.flushall()
    for key, ttl, value in replica:
        client.restore(key, ttl, value)


@pytest.mark.parametrize("seed", range(6))
def test_28_liveness_is_right_one_heartbeat_after_a_lost_tail(bench: Bench, client: redis.Redis, seed: int) -> None:
    """Line 28: a failover loses the last seconds, in which users connected, changed and left.

    One heartbeat later, live users are right on the service and in every client. Users who left are offline at their
    TTL.
    """
    rng, crowd = random.Random(seed), Crowd(bench)
    crowd.tell_graph()
    crowd.open("alice", "bob", "carol")
    bench.sweep(5)
    replica = copy(client)
    for _ in range(rng.randint(1, 6)):
        crowd.choose(rng.choice(["alice", "bob", "carol"]), rng.choice(["online", "busy", "away"]))
        bench.sweep(0.7)
    crowd.open("dave")
    crowd.choose("dave", rng.choice(["busy", "away"]))
    gone = rng.choice(["alice", "bob"])
    bench.service.leave(gone, crowd.connections.pop(gone).id)
    bench.sweep(3)
    crowd.check()

    fail_over(client, replica)
    for beat in range(5):
        bench.sweep(25)
        crowd.beat()
        bench.sweep(2)
        for viewer in crowd.connections:
            shown, expected = crowd.shown(viewer), crowd.expected()
            if beat < 3:
                del shown[gone], expected[gone]
            assert shown == expected, (viewer, beat)
    crowd.check()
    crowd.choose("carol", "busy")
    crowd.choose("carol", "online")
    bench.sweep(3)
    crowd.check()


# Through the real handlers -------------------------------------------------------------------------------------------


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A real server that the test may stop or reconfigure."""
    with RedisServer.start() as server:
        yield server


def context() -> dict[str, Any]:
    """The authorizer's context of Alice's connection."""
    now = runtime.now_ms() // 1000
    return events.vouched("alice", now, now + 3600)


MESSAGES = {
    "query": '{"action":"sync","id":"m"}',
    "heartbeat": '{"action":"heartbeat","id":"m"}',
    "update": '{"action":"presence_update","status":"busy","id":"m"}',
}


def told_unavailable(environment: WarmEnvironment) -> None:
    """Handshakes are accepted, and every message gets `unavailable`, with its `id` and when to retry."""
    connect = events.connect(context(), ID, runtime.now_ms())
    assert environment.invoke("connect", connect)["statusCode"] == 200
    for function, body in MESSAGES.items():
        before = len(environment.frames(ID))
        environment.say(context(), ID, body, function=function)
        [frame] = environment.frames(ID)[before:]
        assert (frame["type"], frame["code"], frame["id"], frame["retryAfter"]) == ("error", "unavailable", "m", 1000)


def test_28_a_hanging_redis_delays_only_the_first_event(own: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line 28: Redis hangs: the first event waits about a second, later ones do not wait, and none fails."""
    with warm_environment(monkeypatch, redis_url=own.url) as environment:
        alice = environment.open("alice", ID)
        os.kill(own.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            told_unavailable(environment)
            assert time.monotonic() - began < TIMEOUT + 0.7
        finally:
            os.kill(own.pid, signal.SIGCONT)
        service()._store._refuse_until.clear()  # type: ignore[attr-defined] # as if the pause were over
        before = len(environment.frames(ID))
        environment.say(alice, ID, MESSAGES["update"], function="update")
        assert [frame["type"] for frame in environment.frames(ID)[before:]] == ["presence_self"]


@pytest.mark.parametrize("fault", ["stopped", "another password", "a password"])
def test_28_a_redis_that_is_stopped_or_refuses_authentication_is_unavailable(
    own: RedisServer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Line 28: Redis is stopped, rejects our password, or requires one: `unavailable`, never a crash."""
    url = own.url
    if fault == "stopped":
        own.stop()
    else:
        with redis.Redis.from_url(own.url) as client:
            client.config_set("requirepass", "right")
        url = url.replace("redis://", "redis://:wrong@") if fault == "another password" else url
    with warm_environment(monkeypatch, redis_url=url) as environment:
        told_unavailable(environment)


# Clocks --------------------------------------------------------------------------------------------------------------


class Drifting:
    """Alice and her viewer Bob, served at random by an environment with a right clock or by one with a fast clock."""

    def __init__(self, bench: Bench, rng: random.Random, skew: float) -> None:
        self._bench, self._rng = bench, rng
        self._environments = [bench.service, bench.environment(skew)]
        self._sweepers = [bench.upkeep, bench.sweeper(skew)]
        self.alice, self._bob = bench.open("alice", device="browser"), bench.open("bob")
        self._client = Client()
        self.seen: list[str] = []
        """The statuses that Bob's client showed, in order."""
        bench.pusher.deliver = self._deliver
        bench.service.sync(self._bob, Sync(action="sync"))

    def _deliver(self, frame: Post) -> None:
        if frame.connection_id == self._bob.id:
            self._client.receive(json.loads(frame.data))
            if self.seen[-1:] != [self._client.status("alice")]:
                self.seen.append(self._client.status("alice"))

    def some(self) -> PresenceService:
        """One of the environments."""
        return self._rng.choice(self._environments)

    def live(self, seconds: int, *, active: bool) -> None:
        """Let time pass, with everything that happens by itself."""
        for second in range(seconds):
            self._bench.sweep(1, upkeep=self._rng.choice(self._sweepers))
            if second % 30 == 7:
                self.some().update_heartbeat(self.alice, Heartbeat(action="heartbeat", active=active))
            if second % 30 == 19:
                self.some().update_heartbeat(self._bob, Heartbeat(action="heartbeat", seq=self._client.seq))
            if second % 11 == 5:
                self.some().get_user_presence("bob", "alice")

    def choose(self, status: str) -> None:
        """Alice chooses a status."""
        update = PresenceUpdate.model_validate({"action": "presence_update", "status": status})
        self.some().update_user_status(self.alice, update)

    def reload(self) -> None:
        """Alice reloads the page."""
        self.some().set_user_offline("alice", self.alice.id)
        self._bench.sweep(4, upkeep=self._rng.choice(self._sweepers))
        self.alice = self._bench.connection("alice", device="browser")
        assert self.some().set_user_online(self.alice)
        self.some().sync(self.alice, Sync(action="sync"))


@pytest.mark.parametrize("seed", range(6))
def test_29_clocks_three_seconds_apart_show_no_wrong_status(bench: Bench, seed: int) -> None:
    """Line 29: events go to an execution environment with a right clock or to one that is 3 s fast: no status is wrong.

    Alice uses her device, is idle for six minutes, comes back, is busy for a while, reloads the page, and leaves.
    """
    bench.service.contacts.change("alice", ["bob"])
    world = Drifting(bench, random.Random(seed), skew=3)
    world.live(60, active=True)
    world.live(360, active=False)
    assert world.seen == ["online", "away"]
    world.live(31, active=True)
    world.choose("busy")
    world.live(40, active=False)
    world.choose("online")
    for _ in range(3):
        world.reload()
        world.live(20, active=True)
    world.some().leave("alice", world.alice.id)
    world.live(5, active=True)
    assert world.seen == ["online", "away", "online", "busy", "online", "offline"]
