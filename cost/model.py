"""What a month costs: from how many people there are and what they do, to messages and calls, to a bill.

`python -m cost --users 10000 --contacts 50` prints a bill; `--markdown` writes the tables of the documents anew.
Three pure steps: `count` says what happens in so many hours, `use` what AWS meters of it, `bill` what that costs. What
is counted is held against a run of the real functions in tests/cost/test_cost.py; what is only assumed stands under
`Assumptions`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import ceil, exp, inf
from pathlib import Path
from typing import Literal, NamedTuple, get_args, get_type_hints

from rich.console import Console
from rich.table import Table

from shared.upkeep import SWEEP_NAP_MS, SWEEP_PAUSE_MS

MONTH = 730.0
"""Hours of a month, as AWS counts them."""
BUCKETS = 16
MESSAGE_UNIT = 32 * 1024
"""Bytes of one metered WebSocket message."""
DOCS = Path(__file__).parent.parent / "docs"
PAGES = (DOCS / "cost.md", DOCS / "deploy.md")
"""Where the tables stand, between markers."""

Cache = Literal["public", "vpc", "url"]
Beats = Literal["socket", "http_api", "function_url"]


# Prices


@dataclass(frozen=True, slots=True)
class Price:
    """A list price in US dollars. `steps`: up to how many units in a month, and the price of `per` of them."""

    unit: str
    service: str
    steps: Sequence[tuple[float, float]]
    per: float = 1.0

    def of(self, amount: float) -> float:
        """What so many units cost."""
        cost = below = 0.0
        for limit, price in self.steps:
            cost += max(0.0, min(amount, limit) - below) / self.per * price
            below = limit
        return cost


@dataclass(frozen=True, slots=True)
class Prices:
    """A region's list prices, without free tiers."""

    looked_up: str
    """When."""
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
    schedules=Price("starts by the schedule", "EventBridge Scheduler", [(inf, 1.00)], per=1e6),
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


# What people do


@dataclass(frozen=True, slots=True)
class Workload:
    """Who is there and what they do, as averages over the month."""

    users: float = 10_000
    contacts: int = 50
    """Who may see each user."""
    online_share: float = 1.0
    """Of them, how many are online when a change is to be told."""
    heartbeat_interval: float = 30.0
    """Seconds; a device is given up after two and a half of them."""
    changes_per_hour: float = 20 / 24
    """Status changes of each user who is online, by hand or by inactivity."""
    devices: int = 1
    """Connections of each user who is online."""
    hours_online: float = 24.0
    """Each day."""
    sessions_per_day: float = 0.0
    """How often a user comes online each day; none for those who always are."""
    connection_minutes: float = 110.0
    """How long a connection lasts before the client opens the next: as long as its token, and 110 minutes at most."""
    cache: Cache = "public"
    # Levers that are not implemented, to see what they would be worth.
    beats: Beats = "socket"
    """Which way heartbeats go."""
    batch_window: float = 0.0
    """Seconds for which a viewer's changes are held back, to come in one frame."""
    told_share: float = 1.0
    """Of the contacts online, how many are told (those who look)."""
    heartbeat_memory: int = 256
    """MB of the function that heartbeats wake."""

    @property
    def device_ttl(self) -> float:
        """Seconds after its last message at which a device that vanished is given up."""
        return 2.5 * self.heartbeat_interval


