"""`.presence/`: kept for its owner only, and found by the other commands."""

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
    """One that is not there yet."""
    return Home(tmp_path / ".presence")


def mode(path: Path) -> int:
    """Who may do what with a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_secret_is_made_once(home: Home) -> None:
    """The secret is long enough for the service, the same at every run, and its owner's only."""
    secret = home.secret()
    assert len(secret) >= 48
    assert home.secret() == secret
    assert Home(home.path).secret() == secret
    assert mode(home.path / "jwt_secret") == 0o600
    assert mode(home.path) == 0o700


def test_a_key_pair_is_made_by_a_run_only(home: Home) -> None:
    """A command that needs the key pair does not make one that no run knows."""
    with pytest.raises(UserError, match="start `presence run` in this directory"):
        home.key_pair()
    made = home.key_pair(make=True)
    assert home.key_pair() == made
    assert mode(home.credentials) == 0o600
    assert mode(home.path) == 0o700


def test_a_key_pair_that_others_can_read_is_refused(home: Home) -> None:
    """What others may have read is no secret any more."""
    home.key_pair(make=True)
    home.credentials.chmod(0o644)
    with pytest.raises(UserError, match="can be read by others"):
        home.key_pair(make=True)


def test_a_run_is_known_while_it_lasts(home: Home) -> None:
    """The other commands find a run from its start to its end, in a file that only its owner can read."""
    assert home.run() is None
    with home.running(RUN):
        assert home.run() == RUN
        assert mode(home.path / "run.json") == 0o600
    assert home.run() is None


def test_a_folder_is_for_one_run(home: Home) -> None:
    """Whoever comes second is told where the first one is, and can have the folder when that has ended."""
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


def test_what_a_dead_run_left_behind_is_in_nobodys_way(home: Home) -> None:
    """A run that was killed could not tidy up: the next one does, whoever has its process id by now."""
    home.make()
    (home.path / "run.json").write_text(json.dumps(dataclasses.asdict(dataclasses.replace(RUN, pid=os.getpid()))))
    with home.claimed():
        assert home.run() is None


def test_a_claim_leaves_no_empty_folder(home: Home) -> None:
    """A run that fails before it has kept anything leaves nothing behind."""
    with pytest.raises(UserError), home.claimed():
        raise UserError
    assert not home.path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 1}', '{"of": "another release"}'])
def test_a_file_that_says_nothing_is_no_run(home: Home, text: str) -> None:
    """What a crash or another release left behind is not taken for a run."""
    home.make()
    (home.path / "run.json").write_text(text)
    assert home.run() is None


def test_no_secret_is_shown(home: Home) -> None:
    """A run can be printed without giving its secret away."""
    assert RUN.jwt_secret not in repr(RUN)
