"""The service: what every function shares. Read `presence.py` first; it is the core."""
