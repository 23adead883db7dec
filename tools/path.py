"""Counts the files that one `presence_update` runs through, and how often a reader who follows it changes files.

The update runs through the deployed handler, for a user with one contact who is online, on a real Redis. The posts go
to an HTTP server on loopback, which accepts all of them. What counts is a call of a function in `functions/` or
`shared/`; the scripts inside Redis count as their caller, `shared/store.py`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from local.elasticache import RedisServer

ROOT = Path(__file__).parent.parent
FOLDERS = ("functions", "shared")
ALICE, BOB = "alice", "bob"
MESSAGES = [
    (ALICE, "query", {"action": "sync"}),
    (ALICE, "update", {"action": "presence_update", "status": "away"}),  # starts what a warm environment keeps
    (BOB, "query", {"action": "sync"}),
]
"""What was sent before."""
UPDATE = {"action": "presence_update", "status": "busy"}


class _Management(BaseHTTPRequestHandler):
    """The management API: accepts every post."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read the frame."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log."""


@contextmanager
def _management() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Management)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/live"
    server.shutdown()
    server.server_close()


def _event(user: str, body: dict[str, Any], now: int) -> dict[str, Any]:
    """A message's event, as API Gateway sends it."""
    authorizer = {"userId": user, "iat": str(now // 1000), "exp": str(now // 1000 + 3600)}
    authorizer |= {"deviceId": "", "deviceType": "web", "platform": "", "status": "", "active": "true"}
    context = {
        "routeKey": body["action"],
        "eventType": "MESSAGE",
        "requestId": "PJqB0E1tKRcF-Qw=",
        "connectionId": f"{user}=",
        "connectedAt": now,
        "authorizer": authorizer,
    }
    return {"requestContext": context, "body": json.dumps(body), "isBase64Encoded": False}


def _send(user: str, function: str, body: dict[str, Any], now: int) -> None:
    module = importlib.import_module(f"functions.{function}.handler")
    assert module.handler(_event(user, body, now), None) == {"statusCode": 200}  # noqa: S101 - count nothing that failed


def calls_of_an_update() -> list[str]:
    """The file of each call, in order.

    Sets the service's environment variables, so it is not for a process that does anything else.
    """
    with RedisServer.start() as redis, _management() as callback_url:
        os.environ |= {"PRESENCE_REDIS_URL": redis.url, "PRESENCE_CALLBACK_URL": callback_url}
        os.environ |= {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_REGION": "local"}
        from shared.environment import pusher, service, store  # reads the environment
        from shared.runtime import now_ms

        service().contacts.set_graph_loaded(True)
        service().contacts.change(ALICE, add=[BOB])
        now = now_ms()
        for user, function, body in MESSAGES:
            _send(user, function, body, now)
        calls: list[str] = []

        def count(frame: FrameType, event: str, argument: Any) -> None:  # noqa: ARG001 - the interpreter's signature
            code = frame.f_code
            if event == "call" and not code.co_name.endswith(("comp>", "genexpr>")):
                path = Path(code.co_filename)
                if path.is_relative_to(ROOT) and (inside := path.relative_to(ROOT)).parts[0] in FOLDERS:
                    calls.append(inside.as_posix())

        sys.setprofile(count)
        try:
            _send(ALICE, "update", UPDATE, now)
        finally:
            sys.setprofile(None)
        pusher().shutdown()
        store().close()
        return calls


def count_switches(calls: Sequence[str]) -> int:
    """How often the file differs from that of the call before."""
    return sum(before != after for before, after in pairwise(calls))


def main() -> None:
    """Print the files, in the order in which they are entered first, and both numbers."""
    calls = calls_of_an_update()
    files = list(dict.fromkeys(calls))
    print(*files, f"files: {len(files)}", f"switches: {count_switches(calls)}", sep="\n")  # noqa: T201 - its result


if __name__ == "__main__":
    main()
