"""The system's Chromium, which tests drive, so that nothing is downloaded. As a program, reports if it is missing."""

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
"""Without Chromium's sandbox it also runs as root in a container. It opens only pages of this machine."""


def find() -> str | None:
    """The executable, or None. If the environment names one, only that one counts."""
    given = os.environ.get(VARIABLE)
    return next((found for name in ([given] if given else NAMES) if (found := shutil.which(name))), None)


if __name__ == "__main__":
    sys.exit(None if find() else MISSING)
