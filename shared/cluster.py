"""Which node of a cluster runs which call: follows slots that move and nodes that fail.

One bucket is one slot. What happens to a slot or to its node concerns the calls to that slot or node, and no others:
each call has its own answer or error. How a node runs calls, and for how long a node that failed is left alone, is in
`store.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import redis
from redis.cluster import PRIMARY, ClusterNode, RedisCluster
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisClusterException,
    RedisError,
    SlotNotCoveredError,
    TryAgainError,
)

from shared.delivery import Unavailable

WAITS = (0.01, 0.02, 0.04)
"""Seconds before each new try of calls whose slot is moving key by key. A slot of few keys has moved by then; while a
larger one moves, waiting longer would only delay the caller."""
REFRESH = 0.2
"""Seconds between two questions about the cluster's layout while a node does not answer."""


class Call(Protocol):
    """One script call."""

    @property
    def keys(self) -> list[str]:
        """All in one slot."""


OnNode = Callable[[redis.Redis, Sequence[Any], int, bool], "list[bytes | Exception]"]
"""Runs calls on one node at `now`, each right after an `ASKING` if the last argument is true; raises nothing."""
Answer = tuple[str, "bytes | Exception"]
"""The name of the node that was asked, and what it answered. The name is "" if no node was."""


@dataclass(slots=True)
class _Tries:
    """What the tries of a round trip have found so far; calls are numbered by their places."""

    targets: dict[int, ClusterNode] = field(default_factory=dict)
    """The node to which the slot is moving, and which has the keys already."""
    disconnected: set[int] = field(default_factory=set)
    """Calls that ran again because a connection was lost."""
    moving: bool = False
    """The keys of a call were on two nodes in the last try."""


class Router:
    """Runs calls on the nodes that hold their slots; safe to use from several threads.

    Args:
        cluster: the client; it keeps the layout and the connections.
        on_node: runs calls on one node.
        refuse_until: node name → until when it is not asked because it failed. Names stay until the node answers.
        threads: run the calls to several nodes at the same time.
        monotonic, sleep: the time in seconds, and what waits.
    """

    def __init__(
        self,
        cluster: RedisCluster,
        on_node: OnNode,
        refuse_until: Mapping[str, float],
        threads: Executor,
        monotonic: Callable[[], float],
        sleep: Callable[[float], object],
    ) -> None:
        self._cluster, self._on_node, self._refuse_until = cluster, on_node, refuse_until
        self._threads, self._monotonic, self._sleep = threads, monotonic, sleep
        self._refresh_from = 0.0

    def run(self, calls: Sequence[Call], now: int) -> list[Answer]:
        """Run calls, on all nodes at the same time.

        A call runs again, alone, only if it did not run before: its slot has moved or is moving. The exception is a
        lost connection, as on one node: the node may have closed it while this environment was frozen.
        """
        answers: list[Answer] = [("", Unavailable("no node of the cluster was asked"))] * len(calls)
        tries, left = _Tries(), list(range(len(calls)))
        for wait in (*WAITS, None):
            for place, answer in self._run_once(calls, left, tries.targets, now).items():
                answers[place] = answer
            tries.targets, tries.moving = {}, False
            left = [place for place in left if self._goes_again(tries, place, calls[place], *answers[place])]
            if not left or wait is None:
                break
            if tries.moving:
                self._sleep(wait)
        return answers

    def _goes_again(self, tries: _Tries, place: int, call: Call, node: str, answer: bytes | Exception) -> bool:
        """Follow what an answer says about the layout; gives whether to run the call again."""
        match answer:
            case MovedError():
                self._move(answer)
            case AskError():
                tries.targets[place] = self._node_at(answer.host, answer.port)
            case TryAgainError():
                tries.moving = True
            case ClusterDownError():
                self._refresh(node)
                owner = self._known_owner(call)
                return owner is not None and owner.name != node
            case redis.ConnectionError():
                self._refresh(node)
                again = place not in tries.disconnected
                tries.disconnected.add(place)
                return again
            case _:
                return False
        return True

    def _run_once(
        self, calls: Sequence[Call], places: Sequence[int], targets: Mapping[int, ClusterNode], now: int
    ) -> dict[int, Answer]:
        """Run the calls at these places, on their targets or else on the nodes that hold their slots."""
        answers: dict[int, Answer] = {}
        by_node: dict[tuple[ClusterNode, bool], list[int]] = {}
        for place in places:
            try:
                node = targets.get(place) or self._owner(calls[place])
            except SlotNotCoveredError as error:
                answers[place] = "", error
                continue
            if self._monotonic() < self._refuse_until.get(node.name, 0.0):
                answers[place] = node.name, Unavailable("this node of Redis failed a moment ago")
            else:
                by_node.setdefault((node, place in targets), []).append(place)
        running = []
        for (node, asking), group in by_node.items():
            client, batch = self._cluster.get_redis_connection(node), [calls[place] for place in group]
            running.append((node, group, self._threads.submit(self._on_node, client, batch, now, asking)))
        for node, group, future in running:
            answers.update((place, (node.name, answer)) for place, answer in zip(group, future.result(), strict=True))
        return answers

    def _owner(self, call: Call) -> ClusterNode:
        """The node that holds a call's slot. If it failed when it was last asked, another may hold the slot by now.

        Raises:
            SlotNotCoveredError: no node holds it.
        """
        node = self._known_owner(call)
        if node is None or node.name in self._refuse_until:
            self._refresh(node.name if node else None)
            node = self._known_owner(call)
        if node is None:
            raise SlotNotCoveredError("no node holds this slot")
        return node

    def _known_owner(self, call: Call) -> ClusterNode | None:
        with suppress(SlotNotCoveredError):
            return cast("ClusterNode", self._cluster.get_node_from_key(call.keys[0]))  # type: ignore[no-untyped-call]
        return None

    def _node_at(self, host: str, port: int) -> ClusterNode:
        """A node by its address. One that holds no slot yet is not in the layout, so it is added."""
        nodes = self._cluster.nodes_manager.nodes_cache
        node = ClusterNode(host, port, PRIMARY)  # type: ignore[no-untyped-call]
        return nodes.setdefault(node.name, node)

    def _move(self, error: MovedError) -> None:
        """Note where a slot has moved. Its old node knows for certain, the others may hear of it later."""
        with suppress(KeyError):  # a new layout without this slot has arrived meanwhile
            self._cluster.nodes_manager.move_slot(error)

    def _refresh(self, failed: str | None) -> None:
        """Read the cluster's layout, but not too often; from the node that failed only if no other answers."""
        if self._monotonic() < self._refresh_from:
            return
        self._refresh_from = self._monotonic() + REFRESH
        with suppress(RedisError, RedisClusterException, OSError):  # then the layout stays as it is known
            self._cluster.nodes_manager.initialize(disconnect_startup_nodes_pools=False, last_failed_node_name=failed)
