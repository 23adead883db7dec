"""Ten thousand connections held by `presence run`: how fast they open, how much memory each takes, and how fast
contacts see changes while every client sends a heartbeat every 30 s.

The simulated clients are those of `presence load` and share the machine with the service. Memory is that of the process
that emulates API Gateway and holds the sockets: the only figure on this page that does not exist on AWS.
"""

from __future__ import annotations

import asyncio

from bench.processes import resident
from bench.report import Amount, Row, Scale, Target
from bench.served import Measured, Service, clients_at, ours
from cli.process_limits import allow_open_files
from load.contacts import ring
from load.statistics import Statistics, percentiles

CONTACTS = 20
RATE = 20.0
CONNECT_RATE = 100.0
"""Handshakes a second. If a service is slower, the benchmark waits for it."""
OTHER_FILES = 500


def run(scale: Scale) -> list[Row]:
    """One service, and its clients."""
    connections, seconds = scale.pick((500, 3.0), (10_000, 60.0))
    allow_open_files(connections + OTHER_FILES)  # for this process and its children
    with ours() as service:
        return asyncio.run(_measure(service, connections, seconds))


async def _measure(service: Service, connections: int, seconds: float) -> list[Row]:
    contacts = ring(connections, CONTACTS)
    empty = resident(service.main)
    async with clients_at(service, contacts, CONNECT_RATE) as (load, opening):
        taken = resident(service.main) - empty
        # A warm-up, in which the last arrivals are announced and all clients have started to send heartbeats.
        await load.run(RATE, seconds / 6)
        measured = await load.run(RATE, seconds)
    assert opening.opened >= connections
    return _rows(connections, opening, taken, measured)


def _rows(connections: int, opening: Statistics, taken: int, measured: Measured) -> list[Row]:
    held = f"{connections:,} connections"
    times, statistics = percentiles(measured.statistics.latencies), measured.statistics
    refused = sum(opening.refused.values())
    trouble = ", ".join(
        f"{count:,} {what}"
        for what, count in (("lost", statistics.outstanding), ("errors", statistics.errors.total()))
        if count
    )
    first = percentiles(opening.snapshots)
    return [
        Row(
            f"{held}: connects",
            Amount(connections / opening.connecting, "/s"),
            note=f"{refused:,} refused" if refused else "",
        ),
        Row(f"{held}: from handshake to first snapshot, p50", Amount(first["p50"], "ms")),
        Row(f"{held}: memory of the gateway for each", Amount(taken / connections / 1024, "KiB")),
        Row(f"{held}, {RATE:g} changes/s × {CONTACTS} contacts: p50", Amount(times["p50"], "ms")),
        Row(
            f"{held}, {RATE:g} changes/s × {CONTACTS} contacts: p99",
            Amount(times["p99"], "ms"),
            target=Target("<", 100, of="ours"),
            note=trouble,
        ),
        Row(f"{held}: CPU of all processes", Amount(measured.cpu / statistics.seconds, "cores")),
    ]
