"""The subcommands of `presence`, by group. A command imports what it needs when it runs, so that each starts fast."""