@dataclass(frozen=True, slots=True)
class Counts:
    """What happens in so many hours."""

    hours: float
    device_hours: float
    beats: float
    """Heartbeats, whichever way they come."""
    keep_alives: float
    """Messages that only keep a socket open while heartbeats go another way."""
    arrivals: float
    """Connections with which a user comes online: their first `sync` tells the contacts."""
    further: float
    """Connections of further devices: their first `sync` tells nobody."""
    rotations: float
    """Connections that take the place of an older one, which the service closes."""
    departures: float
    """Users who go offline: all their connections close, and contacts are told after the grace."""
    changes: float
    snapshots: float
    """Frames of snapshots with users in them."""
    fan_out: float
    """Frames that tell contacts."""
    own: float
    """Frames that tell a user's own devices."""
    upkeep: float
    """Users who are settled because a deadline of theirs has passed, and are found to be still here."""
    looks: float
    """How often the sweeper asks who is due."""
    sweeps: float
    """Runs of the sweeper."""

    @property
    def connects(self) -> float:
        """Handshakes."""
        return self.arrivals + self.further + self.rotations

    @property
    def settled(self) -> float:
        """Users who are settled: who leaves twice, after the grace and a minute after the socket closed, to forget it.

        Of who stays, that falls together with the upkeep.
        """
        return 2 * self.departures + self.upkeep

    @property
    def announcements(self) -> float:
        """Changes of a user that contacts are told of."""
        return self.arrivals + self.departures + self.changes

    @property
    def posts(self) -> float:
        """Frames that are posted."""
        return self.fan_out + self.own + self.snapshots + self.rotations

    def messages(self, beats: Beats) -> float:
        """What clients send through sockets."""
        return self.connects + self.changes + self.keep_alives + (self.beats if beats == "socket" else 0)

    def invocations(self, beats: Beats) -> dict[str, float]:
        """How often each function is woken."""
        woken = {
            "authorize": self.connects,
            "connect": self.connects,
            "disconnect": self.connects,
            "query": self.connects,
            "update": self.changes,
            "heartbeat": self.keep_alives + self.beats,
            "sweeper": self.sweeps,
        }
        if beats == "http_api":
            woken |= {"api": self.beats, "heartbeat": self.keep_alives}
        return woken

    @property
    def round_trips(self) -> dict[str, float]:
        """Round trips to Redis, by what asks for them; the sweeper's slow check of what is kept left aside."""
        return {
            "heartbeats": self.beats + self.keep_alives,
            "connections": 2 * self.connects,  # $connect and $disconnect
            "syncs": self.arrivals + self.further + self.rotations,
            "snapshots": self.further,  # those of arrivals are read in the round trip that finds where to post
            "updates": self.changes,
            "fan-out": 2 * self.announcements,  # where to, and: it has been told
            "settling": self.settled,
            "looks": self.looks,
        }

    def calls(self, contacts: int) -> dict[str, float]:
        """Script calls, which are one command each: a round trip holds one for each bucket that it concerns."""
        spread = min(contacts, BUCKETS)
        return {
            **self.round_trips,
            "snapshots": spread * self.further,
            "fan-out": (spread + 1) * self.announcements,
            "looks": BUCKETS * self.looks,
        }


def count(workload: Workload, hours: float = MONTH) -> Counts:
    """What happens in so many hours."""
    w = workload
    days = hours / 24
    user_hours = w.users * w.hours_online * days
    device_hours = user_hours * w.devices
    sessions = w.users * w.sessions_per_day * days
    if w.sessions_per_day:
        length = 60 * w.hours_online / w.sessions_per_day
        rotations = sessions * w.devices * max(0, ceil(length / w.connection_minutes) - 1)
    else:
        rotations = 60 * device_hours / w.connection_minutes
    changes = user_hours * w.changes_per_hour
    told = w.contacts * w.online_share * w.told_share * w.devices
    frames = (2 * sessions + changes) * told
    # A frame begins a window; whatever comes within it rides in the next one.
    frames_each_second = frames / device_hours / 3600 if device_hours else 0
    beats = 3600 * device_hours / w.heartbeat_interval
    # A user is settled when the oldest deadline comes. By then that device has beaten again, half an interval ago.
    upkeep = 3600 * user_hours / (w.device_ttl - w.heartbeat_interval / 2)
    due_each_second = (upkeep + 2 * sessions) / (3600 * hours) if hours else 0
    return Counts(
        hours=hours,
        device_hours=device_hours,
        beats=beats,
        keep_alives=0 if w.beats == "socket" else 3600 * device_hours / KEEP_ALIVE,
        arrivals=sessions,
        further=sessions * (w.devices - 1),
        rotations=rotations,
        departures=sessions,
        changes=changes,
        snapshots=sessions * w.devices * ceil(_snapshot_bytes(w) / MESSAGE_UNIT),
        fan_out=frames / (1 + frames_each_second * w.batch_window),
        own=changes * w.devices,
        upkeep=upkeep,
        looks=3600 * hours * looks_each_second(due_each_second) + 60 * hours,  # a run's first is one more
        sweeps=60 * hours,
    )


