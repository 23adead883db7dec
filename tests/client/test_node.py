"""The unit tests of `client/`, in JavaScript: each `*.test.js` here is one run of Node's own test runner.

No behavior is tested in Python. A failure shows Node's report.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TIMEOUT = 300.0
"""Seconds for one file: random histories are slow on a busy machine."""


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("*.test.js")))
def test_the_client(file: str) -> None:
    """All tests of a file pass, and it has at least one."""
    done = subprocess.run(
        ["node", "--test", "--test-reporter=spec", file],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests 0" not in done.stdout, done.stdout
