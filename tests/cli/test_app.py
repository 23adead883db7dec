"""The commands as typed: their output, their exit code, and their errors."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

import jwt
import pytest
from typer.testing import CliRunner

from cli.app import app
from tests.support.presence_run import PATIENCE, PresenceRun, presence, presence_run

SECRET = "a secret of the tests, which is long enough"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PresenceRun]:
    """One run for all tests; each has its own users."""
    with presence_run(tmp_path_factory.mktemp("cli"), "--in-process") as running:
        yield running


@pytest.fixture
def there(service: PresenceRun, monkeypatch: pytest.MonkeyPatch) -> PresenceRun:
    """The run; commands run in its directory."""
    monkeypatch.chdir(service.directory)
    return service


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in an empty directory, without settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PRESENCE_")]:
        monkeypatch.delenv(name)
    return tmp_path


def typed(*arguments: str, given: str | None = None, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    result = CliRunner().invoke(app, arguments, input=given, env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


def graph() -> dict[str, dict[str, object]]:
    """Everything that was given to the service, by user."""
    code, out, _ = typed("graph", "export")
    assert code == 0
    return {line["userId"]: line for line in map(json.loads, out.splitlines())}


# Help


@pytest.mark.parametrize(
    "command",
    [
        "",
        "run",
        "token",
        "contacts",
        "contacts add",
        "contacts remove",
        "contacts load",
        "graph",
        "graph export",
        "graph import",
        "watch",
        "doctor",
    ],
)
def test_every_command_has_help(command: str) -> None:
    """Help works without a run, and explains every option and argument."""
    code, out, err = typed(*command.split(), "--help")
    assert (code, err) == (0, "")
    unexplained = re.findall(r"^  (?:-|\[?[A-Z]{2,})\S*(?: [A-Z]+)?$\n(?! {4})", out, re.MULTILINE)
    assert unexplained == []


@pytest.mark.parametrize("command", ["", "contacts", "graph"])
def test_a_group_alone_shows_its_commands(command: str) -> None:
    """A group without a command prints its commands."""
    _, out, err = typed(*command.split())
    assert "Commands:" in out + err


# Tokens


def test_a_token_is_printed_alone(empty_directory: Path) -> None:
    """A token is one line, fit for $(…), and valid as long as requested."""
    code, out, err = typed("token", "alice", "--ttl", "15m", PRESENCE_JWT_SECRET=SECRET)
    assert (code, err, out.count("\n")) == (0, "", 1)
    claims = jwt.decode(out.strip(), SECRET, ["HS256"])
    assert claims["sub"] == "alice"
    assert claims["exp"] - claims["iat"] == 900


def test_a_token_of_the_run_needs_no_secret(there: PresenceRun) -> None:
    """In the directory of a run, the command finds the run's secret."""
    _, out, _ = typed("token", "alice")
    assert jwt.decode(out.strip(), there.run.jwt_secret, ["HS256"])["sub"] == "alice"


