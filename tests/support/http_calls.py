"""Requests to the HTTP API, handled by the function itself: from the backend, or from a user with a token.

Every error is checked to be problem details, as the OpenAPI document promises.
"""

from __future__ import annotations

import json
from typing import Any

import jwt

from shared.routes import HttpRoute
from shared.runtime import now_ms
from tests.support.http_events import request
from tests.support.warm_environment import SECRET, WarmEnvironment

BODIES: dict[tuple[str, str], str] = {
    ("POST", "/v1/presence/query"): '{"userIds":["bob"]}',
    ("POST", "/v1/me/heartbeat"): '{"deviceId":"d1"}',
    ("POST", "/v1/me/leave"): '{"deviceId":"d1"}',
    ("PUT", "/v1/me/status"): '{"status":"busy"}',
    ("PUT", "/v1/me/privacy"): '{"invisible":true}',
    ("PUT", "/v1/graph"): '{"loaded":true}',
    ("PUT", "/v1/users/{id}/contacts"): '{"add":["bob"]}',
    ("PUT", "/v1/users/{id}/privacy"): '{"invisible":true}',
    ("PUT", "/v1/users/{id}/status"): '{"status":"busy"}',
}
"""A valid body for each route that needs one."""
QUERIES = {("GET", "/v1/presence"): "?userIds=bob"}
"""The query string of each route that needs one."""


def token(user: str, *, issued: float = 0, lasts: float = 3600, key: str = SECRET, **claims: Any) -> str:
    """A user's token; `issued` and `lasts` are seconds from now."""
    now = now_ms() // 1000
    return jwt.encode({"sub": user, "iat": int(now + issued), "exp": int(now + lasts), **claims}, key, "HS256")


def bearer(user: str, **how: Any) -> dict[str, str]:
    """The Authorization header of a user."""
    return {"authorization": f"Bearer {token(user, **how)}"}


def ask(environment: WarmEnvironment, method: str, target: str, body: Any = None, **more: Any) -> tuple[int, Any]:
    """Make a backend request; returns the status and the parsed body."""
    answer = environment.invoke("api", request(method, target, _text(body), **more))
    content: Any = json.loads(answer["body"]) if answer["body"] else None
    if answer["statusCode"] >= 400:
        assert answer["headers"]["Content-Type"] == "application/problem+json"
        assert content["type"] == "about:blank"
        assert content["status"] == answer["statusCode"]
        assert content["title"]
        assert content["detail"]
    return answer["statusCode"], content


def ask_as(environment: WarmEnvironment, user: str, method: str, target: str, body: Any = None) -> tuple[int, Any]:
    """Make a user's request."""
    return ask(environment, method, target, body, signed=False, headers=bearer(user))


def target_of(route: HttpRoute) -> str:
    """A valid path for a route, about alice or bob."""
    return route.path.replace("{id}", "alice").replace("{userId}", "bob") + QUERIES.get((route.method, route.path), "")


def body_of(route: HttpRoute) -> str | None:
    """A valid body for a route, if it needs one."""
    return BODIES.get((route.method, route.path))


def ask_route(environment: WarmEnvironment, route: HttpRoute, **more: Any) -> tuple[int, Any]:
    """Make a route's request with the right credentials: as the backend about alice, or as alice."""
    if route.access == "user":
        more = {"signed": False, "headers": bearer("alice"), **more}
    return ask(environment, route.method, target_of(route), body_of(route), **more)


def name(route: HttpRoute) -> str:
    """A route's name in test ids."""
    return f"{route.method} {route.path}"


def _text(body: Any) -> str | bytes | None:
    return body if body is None or isinstance(body, str | bytes) else json.dumps(body)
