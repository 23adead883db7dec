"""A function's start in a new process that contains only the code and its dependencies, like a new execution
environment: the CPU of its imports, then of its first event, with Redis and the endpoint (over TLS) on loopback. It
runs in turns with the usual stack for the same work: boto3 with its client, redis-py, pydantic with a model, and
Powertools' logger and metrics, whose first event is one EVALSHA. Both have bytecode, as in the bundle (decision 0013).
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha1
from pathlib import Path
from statistics import median
from typing import Any

import redis

from bench.endpoint import tls_endpoint
from bench.measure import in_turns, ratio
from bench.report import Amount, Plot, Row, Scale, Target
from bench.transports import CREDENTIALS
from local.elasticache import RedisServer
from shared.routes import FUNCTIONS
from shared.settings import Settings
from tests.support import events, http_events
from tests.support.http_calls import token
from tests.support.warm_environment import SECRET

PATHS = [str(Path(__file__).parent.parent), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
TARGET = Target("≤", 0.65)
SCRIPT = "return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])"
"""The script of the usual stack's first event. Redis has loaded it, as it has loaded ours."""

START = """
import json, os, sys, time
given = json.loads(sys.argv[1])
sys.path[:0] = given["paths"]
def enough(seconds): raise SystemExit  # a sweeper would wait for a minute
class Context:
    aws_request_id = function_name = "f"
    memory_limit_in_mb = 256
    invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:f"
time.sleep = enough
def now(): return time.process_time(), time.perf_counter()
began = now()
{imports}
imported = now()
try:
    {event}
except SystemExit:
    pass
ended = now()
print(json.dumps([imported[0] - began[0], imported[1] - began[1], ended[0] - began[0], ended[1] - began[1]]))
"""
OURS = START.format(
    imports="from importlib import import_module; handler = import_module(given['module']).handler",
    event="handler(given['event'], Context())",
)
USUAL = START.format(
    imports="""
import boto3, pydantic, redis
from aws_lambda_powertools import Logger, Metrics
logger, metrics = Logger(service="usual"), Metrics(namespace="Usual", service="usual")
class Message(pydantic.BaseModel):
    action: str
    status: str | None = None
gateway = boto3.client("apigatewaymanagementapi", endpoint_url=os.environ["PRESENCE_CALLBACK_URL"])
client = redis.Redis.from_url(os.environ["PRESENCE_REDIS_URL"])
""",
    event="""
    Message.model_validate_json(given["event"]["body"])
    client.evalsha(given["sha"], 1, "usual:devices", "alice", time.time_ns())
""".strip(),
)


@dataclass(frozen=True, slots=True)
class Start:
    """The duration of a start, in ms."""

    import_cpu: float
    import_wall: float
    cpu: float
    """Including the first event."""
    wall: float


def run(scale: Scale) -> list[Row]:
    """Every function and the usual stack."""
    rounds = scale.pick(1, 10)
    names = scale.pick(("heartbeat",), ("heartbeat", *(name for name in FUNCTIONS if name != "heartbeat")))
    with RedisServer.start() as server, tls_endpoint() as posts, redis.Redis.from_url(server.url) as client:
        given = Settings(redis_url=server.url, callback_url=posts.url, jwt_secret=SECRET)
        environment = {
            **CREDENTIALS,
            **given.to_env(),
            "AWS_CA_BUNDLE": posts.trusted,
            "POWERTOOLS_SERVICE_NAME": "Bench",
        }
        client.script_load(SCRIPT)
        usual_event = {"sha": sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest(), "event": _event("heartbeat")}
        candidates = {name: partial(_start_ours, name, environment) for name in names}
        starts = in_turns(rounds, {**candidates, "usual": partial(_start, USUAL, environment, usual_event)})
    usual = starts["usual"]
    rows = []
    for name in names:
        ours = starts[name]
        rows += [
            _row(f"{name}: cold import, CPU", ours, usual, "import", TARGET if name == "heartbeat" else None),
            _row(f"{name}: import and first event, CPU", ours, usual, "", None),
        ]
    return rows


def _start_ours(name: str, environment: Mapping[str, str]) -> Start:
    return _start(OURS, environment, {"module": f"functions.{name}.handler", "event": _event(name)})


def _start(program: str, environment: Mapping[str, str], given: dict[str, Any]) -> Start:
    command = [sys.executable, "-I", "-S", "-c", program, json.dumps({"paths": PATHS, **given})]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Start(*(1000 * seconds for seconds in json.loads(done.stdout.splitlines()[-1])))


def _event(function: str) -> dict[str, Any]:
    """An event that invokes a function; each function has a user of its own."""
    now = int(time.time())
    vouched, name = events.vouched(function, now, now + 3600, deviceId="laptop"), f"Conn-{function}="
    made: dict[str, Any] = {
        "api": http_events.request("GET", "/v1/health", signed=False),
        "authorize": events.authorize({"v": "2", "token": token(function), "deviceId": "laptop"}),
        "connect": events.connect(vouched, name, 1000 * now, query={"v": "2", "deviceId": "laptop"}),
        "disconnect": events.disconnect(vouched, name, 1000 * now),
        "heartbeat": events.message(vouched, '{"action":"heartbeat"}', name, 1000 * now),
        "query": events.message(vouched, '{"action":"get_presence","userIds":["bob"]}', name, 1000 * now),
        "sweeper": {"source": "aws.scheduler"},
        "update": events.message(vouched, '{"action":"presence_update","status":"busy"}', name, 1000 * now),
    }
    return dict(made[function])


def _row(what: str, ours: list[Start], usual: list[Start], part: str, target: Target | None) -> Row:
    def of(starts: list[Start], clock: str) -> list[float]:
        return [getattr(start, f"{part}_{clock}".removeprefix("_")) for start in starts]

    return Row(
        what,
        Amount(median(of(ours, "cpu")), "ms"),
        "the usual stack",
        Amount(median(of(usual, "cpu")), "ms"),
        ratio(of(ours, "cpu"), of(usual, "cpu")),
        target,
        f"wall {Amount(median(of(ours, 'wall')), 'ms')} and {Amount(median(of(usual, 'wall')), 'ms')}",
    )


def plot(rows: list[Row]) -> Plot:
    """Import and first event of each function, and of the usual stack."""
    shown = [row for row in rows if row.what.endswith("first event, CPU")]
    bars = [(row.what.partition(":")[0], row.ours.value) for row in shown]
    usual = [(row.against, row.theirs.value) for row in shown[:1] if row.theirs]
    return Plot("CPU of a cold start with its first event", "ms", bars + usual, ours=[name for name, _ in bars])
