"""Posts per second of CPU, through `shared/push.py` and through what else one could post with, to the same endpoint on
loopback, which has a process of its own; CPU is that of the posting process with all its threads. Everybody has sixteen
connections (a bare loop needs one), kept alive, and signs each post. A fan-out is 200 posts, what a sandbox sends
without pacing itself; then 2,000, of which most wait for their turn at 2,000 a second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from statistics import median

from bench.endpoint import Endpoint, endpoint, tls_endpoint
from bench.measure import environment, in_turns, ratio, spent
from bench.report import Amount, Plot, Row, Scale, Target
from bench.transports import CHANGE, CREDENTIALS, TRANSPORTS, Post
from shared.delivery import Frame

OURS, *OTHERS = TRANSPORTS
BURST, STORM = 200, 2000
"""Posts of one fan-out: what goes out at once, and what is paced."""
TARGETS = {OTHERS[0]: Target("≥", 10)}


def run(scale: Scale) -> list[Row]:
    """All transports in turns, in the clear and over TLS."""
    rows = []
    for protocol, opened in (("HTTP", endpoint()), ("TLS", tls_endpoint())):
        with environment(CREDENTIALS), opened as server:
            rows += _compare(server, protocol, f"{BURST} at once", BURST, scale.pick(2, 15), list(TRANSPORTS))
            rows += _compare(server, protocol, f"{STORM}, paced", STORM, scale.pick(1, 3), [OURS, *OTHERS[::2]])
    return rows


def _compare(server: Endpoint, protocol: str, what: str, count: int, rounds: int, names: list[str]) -> list[Row]:
    frames = [Frame(f"Conn{number:08d}Qw=", CHANGE) for number in range(count)]
    with contextlib.ExitStack() as opened:
        posts = {name: opened.enter_context(TRANSPORTS[name](server.url)) for name in names}
        before = server.received().posts
        costs = in_turns(rounds, {name: _cost_of(post, frames) for name, post in posts.items()})
        assert server.received().posts - before == (rounds + 1) * count * len(names)
    rates = {name: [count / cpu for cpu in cpus] for name, cpus in costs.items()}
    return [
        Row(
            f"{protocol}: posts per CPU-second, {what}",
            Amount(median(rates[OURS]), "posts/s"),
            name,
            Amount(median(rates[name]), "posts/s"),
            ratio(rates[OURS], rates[name]),
            TARGETS.get(name) if count == BURST else None,
            f"CPU for each post: {1e6 / median(rates[OURS]):.0f} and {1e6 / median(rates[name]):.0f} µs",
        )
        for name in names
        if name != OURS
    ]


def _cost_of(post: Post, frames: list[Frame]) -> Callable[[], float]:
    return lambda: spent(lambda: post(frames)).cpu


def plot(rows: list[Row]) -> Plot:
    """Who posts how much, over TLS."""
    shown = [row for row in rows if row.what.startswith(f"TLS: posts per CPU-second, {BURST} at")]
    bars = [(OURS, shown[0].ours.value)] + [(row.against, row.theirs.value) for row in shown if row.theirs]
    return Plot("Posts per second of CPU, over TLS", "posts/s", bars, ours=[OURS])
