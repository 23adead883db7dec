"""`.presence/`: what a run keeps here, and how the other commands on this machine find it.

Everything in it is for its owner's eyes only: whoever reads it can act as any user and as the application's backend.
Nothing here starts or asks anything.
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

from cli.errors import Complaint
from load.session import TokenSource

if TYPE_CHECKING:
    from local.iam import KeyPair

SECRET_BYTES = 48
"""Bytes of randomness in a secret that is made here; the service refuses secrets shorter than 32 bytes."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the service on this machine: where it answers, and what its users' tokens must be like."""

    url: str
    """The HTTP side, without a slash at the end."""
    ws_url: str
    """The WebSocket side, without a query."""
    region: str
    """What calls of the backend are signed for."""
    pid: int
    jwt_secret: str = field(default="", repr=False)
    """Empty when the service takes the tokens of an identity provider."""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    token_source: TokenSource = "query"


class Home:
    """The folder, by default in the current directory. It is made when something is first kept in it."""

    def __init__(self, path: Path = Path(".presence")) -> None:
        self.path = path

    @property
    def log(self) -> Path:
        """What the functions wrote during the last run."""
        return self.path / "run.log"

    @property
    def credentials(self) -> Path:
        """The backend's key pair, as an AWS credentials file."""
        return self.path / "credentials"

    def make(self) -> None:
        """Make the folder, for its owner only."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def key_pair(self, *, make: bool = False) -> KeyPair:
        """The key pair of this folder's runs; `make` makes it where there is none yet.

        Raises:
            Complaint: there is none, or it cannot be used.
        """
        from local.iam import KeyFileError, KeyPair  # brings botocore, a third of a second that not all commands need

        if make:
            self.make()
        try:
            return KeyPair.load_or_create(self.credentials) if make else KeyPair.load(self.credentials)
        except FileNotFoundError:
            raise Complaint(
                f"no key pair is known in {self.path.resolve()}: start `presence run` in this directory"
            ) from None
        except KeyFileError as error:
            raise Complaint(str(error)) from None

    def secret(self) -> str:
        """The secret that signs users' tokens, made at the first run: a token outlives the run that it was made for."""
        file = self.path / "jwt_secret"
        with contextlib.suppress(FileNotFoundError):
            return file.read_text().strip()
        self.make()
        secret = secrets.token_urlsafe(SECRET_BYTES)
        _write(file, secret)
        return secret

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Be the only run here while the block lasts. The claim ends with this process, however it ends.

        Raises:
            Complaint: somebody else is.
        """
        self.make()
        folder = os.open(self.path, os.O_RDONLY)
        try:
            self._claim(folder)
            # What a run that was killed has left behind leads nowhere.
            self._file.unlink(missing_ok=True)
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # Mostly it is not empty.
                    self.path.rmdir()
        finally:
            os.close(folder)

    def _claim(self, folder: int) -> None:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            run = self.run()
            who = f"the run at {run.url} (process {run.pid})" if run else "a run that is starting"
            raise Complaint(f"{who} uses {self.path.resolve()}: end it, or start another one elsewhere") from None

    @contextlib.contextmanager
    def running(self, run: Run) -> Iterator[None]:
        """Tell the other commands about a run while the block lasts."""
        self.make()
        _write(self._file, json.dumps(asdict(run), indent=1))
        try:
            yield
        finally:
            self._file.unlink(missing_ok=True)

    def run(self) -> Run | None:
        """The run that was last told about, if any; one that was killed may not be there any more."""
        try:
            return Run(**json.loads(self._file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    @property
    def _file(self) -> Path:
        return self.path / "run.json"


def _write(file: Path, text: str) -> None:
    """Put a file there that was never readable by others, all of it at once."""
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600, exist_ok=False)
    draft.write_text(text + "\n")
    draft.replace(file)
