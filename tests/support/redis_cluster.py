"""A Redis Cluster of real servers, for the tests that run on one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from redis import Redis
from redis.exceptions import RedisError

from local.elasticache import HOST, RedisServer

SLOTS = 16384
START_LIMIT = 30.0
"""Seconds within which the nodes must agree on the cluster."""
CONFIGURATION = ("--cluster-enabled", "yes", "--cluster-node-timeout", "5000")


@contextlib.contextmanager
def start_cluster(nodes: int = 3) -> Iterator[list[RedisServer]]:
    """`nodes` empty servers that share the slots in equal ranges; they end with the block.

    A node listens to the others on its port + 10,000.
    """
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(RedisServer.start(configuration=CONFIGURATION)) for _ in range(nodes)]
        clients = [stack.enter_context(Redis.from_url(server.url, socket_timeout=2)) for server in servers]
        for number, client in enumerate(clients):
            first, end = SLOTS * number // nodes, SLOTS * (number + 1) // nodes
            client.execute_command("CLUSTER ADDSLOTS", *range(first, end))
            # Distinct epochs from the start: nodes with equal ones have to resolve that first, which takes seconds.
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            clients[0].execute_command("CLUSTER MEET", HOST, server.port)
        until = time.monotonic() + START_LIMIT
        while not all(_agrees(client, nodes) for client in clients):
            if time.monotonic() > until:
                raise TimeoutError(f"{nodes} nodes did not become a cluster in {START_LIMIT:g} s")
            time.sleep(0.02)
        yield servers


def _agrees(client: Redis, nodes: int) -> bool:
    try:
        info: dict[str, str] = client.cluster("INFO")
    except RedisError:
        return False
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes
