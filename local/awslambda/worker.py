"""The process of an execution environment: AWS's own runtime client, and a thread that watches the parent.

    python -m local.awslambda.worker [--native] functions.NAME.handler.handler

It is `python -m awslambdaric` in a process that cannot outlive its parent. Nothing here is specific to presence.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading


def end_with_parent() -> None:
    """Kill this process when the other end of its standard input closes, and replace that input by an empty one.

    The parent holds the other end. The system closes it however the parent ends, even by SIGKILL. (Linux could send a
    signal instead; macOS cannot.)
    """
    parent = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def watch() -> None:
        os.read(parent, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main(arguments: list[str]) -> None:
    """Run the handler in `arguments` until the Runtime API has no more events."""
    end_with_parent()
    *native, handler = arguments
    if not native:
        sys.modules["runtime_client"] = importlib.import_module("local.awslambda.runtime_client")
    importlib.import_module("awslambdaric.__main__").main(["awslambdaric", handler])


if __name__ == "__main__":
    main(sys.argv[1:])
