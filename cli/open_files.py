"""How many files and sockets a process may have open: systems begin with few, and allow many to who asks."""

from __future__ import annotations

import contextlib
import resource

from cli.errors import Complaint


def allow(count: int) -> None:
    """Let this process, and those that it starts, have so many files and sockets open.

    Raises:
        Complaint: the system does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
        except (ValueError, OSError):
            raise Complaint(
                f"{count:,} open files are needed, and this system allows {hard:,} to a process (`ulimit -Hn`)"
            ) from None


def allow_as_many_as_possible(most: int) -> None:
    """Let this process have `most` files open, or as many as the system allows if that is less."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(Complaint):  # macOS says that any number is allowed, and allows fewer.
        allow(most if hard == resource.RLIM_INFINITY else min(most, hard))
