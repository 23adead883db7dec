"""What other processes take, as Linux tells in /proc: CPU time and memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu(pids: Iterable[int]) -> dict[int, float]:
    """Seconds of CPU that each process has taken, with all its threads; one that is gone is left out."""
    taken = {}
    for pid in pids:
        fields = _read(pid, "stat").rpartition(")")[2].split()
        if fields:
            taken[pid] = (int(fields[11]) + int(fields[12])) / TICKS
    return taken


def cpu_between(before: dict[int, float], after: dict[int, float]) -> float:
    """Seconds of CPU that all took in between, also those that began then."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(_read(pid, "statm").split()[1]) * PAGE


def _read(pid: int, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
