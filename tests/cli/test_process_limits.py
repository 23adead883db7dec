"""Open files: the limit is raised as far as the system allows, and no further."""

from __future__ import annotations

import subprocess
import sys

LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1000))
from cli.errors import UserError
from cli.process_limits import allow_as_many_open_files_as_possible, allow_open_files
"""


def told(program: str) -> list[str]:
    """What a program prints that may have 256 open files, and ask for 1,000."""
    command = [sys.executable, "-c", LIMITED + program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_as_many_as_are_needed_are_allowed() -> None:
    """And who may have more already keeps that."""
    assert told(
        "allow_open_files(300); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
        "allow_open_files(200); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    ) == ["300", "300"]


def test_as_many_as_there_can_be_are_allowed() -> None:
    """Whoever wants more than there can be gets those."""
    assert told("allow_as_many_open_files_as_possible(5000); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])") == [
        "1000"
    ]


def test_a_limit_that_cannot_be_raised_is_told() -> None:
    """With the number that is allowed."""
    lines = told("""
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
