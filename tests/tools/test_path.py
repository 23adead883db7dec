"""The count of files that one update runs through."""

from __future__ import annotations

import re
import subprocess
import sys

from tools.path import ROOT, count_switches


def test_a_switch_is_a_call_in_another_file() -> None:
    """Calls within one file are none."""
    assert count_switches(["a.py", "a.py", "b.py", "a.py", "a.py"]) == 2
    assert count_switches([]) == 0


def test_the_path_of_an_update_is_printed() -> None:
    """It leads from the handler over the store to the posts, and ends with both numbers."""
    command = [sys.executable, "-m", "tools.path"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *files, count, switches = done.stdout.splitlines()
    order = [f"shared/{name}.py" for name in ("events", "presence", "store", "delivery", "push")]
    assert [file for file in files if file in order] == order
    assert count == f"files: {len(files)}"
    assert re.fullmatch(r"switches: \d+", switches)
