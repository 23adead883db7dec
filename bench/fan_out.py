"""Posts per second of CPU through `shared/push.py`, and through other ways to post, to the same endpoint on loopback.
The endpoint is another process; CPU is that of the posting process with all its threads. Each way keeps sixteen
connections open (the bare loop one), signs each post, and keeps to the same rate limit. A fan-out is 200 posts, the
burst that the rate limit lets through, and then 2,000, most of which wait for their turn at 2,000 a second. "Bare" is
the library alone, without retries, budget and counts; "push.py over" a library is our fan-out with it in place of
`shared/http_client.py`. Last, the CPU that each adds to a cold start: its imports, after all others of a function, and
boto3's client.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from bench.endpoint import Endpoint, endpoint, tls_endpoint
from bench.measure import environment, in_turns, ratio, spent
from bench.report import Amount, Plot, Row, Scale, Target
from bench.transports import CHANGE, CREDENTIALS, TRANSPORTS, PostAll
from shared.delivery import Post

OURS, *OTHERS = TRANSPORTS
PACED = [name for name in TRANSPORTS if name != "boto3, bare loop"]
BURST, STORM = 200, 2000
"""Posts of one fan-out: within the rate limit's burst, and far beyond it."""
TARGETS = {OTHERS[0]: Target("≥", 10)}

OURS_IMPORTED = "shared.push"
IMPORTS = {
    OURS_IMPORTED: "import shared.push",
    "boto3 with its client": "import boto3; boto3.client('apigatewaymanagementapi', endpoint_url='https://localhost')",
    "awscrt": "from awscrt import auth, http, io",
    "aiohttp": "import aiohttp, yarl",
}
IMPORT = """
import json, sys, time
sys.path[:0] = json.loads(sys.argv[1])
import aws_lambda_powertools, shared.events, shared.presence, shared.store, shared.upkeep
began = time.process_time()
{imports}
print(time.process_time() - began)
"""
PATHS = [str(Path(__file__).parent.parent), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]


def run(scale: Scale) -> list[Row]:
    """All ways in turns, over HTTP and over TLS; then the imports."""
    rows = []
    for protocol, opened in (("HTTP", endpoint()), ("TLS", tls_endpoint())):
        with environment(CREDENTIALS), opened as server:
            rows += _compare(server, protocol, f"{BURST} together", BURST, scale.pick(2, 15), list(TRANSPORTS))
            rows += _compare(server, protocol, f"{STORM}, paced", STORM, scale.pick(1, 5), PACED)
    return rows + _compare_imports(scale.pick(1, 9))


def _compare(server: Endpoint, protocol: str, what: str, count: int, rounds: int, names: list[str]) -> list[Row]:
    frames = [Post(f"Conn{number:08d}Qw=", CHANGE) for number in range(count)]
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
            f"CPU of a post: {1e6 / median(rates[OURS]):.0f} and {1e6 / median(rates[name]):.0f} µs",
        )
        for name in names
        if name != OURS
    ]


def _cost_of(post: PostAll, frames: list[Post]) -> Callable[[], float]:
    return lambda: spent(lambda: post(frames)).cpu


def _compare_imports(rounds: int) -> list[Row]:
    costs = in_turns(rounds, {name: partial(_import_cost, imports) for name, imports in IMPORTS.items()})
    ours = costs.pop(OURS_IMPORTED)
    what = "cold start: CPU that posting adds"
    return [
        Row(what, Amount(median(ours), "ms"), name, Amount(median(theirs), "ms"), ratio(ours, theirs))
        for name, theirs in costs.items()
    ]


def _import_cost(imports: str) -> float:
    """Milliseconds of CPU in a fresh process that sees only our code and its dependencies."""
    command = [sys.executable, "-I", "-S", "-c", IMPORT.format(imports=imports), json.dumps(PATHS)]
    done = subprocess.run(command, env=os.environ | CREDENTIALS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return 1000 * float(done.stdout)


def plot(rows: list[Row]) -> Plot:
    """Posts per second of CPU, over TLS."""
    shown = [row for row in rows if row.what.startswith(f"TLS: posts per CPU-second, {BURST} ")]
    bars = [(OURS, shown[0].ours.value)] + [(row.against, row.theirs.value) for row in shown if row.theirs]
    return Plot("Posts per second of CPU, over TLS", "posts/s", bars, ours=[OURS])
