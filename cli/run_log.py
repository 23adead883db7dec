"""What a run writes down: CloudWatch Logs on a laptop, in one file, with warnings shown to the person at the terminal.

A line of the file is the function's name, a tab, and what it wrote. Who writes what is not decided here.
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

COLOURS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "FATAL": "bold red"}
"""The levels that are shown."""
EXPLAINING = ("reason", "errorType", "exception")
"""Fields of a line that say why; of a traceback, its last line does."""


class RunLog(logging.Handler):
    """Takes what functions write, and what this process warns of, while it is entered.

    The file is begun anew, and only its owner can read it.
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
        """Take one line that a function wrote."""
        self._file.write(f"{function}\t{text}\n")
        told = _json(text)
        if told is None:
            # The runtime and the service log JSON: whatever else comes was not meant to.
            self._show(function, text, "")
        elif str(told.get("level")) in COLOURS:
            why = [str(told[field]).strip().rpartition("\n")[2] for field in EXPLAINING if told.get(field)]
            self._show(function, ": ".join([str(told.get("message")), *why]), COLOURS[str(told["level"])])

    def emit(self, record: logging.LogRecord) -> None:
        """Take what a module of this process warns of."""
        self._file.write(f"{record.name}\t{self.format(record)}\n")
        self._show(record.name, record.getMessage(), COLOURS.get(record.levelname, ""))

    def _show(self, who: str, words: str, colour: str) -> None:
        if words.strip():
            line = Text.assemble((time.strftime("%H:%M:%S "), "bright_black"), (f"{who}: ", "bold"), (words, colour))
            self._console.print(line, soft_wrap=True)


def _json(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        told = json.loads(text)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None
