"""A Lambda execution environment with everything around it on loopback, in which tests invoke the deployed handlers.

What a handler keeps while warm (`shared.runtime`, `shared.environment`) is recreated from the environment
variables. Nothing is faked: Redis is a server, and posts go over HTTP to a management API that the test can read.
"""

from __future__ import annotations

import importlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from shared import environment, runtime
from shared.settings import Settings
from tests.support import events
from tests.support.management_server import ManagementServer

SECRET = "a secret of thirty-two characters"


@dataclass(frozen=True)
class Context:
    """The part of Lambda's context that handlers read."""

    aws_request_id: str = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"


class WarmEnvironment:
    """Invokes handlers.

    Attributes:
        redis: a client of Redis, for tests that read or prepare the state.
        management: what was posted and closed.
    """

    def __init__(self, client: redis.Redis, management: ManagementServer) -> None:
        self.redis, self.management = client, management

    def sweep(self) -> Any:
        """Run the sweeper for one sweep: a newer run takes over as soon as it has started."""
        meta = "presence:{0}:meta"
        self.redis.hset(meta, "sweeper", "")
        with ThreadPoolExecutor(1) as threads:
            run = threads.submit(self.invoke, "sweeper", {"source": "aws.scheduler"})
            while not run.done() and not self.redis.hget(meta, "sweeper"):
                pass  # a sweep takes milliseconds, and each of its reads from Redis takes one of them
            self.redis.hset(meta, "sweeper", "a newer run")
            return run.result()

    def invoke(self, function: str, event: dict[str, Any]) -> Any:
        """The handler's response, as JSON carries it."""
        handler = importlib.import_module(f"functions.{function}.handler").handler
        return json.loads(json.dumps(handler(json.loads(json.dumps(event)), Context())))

    def open(self, user_id: str, connection_id: str, **claims: str) -> dict[str, Any]:
        """Connect a client: handshake and first sync. Returns the authorizer's context for its later events."""
        now = runtime.now_ms()
        context = events.vouched(user_id, now // 1000, now // 1000 + 3600, **claims)
        assert self.invoke("connect", events.connect(context, connection_id, now))["statusCode"] == 200
        self.say(context, connection_id, '{"action":"sync"}')
        return context

    def say(self, context: dict[str, Any], connection_id: str, body: str, *, function: str = "query") -> None:
        """Send a message of a connection to the function of its route."""
        event = events.message(context, body, connection_id, runtime.now_ms())
        assert self.invoke(function, event) == {"statusCode": 200}

    def frames(self, connection_id: str) -> list[dict[str, Any]]:
        """The frames that were posted to a connection."""
        return [
            json.loads(received.body)
            for received in self.management.requests
            if received.method == "POST" and received.connection_id == connection_id
        ]

    def stored(self) -> dict[bytes, Any]:
        """Everything in the store, but for how many messages connections have sent."""
        stored: dict[bytes, Any] = {key: self.redis.dump(key) for key in self.redis.scan_iter()}
        for key in stored:
            if b":user:" in key:
                fields: Any = self.redis.hgetall(key)
                stored[key] = {
                    name: value.rpartition(b" ")[0] if name.startswith(b"!") else value
                    for name, value in fields.items()
                }
        return stored

    def closed(self) -> list[str]:
        """The connections that were closed."""
        return [received.connection_id for received in self.management.requests if received.method == "DELETE"]


@contextmanager
def warm_environment(monkeypatch: pytest.MonkeyPatch, redis_url: str, **settings: Any) -> Iterator[WarmEnvironment]:
    """An environment on a Redis, with these settings; `monkeypatch` restores the environment variables."""
    with ManagementServer() as management:
        given = {"redis_url": redis_url, "callback_url": management.url, "jwt_secret": SECRET, **settings}
        variables = {
            **Settings(**given).to_env(),
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
            "AWS_REGION": "eu-central-1",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        _forget()
        try:
            with closing(redis.Redis.from_url(redis_url, protocol=2)) as client:
                yield WarmEnvironment(client, management)
        finally:
            _forget()


def _forget() -> None:
    """Close and forget what the previous environment kept."""
    if environment.store.cache_info().currsize:
        environment.store().close()
    if environment.pusher.cache_info().currsize:
        environment.pusher().shutdown()
    for cached in (environment.store, environment.pusher, environment.service):
        cached.cache_clear()
    runtime.settings.cache_clear()
    runtime.metrics.cache_clear()
    runtime.authenticator.cache_clear()


@contextmanager
def nobody_there() -> Iterator[str]:
    """The URL of a Redis that does not respond: its port is taken, and nothing listens on it."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
