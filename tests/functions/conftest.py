"""The sandbox in which the tests invoke handlers, on an empty Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis

from local.elasticache import RedisServer
from tests.support.warm_sandbox import WarmSandbox, nobody_there, warm_sandbox

Start = Callable[..., WarmSandbox]


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer]:
    """A real server, for the whole run."""
    with RedisServer.start() as server:
        yield server


@pytest.fixture
def start(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a sandbox on an empty Redis, with the settings that the test gives."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    with ExitStack() as running:
        yield lambda **settings: running.enter_context(
            warm_sandbox(monkeypatch, **{"redis_url": server.url, **settings})
        )


@pytest.fixture
def sandbox(start: Start) -> WarmSandbox:
    """A sandbox with the settings as they are by default."""
    return start()


@pytest.fixture
def cut_off(start: Start) -> Iterator[WarmSandbox]:
    """A sandbox whose Redis does not answer."""
    with nobody_there() as url:
        yield start(redis_url=url)