# What cannot be done


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("token alice", "there is no run in "),
        ("watch alice", "there is no run in "),
        ("contacts add alice bob", "there is no key pair in "),
        ("graph export", "there is no key pair in "),
        ("contacts load missing.csv", "missing.csv: No such file or directory"),
        ("graph import missing.jsonl", "missing.jsonl: No such file or directory"),
        ("contacts add alice b/c", "'b/c' is not a user id"),
        ("contacts add a/b alice", "'a/b' is not a user id"),
        ("contacts add alice bob alice", "alice cannot be a contact of alice"),
        ("contacts remove alice bob", "there is no key pair in "),
        ("contacts remove alice b/c", "'b/c' is not a user id"),
        ("contacts remove alice alice", "alice cannot be a contact of alice"),
        ("contacts add alice bob --url 127.0.0.1:80", "127.0.0.1:80 is not the URL of an HTTP API"),
        ("contacts add alice bob --url http://127.0.0.1:99999", "http://127.0.0.1:99999 is not the URL of an HTTP API"),
        (
            "graph export missing/backup.jsonl --url http://127.0.0.1:1",
            "missing/backup.jsonl: No such file or directory",
        ),
        ("graph export . --url http://127.0.0.1:1", ".: Is a directory"),
        (
            "run --port 0 --redis redis://127.0.0.1:1/0",
            "No Redis answers at redis://127.0.0.1:1/0: Connection refused.",
        ),
        ("watch alice --token nonsense", "the value of --token or PRESENCE_TOKEN is not a JWT"),
    ],
)
def test_an_error_is_one_line(empty_directory: Path, command: str, words: str) -> None:
    """Missing or wrong input is one line on stderr, with exit code 1."""
    code, out, err = typed(*command.split())
    assert (code, out) == (1, "")
    assert err.startswith(f"presence: {words}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("token alice --ttl soon", "'soon' is not a duration"),
        ("token a/b", "'a/b' is not a user id"),
        ("watch a/b", "'a/b' is not a user id"),
        ("watch alice --ws-url http://127.0.0.1", "http://127.0.0.1 is not the URL of a WebSocket API"),
        ("watch alice --url https://api.example", "give --ws-url too"),
        ("watch alice --url http://127.0.0.1:1", "nothing answers at ws://127.0.0.1:1/live"),
        ("watch alice --ws-url ws://127.0.0.1:1/x", "nothing answers at ws://127.0.0.1:1/x"),
        ("watch alice", "nothing answers at ws://127.0.0.1:8080/live"),
    ],
)
def test_a_secret_is_not_enough(empty_directory: Path, command: str, words: str) -> None:
    """With a secret but no service, the error is one line too."""
    code, out, err = typed(*command.split(), PRESENCE_JWT_SECRET=SECRET)
    assert (code, out) == (1, "")
    assert err.startswith(f"presence: {words}")
    assert err.count("\n") == 1


def test_an_invalid_setting_is_one_line(empty_directory: Path) -> None:
    """The command checks settings as strictly as the service."""
    code, _, err = typed("token", "alice", PRESENCE_JWT_SECRET=SECRET, PRESENCE_HARTBEAT="1")
    assert (code, err) == (1, "presence: PRESENCE_HARTBEAT is not a setting\n")


def test_all_bad_lines_are_reported_and_nothing_is_written(there: PresenceRun, tmp_path: Path) -> None:
    """A file with a bad line is not loaded, and each bad line is named."""
    file = tmp_path / "edges.csv"
    file.write_text("bad1,bad2\nbad3\nbad4,b/c\n")
    code, out, err = typed("contacts", "load", str(file))
    assert (code, out) == (1, "")
    assert [line.split(" ")[1] for line in err.splitlines()] == [f"{file}:2:", f"{file}:3:"]
    assert "bad1" not in graph()


def test_a_file_in_another_encoding_is_one_line(there: PresenceRun, tmp_path: Path) -> None:
    """The error names the encoding problem."""
    (tmp_path / "edges.csv").write_bytes(b"\xff\xfea\x00")
    code, _, err = typed("contacts", "load", str(tmp_path / "edges.csv"))
    assert code == 1
    assert err.startswith("presence: not UTF-8")


# Contacts


def test_contacts_see_each_other(there: PresenceRun) -> None:
    """`contacts add` is mutual, and prints that."""
    assert typed("contacts", "add", "anna", "ben") == (0, "anna and ben see each other\n", "")
    said = "anna and each of ben, cleo see each other\n"
    assert typed("contacts", "add", "anna", "ben", "cleo", "ben") == (0, said, "")
    known = graph()
    assert known["anna"]["viewers"] == ["ben", "cleo"]
    assert known["ben"]["viewers"] == ["anna"]
    assert known["cleo"]["viewers"] == ["anna"]


def test_removed_contacts_no_longer_see_each_other(there: PresenceRun) -> None:
    """`contacts remove` is mutual and idempotent, and leaves other contacts alone."""
    typed("contacts", "add", "kurt", "lilo", "mona", "nils")
    said = "kurt and each of lilo, mona no longer see each other\n"
    for _ in range(2):
        assert typed("contacts", "remove", "kurt", "lilo", "mona", "lilo") == (0, said, "")
    known = graph()
    assert known["kurt"]["viewers"] == ["nils"]
    assert known["nils"]["viewers"] == ["kurt"]
    assert not any(known[user]["viewers"] for user in ("lilo", "mona") if user in known)
    assert typed("contacts", "remove", "kurt", "nils") == (0, "kurt and nils no longer see each other\n", "")


