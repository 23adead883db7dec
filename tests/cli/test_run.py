"""`presence run` as a program: it is where it says, works with clients that are not ours, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from websockets.asyncio.client import ClientConnection, connect

from cli.app import app
from cli.home import Home
from cli.identity_provider import IdentityProvider
from local.elasticache import RedisServer
from shared.commands import BucketStatus
from shared.settings import Settings
from shared.store import Store
from tests.support.local_gateway import sign
from tests.support.metrics import Counts
from tests.support.presence_run import READY, PresenceRun, await_gone, descendants, presence_run

PATIENCE = 20.0
BEAT = 0.5
"""Seconds between heartbeats of a client that waits."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PresenceRun]:
    """One run for all tests that do not end it; each test has its own users."""
    with presence_run(tmp_path_factory.mktemp("run")) as running:
        yield running


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a command, with no setting in its environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PRESENCE_")]:
        monkeypatch.delenv(name)
    return tmp_path


def call(service: PresenceRun, method: str, path: str, *, signed: bool = True, **body: Any) -> tuple[int, Any]:
    """Status and JSON of a backend's call, signed by botocore with the key pair that the run created."""
    url, data = service.run.url + path, json.dumps(body).encode() if body else b""
    headers = {"Content-Type": "application/json"}
    if signed:
        keys = Home(service.directory / ".presence").key_pair()
        headers = sign(keys, method, url, data, region=service.run.region, headers=headers)
    request = urllib.request.Request(url, data or None, headers, method=method)  # noqa: S310 - our own server
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:  # noqa: S310
            text = response.read()
            return response.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


async def connected(service: PresenceRun, user: str) -> ClientConnection:
    """A foreign client after its handshake and first sync."""
    token = IdentityProvider.find(Home(service.directory / ".presence"), {}).token(user)
    client = await connect(f"{service.run.ws_url}?token={token}&deviceId=d")
    await client.send('{"action":"sync"}')
    assert (await frame(client))["type"] == "presence_snapshot"
    return client


async def frame(client: ClientConnection) -> dict[str, Any]:
    """The next frame."""
    async with asyncio.timeout(PATIENCE):
        received: dict[str, Any] = json.loads(await client.recv())
    return received


async def until_about(client: ClientConnection, user: str) -> dict[str, Any]:
    """The next frame about a user; the client sends heartbeats meanwhile. Changes within a viewer's window are
    delayed until the viewer is settled, which a heartbeat does.
    """
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                async with asyncio.timeout(BEAT):
                    received: dict[str, Any] = json.loads(await client.recv())
            except TimeoutError:
                await client.send('{"action":"heartbeat"}')
            else:
                if received.get("userId") == user:
                    return received


def test_ready_means_healthy(service: PresenceRun) -> None:
    """When the run is ready, the health call succeeds, and users may see each other."""
    status, health = call(service, "GET", "/v1/health", signed=False)
    assert (status, health["graph"]) == (200, "loaded")


def test_it_prints_what_to_type(service: PresenceRun) -> None:
    """The output names where everything is, and commands to try it."""
    output = "\n".join(service.output)
    for words in (service.run.ws_url, service.run.url, ".presence/run.log", "contacts add alice bob", "watch bob"):
        assert words in output


def test_its_files_are_its_owners(service: PresenceRun) -> None:
    """Keys, secret, log and addresses, and their folder, are readable by nobody else."""
    home = service.directory / ".presence"
    assert {path.name for path in home.iterdir()} == {"credentials", "jwt_secret", "run.json", "run.log"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()} == {0o600}
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_it_listens_on_loopback_only(service: PresenceRun) -> None:
    """The port is bound to 127.0.0.1 only."""
    port = int(service.run.url.rpartition(":")[2])
    with socket.create_server(("127.0.0.2", port)) as other:  # Which nobody could have, were it that of 0.0.0.0.
        assert other.getsockname() == ("127.0.0.2", port)


def test_every_function_has_a_process_of_its_own(service: PresenceRun) -> None:
    """Eight functions, a Redis and its guard: ten processes or more, none of them a grandchild."""
    assert len(service.children()) >= 10


async def test_a_status_reaches_a_contact(service: PresenceRun) -> None:
    """With contacts from the command line and foreign clients, bob sees alice come online and become busy."""
    assert service.command("contacts", "add", "alice", "bob").returncode == 0
    bob = await connected(service, "bob")
    alice = await connected(service, "alice")
    came = await until_about(bob, "alice")
    assert (came["type"], came["status"]) == ("user_online", "online")
    await alice.send('{"action":"presence_update","status":"busy"}')
    changed = await until_about(bob, "alice")
    # On a busy machine she may change before her coming online counts as announced: then both are announced together.
    assert (changed["type"], changed["status"]) in (("presence_status", "busy"), ("user_online", "busy"))
    await bob.close()
    await alice.close()


