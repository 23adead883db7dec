"""`.presence/`: readable by its owner only, and found by the other commands."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest

from cli.errors import UserError
from cli.home import Home, Run

RUN = Run(url="http://127.0.0.1:1", ws_url="ws://127.0.0.1:1/live", region="us-east-1", pid=1, jwt_secret="s" * 40)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A folder that does not exist yet."""
    return Home(tmp_path / ".presence")


def mode(path: Path) -> int:
    """The permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_secret_is_created_once(home: Home) -> None:
    """The secret is long enough for the service, the same in every run, and readable by its owner only."""
    secret = home.secret()
    assert len(secret) >= 48
    assert home.secret() == secret
    assert Home(home.path).secret() == secret
    assert mode(home.path / "jwt_secret") == 0o600
    assert mode(home.path) == 0o700


def test_only_a_run_creates_a_key_pair(home: Home) -> None:
    """A command that needs the key pair does not create one that no run knows."""
    with pytest.raises(UserError, match="start `presence run` in this directory"):
        home.key_pair()
    made = home.key_pair(make=True)
    assert home.key_pair() == made
    assert mode(home.credentials) == 0o600
    assert mode(home.path) == 0o700


def test_a_key_pair_that_others_can_read_is_refused(home: Home) -> None:
    """A key pair that others may have read is not secret."""
    home.key_pair(make=True)
    home.credentials.chmod(0o644)
    with pytest.raises(UserError, match="can be read by others"):
        home.key_pair(make=True)


def test_a_run_is_found_while_it_lasts(home: Home) -> None:
    """The other commands find a run from its start to its end, in a file that only its owner can read."""
    assert home.run() is None
    with home.running(RUN):
        assert home.run() == RUN
        assert mode(home.path / "run.json") == 0o600
    assert home.run() is None


def test_a_folder_is_for_one_run(home: Home) -> None:
    """A second run gets the address of the first, and can use the folder after that has ended."""
    with home.claimed():
        with pytest.raises(UserError, match="a run that is starting uses "), home.claimed():
            pass
        with home.running(RUN):
            words = (
                rf"the run at http://127.0.0.1:1 \(process 1\) uses {home.path}: end it, or start this one in another"
            )
            with pytest.raises(UserError, match=words), home.claimed():
                pass
            assert home.run() == RUN
        home.key_pair(make=True)
    with home.claimed():
        pass


def test_the_files_of_a_killed_run_do_not_block_the_next(home: Home) -> None:
    """The next run deletes them, even if another process has the old process id."""
    home.make()
    (home.path / "run.json").write_text(json.dumps(dataclasses.asdict(dataclasses.replace(RUN, pid=os.getpid()))))
    with home.claimed():
        assert home.run() is None


def test_a_claim_leaves_no_empty_folder(home: Home) -> None:
    """A run that fails before it stores anything leaves no folder."""
    with pytest.raises(UserError), home.claimed():
        raise UserError
    assert not home.path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 1}', '{"of": "another release"}'])
def test_an_unreadable_file_is_not_a_run(home: Home, text: str) -> None:
    """A file of a crash or of another release does not count as a run."""
    home.make()
    (home.path / "run.json").write_text(text)
    assert home.run() is None


def test_no_secret_is_shown(home: Home) -> None:
    """Printing a run does not show its secret."""
    assert RUN.jwt_secret not in repr(RUN)
