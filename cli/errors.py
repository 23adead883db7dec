"""What the person at the command line is told when something cannot be done. No text is made here."""

from __future__ import annotations


class Complaint(Exception):
    """It cannot be done; the message says why, in one line (or in one for each bad line of a file)."""
