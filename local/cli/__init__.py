"""The command line, `presence`: the whole service on this machine, and small tools to try it with."""