def looks_each_second(due: float) -> float:
    """How often the sweeper looks, when so many users become due each second, at random.

    It looks when the next one is due, after a second at most and after its pause at least.
    """
    pause, longest = SWEEP_PAUSE_MS / 1000, SWEEP_NAP_MS / 1000
    waits = (exp(-due * pause) - exp(-due * longest)) / due if due else longest - pause
    return 1 / (pause + waits)


# What AWS meters

KEEP_ALIVE = 540.0
"""Seconds. API Gateway closes a socket that was silent for ten minutes."""
MEMORY: Mapping[str, int] = {
    "api": 512,
    "authorize": 256,
    "connect": 256,
    "disconnect": 256,
    "heartbeat": 256,
    "query": 512,
    "sweeper": 256,
    "update": 512,
}
"""MB of each function, as `infra/functions.py` has it."""
ALARM_METRICS: Mapping[Cache, int] = {"public": 25, "vpc": 25, "url": 23}
IDLE_METRICS = ("DueLateness", "RedisTime")
BUSY_METRICS = (
    *IDLE_METRICS,
    *("Announcements", "Connections", "ConnectionsClosed", "PostTime", "PostsSent", "Settled", "Updates"),
)
"""Names under which something is counted in a healthy month; each is a custom metric."""


@dataclass(frozen=True, slots=True)
class Script:
    """What Redis does for one thing that happens: µs in scripts and KB through its sockets, more with each contact."""

    us: float
    kb: float
    us_each: float = 0.0
    kb_each: float = 0.0

    def ecpus(self, calls: float, contacts: float = 0) -> float:
        """ECPUs of it: whatever is most of commands, KB, and CPU time."""
        us = self.us + self.us_each * contacts
        return max(calls, self.kb + self.kb_each * contacts, us / Assumptions.us_of_an_ecpu)


class Assumptions:
    """What no run on a laptop can count, and what was measured on one (`python -m bench events memory`), rounded up."""

    us_of_an_ecpu = 3.0
    """AWS says that a command takes as many ECPUs as it moves KB, or more if it needs more CPU time than a simple one;
    not how much time that is. AWS's own estimator for serverless caches (aws/agent-toolkit-for-aws) takes 3 µs."""
    round_trip_ms = 1.0
    post_ms = 10.0
    """Until a post is answered; sixteen are under way at once."""
    invocation_cpu_ms = 0.5
    """Lambda's runtime around a handler."""
    full_core_mb = 1769
    """Memory at which a function has one core (AWS Lambda Developer Guide)."""
    token_cpu_ms = 0.3
    cpu_ms: Mapping[str, float] = {
        "api": 1.0,
        "authorize": 0.4,
        "connect": 0.2,
        "disconnect": 0.2,
        "heartbeat": 0.15,
        "query": 0.8,
        "update": 0.7,
    }
    """Of a handler, without posts and contacts."""
    cpu_ms_of_a_post = 0.1
    cpu_ms_of_a_record = 0.02
    beat = Script(20, 0.8)
    connect = Script(75, 0.8)
    disconnect = Script(75, 0.8)
    sync = Script(75, 1.5)
    update = Script(75, 1.5)
    settle = Script(60, 0.8)
    snapshot = Script(0, 0, 11, 0.5)
    fan_out = Script(60, 1.0, 21, 0.6)
    look = Script(400, 7.5)
    frame_bytes = 330
    """One change, with what WebSocket, TLS and TCP add."""
    own_bytes = 700
    record_bytes = 140
    """One user in a snapshot."""
    handshake_bytes = 5_000
    http_answer_bytes = 400
    """An answer to a heartbeat over HTTP, where it says nothing new."""
    user_bytes = 450
    contact_bytes = 32
    many_contacts_bytes = 80
    """From 129 contacts on, where Redis keeps sets as hash tables."""
    metric_line_bytes = 1_500
    nat_kb_of_a_post = 2.0


