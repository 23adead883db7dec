"""Usage: what AWS bills for heartbeats that do not use the socket."""

from __future__ import annotations

import pytest

from cost.assumptions import KEEP_ALIVE
from cost.counts import count
from cost.usage import use
from cost.workload import Workload
from shared.settings import GATEWAY_IDLE_CUT


def test_sockets_stay_open_without_heartbeats() -> None:
    """Heartbeats over HTTP bill no messages, but each socket sends one before API Gateway closes it for silence."""
    socket, http, url = (use(Workload(beats=way)) for way in ("socket", "http_api", "function_url"))
    assert http.messages == url.messages < socket.messages
    assert http.messages - use(Workload(beats="http_api", heartbeat_interval=60)).messages == pytest.approx(0)
    assert KEEP_ALIVE < GATEWAY_IDLE_CUT
    assert (http.http_requests, url.http_requests) == (count(Workload()).beats, 0)
    assert url.invocations["heartbeat"] > socket.invocations["heartbeat"]