async def test_a_leave_reaches_a_contact(service: PresenceRun) -> None:
    """A user who leaves is offline immediately, and the service closes the connection."""
    assert service.command("contacts", "add", "carol", "dave").returncode == 0
    dave = await connected(service, "dave")
    carol = await connected(service, "carol")
    await until_about(dave, "carol")
    await carol.send('{"action":"leave"}')
    left = await until_about(dave, "carol")
    assert (left["type"], left["status"]) == ("user_offline", "offline")
    async with asyncio.timeout(PATIENCE):
        await carol.wait_closed()
    await dave.close()


async def test_the_backend_sees_the_real_state(service: PresenceRun) -> None:
    """A signed call returns a user's devices, and the reason for the status."""
    client = await connected(service, "erin")
    status, state = await asyncio.to_thread(call, service, "GET", "/v1/users/erin/presence")
    assert (status, state["status"], len(state["devices"])) == (200, "online", 1)
    assert state["why"] == "a device is online"
    await client.close()


@pytest.mark.parametrize("path", ["/v1/users/alice/presence", "/v1/graph", "/v1/users/alice/contacts"])
def test_the_backends_calls_need_its_signature(service: PresenceRun, path: str) -> None:
    """Without a signature, every call of the backend is refused."""
    assert call(service, "GET", path, signed=False)[0] == 403


# What ends


def test_a_port_in_use_is_one_line(service: PresenceRun, directory: Path) -> None:
    """A second run reports the port in one line with exit code 1, and leaves nothing."""
    port = service.run.url.rpartition(":")[2]
    refused = CliRunner().invoke(app, ["run", "--port", port])
    assert refused.exit_code == 1
    assert refused.output == (
        f"presence: port {port} is in use: end what uses it, or give another --port (0 takes a free one)\n"
    )
    assert not (directory / ".presence").exists()


def test_a_second_run_in_the_directory_is_refused(service: PresenceRun) -> None:
    """A directory is for one run: a second one reports where the first is, which continues."""
    refused = service.command("run", "--port", "0")
    assert refused.returncode == 1
    place = service.directory / ".presence"
    user = f"the run at {service.run.url} (process {service.process.pid})"
    assert refused.stderr == f"presence: {user} uses {place}: end it, or start this one in another directory\n"
    assert call(service, "GET", "/v1/health")[0] == 200


def test_a_run_ends_with_its_redis(tmp_path: Path) -> None:
    """When its own Redis dies, a run reports that in one line, ends, and leaves nothing."""
    with presence_run(tmp_path, "--in-process") as service:
        children = service.children()
        (redis,) = (pid for pid in children if "server" in _program(pid))
        os.kill(redis, signal.SIGKILL)
        assert service.wait() == 1
        gone = "has ended, and its data is lost: start the run again"
        assert service.output[-1] == f"presence: the Redis of this run (process {redis}) {gone}"
        assert await_gone(children) == set()
        assert not (tmp_path / ".presence/run.json").exists()


def test_a_killed_run_does_not_block_the_next(tmp_path: Path) -> None:
    """The files of a killed run do not keep the next one from starting."""
    with presence_run(tmp_path, "--in-process") as service:
        service.end(signal.SIGKILL)
    assert (tmp_path / ".presence/run.json").exists()
    with presence_run(tmp_path, "--in-process") as service:
        assert service.run.pid == service.process.pid


def test_a_clients_token_is_not_a_setting(tmp_path: Path) -> None:
    """PRESENCE_TOKEN is for `presence watch`; a run does not treat it as a misspelled setting."""
    with presence_run(tmp_path, "--in-process", PRESENCE_TOKEN="x") as service:
        assert call(service, "GET", "/v1/health")[0] == 200


