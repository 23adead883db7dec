"""CPU time and memory of other processes, from Linux's /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu(pids: Iterable[int]) -> dict[int, float]:
    """CPU seconds of each process with all its threads, without processes that have ended."""
    taken = {}
    for pid in pids:
        fields = _read(pid, "stat").rpartition(")")[2].split()
        if fields:
            taken[pid] = (int(fields[11]) + int(fields[12])) / TICKS
    return taken


def cpu_between(before: dict[int, float], after: dict[int, float]) -> float:
    """CPU seconds of all processes between two readings, including new processes."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def resident(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    return int(_read(pid, "statm").split()[1]) * PAGE


def _read(pid: int, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
