"""AWS list prices of one region, and the pages they come from. How much of anything is used is computed elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Price:
    """A list price in US dollars. A step is an upper limit in units a month, and the price of `per` units below it."""

    unit: str
    service: str
    steps: Sequence[tuple[float, float]]
    per: float = 1.0

    def of(self, amount: float) -> float:
        """The cost of an amount, in US dollars."""
        cost = below = 0.0
        for limit, price in self.steps:
            cost += max(0.0, min(amount, limit) - below) / self.per * price
            below = limit
        return cost


@dataclass(frozen=True, slots=True)
class Prices:
    """The list prices of a region, without free tiers."""

    looked_up: str
    """The date on which they were read."""
    messages: Price
    connection_minutes: Price
    http_requests: Price
    traffic: Price
    invocations: Price
    compute: Price
    stored: Price
    ecpus: Price
    logs: Price
    metrics: Price
    alarms: Price
    dashboards: Price
    secrets: Price
    schedules: Price
    nat_hours: Price
    nat_traffic: Price
    addresses: Price


US_EAST_1 = Prices(
    looked_up="2026-11-24",
    messages=Price("messages of 32 KB, both ways", "API Gateway", [(1e9, 1.00), (inf, 0.80)], per=1e6),
    connection_minutes=Price("connection minutes", "API Gateway", [(inf, 0.25)], per=1e6),
    http_requests=Price("HTTP API requests of 512 KB", "API Gateway", [(300e6, 1.00), (inf, 0.90)], per=1e6),
    traffic=Price("GB to the internet", "Data transfer", [(10e3, 0.09), (50e3, 0.085), (150e3, 0.07), (inf, 0.05)]),
    invocations=Price("Lambda requests", "Lambda", [(inf, 0.20)], per=1e6),
    compute=Price("GB-seconds, arm64", "Lambda", [(7.5e9, 0.0000133334), (18.75e9, 0.0000120001), (inf, 0.0000106667)]),
    stored=Price("GB-hours, Serverless for Valkey", "ElastiCache", [(inf, 0.084)]),
    ecpus=Price("ECPUs, Serverless for Valkey", "ElastiCache", [(inf, 0.0023)], per=1e6),
    logs=Price("GB of logs written by Lambda", "CloudWatch", [(10e3, 0.50), (30e3, 0.25), (inf, 0.10)]),
    metrics=Price("custom metrics", "CloudWatch", [(10e3, 0.30), (inf, 0.10)]),
    alarms=Price("metrics watched by an alarm", "CloudWatch", [(inf, 0.10)]),
    dashboards=Price("dashboards", "CloudWatch", [(inf, 3.00)]),
    secrets=Price("secrets", "Secrets Manager", [(inf, 0.40)]),
    schedules=Price("scheduled invocations", "EventBridge Scheduler", [(inf, 1.00)], per=1e6),
    nat_hours=Price("hours of a NAT gateway", "VPC", [(inf, 0.045)]),
    nat_traffic=Price("GB through the NAT gateway", "VPC", [(inf, 0.045)]),
    addresses=Price("hours of a public IPv4 address", "VPC", [(inf, 0.005)]),
)
SOURCES: Mapping[str, str] = {
    "API Gateway": "https://aws.amazon.com/api-gateway/pricing/",
    "Lambda": "https://aws.amazon.com/lambda/pricing/",
    "ElastiCache": "https://aws.amazon.com/elasticache/pricing/",
    "CloudWatch": "https://aws.amazon.com/cloudwatch/pricing/",
    "Secrets Manager": "https://aws.amazon.com/secrets-manager/pricing/",
    "EventBridge Scheduler": "https://aws.amazon.com/eventbridge/pricing/",
    "VPC": "https://aws.amazon.com/vpc/pricing/",
    "Data transfer": "https://aws.amazon.com/ec2/pricing/on-demand/#Data_Transfer",
}
