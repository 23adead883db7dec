"""Constants of the model: limits of AWS, sizes of the functions, and what was measured or assumed.

Events are counted in `counts.py`, not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cost.workload import Cache, Workload

MONTH = 730.0
"""Hours in a month, as AWS counts them."""
BUCKETS = 16
MESSAGE_UNIT = 32 * 1024
"""Bytes of one billed WebSocket message."""
KEEP_ALIVE = 540.0
"""Seconds. API Gateway closes a socket after ten minutes of silence."""
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
"""The custom metrics that a healthy month produces."""


@dataclass(frozen=True, slots=True)
class Script:
    """What one event costs Redis: µs in scripts and KB through its sockets, plus a part for each contact."""

    us: float
    kb: float
    us_each: float = 0.0
    kb_each: float = 0.0

    def ecpus(self, calls: float, contacts: float = 0) -> float:
        """Its ECPUs: the largest of the number of commands, the KB, and the CPU time."""
        us = self.us + self.us_each * contacts
        return max(calls, self.kb + self.kb_each * contacts, us / Assumptions.us_of_an_ecpu)


class Assumptions:
    """Values that no run on a laptop can count, and measurements of `python -m bench events memory`, rounded up."""

    us_of_an_ecpu = 3.0
    """A command takes one ECPU for each KB it transfers, or more if it needs more CPU time than a simple command. AWS
    does not publish that time. Its estimator for serverless caches (aws/agent-toolkit-for-aws) assumes 3 µs."""
    round_trip_ms = 1.0
    post_ms = 10.0
    """Time until a post is answered; sixteen run in parallel."""
    invocation_cpu_ms = 0.5
    """CPU of Lambda's runtime around a handler."""
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
    """CPU of a handler, without posts and contacts."""
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
    """One change, including the overhead of WebSocket, TLS and TCP."""
    own_bytes = 700
    record_bytes = 140
    """One user in a snapshot."""
    handshake_bytes = 5_000
    http_answer_bytes = 400
    """The response to a heartbeat over HTTP that contains no news."""
    user_bytes = 450
    contact_bytes = 32
    many_contacts_bytes = 80
    """From 129 contacts on, where Redis stores sets as hash tables."""
    metric_line_bytes = 1_500
    nat_kb_of_a_post = 2.0


def snapshot_bytes(w: Workload) -> float:
    """Bytes of a whole snapshot."""
    return Assumptions.own_bytes + w.contacts * Assumptions.record_bytes
