"""The stores on which the acceptance tests run: a real Redis, and fakeredis too where a quick test asks for it.

A test named `test_NN_...` shows line NN of `docs/acceptance.md`, which names the test in turn.
"""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest
import redis

from local.elasticache import RedisServer
from shared.settings import Settings
from tests.support.service import Bench


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer]:
    """A real Redis server, shared by the whole run."""
    with RedisServer.start() as server:
        yield server


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """An empty Redis: a real one, unless the test is parametrized with `fakeredis`."""
    if getattr(request, "param", "redis") == "fakeredis":
        yield fakeredis.FakeRedis(server=fakeredis.FakeServer(), protocol=2)
    else:
        server: RedisServer = request.getfixturevalue("server")
        with redis.Redis.from_url(server.url, protocol=2) as real:
            real.flushall()
            yield real


@pytest.fixture
def bench(client: redis.Redis) -> Iterator[Bench]:
    """A service on an empty Redis whose graph is marked as loaded."""
    bench = Bench(client, Settings(buckets=4))
    yield bench
    bench.close()
