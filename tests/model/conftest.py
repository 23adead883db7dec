"""The stores on which histories run: fakeredis, a real server, and a cluster of three nodes."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest
import redis
from redis.cluster import RedisCluster

from local.elasticache import RedisServer
from shared.settings import Settings
from tests.support.redis_cluster import start_cluster
from tests.support.service import Bench

Client = redis.Redis | RedisCluster


@pytest.fixture(scope="session")
def server() -> Iterator[redis.Redis]:
    """A real server: the fastest of the three, so most histories run on it."""
    with RedisServer.start() as server, redis.Redis.from_url(server.url, protocol=2) as client:
        yield client


@pytest.fixture(scope="session")
def cluster() -> Iterator[RedisCluster]:
    """Three nodes that share the slots."""
    with start_cluster() as servers:
        client = RedisCluster.from_url(servers[0].url, protocol=2)
        yield client
        client.close()


@pytest.fixture(scope="session", params=["fakeredis", "server", "cluster"])
def client(request: pytest.FixtureRequest) -> Client:
    """A Redis of each kind; the test that uses it must empty it first."""
    if request.param == "fakeredis":
        return fakeredis.FakeRedis(server=fakeredis.FakeServer(), protocol=2)
    client: Client = request.getfixturevalue(request.param)
    return client


@pytest.fixture
def bench(client: Client) -> Iterator[Bench]:
    """A service on an empty Redis whose graph is marked as loaded."""
    client.flushall()
    bench = Bench(client, Settings(buckets=4))
    yield bench
    bench.store._threads.shutdown()  # the client stays open, for the next test
