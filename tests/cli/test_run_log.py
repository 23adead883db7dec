"""The log of a run: everything is in the file, and the terminal shows warnings."""

from __future__ import annotations

import io
import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from cli.run_log import RunLog


@pytest.fixture
def shown() -> io.StringIO:
    """What the terminal shows."""
    return io.StringIO()


@pytest.fixture
def log(tmp_path: Path, shown: io.StringIO) -> Iterator[RunLog]:
    """A log in `run.log`."""
    with RunLog(tmp_path / "run.log", Console(file=shown, width=200)) as log:
        yield log


def texts(shown: io.StringIO) -> list[str]:
    """What the terminal shows, without the time."""
    return [line.partition(" ")[2] for line in shown.getvalue().splitlines()]


def test_everything_is_in_the_file(log: RunLog, tmp_path: Path) -> None:
    """Each line is written with the function's name, without delay."""
    log.line("query", '{"level":"INFO","message":"hello"}')
    log.line("update", "plain")
    assert (tmp_path / "run.log").read_text() == 'query\t{"level":"INFO","message":"hello"}\nupdate\tplain\n'
    assert stat.S_IMODE((tmp_path / "run.log").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "line", [{"level": "INFO", "message": "hello"}, {"level": "DEBUG"}, {"_aws": {"Timestamp": 1}}]
)
def test_ordinary_lines_are_not_shown(log: RunLog, shown: io.StringIO, line: dict[str, object]) -> None:
    """Normal lines and metrics are only in the file."""
    log.line("query", json.dumps(line))
    assert shown.getvalue() == ""


def test_warnings_are_shown_with_their_reason(log: RunLog, shown: io.StringIO) -> None:
    """A warning is one line with the function, the message and the reason."""
    log.line("authorize", json.dumps({"level": "WARNING", "message": "token refused", "reason": "expired"}))
    log.line("api", json.dumps({"level": "ERROR", "message": "failed", "exception": "Traceback:\n  a\nValueError: no"}))
    assert texts(shown) == ["authorize: token refused: expired", "api: failed: ValueError: no"]


def test_lines_without_json_are_shown(log: RunLog, shown: io.StringIO) -> None:
    """Unexpected output is shown as it is, with its brackets."""
    log.line("query", "Segmentation fault [core dumped]")
    log.line("query", '{"level": "WARN')
    log.line("query", "")
    assert texts(shown) == ["query: Segmentation fault [core dumped]", 'query: {"level": "WARN']


def test_warnings_of_this_process_are_shown_too(log: RunLog, shown: io.StringIO, tmp_path: Path) -> None:
    """The schedule and the gateway warn in the same log."""
    logging.getLogger("local.test").error("run of %s failed", "sweeper")
    logging.getLogger("local.test").info("all is well")
    assert texts(shown) == ["local.test: run of sweeper failed"]
    assert (tmp_path / "run.log").read_text() == "local.test\trun of sweeper failed\n"


def test_each_run_starts_a_new_log(tmp_path: Path, shown: io.StringIO) -> None:
    """The log is that of the last run, and never in a file that others could read."""
    (tmp_path / "run.log").write_text("old")
    (tmp_path / "run.log").chmod(0o644)
    with RunLog(tmp_path / "run.log", Console(file=shown)) as log:
        log.line("query", "new")
    assert (tmp_path / "run.log").read_text() == "query\tnew\n"
    assert stat.S_IMODE((tmp_path / "run.log").stat().st_mode) == 0o600
