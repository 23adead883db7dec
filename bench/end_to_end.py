"""From a change to its contacts' screens, through the whole service: `presence run` (the local API Gateway, functions
in worker processes, Redis) against two processes of Socket.IO with its Redis adapter, which do the same work at the
same sizes.

The simulated clients are those of `presence load`: the same users and contacts, with one connection each, and a
heartbeat every 30 s. They share the machine with the service, and the two services take turns. A latency is the time
from sending a change until a contact receives it. CPU is that of all processes of a service, including Redis, divided
by the number of notifications. The rate rises by half until a service is saturated: p99 is above half a second, or
something is lost.

Socket.IO notifies a contact by writing to a socket of its own process. Here each notification is a signed HTTP request
to the process that holds the socket, and each change invokes a function, as on AWS. That is the price of having no
servers, and most of the ratio. The tail comes from workers that start on two busy cores.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from statistics import mean
from typing import NamedTuple

from bench.report import Amount, Plot, Row, Scale, Target
from bench.served import Measured, Service, clients_at, ours, socketio
from load.contacts import ring
from load.statistics import NEAR_ITS_LIMIT, percentiles

CONTACTS = 20
CONNECT_RATE = 100.0
"""Handshakes a second. If a service is slower, the benchmark waits for it."""
SLOW = 500.0
"""Milliseconds of p99 above which a service is saturated."""
SERVICES: Sequence[Callable[[], AbstractContextManager[Service]]] = (ours, socketio)


class Taken(NamedTuple):
    """The result of one service in one turn."""

    calm: Measured
    top: Measured
    """At the highest rate that did not saturate it, or at the lowest if all did."""
    beyond: str
    """Why there is no higher rate."""


def run(scale: Scale) -> list[Row]:
    """Both services in turns."""
    users = scale.pick(100, 2000)
    rate, seconds = scale.pick((10.0, 2.0), (100.0, 15.0))
    steps = scale.pick([20.0], [100.0 * 1.5**step for step in range(10)])
    turns: list[list[Taken]] = [[], []]
    for _ in range(scale.pick(1, 2)):
        for taken, service in zip(turns, SERVICES, strict=True):
            with service() as running:
                taken.append(asyncio.run(_turn(running, users, rate, seconds, steps)))
    mine, theirs = turns
    return [*_calm(f"{rate:g} changes/s × {CONTACTS} contacts", mine, theirs), *_saturated(mine, theirs)]


async def _turn(service: Service, users: int, rate: float, seconds: float, steps: Sequence[float]) -> Taken:
    async with clients_at(service, ring(users, CONTACTS), CONNECT_RATE) as (load, _):
        await load.run(rate, seconds / 3)  # a warm-up, in which each service scales up
        calm = await load.run(rate, seconds)
        top = calm
        for step in steps:
            measured = await load.run(step, seconds / 3)
            if beyond := _saturation(measured):
                return Taken(calm, top if top is not calm else measured, beyond)
            top = measured
        return Taken(calm, top, "not saturated")


def _saturation(measured: Measured) -> str:
    """Why a service is saturated; empty if it is not."""
    statistics = measured.statistics
    if statistics.cpu > NEAR_ITS_LIMIT * statistics.seconds:
        return "the load generator is at its limit"
    if statistics.outstanding or statistics.errors:
        return "something is lost"
    return "p99 above half a second" if percentiles(statistics.latencies)["p99"] > SLOW else ""


def _calm(what: str, mine: Sequence[Taken], theirs: Sequence[Taken]) -> list[Row]:
    sides = [[taken.calm for taken in side] for side in (mine, theirs)]
    our, their = (percentiles(array("d", [t for one in side for t in one.statistics.latencies])) for side in sides)
    lost = [sum(one.statistics.outstanding for one in side) for side in sides]
    note = (
        f"lost: {lost[0]} and {lost[1]} of {sum(one.statistics.expected for one in sides[0]):,} each"
        if any(lost)
        else ""
    )
    rows = [
        _row(
            f"{what}: change → contact, {name}",
            Amount(our[name], "ms"),
            Amount(their[name], "ms"),
            target=target,
            note=note,
        )
        for name, target in (("p50", Target("≤", 2)), ("p95", None), ("p99", Target("≤", 2)))
    ]
    return [*rows, _row(f"{what}: CPU per notification", _cpu(sides[0]), _cpu(sides[1]))]


def _saturated(mine: Sequence[Taken], theirs: Sequence[Taken]) -> list[Row]:
    sides = [[taken.top for taken in side] for side in (mine, theirs)]
    shown = [
        Amount(mean(one.statistics.delivered / (one.statistics.seconds or 1) for one in side), "/s") for side in sides
    ]
    why = f"ours: {mine[-1].beyond}; theirs: {theirs[-1].beyond}"
    return [
        _row("saturated: notifications", shown[0], shown[1], note=why),
        _row("saturated: CPU per notification", _cpu(sides[0]), _cpu(sides[1])),
    ]


def _cpu(side: Sequence[Measured]) -> Amount:
    return Amount(sum(one.cpu for one in side) / sum(one.statistics.delivered for one in side) * 1e6, "µs")


def _row(what: str, our: Amount, their: Amount, target: Target | None = None, note: str = "") -> Row:
    return Row(what, our, "Socket.IO with Redis", their, our.value / their.value, target, note)


def plot(rows: Sequence[Row]) -> Plot:
    """How fast a contact sees a change."""
    bars = [
        bar
        for row, name in zip(rows, ("p50", "p95", "p99"), strict=False)
        if row.theirs
        for bar in ((f"presence run, {name}", row.ours.value), (f"Socket.IO with Redis, {name}", row.theirs.value))
    ]
    return Plot(
        "From a change to its contacts", "ms", bars, [f"presence run, {name}" for name in ("p50", "p95", "p99")]
    )
