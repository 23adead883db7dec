"""`presence load` against a running service: its numbers, its end, and what it leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.load_run import Plan
from local.elasticache import RedisServer
from tests.support.presence_run import PATIENCE, PresenceRun, presence, presence_run


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PresenceRun]:
    """A healthy service, for all tests that do not break it."""
    with presence_run(tmp_path_factory.mktemp("load"), "--in-process") as running:
        yield running


def load(service: PresenceRun, *arguments: str) -> dict[str, Any]:
    """The report of a load that succeeds."""
    result = service.command("load", "--json", "report.json", *arguments)
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads((service.directory / "report.json").read_text())
    told = report["deliveries"]
    assert told["expected"] == told["delivered"] + told["withdrawn"] + told["lost"]
    assert f"{told['expected']:,} expected, {told['delivered']:,} shown" in result.stdout
    return report


def known(service: PresenceRun) -> set[str]:
    """All users in the service."""
    lines = service.command("graph", "export").stdout.splitlines()
    return {json.loads(line)["userId"] for line in lines}


def test_the_numbers_add_up(service: PresenceRun) -> None:
    """Each change is expected on every device of every contact, all arrive, and the percentiles are in order."""
    report = load(service, "--users", "12", "--contacts", "4", "--devices", "2", "--rate", "12", "--duration", "2s")
    plan = {"users": 12, "pairs": 24, "devices": 2, "rate": 12, "churn": 0, "seconds": 2, "connectRate": 50}
    assert report["plan"] == plan
    assert report["connects"]["opened"] == 24
    assert report["connects"]["refused"] == report["connects"]["closed"] == report["errors"] == {}
    assert report["changes"]["sent"] == 24
    assert report["deliveries"]["expected"] == 24 * 4 * 2
    assert report["deliveries"]["lost"] == report["deliveries"]["withdrawn"] == 0
    assert report["frames"]["presence_snapshot"] >= 24
    assert report["frames"]["presence_self"] >= 24 * 2
    for times in (
        report["deliveries"]["latencyMs"],
        report["connects"]["handshakeMs"],
        report["connects"]["snapshotMs"],
    ):
        assert 0 < times["p50"] <= times["p95"] <= times["p99"] <= times["max"]


def test_it_leaves_nothing(service: PresenceRun) -> None:
    """Its users are erased, and other users are unchanged."""
    service.command("contacts", "add", "alice", "bob")
    load(service, "--users", "6", "--contacts", "2", "--rate", "3", "--duration", "1s")
    assert known(service) == {"alice", "bob"}


def test_churn_is_not_loss(service: PresenceRun) -> None:
    """With churn there are more handshakes than connections, and withdrawn deliveries are reported apart."""
    report = load(service, "--users", "8", "--contacts", "4", "--rate", "20", "--churn", "4", "--duration", "2s")
    assert report["connects"]["opened"] > 8
    assert report["deliveries"]["lost"] == 0


def test_only_the_shape_of_a_graph_is_used(service: PresenceRun) -> None:
    """The users in the file are not touched."""
    (service.directory / "edges.csv").write_text("carol,dave\ncarol,erin\n")
    report = load(service, "--graph", "edges.csv", "--rate", "6", "--duration", "1s")
    assert (report["plan"]["users"], report["plan"]["pairs"]) == (3, 2)
    assert report["deliveries"]["expected"] == 2 * 2 + 4 * 1
    assert not known(service) & {"carol", "dave", "erin"}


def test_json_on_stdout_is_alone(service: PresenceRun) -> None:
    """So it can be piped."""
    result = service.command("load", "--users", "2", "--contacts", "1", "--duration", "1s", "--json", "-")
    assert json.loads(result.stdout)["deliveries"]["lost"] == 0


def test_ctrl_c_ends_it_with_a_report(service: PresenceRun) -> None:
    """The report covers the time until then, and the users are erased."""
    arguments = ["load", "--users", "4", "--contacts", "2", "--duration", "1h", "--json", "ended.json"]
    before = known(service)
    with subprocess.Popen(
        presence(*arguments), cwd=service.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not known(service) - before:
            pass  # Asking takes long enough.
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    assert stderr == "presence: ending early\n"
    told = json.loads((service.directory / "ended.json").read_text())["deliveries"]
    assert told["expected"] == told["delivered"] + told["withdrawn"]
    assert known(service) == before


def test_users_of_a_killed_load_can_be_erased(service: PresenceRun) -> None:
    """--clean-up erases them, and no other users."""
    service.command("contacts", "add", "alice", "bob")
    service.command("contacts", "add", "load-0badcafe-0", "load-0badcafe-1")
    result = service.command("load", "--clean-up")
    assert result.stdout == "erased 2 users of earlier loads\n"
    assert known(service) == {"alice", "bob"}


def test_a_service_that_dies_is_reported(tmp_path: Path) -> None:
    """In one line, after the report; and that the users could not be erased."""
    with (
        presence_run(tmp_path, "--in-process") as service,
        subprocess.Popen(
            presence("load", "--users", "4", "--contacts", "2", "--duration", "1h"),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        while not known(service):
            pass
        url, ws_url = service.run.url, service.run.ws_url
        service.end(signal.SIGKILL)
        _, stderr = process.communicate(timeout=PATIENCE)
    *remarks, why = stderr.splitlines()
    assert process.returncode == 1
    assert "Traceback" not in stderr
    assert f"nothing answers at {url}: is `presence run` running?" in remarks[-1]
    assert "--clean-up" in remarks[-1]
    assert why in (
        f"presence: nothing answers at {ws_url}: is `presence run` running?",
        f"presence: nothing answers at {url}: is `presence run` running?",
    )


def test_contacts_that_are_not_loaded_are_left_alone(tmp_path: Path) -> None:
    """A load does not mark a Redis as loaded, because a backup may still follow."""
    with RedisServer.start() as redis, presence_run(tmp_path, "--in-process", "--redis", redis.url) as service:
        result = service.command("load", "--users", "2", "--contacts", "1", "--duration", "1s")
        assert result.returncode == 1
        assert "marked as loaded" in result.stderr
        assert known(service) == set()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--users", "3", "--contacts", "3"], "3 users can have at most 2 contacts each, not 3"),
        (["--users", "5", "--contacts", "3"], "one of the two numbers must be even"),
        (["--duration", "soon"], "is not a duration"),
        (["--graph", "nothing.csv"], "nothing.csv: No such file or directory"),
        (["--graph", "bad.csv"], "bad.csv:1: a line must be two user ids with a comma between"),
        (["--graph", "empty.csv"], "empty.csv has no pairs"),
        (["--json", "."], ".: Is a directory"),
        (["--url", "http://127.0.0.1:1"], "nothing answers at http://127.0.0.1:1"),
        (["--url", "nonsense"], "is not the URL of an HTTP API"),
    ],
)
def test_an_impossible_load_is_one_line(service: PresenceRun, arguments: list[str], words: str) -> None:
    """The error comes before anything is done."""
    (service.directory / "bad.csv").write_text("alice\n")
    (service.directory / "empty.csv").write_text("\n")
    result = service.command("load", *arguments)
    assert result.returncode == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan([[1], [0]], rate=30), "15.0 messages a second"),
        (Plan([[1, 2, 3], [0], [0], [0]], rate=20, devices=20), "15 changes a second"),
        (Plan([[], []]), "no user has a contact"),
    ],
)
def test_a_load_that_measures_a_limit_warns(plan: Plan, words: str) -> None:
    """Numbers of a rate limit or of batching are not those of the service."""
    assert any(words in doubt for doubt in plan.warnings())


def test_an_ordinary_load_has_no_warnings() -> None:
    """For example the default one."""
    assert Plan([[1, 2], [0, 2], [0, 1]], rate=3).warnings() == []