def _snapshot_bytes(w: Workload) -> float:
    return Assumptions.own_bytes + w.contacts * Assumptions.record_bytes


@dataclass(frozen=True, slots=True)
class Use:
    """What AWS meters in a month."""

    messages: float
    connection_minutes: float
    http_requests: float
    traffic_gb: float
    invocations: Mapping[str, float]
    gb_seconds: Mapping[str, float]
    stored_gb: float
    ecpus: Mapping[str, float]
    log_gb: float
    metrics: int
    sweeps: float
    nat_gb: float


def use(workload: Workload) -> Use:
    """What AWS meters of a month."""
    w, c, a = workload, count(workload), Assumptions
    woken = c.invocations(w.beats)
    seconds = {name: times * _milliseconds(w, c, name) / 1000 for name, times in woken.items() if name != "sweeper"}
    seconds["sweeper"] = 3600 * c.hours
    memory = {**MEMORY, "heartbeat": w.heartbeat_memory}
    over_http = 0 if w.beats == "socket" else c.beats
    traffic = (
        c.fan_out * a.frame_bytes
        + c.own * a.own_bytes
        + c.rotations * a.own_bytes
        + (c.arrivals + c.further) * _snapshot_bytes(w)
        + c.connects * a.handshake_bytes
        + over_http * a.http_answer_bytes
    )
    each = a.contact_bytes if w.contacts <= 128 else a.many_contacts_bytes
    return Use(
        messages=c.messages(w.beats) + c.posts,
        connection_minutes=60 * c.device_hours,
        http_requests=c.beats if w.beats == "http_api" else 0,
        traffic_gb=traffic / 1e9,
        invocations=woken,
        gb_seconds={name: memory[name] / 1024 * spent for name, spent in seconds.items()},
        stored_gb=0 if w.cache == "url" else max(0.1, w.users * (a.user_bytes + w.contacts * each) / 1e9),
        ecpus={} if w.cache == "url" else _ecpus(w, c),
        log_gb=_metric_lines(woken, seconds, c.hours) * a.metric_line_bytes / 1e9,
        metrics=len(BUSY_METRICS if w.users else IDLE_METRICS),
        sweeps=c.sweeps,
        nat_gb=c.posts * a.nat_kb_of_a_post / 1e6 if w.cache == "vpc" else 0,
    )


def _milliseconds(w: Workload, c: Counts, function: str) -> float:
    """How long one event of a function takes, billed by the whole millisecond."""
    a = Assumptions
    posts = {
        "update": w.devices + (c.fan_out / c.announcements if c.announcements else 0),
        "query": 1 + (c.fan_out / c.announcements * c.arrivals / c.connects if c.announcements else 0),
    }.get(function, 0)
    records = w.contacts * (c.arrivals + c.further) / c.connects if function == "query" and c.connects else 0
    trips = {"authorize": 0, "update": 3, "query": 3 if records else 1}.get(function, 1)
    cpu = a.invocation_cpu_ms + a.cpu_ms[function] + a.cpu_ms_of_a_post * posts + a.cpu_ms_of_a_record * records
    if w.beats == "function_url" and function == "heartbeat":
        cpu += a.token_cpu_ms
    memory = w.heartbeat_memory if function == "heartbeat" else MEMORY[function]
    share = min(1.0, memory / a.full_core_mb)
    return ceil(cpu / share + trips * a.round_trip_ms + posts / 16 * a.post_ms)


def _ecpus(w: Workload, c: Counts) -> dict[str, float]:
    a, spread = Assumptions, min(w.contacts, BUCKETS)
    heartbeat = a.beat.ecpus(1) * (c.beats + c.keep_alives)
    connecting = c.connects * (a.connect.ecpus(1) + a.disconnect.ecpus(1) + a.sync.ecpus(1))
    snapshots = (c.arrivals + c.further) * a.snapshot.ecpus(spread, w.contacts)
    telling = c.announcements * a.fan_out.ecpus(spread + 1, w.contacts)
    return {
        "heartbeats": heartbeat,
        "connections": connecting + snapshots,
        "changes": c.changes * a.update.ecpus(1) + telling,
        "settling": c.settled * a.settle.ecpus(1),
        "the sweeper's looks": c.looks * a.look.ecpus(BUCKETS),
    }


