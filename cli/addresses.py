"""URLs of a service, as people type them: checked, and what to say when nothing answers there."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from cli.errors import Complaint


def is_local(url: str) -> bool:
    """Whether a URL leads to this machine."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def nothing_answers(url: str) -> str:
    """What to say of a service that is not there."""
    return f"nothing answers at {url}: " + ("is `presence run` running?" if is_local(url) else "is the address right?")


def checked(url: str, scheme: str, complaint: str) -> str:
    """A URL of this scheme, or of it over TLS, without a slash at the end.

    Raises:
        Complaint: it is none.
    """
    try:
        parts = urlsplit(url)
        usable = parts.port != 0 and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(rf"{scheme}s?://[^\s/?#@]+(/[^\s?#]*)?", url):
        raise Complaint(f"{url} {complaint}")
    return url.rstrip("/")
