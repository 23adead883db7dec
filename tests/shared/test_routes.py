"""The table of events and functions: complete, without duplicates, and with a handler for each name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from shared.messages import ACTIONS
from shared.routes import AUTHORIZER, FUNCTIONS, HTTP_ROUTES, SCHEDULES, WEBSOCKET_ROUTES

FOLDER = Path(__file__).parents[2] / "functions"


def test_every_action_of_the_protocol_has_its_route_and_no_route_is_for_anything_else() -> None:
    """Every action of the protocol has a route of its own; the others are the three that API Gateway defines."""
    keys = [route.key for route in WEBSOCKET_ROUTES]
    assert sorted(keys) == sorted([*ACTIONS, "$connect", "$disconnect", "$default"])


def test_no_http_route_is_listed_twice() -> None:
    """A method and a path name one row."""
    rows = [(route.method, re.sub(r"\{\w+\}", "{}", route.path)) for route in HTTP_ROUTES]
    assert len(set(rows)) == len(rows)


def test_every_http_path_is_of_version_1_and_its_parameters_are_whole_segments() -> None:
    """Every path begins with /v1, and `{id}` stands for one whole segment."""
    for route in HTTP_ROUTES:
        assert re.fullmatch(r"/v1(/[a-z]+(\.json)?|/\{[a-zA-Z]+\})+", route.path), route
        assert route.method in ("GET", "PUT", "POST", "DELETE"), route


def test_only_health_and_the_document_are_open_and_nobody_but_the_backend_touches_other_users() -> None:
    """Without credentials, only the health and the API's description are readable; users' paths are the backend's."""
    assert [route.path for route in HTTP_ROUTES if route.access == "open"] == ["/v1/health", "/v1/openapi.json"]
    for route in HTTP_ROUTES:
        if route.path.startswith(("/v1/users/", "/v1/graph")):
            assert route.access == "backend", route


def test_every_function_has_an_event_and_a_handler() -> None:
    """Each folder of `functions` is named in the table and has a handler, and the table names no other."""
    folders = sorted(path.parent.name for path in FOLDER.glob("*/handler.py"))
    assert list(FUNCTIONS) == folders
    for name in FUNCTIONS:
        assert callable(importlib.import_module(f"functions.{name}.handler").handler)


def test_the_authorizer_and_the_sweeper_have_no_other_event() -> None:
    """The authorizer has no route of its own, and the sweeper only its schedule."""
    routed = {route.function for route in (*WEBSOCKET_ROUTES, *HTTP_ROUTES)}
    assert AUTHORIZER not in routed
    assert routed.isdisjoint(schedule.function for schedule in SCHEDULES)
    assert all(schedule.every_minutes >= 1 for schedule in SCHEDULES), "the scheduler's floor is one minute"
