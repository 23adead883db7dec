"""What runs in a sandbox's process: AWS's own runtime client, and a watch over the parent.

    python -m local.awslambda.worker [--native] functions.NAME.handler.handler

It is `python -m awslambdaric`, started so that it cannot outlive who started it. Nothing of the service is here.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading


def end_with_parent() -> None:
    """End this process at once when the other end of its standard input is closed, and leave it an empty one.

    The parent holds that end; the system closes it however the parent ends, also by SIGKILL. (Linux could send a signal
    instead; macOS cannot.)
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
    """Run the handler that `arguments` names until the Runtime API has no more events."""
    end_with_parent()
    *native, handler = arguments
    if not native:
        sys.modules["runtime_client"] = importlib.import_module("local.awslambda.runtime_client")
    importlib.import_module("awslambdaric.__main__").main(["awslambdaric", handler])


if __name__ == "__main__":
    main(sys.argv[1:])
