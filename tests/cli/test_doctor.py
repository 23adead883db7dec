"""`presence doctor`: its findings for a healthy service, and for each possible fault."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any

import jwt
import pytest
import redis
from typer.testing import CliRunner
from websockets.asyncio.server import ServerConnection, serve

from cli.app import app
from cli.doctor import Doctor, Finding
from cli.home import Home, Run
from cli.target import Target
from local.elasticache import RedisServer
from shared.routes import HTTP_ROUTES, HttpRoute
from tests.support.aws import Aws
from tests.support.local_gateway import Event, Gateway, running_gateway
from tests.support.presence_run import PATIENCE, PresenceRun, presence, presence_run

SECRET = "a secret of the tests, which is long enough"
WELL = ["health", "eviction", "no token", "no signature", "contacts", "connect", "round trip", "query", "leave"]
"""What is looked at where nothing is wrong, after stack and outputs."""
ALONE = ["connect", "update", "query", "leave"]
"""What one user can see of it."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PresenceRun]:
    """A healthy service, for all tests that do not break it."""
    with presence_run(tmp_path_factory.mktemp("doctor"), "--in-process") as running:
        yield running


@pytest.fixture
def aws(service: PresenceRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """The operator's account, in which the service is the stack Presence; commands run in an empty directory."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("AWS_", "PRESENCE_"))]:
        monkeypatch.delenv(name)
    with Aws(Home(service.directory / ".presence").key_pair()) as aws:
        outputs = {"HttpUrl": service.run.url, "WebSocketUrl": service.run.ws_url, "TokenSource": "query"}
        aws.deploy("Presence", outputs, secret=service.run.jwt_secret)
        yield aws


def doctor(aws: Aws, *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and the verdict and text for each subject."""
    result = CliRunner().invoke(app, ["doctor", "--stack", "Presence", *arguments], env=aws.environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.stderr == ""
    return result.exit_code, {line[8:22].strip(): (line[:8].strip(), line[22:]) for line in result.stdout.splitlines()}


@contextlib.contextmanager
def started(aws: Aws, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A running command and its output; it has ended when the block ends."""
    command = subprocess.Popen(
        presence(*arguments), env=os.environ | aws.environment, stdout=subprocess.PIPE, text=True
    )
    timer = threading.Timer(PATIENCE, command.kill)
    timer.start()
    assert command.stdout
    with command, command.stdout as lines:
        yield command, lines
    timer.cancel()


def verdicts(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    """The verdicts without the texts."""
    return {subject: verdict for subject, (verdict, _) in found.items()}


def test_a_healthy_stack(service: PresenceRun, aws: Aws) -> None:
    """Every check is ok, latencies are reported, and nothing of the two users remains."""
    code, found = doctor(aws)
    assert (code, verdicts(found)) == (0, dict.fromkeys(["stack", "outputs", *WELL], "ok"))
    assert found["stack"][1] == "Presence in us-east-1 is CREATE_COMPLETE"
    assert found["outputs"][1] == f"{service.run.ws_url} and {service.run.url}"
    for subject in ("round trip", "query"):
        assert " ms (median of 5; the first " in found[subject][1]
    users = [json.loads(line) for line in service.command("graph", "export").stdout.splitlines()]
    assert [user for user in users if user["userId"].startswith("doctor-") and user["viewers"]] == []


def test_a_run_needs_no_stack(service: PresenceRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its directory, the run is checked."""
    monkeypatch.chdir(service.directory)
    result = CliRunner().invoke(app, ["doctor"])
    assert (result.exit_code, [line[:2] for line in result.stdout.splitlines()]) == (0, ["ok"] * len(WELL))


# The stack


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("ROLLBACK_COMPLETE", " (No such certificate): see its events in CloudFormation"),
        ("UPDATE_ROLLBACK_FAILED", " (No such certificate): see its events in CloudFormation"),
        ("UPDATE_IN_PROGRESS", ": check again when CloudFormation has finished"),
    ],
)
def test_an_incomplete_stack(aws: Aws, status: str, words: str) -> None:
    """A failed or running deployment is reported with CloudFormation's reason, and the other checks are skipped."""
    aws.stacks["Presence"].status, aws.stacks["Presence"].why = status, "No such certificate"
    code, found = doctor(aws)
    assert (code, verdicts(found)) == (1, {"stack": "failed"})
    assert found["stack"][1].startswith(f"Presence in us-east-1 is {status}{words}")


def test_a_rolled_back_update_is_a_note(aws: Aws) -> None:
    """The previous version still runs, and the operator should know."""
    aws.stacks["Presence"].status = "UPDATE_ROLLBACK_COMPLETE"
    code, found = doctor(aws)
    assert (code, verdicts(found)) == (0, {"stack": "note"} | dict.fromkeys(["outputs", *WELL], "ok"))


def test_missing_outputs_are_named(aws: Aws) -> None:
    """Another kind of stack has other outputs."""
    del aws.stacks["Presence"].outputs["WebSocketUrl"], aws.stacks["Presence"].outputs["TokenSource"]
    code, found = doctor(aws)
    assert (code, verdicts(found)) == (1, {"stack": "ok", "outputs": "failed"})
    assert found["outputs"][1].startswith("WebSocketUrl, TokenSource are missing")


def test_a_stack_that_does_not_exist(aws: Aws) -> None:
    """A wrong name is a finding like any other."""
    aws.stacks.clear()
    assert doctor(aws)[1] == {
        "stack": ("failed", "there is no stack Presence in us-east-1: deploy it, or give another --stack or --region")
    }


def test_every_command_accepts_a_stack(service: PresenceRun, aws: Aws) -> None:
    """`--stack` suffices in any directory: it finds URLs, credentials and the tokens' secret."""

    def typed(*arguments: str, given: str | None = None) -> str:
        result = CliRunner().invoke(app, [*arguments, "--stack", "Presence"], input=given, env=aws.environment)
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout

    claims = jwt.decode(typed("token", "vera").strip(), service.run.jwt_secret, ["HS256"])
    assert claims["sub"] == "vera"
    assert typed("contacts", "add", "vera", "walt") == "vera and walt see each other\n"
    assert typed("contacts", "load", "-", given="vera,xena\n") == "loaded 1 pair\n"
    assert typed("graph", "import", "-", given='{"userId":"walt","invisible":true}\n') == "imported 1 user\n"
    known = {user["userId"]: user for user in map(json.loads, typed("graph", "export").splitlines())}
    assert (known["vera"]["viewers"], known["walt"]["invisible"]) == (["walt", "xena"], True)
    with started(aws, "watch", "vera", "--stack", "Presence") as (watching, lines):
        told = [lines.readline().split("\t")[1:3] for _ in range(2)]
        assert sorted(told) == [["walt", "offline"], ["xena", "offline"]]
        watching.send_signal(signal.SIGINT)


def test_ctrl_c_leaves_nothing(service: PresenceRun, aws: Aws) -> None:
    """Ctrl-C during the checks: the two users are no longer contacts."""
    with started(aws, "doctor", "--stack", "Presence") as (looking, lines):
        while not lines.readline().startswith("ok      connect "):
            assert looking.poll() is None
        looking.send_signal(signal.SIGINT)
        assert "failed" not in lines.read()
    assert looking.returncode == 130
    users = [json.loads(line) for line in service.command("graph", "export").stdout.splitlines()]
    assert [user for user in users if user["userId"].startswith("doctor-") and user["viewers"]] == []


# Who may do what


def test_foreign_credentials_are_refused_by_the_service(service: PresenceRun, aws: Aws, tmp_path: Path) -> None:
    """With credentials that may read the stack but not call its API, only the backend's calls fail."""
    aws.keys = Home(tmp_path / "other").key_pair(make=True)
    code, found = doctor(aws)
    assert code == 1
    assert [subject for subject, verdict in verdicts(found).items() if verdict != "ok"] == ["contacts"]
    assert "returned 403: Forbidden (are these the credentials of that service?)" in found["contacts"][1]


def test_a_wrong_secret(aws: Aws) -> None:
    """If functions verify with another secret, nobody can connect."""
    aws.secrets = dict.fromkeys(aws.secrets, SECRET)
    code, found = doctor(aws)
    assert (code, found["round trip"][0]) == (1, "failed")
    assert "refuses the token: was it made for this service" in found["round trip"][1]


def test_an_unreadable_secret(aws: Aws) -> None:
    """Secrets Manager's refusal is reported; checks without tokens still run."""
    aws.secrets.clear()
    code, found = doctor(aws)
    assert (code, list(found)) == (1, ["stack", "outputs", *WELL[:4], "tokens"])
    assert found["tokens"][1].startswith("AWS refuses GetSecretValue")


def test_a_token_of_an_identity_provider_is_needed(service: PresenceRun, aws: Aws) -> None:
    """Without a secret in the stack, a test user's token is needed, and one user is checked."""
    del aws.stacks["Presence"].outputs["TokenSecretArn"]
    code, found = doctor(aws)
    assert (code, found["tokens"][0]) == (1, "failed")
    assert "give one with --token" in found["tokens"][1]
    token = service.command("token", "tess").stdout.strip()
    code, found = doctor(aws, "--token", token)
    assert (code, verdicts(found)) == (0, dict.fromkeys(["stack", "outputs", *WELL[:4], *ALONE], "ok"))
    assert "tess is connected" in found["connect"][1]


def test_an_expired_token(service: PresenceRun, aws: Aws) -> None:
    """An expired token is refused."""
    token = jwt.encode({"sub": "tess", "exp": 1}, service.run.jwt_secret, "HS256")
    code, found = doctor(aws, "--token", token)
    assert (code, found["one user"][0]) == (1, "failed")
    assert "is it still valid?" in found["one user"][1]


def test_a_user_with_other_devices_is_not_changed(service: PresenceRun, aws: Aws) -> None:
    """A claim hides what a device does, so the update is not tested."""
    claim = '{"userId":"uma","claim":{"status":"away"}}\n'
    service.command("graph", "import", "-", input=claim)
    code, found = doctor(aws, "--token", service.command("token", "uma").stdout.strip())
    assert (code, found["update"][0]) == (0, "note")
    assert found["update"][1].startswith("not tested: uma has other devices or a claim")


# A state of one's own


def test_faults_of_a_given_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contacts that are not loaded are a note; a Redis that evicts them, or is unavailable, is a failure."""
    monkeypatch.chdir(tmp_path)
    with RedisServer.start() as server, presence_run(tmp_path, "--in-process", "--redis", server.url) as service:
        unmarked = _look(service)
        assert unmarked.pop("contacts") == "note"
        assert unmarked == dict.fromkeys([*WELL[:4], *ALONE], "ok")

        service.command("contacts", "load", "-", input="")
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        assert _look(service) == dict.fromkeys(WELL, "ok") | {"eviction": "failed"}

        server.stop()
        away = _look(service)
        assert away["health"] == "failed"
        assert "contacts" not in away
        assert [away[subject] for subject in ("no token", "no signature")] == ["ok", "ok"]


def _look(service: PresenceRun) -> dict[str, str]:
    """What the doctor reports about a run, in its directory."""
    done = service.command("doctor")
    assert done.stderr == ""
    found = {line[8:22].strip(): line[:8].strip() for line in done.stdout.splitlines()}
    assert done.returncode == (1 if "failed" in found.values() else 0)
    return found


# A service that is not as it should be, part by part


@contextlib.asynccontextmanager
async def scripted(tmp_path: Path, script: Any = None, **health: Any) -> AsyncIterator[tuple[Gateway, list[Finding]]]:
    """A gateway whose routes are all open, in front of scripted functions; and what was found there."""

    async def api(event: Event) -> Any:
        known = {"graph": "loaded", "dueLate": 0, **health}
        return known if event["routeKey"] == "GET /v1/health" else {"statusCode": 204}

    async def silent(socket: ServerConnection) -> None:
        await socket.wait_closed()

    routes = tuple(HttpRoute(route.method, route.path, "open") for route in HTTP_ROUTES)
    async with running_gateway(http_routes=routes) as gateway, serve(script or silent, "127.0.0.1", 0) as sockets:
        gateway.functions.answers["api"] = api
        home = Home(tmp_path)
        home.key_pair(make=True)
        ws_url = f"ws://127.0.0.1:{sockets.sockets[0].getsockname()[1]}"
        found: list[Finding] = []
        with home.running(Run(gateway.url, ws_url, "us-east-1", 1, jwt_secret=SECRET)):
            healthy = await Doctor(Target(home, {}), found.append, patience=0.2).examine()
        assert healthy == all(finding.verdict != "failed" for finding in found)
        yield gateway, found


def removed(gateway: Gateway) -> list[str]:
    """The contacts that were removed from the doctor's first user."""
    bodies = [json.loads(event["body"]) for event in gateway.functions.events_of("api") if "body" in event]
    assert bodies[0]["add"] == bodies[-1]["remove"]
    users: list[str] = bodies[-1]["remove"]
    return users


async def test_open_routes(tmp_path: Path) -> None:
    """A service that accepts strangers fails, and the finding names the route."""
    async with scripted(tmp_path) as (_, found):
        failed = {finding.subject: finding.text for finding in found if finding.verdict == "failed"}
    assert failed["no token"].startswith("a handshake without a token returns 101 instead of 401: is the authorizer")
    assert failed["no signature"].startswith("a backend's call without a signature returns 204 instead of 403")


async def test_a_silent_service_leaves_no_contacts(tmp_path: Path) -> None:
    """A service accepts users and then does not respond; the temporary contacts are removed."""
    async with scripted(tmp_path) as (gateway, found):
        assert found[-1].subject == "round trip"
        assert found[-1].text.endswith("-b did not receive a snapshot within 0.2 s; see the functions' logs")
        assert len(removed(gateway)) == 1


async def test_a_change_that_does_not_arrive(tmp_path: Path) -> None:
    """Users can connect, but posts do not reach them."""

    async def deaf(socket: ServerConnection) -> None:
        async for _ in socket:
            await socket.send(json.dumps({"type": "presence_snapshot", "part": 1, "parts": 1, "self": {}}))

    async with scripted(tmp_path, deaf) as (gateway, found):
        assert [finding.subject for finding in found[-2:]] == ["connect", "round trip"]
        assert "-b did not receive a frame that doctor-" in found[-1].text
        assert len(removed(gateway)) == 1


async def test_redis_must_not_evict_contacts(tmp_path: Path) -> None:
    """A Redis that may evict keys without an expiry fails; not every Redis reports its policy."""
    async with scripted(tmp_path) as (_, found):
        assert "eviction" not in {finding.subject for finding in found}
    async with scripted(tmp_path, evictionPolicy="volatile-lru") as (_, found):
        assert Finding("ok", "eviction", "volatile-lru: contacts and settings are never evicted") in found
    async with scripted(tmp_path, evictionPolicy="allkeys-lru") as (_, found):
        (eviction,) = (finding for finding in found if finding.subject == "eviction")
    assert (eviction.verdict, eviction.text.partition(" ")[0]) == ("failed", "allkeys-lru")
