"""The folder `.presence/`: what a run stores, and how the other commands on this machine find the run.

Only its owner can read it: with its contents, one can act as any user and as the application's backend. Nothing here
starts a process or sends a request.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import UserError
from load.session import TokenSource

if TYPE_CHECKING:
    from local.iam import KeyPair

SECRET_BYTES = 48
"""Random bytes in a new secret. The service refuses secrets shorter than 32 bytes."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the service on this machine: its URLs, and what it requires of tokens."""

    url: str
    """The HTTP API, without a final slash."""
    ws_url: str
    """The WebSocket API, without a query."""
    region: str
    """The region that the backend's calls are signed for."""
    pid: int
    jwt_secret: str = field(default="", repr=False)
    """Empty if the service accepts only the tokens of an identity provider."""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    token_source: TokenSource = "query"


class Home:
    """The folder, by default in the current directory. It is created when something is first stored in it."""

    def __init__(self, path: Path = Path(".presence")) -> None:
        self.path = path

    @property
    def log(self) -> Path:
        """The functions' log of the last run."""
        return self.path / "run.log"

    @property
    def credentials(self) -> Path:
        """The backend's key pair, as an AWS credentials file."""
        return self.path / "credentials"

    def make(self) -> None:
        """Create the folder, readable by its owner only."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def key_pair(self, *, make: bool = False) -> KeyPair:
        """The key pair of this folder's runs. With `make`, it is created if there is none.

        Raises:
            UserError: there is none, or it cannot be used.
        """
        from local.iam import KeyFileError, KeyPair  # imports botocore, which takes a third of a second

        if make:
            self.make()
        try:
            return KeyPair.load_or_create(self.credentials) if make else KeyPair.load(self.credentials)
        except FileNotFoundError:
            raise UserError(
                f"there is no key pair in {self.path.resolve()}: start `presence run` in this directory"
            ) from None
        except KeyFileError as error:
            raise UserError(str(error)) from None

    def secret(self) -> str:
        """The secret that signs users' tokens. It is created by the first run, so tokens outlive a run."""
        file = self.path / "jwt_secret"
        with contextlib.suppress(FileNotFoundError):
            return file.read_text().strip()
        self.make()
        secret = secrets.token_urlsafe(SECRET_BYTES)
        _write(file, secret)
        return secret

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Be the only run here while the block lasts. The lock ends with this process, however the process ends.

        Raises:
            UserError: another run holds it.
        """
        self.make()
        folder = os.open(self.path, os.O_RDONLY)
        try:
            self._claim(folder)
            # The file of a killed run is stale.
            self._file.unlink(missing_ok=True)
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # Usually it is not empty.
                    self.path.rmdir()
        finally:
            os.close(folder)

    def _claim(self, folder: int) -> None:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            run = self.run()
            who = f"the run at {run.url} (process {run.pid})" if run else "a run that is starting"
            raise UserError(
                f"{who} uses {self.path.resolve()}: end it, or start this one in another directory"
            ) from None

    @contextlib.contextmanager
    def running(self, run: Run) -> Iterator[None]:
        """Let the other commands find a run while the block lasts."""
        self.make()
        _write(self._file, json.dumps(asdict(run), indent=1))
        try:
            yield
        finally:
            self._file.unlink(missing_ok=True)

    def run(self) -> Run | None:
        """The latest run, if any. If it was killed, it may no longer exist."""
        try:
            return Run(**json.loads(self._file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    @property
    def _file(self) -> Path:
        return self.path / "run.json"


def _write(file: Path, text: str) -> None:
    """Write a file atomically; others can never read it."""
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600, exist_ok=False)
    draft.write_text(text + "\n")
    draft.replace(file)