def _metric_lines(woken: Mapping[str, float], seconds: Mapping[str, float], hours: float) -> float:
    """A sandbox writes one line in five seconds in which it was woken; the sweeper's one at the end of each run."""
    lines = woken["sweeper"]
    for name, times in woken.items():
        if name != "sweeper" and hours:
            rate, busy = times / hours / 3600, seconds[name] / hours / 3600
            lines += 3600 * hours / 5 * max(busy, min(1.0, 5 * rate))
    return lines


# The bill


class Item(NamedTuple):
    """One line of a bill."""

    name: str
    amount: float
    unit: str
    usd: float


def bill(workload: Workload, prices: Prices = US_EAST_1) -> list[Item]:
    """A month, line by line; lines of nothing are left out."""
    p, u = prices, use(workload)
    ours, nat = workload.cache != "url", MONTH if workload.cache == "vpc" else 0
    invocations, sweeper = sum(u.invocations.values()), u.gb_seconds["sweeper"]
    lines: list[tuple[str, Price, float]] = [
        ("messages", p.messages, u.messages),
        ("connections", p.connection_minutes, u.connection_minutes),
        ("heartbeats over the HTTP API", p.http_requests, u.http_requests),
        ("traffic to clients", p.traffic, u.traffic_gb),
        ("invocations", p.invocations, invocations),
        ("functions at work", p.compute, sum(u.gb_seconds.values()) - sweeper),
        ("sweeper: one run is always there", p.compute, sweeper),
        ("cache: what is stored", p.stored, u.stored_gb * MONTH if ours else 0),
        ("cache: what is done", p.ecpus, sum(u.ecpus.values())),
        ("logs, which carry the metrics", p.logs, u.log_gb),
        ("metrics of ours", p.metrics, u.metrics),
        ("alarms", p.alarms, ALARM_METRICS[workload.cache]),
        ("dashboard", p.dashboards, 1),
        ("token secret", p.secrets, 1),
        ("schedule", p.schedules, u.sweeps),
        ("NAT gateway", p.nat_hours, nat),
        ("its address", p.addresses, nat),
        ("traffic through it", p.nat_traffic, u.nat_gb),
    ]
    return [Item(name, amount, price.unit, price.of(amount)) for name, price, amount in lines if amount]


def total(workload: Workload, prices: Prices = US_EAST_1) -> float:
    """What a month costs, in US dollars."""
    return sum(item.usd for item in bill(workload, prices))


# Levers, side by side


@dataclass(frozen=True, slots=True)
class Lever:
    """A change to the service or to how it is used."""

    name: str
    settings: Mapping[str, object]
    exists: str
    """How it is had today; nothing where it is not implemented."""


LEVERS = (
    Lever("as it comes: heartbeats each 30 s through the socket", {}, "the default"),
    Lever("heartbeats each 60 s", {"heartbeat_interval": 60.0}, "a setting"),
    Lever("heartbeats each 120 s", {"heartbeat_interval": 120.0}, "a setting"),
    Lever("heartbeats each 300 s", {"heartbeat_interval": 300.0}, "a setting"),
    Lever("heartbeats over the HTTP API", {"beats": "http_api"}, ""),
    Lever("heartbeats over a function URL", {"beats": "function_url"}, ""),
    Lever("a function URL, each 120 s", {"beats": "function_url", "heartbeat_interval": 120.0}, ""),
    Lever("changes of 10 s in one frame", {"batch_window": 10.0}, ""),
    Lever("changes of 60 s in one frame", {"batch_window": 60.0}, ""),
    Lever("a fifth of the contacts online is told", {"told_share": 0.2}, ""),
    Lever("heartbeat function with 128 MB", {"heartbeat_memory": 128}, "`infra/functions.py`"),
    Lever("heartbeat function with 512 MB", {"heartbeat_memory": 512}, "`infra/functions.py`"),
)
SIZES = (10_000, 1_000_000)


