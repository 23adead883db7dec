"""The environment in which the tests invoke handlers, on an empty Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis

from local.elasticache import RedisServer
from tests.support.warm_environment import WarmEnvironment, nobody_there, warm_environment

Start = Callable[..., WarmEnvironment]


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer]:
    """A real server, shared by all tests of the session."""
    with RedisServer.start() as server:
        yield server


@pytest.fixture
def start(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts an environment on an empty Redis, with the test's settings."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    with ExitStack() as running:
        yield lambda **settings: running.enter_context(
            warm_environment(monkeypatch, **{"redis_url": server.url, **settings})
        )


@pytest.fixture
def environment(start: Start) -> WarmEnvironment:
    """An environment with the default settings."""
    return start()


@pytest.fixture
def cut_off(start: Start) -> Iterator[WarmEnvironment]:
    """An environment whose Redis does not respond."""
    with nobody_there() as url:
        yield start(redis_url=url)
