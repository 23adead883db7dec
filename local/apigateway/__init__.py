"""API Gateway on a laptop: a WebSocket API with its `@connections`, and an HTTP API, both on one port."""
