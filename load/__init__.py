"""The load generator: thousands of simulated clients, and statistics of what they see.

`session.py` and `state.py` are the client's half of the protocol, which `presence watch` uses too. Nothing here knows
the command line.
"""
