"""Limits of a process that holds thousands of connections: its open files, and how often it collects garbage."""

from __future__ import annotations

import contextlib
import gc
import resource

from cli.errors import UserError

NEW_OBJECTS = 50_000
"""New objects after which Python collects garbage; its default is 700."""


def allow_open_files(count: int) -> None:
    """Let this process, and the processes that it starts, open so many files and sockets.

    Systems start a process with a low limit, and let it raise the limit.

    Raises:
        UserError: the system does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
        except (ValueError, OSError):
            raise UserError(
                f"{count:,} open files are needed, and this system allows {hard:,} to a process (`ulimit -Hn`)"
            ) from None


def allow_as_many_open_files_as_possible(most: int) -> None:
    """Let this process open `most` files, or as many as the system allows if that is less."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(UserError):  # macOS reports no limit, and still refuses high numbers.
        allow_open_files(most if hard == resource.RLIM_INFINITY else min(most, hard))


def collect_garbage_rarely() -> None:
    """Collect garbage less often than Python does by default.

    With the default, short-lived objects count as long-lived, and every few seconds a collection walks through
    everything that thousands of connections hold. The process does nothing else for a tenth of a second.
    """
    gc.set_threshold(NEW_OBJECTS)
