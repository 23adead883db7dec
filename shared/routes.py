"""Which event invokes which function: the one table that `infra`, `local` and the tests read.

A function is named by its folder in `functions/`. To add a route, add a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Access = Literal["open", "user", "backend"]
"""Who may call an HTTP route: anybody, a user (the function verifies the token), or the application's backend (IAM)."""


@dataclass(frozen=True, slots=True)
class WebSocketRoute:
    """A route of the WebSocket API: `key` is matched against `$request.body.action`."""

    key: str
    function: str


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """A route of the HTTP API; `{id}` in a path stands for one segment."""

    method: str
    path: str
    access: Access
    function: str = "api"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A function that is invoked at a fixed rate, in minutes."""

    function: str
    every_minutes: int


AUTHORIZER = "authorize"
"""The function that verifies the token of a handshake; it runs before `$connect`, and only then."""

WEBSOCKET_ROUTES = (
    WebSocketRoute("$connect", "connect"),
    WebSocketRoute("$disconnect", "disconnect"),
    WebSocketRoute("heartbeat", "heartbeat"),
    WebSocketRoute("presence_update", "update"),
    WebSocketRoute("sync", "query"),
    WebSocketRoute("get_presence", "query"),
    WebSocketRoute("leave", "query"),
    WebSocketRoute("$default", "query"),
)

HTTP_ROUTES = (
    HttpRoute("GET", "/v1/health", "open"),
    HttpRoute("GET", "/v1/openapi.json", "open"),
    HttpRoute("GET", "/v1/presence", "user"),
    HttpRoute("POST", "/v1/presence/query", "user"),
    HttpRoute("GET", "/v1/me", "user"),
    HttpRoute("GET", "/v1/me/contacts/presence", "user"),
    HttpRoute("POST", "/v1/me/heartbeat", "user"),
    HttpRoute("POST", "/v1/me/leave", "user"),
    HttpRoute("PUT", "/v1/me/status", "user"),
    HttpRoute("PUT", "/v1/me/privacy", "user"),
    HttpRoute("PUT", "/v1/me/blocks/{userId}", "user"),
    HttpRoute("DELETE", "/v1/me/blocks/{userId}", "user"),
    HttpRoute("GET", "/v1/graph", "backend"),
    HttpRoute("PUT", "/v1/graph", "backend"),
    HttpRoute("GET", "/v1/users/{id}/contacts", "backend"),
    HttpRoute("PUT", "/v1/users/{id}/contacts", "backend"),
    HttpRoute("GET", "/v1/users/{id}/privacy", "backend"),
    HttpRoute("PUT", "/v1/users/{id}/privacy", "backend"),
    HttpRoute("PUT", "/v1/users/{id}/status", "backend"),
    HttpRoute("GET", "/v1/users/{id}/presence", "backend"),
    HttpRoute("POST", "/v1/users/{id}/disconnect", "backend"),
    HttpRoute("DELETE", "/v1/users/{id}", "backend"),
)

SCHEDULES = (Schedule("sweeper", every_minutes=1),)

FUNCTIONS = tuple(
    sorted(
        {AUTHORIZER}
        | {route.function for route in WEBSOCKET_ROUTES}
        | {route.function for route in HTTP_ROUTES}
        | {schedule.function for schedule in SCHEDULES}
    )
)
"""Every function's name, sorted."""