def with_lever(workload: Workload, lever: Lever) -> Workload:
    """The same people, with a lever pulled."""
    return replace(workload, **lever.settings)  # type: ignore[arg-type] # a lever names fields of `Workload`


# The page

CASES: Mapping[str, Workload] = {
    "always online, as all contacts are": Workload(),
    "always online, heartbeats each 120 s": Workload(heartbeat_interval=120),
    "always online, 500 contacts each": Workload(contacts=500),
    "eight hours a day in two sessions, two devices, a third of the contacts online": Workload(
        hours_online=8, sessions_per_day=2, devices=2, online_share=1 / 3
    ),
    "two hours a day in ten sessions, a tenth of the contacts online": Workload(
        hours_online=2, sessions_per_day=10, online_share=0.1
    ),
}
"""People for whom the documents show what a month costs."""


def money(usd: float) -> str:
    """Dollars as a bill shows them: cents below a hundred."""
    return f"{usd:,.2f}" if usd < 100 else f"{usd:,.0f}"


def amount(value: float) -> str:
    """A number that can be read: 1,234 and 1.20 billion."""
    for name, size in (("billion", 1e9), ("million", 1e6)):
        if value >= size:
            return f"{value / size:,.2f} {name}".replace(".00 ", " ")
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def tables() -> dict[str, str]:
    """The tables of the documents, by the name in their markers."""
    everyday = Workload()
    return {
        "prices": _markdown(("what", "$", "page"), _price_rows(US_EAST_1)),
        "idle": _markdown(("", "$"), _idle_rows()),
        "bill": _markdown(("", "units", "of what", "$"), _bill_rows(everyday)),
        "events": _markdown(("", "a month"), _event_rows(everyday)),
        "cases": _markdown(("", *(f"{size:,} users" for size in (1_000, *SIZES))), _case_rows()),
        "levers": _markdown(("", "given up after", *(f"{size:,} users" for size in SIZES), "today"), _lever_rows()),
        "rates": _markdown(("on average, each second", *(f"{size:,} users" for size in SIZES), "limit"), _rate_rows()),
        "ecpus": _markdown(("an ECPU is", *(f"{size:,} users" for size in SIZES)), _ecpu_rows()),
    }


def _price_rows(prices: Prices) -> Iterable[Sequence[str]]:
    for name in (each.name for each in fields(prices) if each.name != "looked_up"):
        price: Price = getattr(prices, name)
        parts = []
        for limit, usd in price.steps:
            shown = f"{usd:.2f}" if usd == round(usd, 2) else f"{usd:.10f}".rstrip("0")
            until = f"up to {amount(limit)}" if limit != inf else "beyond"
            parts.append(f"{shown} {until}" if len(price.steps) > 1 else shown)
        yield f"{'a million ' if price.per == 1e6 else ''}{price.unit}", ", ".join(parts), price.service


def _idle_rows() -> Iterable[Sequence[str]]:
    items = {item.name: item.usd for item in bill(Workload(users=0))}
    groups = {
        "cache: the 100 MB that are always billed, and what the sweeper asks it": "cache:",
        "sweeper: one run is always there (256 MB, arm64)": "sweeper",
        f"alarms over {ALARM_METRICS['public']} metrics, a dashboard, {len(IDLE_METRICS)} metrics of ours": (
            "alarms|dashboard|metrics of ours"
        ),
        "the secret": "token secret",
        "invocations, logs and the schedule": "invocations|logs|schedule",
    }
    for name, pattern in groups.items():
        yield name, f"{sum(usd for line, usd in items.items() if re.match(pattern, line)):.2f}"
    yield "**sum**", f"**{sum(items.values()):.2f}**"
    vpc = total(Workload(users=0, cache="vpc")) - total(Workload(users=0))
    yield "with `cache=vpc`: a NAT gateway and its address", f"+ {vpc:.2f}"


