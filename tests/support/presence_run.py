"""`presence run` as a person starts it: a program in a directory, which reports when it is ready.

with presence_run(tmp_path) as service:      # a free port, its own Redis
    service.run.url, service.run.ws_url      # its addresses
    service.command("token", "alice")        # any other command, in the same directory
    service.children()                       # process ids
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli.home import Home, Run

PATIENCE = 60.0
"""Seconds that a test waits for a start or an end: a busy machine needs seconds."""
READY = "presence is ready"


class PresenceRun:
    """A started `presence run`. The test passes options like `--port 0` itself."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self.directory = directory
        self._environment = environment
        self.process = subprocess.Popen(
            presence("run", *arguments),
            cwd=directory,
            env=self._whole_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def run(self) -> Run:
        """Its addresses, as other commands find them."""
        found = Home(self.directory / ".presence").run()
        assert found is not None, self.output
        return found

    def wait_for(self, text: str) -> str:
        """The next line that contains this text."""
        until = time.monotonic() + PATIENCE
        while True:
            line = self._lines.get(timeout=max(0, until - time.monotonic()))
            assert line is not None, f"ended without printing {text!r}: {self.output}"
            if text in line:
                return line

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until it ends by itself; returns the exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def children(self) -> set[int]:
        """The ids of all its descendant processes."""
        return descendants(self.process.pid)

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run another command to its end, in the same directory."""
        return subprocess.run(
            presence(*arguments),
            cwd=self.directory,
            env=self._whole_environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            **options,
        )

    def _whole_environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PRESENCE_", "AWS_"))}
        return inherited | self._environment

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.output.append(line.rstrip("\n"))
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)


@contextlib.contextmanager
def presence_run(directory: Path, *arguments: str, **environment: str) -> Iterator[PresenceRun]:
    """A run on a free port that is ready. It ends with the block."""
    service = PresenceRun(directory, "--port", "0", *arguments, **environment)
    try:
        service.wait_for(READY)
        yield service
    finally:
        service.end()


def presence(*arguments: str) -> list[str]:
    """The command line of a `presence` command, with the interpreter that runs the tests."""
    return [sys.executable, "-c", "from cli.app import app; app(prog_name='presence')", *arguments]


def descendants(ancestor: int) -> set[int]:
    """The ids of all descendants of a process, except zombies."""
    processes = processes_now()
    found = {ancestor}
    while more := {pid for pid, parent in processes.items() if parent in found} - found:
        found |= more
    return found - {ancestor}


def processes_now() -> dict[int, int]:
    """Process id → parent's id, for all processes except zombies."""
    table = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in table.splitlines())
    return {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}


def await_gone(pids: set[int]) -> set[int]:
    """Wait until these processes are gone; returns those that are left when the time is up."""
    until = time.monotonic() + PATIENCE
    while (left := pids & processes_now().keys()) and time.monotonic() < until:
        pass  # Listing processes takes some milliseconds, so this does not spin.
    return left
