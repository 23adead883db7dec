"""A month's bill: units times prices, line by line."""

from __future__ import annotations

from typing import NamedTuple

from cost.assumptions import ALARM_METRICS, MONTH
from cost.prices import US_EAST_1, Price, Prices
from cost.usage import use
from cost.workload import Workload


class Item(NamedTuple):
    """One line of a bill."""

    name: str
    amount: float
    unit: str
    usd: float


def bill(workload: Workload, prices: Prices = US_EAST_1) -> list[Item]:
    """The bill of a month, without lines of zero units."""
    p, u = prices, use(workload)
    ours, nat = workload.cache != "url", MONTH if workload.cache == "vpc" else 0
    invocations, sweeper = sum(u.invocations.values()), u.gb_seconds["sweeper"]
    lines: list[tuple[str, Price, float]] = [
        ("messages", p.messages, u.messages),
        ("connections", p.connection_minutes, u.connection_minutes),
        ("heartbeats over the HTTP API", p.http_requests, u.http_requests),
        ("traffic to clients", p.traffic, u.traffic_gb),
        ("invocations", p.invocations, invocations),
        ("functions", p.compute, sum(u.gb_seconds.values()) - sweeper),
        ("sweeper, which always runs", p.compute, sweeper),
        ("cache: storage", p.stored, u.stored_gb * MONTH if ours else 0),
        ("cache: commands", p.ecpus, sum(u.ecpus.values())),
        ("logs, including metrics", p.logs, u.log_gb),
        ("custom metrics", p.metrics, u.metrics),
        ("alarms", p.alarms, ALARM_METRICS[workload.cache]),
        ("dashboard", p.dashboards, 1),
        ("token secret", p.secrets, 1),
        ("schedule", p.schedules, u.sweeps),
        ("NAT gateway", p.nat_hours, nat),
        ("NAT gateway's address", p.addresses, nat),
        ("NAT gateway's traffic", p.nat_traffic, u.nat_gb),
    ]
    return [Item(name, amount, price.unit, price.of(amount)) for name, price, amount in lines if amount]


def total(workload: Workload, prices: Prices = US_EAST_1) -> float:
    """The sum of a month's bill, in US dollars."""
    return sum(item.usd for item in bill(workload, prices))