def test_a_spreadsheets_file_is_loaded(there: PresenceRun, tmp_path: Path) -> None:
    """A byte order mark and Windows line ends are accepted."""
    (tmp_path / "edges.csv").write_bytes(b"\xef\xbb\xbfdora,emil\r\ndora,fred\r\n")
    assert typed("contacts", "load", str(tmp_path / "edges.csv")) == (0, "loaded 2 pairs\n", "")
    assert graph()["dora"]["viewers"] == ["emil", "fred"]


def test_pairs_may_come_through_a_pipe(there: PresenceRun) -> None:
    """`-` is stdin."""
    assert typed("contacts", "load", "-", given="gina,hugo\n") == (0, "loaded 1 pair\n", "")
    assert graph()["hugo"]["viewers"] == ["gina"]


def test_another_directory_needs_the_url_and_the_keys(there: PresenceRun, empty_directory: Path) -> None:
    """--url finds the service; the key pair is only found in the folder of the run."""
    url = there.run.url
    code, _, err = typed("contacts", "add", "anna", "ben", "--url", url)
    assert (code, err.split(" in ")[0]) == (1, "presence: there is no key pair")
    (empty_directory / ".presence").symlink_to(there.directory / ".presence")
    assert typed("contacts", "add", "anna", "ben", "--url", url)[0] == 0


# Backups


def facts(backup: str) -> list[dict[str, Any]]:
    """The users of a backup that have any data: a user without contacts need not be restored."""
    users = sorted(map(json.loads, backup.splitlines()), key=itemgetter("userId"))
    nothing = {"invisible": False, "lastSeen": "everyone", "customStatus": None, "claim": None}
    nothing |= {"viewers": [], "hideFrom": [], "blocks": []}
    return [user for user in users if user != {"userId": user["userId"], **nothing}]


def test_a_backup_restores_everything(there: PresenceRun, tmp_path: Path) -> None:
    """`import` restores what `export` wrote, including one-way contacts, blocks and claims."""
    ivy = {
        "userId": "ivy",
        "invisible": True,
        "lastSeen": "nobody",
        "viewers": ["jon"],
        "hideFrom": ["jon"],
        "blocks": ["kay"],
        "customStatus": {"until": None, "text": "Déjà", "emoji": "🍜"},
        "claim": {"status": "busy", "until": None},
    }
    lines = [json.dumps(ivy), '{"userId":"jon"}']
    assert typed("graph", "import", "-", given="\n".join(lines)) == (0, "imported 2 users\n", "")
    file = tmp_path / "backup.jsonl"
    code, out, _ = typed("graph", "export", str(file))
    assert code == 0
    assert re.fullmatch(rf"wrote \d+ users to {file}\n", out)
    with presence_run(tmp_path, "--in-process") as other:
        assert other.command("graph", "import", str(file)).returncode == 0
        written = other.command("graph", "export").stdout
    assert facts(written) == facts(file.read_text())
    assert ivy in [json.loads(line) for line in written.splitlines()]


def test_a_backup_may_replace_everything(tmp_path: Path) -> None:
    """With --replace the service holds exactly the file's data; without it, other data stays."""
    with presence_run(tmp_path, "--in-process") as service:
        service.command("contacts", "load", "-", input="anna,ben\nanna,cleo\n")
        service.command("graph", "import", "-", input='{"userId":"cleo","invisible":true,"claim":{"status":"busy"}}')
        backup = '{"userId":"anna","viewers":["ben"]}\n{"userId":"ben","viewers":["anna"]}\n'
        service.command("graph", "import", "-", input=backup)
        assert "cleo" in service.command("graph", "export").stdout
        assert service.command("graph", "import", "-", "--replace", input=backup).stdout == "imported 2 users\n"
        users = [json.loads(line) for line in service.command("graph", "export").stdout.splitlines()]
        told = {
            user["userId"]: user["viewers"] for user in users if user["viewers"] or user["claim"] or user["invisible"]
        }
        assert told == {"anna": ["ben"], "ben": ["anna"]}


def test_a_failed_backup_leaves_the_old_one(empty_directory: Path, there: PresenceRun) -> None:
    """The old file stays until the new one is complete, and no temporary file remains."""
    (empty_directory / "backup.jsonl").write_text("yesterday")
    code, _, err = typed("graph", "export", str(empty_directory / "backup.jsonl"), "--url", "http://127.0.0.1:1")
    assert (code, err) == (1, "presence: nothing answers at http://127.0.0.1:1: is `presence run` running?\n")
    assert [(path.name, path.read_text()) for path in empty_directory.iterdir()] == [("backup.jsonl", "yesterday")]


