"""The log of a run, as CloudWatch Logs on a laptop: one file, whose warnings also appear in the terminal.

A line of the file is the function's name, a tab, and the line that it wrote.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.text import Text

COLORS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "FATAL": "bold red"}
"""The levels that appear in the terminal."""
EXPLAINING = ("reason", "errorType", "exception")
"""Fields of a line that contain the reason. Of a traceback, only the last line is shown."""


class RunLog(logging.Handler):
    """Writes the functions' lines and this process's warnings to the log, while it is entered.

    It replaces the file of the previous run. Only its owner can read it.
    """

    def __init__(self, path: Path, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console
        path.unlink(missing_ok=True)
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", buffering=1)

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        logging.getLogger().removeHandler(self)
        self._file.close()

    def line(self, function: str, text: str) -> None:
        """Write a line of a function."""
        self._file.write(f"{function}\t{text}\n")
        entry = _json(text)
        if entry is None:
            # The runtime and the service log JSON; any other output is unexpected.
            self._show(function, text, "")
        elif str(entry.get("level")) in COLORS:
            why = [str(entry[field]).strip().rpartition("\n")[2] for field in EXPLAINING if entry.get(field)]
            self._show(function, ": ".join([str(entry.get("message")), *why]), COLORS[str(entry["level"])])

    def emit(self, record: logging.LogRecord) -> None:
        """Write a warning of this process."""
        self._file.write(f"{record.name}\t{self.format(record)}\n")
        self._show(record.name, record.getMessage(), COLORS.get(record.levelname, ""))

    def _show(self, source: str, text: str, color: str) -> None:
        if text.strip():
            line = Text.assemble((time.strftime("%H:%M:%S "), "bright_black"), (f"{source}: ", "bold"), (text, color))
            self._console.print(line, soft_wrap=True)


def _json(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
