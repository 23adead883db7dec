"""Why a load could not be put on a service. The text is complete: the command line prints it as it is."""

from __future__ import annotations


class LoadError(Exception):
    """The load cannot start or cannot continue; the message says why, in one line."""


class Unreachable(LoadError):
    """Nothing answers at `url`."""

    def __init__(self, url: str) -> None:
        super().__init__(f"nothing answers at {url}")
        self.url = url