def test_a_bad_backup_is_refused_before_anything_is_written(there: PresenceRun) -> None:
    """Bad lines are named, and the valid ones are not written either."""
    code, _, err = typed("graph", "import", "-", given='{"userId":"bad5","invisible":true}\n{"userId":""}\n')
    assert code == 1
    assert err.startswith("presence: -:2: userId: must be 1 to 128 characters")
    assert "bad5" not in graph()


# Watching


class Watch:
    """A `presence watch` in a pipe, which ends with the block."""

    def __init__(
        self, service: PresenceRun, *arguments: str, directory: Path | None = None, **environment: str
    ) -> None:
        self._process = subprocess.Popen(
            presence("watch", *arguments),
            cwd=directory or service.directory,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._timer = threading.Timer(PATIENCE, self._process.kill)

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.communicate()

    def line(self) -> list[str]:
        """The fields of the next line, without its time."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n").split("\t")[1:]

    def close_pipe(self) -> None:
        """Stop reading."""
        assert self._process.stdout is not None
        self._process.stdout.close()

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Exit code and stderr, after a signal or without one."""
        if number:
            self._process.send_signal(number)
        assert self._process.stderr is not None
        remarks = self._process.stderr.read()
        return self._process.wait(PATIENCE), remarks


def test_watching_through_a_pipe(there: PresenceRun) -> None:
    """Each change of a contact is a line; Ctrl-C and SIGTERM end it normally."""
    typed("contacts", "add", "lena", "mats")
    with Watch(there, "mats") as mats:
        assert mats.line() == ["lena", "offline", "-", "-", "-"]
        with Watch(there, "lena", "--plain") as lena:
            assert lena.line() == ["mats", "online", "desktop", "-", "-"]
            assert mats.line() == ["lena", "online", "desktop", "-", "-"]
            assert lena.end(signal.SIGINT) == (0, "connected\n")
        assert mats.end(signal.SIGTERM) == (0, "connected\n")


def test_watching_with_a_given_token(there: PresenceRun, empty_directory: Path) -> None:
    """A token from an identity provider suffices, as an option or in the environment, for its own user only."""
    token = typed("token", "rosa", "--ttl", "1m", PRESENCE_JWT_SECRET=there.run.jwt_secret)[1].strip()
    code, _, err = typed("watch", "sven", PRESENCE_TOKEN=token)
    assert (code, err) == (1, "presence: the token belongs to rosa, not to sven\n")
    there.command("contacts", "add", "rosa", "sven")
    for given in (["--token", token], []):
        environment = {} if given else {"PRESENCE_TOKEN": token}
        arguments = ("rosa", "--ws-url", there.run.ws_url, *given)
        with Watch(there, *arguments, directory=empty_directory, **environment) as rosa:
            assert rosa.line() == ["sven", "offline", "-", "-", "-"]


def test_a_closed_pipe(there: PresenceRun) -> None:
    """When the reader closes the pipe, the command ends silently."""
    typed("contacts", "add", "nora", "olaf")
    with Watch(there, "nora") as nora:
        assert nora.line() == ["olaf", "offline", "-", "-", "-"]
        nora.close_pipe()
        with Watch(there, "olaf"):
            assert nora.end() == (0, "connected\n")


def test_watching_in_a_terminal(there: PresenceRun) -> None:
    """In a terminal there is a table with a header, and the cursor is visible again at the end."""
    typed("contacts", "add", "pia", "quinn")
    ours, theirs = pty.openpty()
    watching = subprocess.Popen(presence("watch", "pia"), cwd=there.directory, stdout=theirs, stderr=theirs)
    os.close(theirs)
    timer = threading.Timer(PATIENCE, watching.kill)
    timer.start()
    seen = b""
    while b"quinn" not in seen:
        seen += os.read(ours, 4096)
    watching.send_signal(signal.SIGINT)
    while b"\x1b[?25h" not in seen:
        seen += os.read(ours, 4096)
    assert watching.wait(PATIENCE) == 0
    timer.cancel()
    os.close(ours)
    assert "connected" in seen.decode()
    assert b"Traceback" not in seen