def _program(pid: int) -> str:
    """The program that a process runs."""
    return subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("PRESENCE_HEARTBEAT_INTERVAL", "700", "heartbeat"),
        ("PRESENCE_HARTBEAT", "3", "PRESENCE_HARTBEAT is not a setting"),
        ("PRESENCE_JWT_SECRET", "short", "jwt_secret"),
        ("PRESENCE_REDIS_URL", "redis://127.0.0.1:1/0", "No Redis answers at redis://127.0.0.1:1/0"),
        ("PRESENCE_REDIS_URL", "http://127.0.0.1", "is not the URL of a Redis"),
    ],
)
def test_an_invalid_setting_is_one_line(directory: Path, setting: str, value: str, words: str) -> None:
    """An invalid setting ends the start with one line that names it, and exit code 1."""
    refused = CliRunner().invoke(app, ["run", "--port", "0"], env={setting: value})
    assert refused.exit_code == 1
    assert refused.output.count("\n") == 1
    assert refused.output.startswith("presence: ")
    assert words in refused.output
    assert not (directory / ".presence/run.json").exists()


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    """Ctrl-C ends every process, and the other commands no longer find the run."""
    with presence_run(tmp_path) as service:
        children = service.children()
        assert service.end() == 0
        assert await_gone(children) == set()
        assert service.output[-1] == "stopping"
        done = service.command("contacts", "add", "alice", "bob")
        assert done.returncode == 1
        assert done.stderr == "presence: nothing answers at http://127.0.0.1:8080: is `presence run` running?\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_everything_too(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and a closed terminal are like Ctrl-C."""
    with presence_run(tmp_path, "--in-process") as service:
        children = service.children()
        assert service.end(number) == 0
        assert await_gone(children) == set()


def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    """Functions and Redis end with a run that was killed."""
    with presence_run(tmp_path) as service:
        children = service.children()
        service.end(signal.SIGKILL)
        assert await_gone(children) == set()


def test_a_start_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C while functions are starting ends those that have started."""
    service = PresenceRun(tmp_path, "--port", "0")
    children: set[int] = set()
    while len(children) < 4 and service.process.poll() is None:
        children = service.children()
    assert service.end() == 0
    assert await_gone(children) == set()
    assert READY not in service.output
    assert not (tmp_path / ".presence/run.json").exists()


def test_a_start_that_fails_half_way_leaves_no_process(tmp_path: Path) -> None:
    """If the service starts but is not healthy, everything is stopped; here, a Redis has another layout."""
    with RedisServer.start() as redis:
        store = Store.connect(Settings(redis_url=redis.url), Counts())
        store.call([BucketStatus(bucket=bucket, loaded=True) for bucket in range(store.buckets)], now=1)
        store.close()
        service = PresenceRun(tmp_path, "--port", "0", "--redis", redis.url, PRESENCE_BUCKETS="8")
        children: set[int] = set()
        while len(children) < 8 and service.process.poll() is None:
            children = service.children()
        assert service.wait() == 1
        # The health call meets the other layout, and the sweeper may have met it too.
        assert any("8 buckets" in line for line in service.output[:-1])
        assert service.output[-1] == "presence: GET /v1/health returned 500: an internal error; it is in the log"
        assert len(children) >= 8
        assert await_gone(children) == set()


# What can be chosen


async def test_functions_may_run_in_this_process(tmp_path: Path) -> None:
    """With --in-process there are no workers; with PRESENCE_JWT_SECRET no secret is created; the rest is the same."""
    with presence_run(tmp_path, "--in-process", PRESENCE_JWT_SECRET="0123456789" * 4, PRESENCE_GRACE="0") as service:
        assert not (tmp_path / ".presence/jwt_secret").exists()
        assert len(service.children()) == 2  # Redis and its guard.
        assert service.command("contacts", "add", "alice", "bob").returncode == 0
        bob = await connected(service, "bob")
        alice = await connected(service, "alice")
        assert (await until_about(bob, "alice"))["type"] == "user_online"
        await alice.close()
        assert (await until_about(bob, "alice"))["type"] == "user_offline"
        await bob.close()


def test_a_given_redis_is_not_marked_and_not_ended(tmp_path: Path) -> None:
    """In a given Redis, nobody sees anybody until its contacts are loaded; it continues after the run."""
    with RedisServer.start() as redis:
        with presence_run(tmp_path, "--in-process", "--redis", redis.url) as service:
            assert call(service, "GET", "/v1/health")[1]["graph"] == "not_loaded"
            assert "Nobody sees anybody yet" in service.wait_for("Nobody")
            added = service.command("contacts", "add", "alice", "bob")
            assert "nobody sees anybody until" in added.stderr
            assert service.command("contacts", "load", "-", input="alice,bob\n").stdout == "loaded 1 pair\n"
            assert call(service, "GET", "/v1/health")[1]["graph"] == "loaded"
        assert redis.pid in descendants(os.getpid())
