"""The browser's client, tested where its language is spoken: each `*.test.js` here is a run of Node's own test runner.

What a test is about, and what of it failed, Node says; nothing is tested in Python.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PATIENCE = 300.0
"""Seconds: random histories take some when the machine is busy."""


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("*.test.js")))
def test_the_client(file: str) -> None:
    """All tests of a file pass, and there are some."""
    done = subprocess.run(
        ["node", "--test", "--test-reporter=spec", file],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests 0" not in done.stdout, done.stdout
