"""A Redis Cluster of real servers, for the tests that run on one; and slots that move between its nodes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from local.elasticache import HOST, RedisServer

SLOTS = 16384
START_LIMIT = 30.0
"""Seconds within which the nodes must agree on the cluster."""


@contextlib.contextmanager
def start_cluster(
    nodes: int = 3, *, replicas: int = 0, spare: int = 0, node_timeout: int = 5000
) -> Iterator[list[RedisServer]]:
    """`nodes` empty servers that share the slots in equal ranges, then `replicas` and `spare` nodes; all end with the
    block.

    Server `nodes + i` is a replica of server `i`. Spare nodes have no slots. A node that does not answer for
    `node_timeout` ms fails over. A node listens to the others on its port + 10,000.
    """
    configuration = (
        *("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout)),
        *("--cluster-require-full-coverage", "no"),  # A lost shard does not stop the others.
        *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),  # It may always take over.
        *("--cluster-allow-replica-migration", "no"),  # A node that gave its last slot away stays a primary.
        *("--enable-debug-command", "local"),
    )
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(RedisServer.start(configuration=configuration)) for _ in range(nodes + replicas + spare)
        ]
        clients = [stack.enter_context(Redis.from_url(server.url, socket_timeout=2)) for server in servers]
        for number, client in enumerate(clients):
            if number < nodes:
                first, end = SLOTS * number // nodes, SLOTS * (number + 1) // nodes
                client.execute_command("CLUSTER ADDSLOTS", *range(first, end))
            # Distinct epochs from the start: nodes with equal ones have to resolve that first, which takes seconds.
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            clients[0].execute_command("CLUSTER MEET", HOST, server.port)
        _wait_until(lambda: all(_agrees(client, len(servers)) for client in clients), "the nodes did not agree")
        standby = clients[nodes : nodes + replicas]
        for number, client in enumerate(standby):
            client.execute_command("CLUSTER REPLICATE", clients[number % nodes].cluster("MYID"))
        _wait_until(lambda: all(_is_replica(client) for client in standby), "a replica did not connect")
        expected = {server.port for server in servers[: nodes + replicas]}
        _wait_until(lambda: all(_known_ports(client) == expected for client in clients), "a replica is not known")
        yield servers


def slot_of(server: RedisServer, key: str) -> int:
    """The slot of a key."""
    with Redis.from_url(server.url) as client:
        slot: int = client.cluster("KEYSLOT", key)
        return slot


class MovingSlot:
    """One slot on its way from one node to another, in the steps of `redis-cli --cluster reshard`.

    The slot is marked as moving from the start; `move` moves keys, and `finish` gives the slot to the target.
    """

    def __init__(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        self.slot, self.source, self.target = slot, source, target
        self._order(target, "CLUSTER SETSLOT", slot, "IMPORTING", self._id(source))
        self._order(source, "CLUSTER SETSLOT", slot, "MIGRATING", self._id(target))

    def keys(self) -> list[bytes]:
        """The keys that are still at the source."""
        keys: list[bytes] = self._order(self.source, "CLUSTER GETKEYSINSLOT", self.slot, 100_000)
        return keys

    def move(self, *keys: bytes) -> None:
        """Move these keys, or all that are still at the source."""
        if found := keys or tuple(self.keys()):
            self._order(self.source, "MIGRATE", HOST, self.target.port, "", 0, 5000, "KEYS", *found)

    def finish(self, *others: RedisServer) -> None:
        """Move the keys that are left, and give the slot to the target; `others` know it immediately."""
        self.move()
        for server in (self.target, self.source, *others):
            self._order(server, "CLUSTER SETSLOT", self.slot, "NODE", self._id(self.target))

    def _id(self, server: RedisServer) -> str:
        return str(self._order(server, "CLUSTER MYID").decode())

    def _order(self, server: RedisServer, *command: Any) -> Any:
        with Redis.from_url(server.url, socket_timeout=5) as client:
            return client.execute_command(*command)


def _wait_until(condition: Any, complaint: str) -> None:
    until = time.monotonic() + START_LIMIT
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{complaint} within {START_LIMIT:g} s")
        time.sleep(0.02)


def _agrees(client: Redis, nodes: int) -> bool:
    try:
        info: dict[str, str] = client.cluster("INFO")
    except RedisError:
        return False
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes


def _is_replica(client: Redis) -> bool:
    info = client.info("replication")
    return bool(info["role"] == "slave" and info["master_link_status"] == "up")


def _known_ports(client: Redis) -> set[int]:
    """The ports of all nodes that CLUSTER SLOTS names."""
    slots: list[Any] = client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
    return {node[1] for first_end_nodes in slots for node in first_end_nodes[2:]}
