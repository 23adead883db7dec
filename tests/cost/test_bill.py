"""The bill: prices, and the parts of an idle stack."""

from __future__ import annotations

from math import inf

import pytest

from cost.assumptions import BUCKETS
from cost.bill import total
from cost.counts import count
from cost.prices import Price
from cost.workload import Workload
from shared.settings import Settings


def test_a_price_has_steps() -> None:
    """A month's first billion messages cost more than those beyond."""
    price = Price("messages", "API Gateway", [(1e9, 1.0), (inf, 0.8)], per=1e6)
    assert [price.of(amount) for amount in (0, 2.5e6, 1e9, 3e9)] == pytest.approx([0, 2.5, 1000, 2600])


def test_the_model_has_the_buckets_of_the_settings() -> None:
    """The default number of buckets decides the script calls of a sweep."""
    assert Settings().buckets == BUCKETS


def test_a_longer_interval_is_cheaper_and_slower() -> None:
    """Twice the interval halves the heartbeats, and doubles the time until a device counts as dead."""
    often, seldom = Workload(heartbeat_interval=30), Workload(heartbeat_interval=60)
    assert seldom.device_ttl == 2 * often.device_ttl == Settings(heartbeat_interval=60, device_ttl=150).device_ttl
    assert count(seldom).beats == pytest.approx(count(often).beats / 2)
    assert total(seldom) < total(often)
