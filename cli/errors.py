"""The error that ends a command with a message for its user. No messages are made here."""

from __future__ import annotations


class UserError(Exception):
    """A command cannot do what was asked. The message says why, in one line (or one for each bad line of a file)."""
