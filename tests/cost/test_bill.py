"""The bill: prices, and the parts of an idle stack."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

import pytest

from cost.assumptions import ALARM_METRICS, BUCKETS, MEMORY, MONTH
from cost.bill import bill, total
from cost.counts import count
from cost.prices import Price
from cost.workload import Cache, Workload
from shared.settings import Settings

GOLDEN = Path(__file__).parents[1] / "infra" / "golden"


def test_a_price_has_steps() -> None:
    """A month's first billion messages cost more than those beyond."""
    price = Price("messages", "API Gateway", [(1e9, 1.0), (inf, 0.8)], per=1e6)
    assert [price.of(amount) for amount in (0, 2.5e6, 1e9, 3e9)] == pytest.approx([0, 2.5, 1000, 2600])


@pytest.mark.parametrize("cache", ["public", "vpc", "url"])
def test_the_bill_lists_the_parts_of_an_idle_stack(cache: Cache) -> None:
    """Memory, alarms, dashboard, secret, schedule and NAT gateway match the template."""
    resources = json.loads((GOLDEN / f"{cache}.json").read_text("utf-8"))["Resources"].values()
    by_type: dict[str, list[dict[str, Any]]] = {}
    for resource in resources:
        by_type.setdefault(resource["Type"], []).append(resource.get("Properties", {}))
    memory = {
        each["Description"].removeprefix("Presence: functions/"): each["MemorySize"]
        for each in by_type["AWS::Lambda::Function"]
    }
    assert memory == MEMORY
    watched = [
        1 if "MetricName" in alarm else sum("MetricStat" in metric for metric in alarm["Metrics"])
        for alarm in by_type["AWS::CloudWatch::Alarm"]
    ]
    assert sum(watched) == ALARM_METRICS[cache]
    names = {item.name: item.amount for item in bill(Workload(users=0, cache=cache))}
    assert names["dashboard"] == len(by_type["AWS::CloudWatch::Dashboard"])
    assert names["token secret"] == len(by_type["AWS::SecretsManager::Secret"])
    assert ("NAT gateway" in names) == ("AWS::EC2::NatGateway" in by_type)
    assert ("cache: storage" in names) == ("AWS::ElastiCache::ServerlessCache" in by_type)
    [schedule] = by_type["AWS::Scheduler::Schedule"]
    assert schedule["ScheduleExpression"] == "rate(1 minute)"
    assert names["schedule"] == pytest.approx(60 * MONTH)
    assert Settings().buckets == BUCKETS


def test_a_longer_interval_is_cheaper_and_slower() -> None:
    """Twice the interval halves the heartbeats, and doubles the time until a device counts as dead."""
    often, seldom = Workload(heartbeat_interval=30), Workload(heartbeat_interval=60)
    assert seldom.device_ttl == 2 * often.device_ttl == Settings(heartbeat_interval=60, device_ttl=150).device_ttl
    assert count(seldom).beats == pytest.approx(count(often).beats / 2)
    assert total(seldom) < total(often)
