"""URLs of a service as typed by a user: their checks, and the error when nothing answers at one."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from cli.errors import UserError


def is_local(url: str) -> bool:
    """Whether a URL points to this machine."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def nothing_answers(url: str) -> str:
    """The error for a URL at which nothing answers."""
    return f"nothing answers at {url}: " + ("is `presence run` running?" if is_local(url) else "is the address right?")


def checked(url: str, scheme: str, problem: str) -> str:
    """A URL of this scheme, with or without TLS, without its final slash.

    Raises:
        UserError: it is not such a URL; `problem` completes the message.
    """
    try:
        parts = urlsplit(url)
        usable = parts.port != 0 and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(rf"{scheme}s?://[^\s/?#@]+(/[^\s?#]*)?", url):
        raise UserError(f"{url} {problem}")
    return url.rstrip("/")
