"""A store on several real servers, each of which can lose its last seconds to a replica that is promoted.

    with Nodes(2) as nodes:
        bench = Bench(nodes.client, Settings(buckets=4), connect=nodes.connect)
        nodes.fork(0)          # a replica of node 0 stops receiving here
        ...                    # what happens now is lost on node 0
        nodes.fail_over(0)     # the replica takes over: another server, with another `run_id`

Buckets are spread over the nodes as slots are over the nodes of a cluster. How calls travel in a real cluster is for
tests/shared/test_cluster.py.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Self

import redis

from local.elasticache import RedisServer
from shared.commands import Command
from shared.delivery import Unavailable
from shared.settings import Settings
from shared.store import FACTS, AnyResponse, Store
from tests.support.metrics import Counts

PATIENCE = 20.0
"""Seconds that a replica may need for its first copy."""


class Nodes:
    """Real servers with replicas, which take turns. With two or more, a `run_id` does not come back soon.

    Attributes:
        client: reads and writes keys on whichever server has them.
        used: how many of them have buckets, from the first on.
    """

    def __init__(self, count: int, replicas: int = 1) -> None:
        self.client = RoutedClient(self)
        self._stack = ExitStack()
        self.used = count
        self._servers = [[self._start() for _ in range(1 + replicas)] for _ in range(count)]
        self._clients = [redis.Redis.from_url(primary.url, protocol=2) for primary, *_ in self._servers]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        self._stack.close()

    def connect(self, settings: Settings, metrics: Counts, random: Callable[[], int]) -> SplitStore:
        """A store over all nodes."""
        used = self._clients[: self.used]
        return SplitStore([Store(client, settings, metrics, random=random) for client in used])

    def of_key(self, key: str | bytes) -> redis.Redis:
        """The server that has a key."""
        bucket = re.match(rb"presence:\{(\d+)\}", key.encode() if isinstance(key, str) else key)
        assert bucket, key
        return self._clients[int(bucket[1]) % self.used]

    def flush(self) -> None:
        """Empty every server, for another test."""
        for client in self._clients:
            client.flushall()

    def fork(self, node: int) -> None:
        """Copy a node to its replica, which receives nothing more."""
        primary, replica, *_ = self._servers[node]
        with redis.Redis.from_url(replica.url, protocol=2) as client:
            client.replicaof("127.0.0.1", str(primary.port))
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                state = client.info("replication")
                if state.get("master_link_status") == "up" and not state.get("master_sync_in_progress"):
                    break
                time.sleep(0.002)
            else:
                raise TimeoutError(f"no copy within {PATIENCE:g} s")
            client.replicaof("NO", "ONE")

    def fail_over(self, node: int) -> None:
        """The replica takes over; the node's clients reach it from now on."""
        self._servers[node].append(self._servers[node].pop(0))
        promoted = redis.Redis.from_url(self._servers[node][0].url, protocol=2)
        self._clients[node].connection_pool.disconnect()
        self._clients[node].connection_pool = promoted.connection_pool

    def copy(self, node: int) -> None:
        """What `fork` does, without the second that replication may need to begin."""
        source, target = (redis.Redis.from_url(server.url, protocol=2) for server in self._servers[node][:2])
        with source, target:
            keys = list(source.scan_iter(count=10_000))
            reading, writing = source.pipeline(transaction=False), target.pipeline(transaction=False)
            for key in keys:
                reading.dump(key)
                reading.pttl(key)
            values = reading.execute()
            writing.flushall()
            for key, value, ttl in zip(keys, values[::2], values[1::2], strict=True):
                writing.restore(key, max(0, ttl), value)
            writing.execute()

    def restart(self, node: int) -> None:
        """A node restarts without its data: it is another server, with another `run_id`."""
        with redis.Redis.from_url(self._servers[node][1].url, protocol=2) as client:
            client.flushall()
        self.fail_over(node)

    def lasting_keys(self) -> set[str]:
        """The names of all keys without an expiry, on all nodes."""
        lasting: set[str] = set()
        for client in self._clients[: self.used]:
            keys: list[bytes] = list(client.scan_iter(count=1000))
            lasting |= {key.decode() for key in keys if client.pttl(key) == -1}
        return lasting

    def lowest_score(self, keys: Sequence[str]) -> int | None:
        """The lowest score in these sorted sets; None if all are empty."""
        heads: list[list[tuple[bytes, float]]] = []
        for client in self._clients[: self.used]:
            with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    if self.of_key(key) is client:
                        pipeline.zrange(key, 0, 0, withscores=True)
                heads += pipeline.execute()
        return min((int(score) for head in heads for _, score in head), default=None)

    def _start(self) -> RedisServer:
        # Replicas are copied at once, and not after the five seconds for which a primary collects them.
        return self._stack.enter_context(RedisServer.start(0, ("--repl-diskless-sync-delay", "0")))


class SplitStore:
    """The `Store` protocol over one `Store` for each node."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = stores
        self.buckets = stores[0].buckets
        self.bucket_of, self.key = stores[0].bucket_of, stores[0].key

    def call(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse]:
        responses = []
        for response in self.call_each(commands, now):
            if isinstance(response, Unavailable):
                raise response
            responses.append(response)
        return responses

    def call_each(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse | Unavailable]:
        places: dict[int, list[int]] = {}
        for place, command in enumerate(commands):
            bucket = self.bucket_of(command.user) if command.bucket is None else command.bucket
            places.setdefault(bucket % len(self.stores), []).append(place)
        responses: dict[int, AnyResponse | Unavailable] = {}
        for node, of_node in places.items():
            answers = self.stores[node].call_each([commands[place] for place in of_node], now)
            responses |= dict(zip(of_node, answers, strict=True))
        return [responses[place] for place in range(len(commands))]

    def users(self, cursor: str, count: int = 100, kinds: Sequence[str] = FACTS) -> tuple[set[str], str]:
        node, _, inner = (cursor or "0/").partition("/")
        found, following = self.stores[int(node)].users(inner, count, kinds)
        if not following and int(node) + 1 == len(self.stores):
            return found, ""
        return found, f"{node}/{following}" if following else f"{int(node) + 1}/"

    def eviction_policy(self) -> str | None:
        return self.stores[0].eviction_policy()

    def close(self) -> None:
        for store in self.stores:
            store.close()


class RoutedClient:
    """Redis commands about one key, on the server that has it."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda key, *rest, **options: getattr(self._nodes.of_key(key), name)(key, *rest, **options)
