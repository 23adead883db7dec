"""What AWS bills for what happens: units of each service in a month. Prices are in `prices.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from cost.assumptions import BUCKETS, BUSY_METRICS, IDLE_METRICS, MEMORY, Assumptions, snapshot_bytes
from cost.counts import Counts, count
from cost.workload import Workload


@dataclass(frozen=True, slots=True)
class Use:
    """Billed units in a month."""

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
    """The units that a month's workload is billed for."""
    w, c, a = workload, count(workload), Assumptions
    invoked = c.invocations(w.beats)
    seconds = {name: times * _milliseconds(w, c, name) / 1000 for name, times in invoked.items() if name != "sweeper"}
    seconds["sweeper"] = 3600 * c.hours
    memory = {**MEMORY, "heartbeat": w.heartbeat_memory}
    over_http = 0 if w.beats == "socket" else c.beats
    traffic = (
        c.fan_out * a.frame_bytes
        + c.own * a.own_bytes
        + c.rotations * a.own_bytes
        + (c.arrivals + c.further) * snapshot_bytes(w)
        + c.connects * a.handshake_bytes
        + over_http * a.http_answer_bytes
    )
    each = a.contact_bytes if w.contacts <= 128 else a.many_contacts_bytes
    return Use(
        messages=c.messages(w.beats) + c.posts,
        connection_minutes=60 * c.device_hours,
        http_requests=c.beats if w.beats == "http_api" else 0,
        traffic_gb=traffic / 1e9,
        invocations=invoked,
        gb_seconds={name: memory[name] / 1024 * spent for name, spent in seconds.items()},
        stored_gb=0 if w.cache == "url" else max(0.1, w.users * (a.user_bytes + w.contacts * each) / 1e9),
        ecpus={} if w.cache == "url" else _ecpus(w, c),
        log_gb=_metric_lines(invoked, seconds, c.hours) * a.metric_line_bytes / 1e9,
        metrics=len(BUSY_METRICS if w.users else IDLE_METRICS),
        sweeps=c.sweeps,
        nat_gb=c.posts * a.nat_kb_of_a_post / 1e6 if w.cache == "vpc" else 0,
    )


def _milliseconds(w: Workload, c: Counts, function: str) -> float:
    """The billed duration of one invocation, rounded up to a millisecond."""
    a = Assumptions
    posts = {
        "update": w.devices + (c.fan_out / c.announcements if c.announcements else 0),
        "query": 1 + (c.fan_out / c.announcements * c.arrivals / c.connects if c.announcements else 0),
    }.get(function, 0)
    records = w.contacts * (c.arrivals + c.further) / c.connects if function == "query" and c.connects else 0
    trips = {"authorize": 0, "update": 4, "query": 4 if records else 1}.get(function, 1)
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
    fan_out = c.announcements * a.fan_out.ecpus(spread + 2, w.contacts)
    return {
        "heartbeats": heartbeat,
        "connections": connecting + snapshots,
        "changes": c.changes * a.update.ecpus(1) + fan_out,
        "settling": c.settled * a.settle.ecpus(1),
        "the sweeper's looks": c.looks * a.look.ecpus(BUCKETS),
    }


def _metric_lines(invoked: Mapping[str, float], seconds: Mapping[str, float], hours: float) -> float:
    """How many lines of metrics are logged: one for every five seconds in which an environment was invoked.

    The sweeper logs one at the end of each run.
    """
    lines = invoked["sweeper"]
    for name, times in invoked.items():
        if name != "sweeper" and hours:
            rate, busy = times / hours / 3600, seconds[name] / hours / 3600
            lines += 3600 * hours / 5 * max(busy, min(1.0, 5 * rate))
    return lines
