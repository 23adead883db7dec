"""Epochs: every client gets a snapshot after the store may have lost something.

A node of the store that is restarted, or replaced by its replica, may have lost its last second: frames were posted
whose changes and numbers no longer exist. Each bucket keeps the `run_id` of the node that serves it; the sweeper
notices when it is another one, and begins an epoch in all buckets, since a viewer and the user whom it sees may be on
different nodes. Where a service does not show a `run_id`, the time of the last look is kept in its place. What a new
epoch does to a feed is in `lua/feed.lua`. An epoch is named by the time at which it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared.commands import SetEpoch
from shared.delivery import Metrics, Store
from shared.responses import DueUsers

SHORTEST_MS = 60_000
"""An epoch lasts at least so long, so that a node that fails again and again does not cost a snapshot each time."""


def begin_epoch(store: Store, now: int, buckets: Iterable[int]) -> None:
    """Begin an epoch in these buckets at `now` (ms); may raise `Unavailable`."""
    store.call([SetEpoch(bucket=bucket, epoch=now) for bucket in buckets], now)


def find_losses(store: Store, metrics: Metrics, now: int, buckets: Sequence[DueUsers], looked: int) -> None:
    """Begin an epoch if some bucket is served by another node than at the last look; may raise `Unavailable`.

    The buckets that lost something come last, together with their new node: if this function dies before, the next look
    does everything again.

    Args:
        store: where state is.
        metrics: what is counted.
        now: the time, in ms.
        buckets: what each bucket, in order, answered to the sweeper's look.
        looked: when this run of the sweeper looked before, in ms; 0 for its first look.
    """
    moved = {
        number: bucket.node
        for number, bucket in enumerate(buckets)
        if bucket.node != bucket.known_node or (bucket.node == "" and (bucket.looked or 0) < looked)
    }
    if not moved:
        return
    if not looked and all(not bucket.known_node for bucket in buckets):  # a new store: nothing to compare
        store.call([SetEpoch(bucket=number, node=node) for number, node in moved.items()], now)
        return
    if any(bucket.epoch is not None and bucket.epoch > now - SHORTEST_MS for bucket in buckets):
        return
    store.call([SetEpoch(bucket=number, epoch=now) for number in range(len(buckets)) if number not in moved], now)
    store.call([SetEpoch(bucket=number, epoch=now, node=node) for number, node in moved.items()], now)
    metrics.count("Epochs")
