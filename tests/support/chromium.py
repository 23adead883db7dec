"""The Chromium that tests drive: the system's own, so that nobody downloads one. As a program it says where none is."""

from __future__ import annotations

import os
import shutil
import sys

VARIABLE = "CHROMIUM"
NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
MISSING = "the browser tests need Chromium: on Debian apt-get install chromium, elsewhere CHROMIUM=/path/to/chrome"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Without a sandbox it runs as root too, in a container; it opens pages of this machine alone, and asks nobody else."""


def find() -> str | None:
    """The program, or None: what the environment names, and nothing else if it does; or what is installed."""
    given = os.environ.get(VARIABLE)
    return next((found for name in ([given] if given else NAMES) if (found := shutil.which(name))), None)


if __name__ == "__main__":
    sys.exit(None if find() else MISSING)
