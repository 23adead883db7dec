"""The load generator: simulated clients, what each of them knows, and latency statistics."""