def _bill_rows(workload: Workload) -> Iterable[Sequence[str]]:
    items = bill(workload)
    for item in items:
        yield item.name, amount(item.amount), item.unit, money(item.usd)
    yield "**sum**", "", "", f"**{money(sum(item.usd for item in items))}**"


def _event_rows(workload: Workload) -> Iterable[Sequence[str]]:
    c, u = count(workload), use(workload)
    calls = c.calls(workload.contacts)
    yield "messages from clients", amount(c.messages(workload.beats))
    yield "frames to clients", amount(c.posts)
    for name, times in sorted(c.invocations(workload.beats).items(), key=lambda entry: -entry[1]):
        yield f"invocations of `{name}`", amount(times)
    yield "round trips to Redis", amount(sum(c.round_trips.values()))
    yield "script calls in them", amount(sum(calls.values()))
    for name, ecpus in sorted(u.ecpus.items(), key=lambda entry: -entry[1]):
        yield f"ECPUs of {name}", amount(ecpus)


def _case_rows() -> Iterable[Sequence[str]]:
    for name, workload in CASES.items():
        yield name, *(money(total(replace(workload, users=size))) for size in (1_000, *SIZES))


def _lever_rows() -> Iterable[Sequence[str]]:
    plain = [total(Workload(users=size)) for size in SIZES]
    for lever in LEVERS:
        costs = []
        for size, before in zip(SIZES, plain, strict=True):
            cost = total(with_lever(Workload(users=size), lever))
            change = round(100 * (cost / before - 1))
            costs.append(money(cost) + (f" ({f'{change:+d}' if change else '±0'} %)" if lever.settings else ""))
        yield lever.name, f"{with_lever(Workload(), lever).device_ttl:g} s", *costs, lever.exists or "not there"


def _rate_rows() -> Iterable[Sequence[str]]:
    uses, seconds = [use(Workload(users=size)) for size in SIZES], 3600 * MONTH
    messages = [amount(each.messages / seconds) for each in uses]
    yield "messages and posts of the account", *messages, "10,000, less in newer regions; AWS raises it"
    ecpus = [amount(sum(each.ecpus.values()) / seconds / BUCKETS) for each in uses]
    yield (
        f"ECPUs of one of {BUCKETS} buckets, which is a slot",
        *ecpus,
        "30,000; more buckets, chosen before there is data",
    )


def _ecpu_rows() -> Iterable[Sequence[str]]:
    counts = {size: count(Workload(users=size)) for size in SIZES}
    ecpus, contacts = US_EAST_1.ecpus, Workload().contacts
    cheapest = [money(ecpus.of(sum(c.calls(contacts).values()))) for c in counts.values()]
    yield "a script call, whatever it does and carries", *cheapest
    assumed = [money(ecpus.of(sum(use(Workload(users=size)).ecpus.values()))) for size in SIZES]
    yield f"{Assumptions.us_of_an_ecpu:g} µs in a script, as the model assumes", *assumed


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def filled(text: str) -> str:
    """A page with its tables, which stand between markers, written anew.

    Raises:
        KeyError: there is no table of that name.
    """
    made = tables()
    marked = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return marked.sub(lambda found: f"{found[1]}\n{made[found[2]]}\n\n{found[3]}", text)


def main(arguments: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser("cost", description="What a month costs (list prices, us-east-1).")
    parser.add_argument("--markdown", action="store_true", help="write the tables of the documents anew")
    kinds = get_type_hints(Workload)
    for each in fields(Workload):
        words = get_args(kinds[each.name])  # of those that are a choice
        kind = str if words else kinds[each.name]
        flag = f"--{each.name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, choices=words or None, default=each.default, help=f"({each.default})")
    given = vars(parser.parse_args(arguments))
    if given.pop("markdown"):
        for page in PAGES:
            page.write_text(filled(page.read_text("utf-8")), "utf-8")
        return
    workload = Workload(**given)
    shown = Table("", "units", "of what", "$", title=f"A month, at list prices of us-east-1 ({US_EAST_1.looked_up})")
    for row in _bill_rows(workload):
        shown.add_row(*(cell.strip("*") for cell in row))
    Console().print(shown)


if __name__ == "__main__":
    main()
