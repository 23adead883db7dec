"""The command `presence`."""
