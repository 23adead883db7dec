"""Open files: the limit rises as far as the system allows."""

from __future__ import annotations

import subprocess
import sys

LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1000))
from cli.errors import UserError
from cli.process_limits import allow_as_many_open_files_as_possible, allow_open_files
"""


def output(program: str) -> list[str]:
    """The output of a program that may open 256 files, and raise that to 1,000."""
    command = [sys.executable, "-c", LIMITED + program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_limit_rises_as_needed() -> None:
    """A higher limit stays."""
    assert output(
        "allow_open_files(300); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
        "allow_open_files(200); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    ) == ["300", "300"]


def test_the_limit_rises_to_the_maximum() -> None:
    """A request above the maximum gets the maximum."""
    assert output(
        "allow_as_many_open_files_as_possible(5000); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    ) == ["1000"]


def test_a_limit_that_cannot_be_raised_is_an_error() -> None:
    """The error contains the allowed number."""
    lines = output("""
import os
if os.geteuid() == 0:  # whom the system allows everything, up to its own limit
    count = int(open("/proc/sys/fs/nr_open").read()) + 1 if os.path.exists("/proc/sys/fs/nr_open") else 2**62
else:
    count = 1001
try:
    allow_open_files(count)
except UserError as error:
    print(error)
""")
    assert len(lines) == 1
    assert "and this system allows 1,000 to a process" in lines[0]
