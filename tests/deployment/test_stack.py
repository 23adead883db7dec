"""The stack, deployed by the CDK's command line to an emulated AWS on this machine, and then used.

The order of the tests matters: the last one destroys the stack.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from botocore.credentials import Credentials
from botocore.exceptions import WaiterError

from local.iam import KeyPair
from tests.deployment.conftest import TIMES, Operator
from tests.support.clients import PATIENCE, Client, PythonSocket
from tests.support.deployment import Deployment, of
from tests.support.presence_run import presence

ROOT = Path(__file__).parent.parent.parent
NO_CHANGES = "✅  Presence (no changes)"
SCHEDULE = 75.0
"""Seconds until the schedule has started the first sweeper. The emulator checks its one-minute rate every 10 s."""
LAST_BEAT = 5.0
"""Seconds within which the last heartbeat of a client that falls silent is handled."""


@contextlib.asynccontextmanager
async def connected(deployment: Deployment, user: str) -> AsyncIterator[Client]:
    """A client of a user."""
    url, subprotocols = deployment.handshake(user)
    client = Client(user, await PythonSocket.open(url, subprotocols))
    try:
        await client.sync()
        yield client
    finally:
        await client.end()


def test_the_second_deployment_changes_nothing(operator: Operator, assembly: Path, tmp_path: Path) -> None:
    """The same sources give the same template and assets, so CDK finds no changes."""
    again = operator.synthesize(tmp_path / "again")
    for name in ("Presence.template.json", "Presence.assets.json"):
        assert (again / name).read_text() == (assembly / name).read_text()
    assert NO_CHANGES in operator.deploy(again)


def test_the_doctor_finds_no_problem(operator: Operator, deployment: Deployment, tmp_path: Path) -> None:
    """`presence doctor --stack` needs only the stack's name, and every check passes."""
    done = subprocess.run(
        presence("doctor", "--stack", "Presence"),
        cwd=tmp_path,
        env=operator.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_only_the_backend_may_call_backend_routes(operator: Operator, deployment: Deployment) -> None:
    """A call needs a valid signature, and its user needs a policy that names the API."""
    stranger = operator.aws.user("stranger")
    for access_key in (stranger.access_key_id, deployment.credentials.access_key):
        caller = replace(deployment, credentials=Credentials(access_key, stranger.secret_access_key))
        assert (await caller.call("GET", of("alice", "contacts")))[0] == 403
    assert (await deployment.call("GET", of("alice", "contacts")))[0] == 200


# Differences of the emulator. Each test fails once its difference is gone, which no other test would notice.


def test_an_alarm_over_an_expression_is_still_rejected(operator: Operator) -> None:
    """METRIC_MATH still holds."""
    formation = operator.aws.client("cloudformation", operator.keys)
    alarm = {"Metrics": [{"Id": "e", "Expression": "1"}], "ComparisonOperator": "GreaterThanThreshold", "Threshold": 1}
    template = {"Resources": {"Alarm": {"Type": "AWS::CloudWatch::Alarm", "Properties": alarm}}}
    formation.create_stack(StackName="Refused", TemplateBody=json.dumps(template))
    with pytest.raises(WaiterError):
        formation.get_waiter("stack_create_complete").wait(StackName="Refused", WaiterConfig={"Delay": 1})
    events = formation.describe_stack_events(StackName="Refused")["StackEvents"]
    assert any("(metric math) is not supported" in event.get("ResourceStatusReason", "") for event in events)
    formation.delete_stack(StackName="Refused")


def test_a_secrets_physical_id_is_still_not_its_arn(operator: Operator, assembly: Path) -> None:
    """REF_OF_SECRET still holds: `Ref` returns an id that differs from the ARN."""
    resources = operator.aws.client("cloudformation", operator.keys).describe_stack_resources(StackName="Presence")
    [secret] = [r for r in resources["StackResources"] if r["ResourceType"] == "AWS::SecretsManager::Secret"]
    assert secret["PhysicalResourceId"] != operator.outputs()["TokenSecretArn"]


async def test_a_message_still_invokes_a_predefined_route(deployment: Deployment) -> None:
    """OWN_ROUTES still holds. Messages of a connection are handled in order, so an error would have arrived."""
    async with connected(deployment, "bob") as client:
        await client.send("$connect")
        await client.query("bob")
        assert client.waiting("error") == 0


# The service


async def test_the_schedule_sweeps(deployment: Deployment, state: redis.Redis) -> None:
    """The schedule alone settles a client that is cut off while no other client is connected."""
    async with connected(deployment, "alice") as client:
        await client.fall_silent()
        silent = time.time()
        await asyncio.to_thread(until_no_user_is_overdue, state, silent + deployment.settings.device_ttl + LAST_BEAT)
        alice = await deployment.ask("GET", of("alice", "presence"))
        assert (alice["status"], alice["devices"]) == ("offline", [])
        assert alice["lastSeen"] <= (silent + LAST_BEAT) * 1000


def until_no_user_is_overdue(state: redis.Redis, since: float) -> None:
    """Wait until this time and until no user is overdue. It calls no API, since a call may settle a user."""
    until = time.monotonic() + SCHEDULE + PATIENCE
    while time.time() < since or any(state.zcount(due, 0, time.time() * 1000) for due in state.scan_iter("*:due")):
        assert time.monotonic() < until, "a user is overdue, and no sweeper has run"
        time.sleep(0.1)


def test_the_end_to_end_tests_pass(
    operator: Operator, deployment: Deployment, backend: KeyPair, token_secret: str
) -> None:
    """The same files run against `presence run`, and can run against a stack in AWS."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.support.ministack_differences"),
            *("tests/end_to_end/test_service.py", "tests/end_to_end/test_http_api.py"),
            *("--url", deployment.url, "--ws-url", deployment.ws_url),
        ],
        cwd=ROOT,
        env={**operator.aws.environment(backend), **TIMES, "PRESENCE_JWT_SECRET": token_secret},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_destroying_the_stack_leaves_nothing(operator: Operator, assembly: Path, before: set[tuple[str, str]]) -> None:
    """Every resource of the stack is deleted; this mode retains none."""
    made = operator.inventory() - before
    assert {kind.partition(" ")[0] for kind, _ in made} >= {"cloudformation", "lambda", "apigatewayv2", "scheduler"}
    operator.destroy(assembly)
    left = operator.inventory() - before
    # A sweeper that still runs writes to its log group, and the emulator creates the group again.
    left = {(kind, name) for kind, name in left if not (kind == "logs logGroups" and "Sweeper" in name)}
    assert left == {("iam Users", "backend"), ("iam Users", "stranger")}
