"""The HTTP API: each call of the table, who may make it, and the errors for invalid requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from functions.api.problems import MOST_ERRORS
from functions.api.requests import MAX_REQUEST_BYTES
from functions.api.resolver import OPERATIONS, call
from functions.api.routes import MOST_LATE
from shared.routes import HTTP_ROUTES, HttpRoute
from shared.runtime import metrics, now_ms
from shared.settings import Settings
from tests.support.http_calls import ask, ask_route, bearer, body_of, name, target_of
from tests.support.http_events import request
from tests.support.service import Bench
from tests.support.warm_environment import WarmEnvironment

WELL = {
    "dueLate": 0,
    "inconsistencies": {"dueUnknown": 0, "expired": 0, "liveNotDue": 0, "unseen": 0},
    "evictionPolicy": "volatile-lru",
}
"""The rest of a healthy service's response."""
CONTACTS, PRIVACY, STATUS = "/v1/users/alice/contacts", "/v1/users/alice/privacy", "/v1/users/alice/status"


BACKEND = [route for route in HTTP_ROUTES if route.access == "backend"]


# The table


@pytest.mark.parametrize("route", HTTP_ROUTES, ids=name)
def test_every_route_of_the_table_is_handled(environment: WarmEnvironment, route: HttpRoute) -> None:
    """Each row of the table of routes has a function that handles it."""
    assert ask_route(environment, route)[0] in (200, 204)


def test_a_route_outside_the_table_is_404(environment: WarmEnvironment) -> None:
    """A function cannot handle a route that the table does not have, and a path without a route is 404."""
    with pytest.raises(KeyError):
        call("GET", "/v1/users/{id}/passwords")
    with pytest.raises(KeyError):
        call("DELETE", "/v1/graph")
    assert ask(environment, "GET", "/v1/users/alice/passwords")[0] == 404
    assert ask(environment, "DELETE", "/v1/graph")[0] == 404


@pytest.mark.parametrize("authorizer", [None, {}, {"iam": None}, {"jwt": {"claims": {"sub": "alice"}, "scopes": None}}])
@pytest.mark.parametrize("route", BACKEND, ids=name)
def test_a_call_of_the_backend_needs_a_signature(
    environment: WarmEnvironment, route: HttpRoute, authorizer: dict[str, Any] | None
) -> None:
    """A backend route that was deployed without its IAM authorizer returns 403 and changes nothing."""
    event = request(route.method, target_of(route), body_of(route), signed=False)
    if authorizer is not None:
        event["requestContext"]["authorizer"] = authorizer
    assert environment.invoke("api", event)["statusCode"] == 403
    assert environment.redis.dbsize() == 0


@pytest.mark.parametrize("route", [route for route in HTTP_ROUTES if "openapi" not in route.path], ids=name)
def test_without_redis_every_call_is_503(cut_off: WarmEnvironment, route: HttpRoute) -> None:
    """While Redis does not respond, every call is 503 with the time to wait before a retry, and without an address."""
    headers = bearer("alice") if route.access == "user" else None
    event = request(route.method, target_of(route), body_of(route), headers=headers)
    response = cut_off.invoke("api", event)
    assert response["statusCode"] == 503
    assert response["headers"]["Retry-After"] == "1"
    assert json.loads(response["body"])["detail"] == "Redis cannot be reached"
    assert "127.0.0.1" not in response["body"]


def test_no_response_may_be_cached(environment: WarmEnvironment) -> None:
    """Every response, errors too, forbids caching."""
    for path in ("/v1/health", PRIVACY, "/v1/nothing"):
        response = environment.invoke("api", request("GET", path))
        assert response["headers"]["Cache-Control"] == "no-store"


# Health and graph


def test_health_shows_whether_the_graph_is_loaded(environment: WarmEnvironment) -> None:
    """Anyone may read it; the graph is not loaded until the backend declares it."""
    assert ask(environment, "GET", "/v1/health", signed=False) == (200, {"graph": "not_loaded", **WELL})
    assert ask(environment, "PUT", "/v1/graph", {"loaded": True}) == (204, None)
    assert ask(environment, "GET", "/v1/health", signed=False) == (200, {"graph": "loaded", **WELL})
    assert ask(environment, "PUT", "/v1/graph", {"loaded": False}) == (204, None)
    assert ask(environment, "GET", "/v1/health", signed=False)[1]["graph"] == "not_loaded"


def test_health_is_bad_when_due_users_are_not_settled(environment: WarmEnvironment) -> None:
    """Without a sweeper health is 503 a minute after a user became due, and 200 again once one has run."""
    bench = Bench(environment.redis)
    bench.clock.now = now_ms() - 600_000
    bench.open("alice")
    status, problem = ask(environment, "GET", "/v1/health", signed=False)
    assert status == 503
    assert problem["dueLate"] > MOST_LATE
    assert problem["graph"] == "loaded"
    assert "sweeper" in problem["detail"]
    assert environment.sweep()["settled"] >= 1
    assert ask(environment, "GET", "/v1/health", signed=False) == (200, {"graph": "loaded", **WELL})


def test_a_backup_holds_everybody(environment: WarmEnvironment) -> None:
    """Following `next` from page to page returns everything that was set for every user."""
    others = [f"user-{number}" for number in range(600)]
    ask(environment, "PUT", CONTACTS, {"add": others})
    ask(environment, "PUT", PRIVACY, {"invisible": True, "hideFrom": ["user-1"], "blocks": ["eve"]})
    ask(environment, "PUT", STATUS, {"customStatus": {"text": "Lunch"}})
    users: dict[str, Any] = {}
    cursor, pages = "", 0
    while pages == 0 or cursor:
        status, page = ask(environment, "GET", f"/v1/graph?cursor={cursor}" if cursor else "/v1/graph")
        assert status == 200
        users |= {user["userId"]: user for user in page["users"]}
        cursor, pages = page["next"], pages + 1
    assert pages > 1
    assert users.keys() >= {"alice", *others}
    assert users["user-7"]["viewers"] == ["alice"]
    assert users["alice"] == {
        "userId": "alice",
        "invisible": True,
        "lastSeen": "everyone",
        "viewers": sorted(others),
        "hideFrom": ["user-1"],
        "blocks": ["eve"],
        "customStatus": {"text": "Lunch", "emoji": "", "until": None},
        "claim": None,
    }


@pytest.mark.parametrize("cursor", ["x", "0", "7-0", "0-99999999999999999999", "-1-0", "0-1-2", "%00"])
def test_an_invalid_cursor_is_refused(environment: WarmEnvironment, cursor: str) -> None:
    """A cursor that cannot be valid is 400, and does not mark Redis as unavailable."""
    status, problem = ask(environment, "GET", f"/v1/graph?cursor={cursor}")
    assert status == 400
    assert [error["field"] for error in problem["errors"]] == ["cursor"]
    assert ask(environment, "GET", "/v1/health")[0] == 200


def test_the_error_for_an_invalid_cursor_names_where_to_get_one(environment: WarmEnvironment) -> None:
    """The message names where a cursor comes from, and shows no pattern."""
    problem = ask(environment, "GET", "/v1/graph?cursor=x")[1]
    assert problem["detail"] == "cursor: must be the next of an earlier page"


# Users


def test_contacts_are_mutual_by_default(environment: WarmEnvironment) -> None:
    """The users that alice adds may see her; with `mutual`, the default, she may see them too."""
    assert ask(environment, "PUT", CONTACTS, {"add": ["bob", "carol"]}) == (204, None)
    assert ask(environment, "PUT", CONTACTS, {"add": ["dave"], "remove": ["carol"], "mutual": False}) == (204, None)
    assert ask(environment, "GET", CONTACTS) == (200, {"viewers": ["bob", "dave"], "sees": ["bob", "carol"]})
    assert ask(environment, "GET", "/v1/users/dave/contacts") == (200, {"viewers": [], "sees": ["alice"]})
    assert ask(environment, "GET", "/v1/users/nobody/contacts") == (200, {"viewers": [], "sees": []})


def test_a_new_contact_is_seen_immediately(environment: WarmEnvironment) -> None:
    """A user who is added while online is announced to the new viewers immediately."""
    ask(environment, "PUT", "/v1/graph", {"loaded": True})
    environment.open("alice", "A=")
    environment.open("bob", "B=")
    ask(environment, "PUT", CONTACTS, {"add": ["bob"]})
    [frame] = [frame for frame in environment.frames("B=") if frame["type"] == "user_online"]
    assert (frame["userId"], frame["status"]) == ("alice", "online")


def test_too_many_contacts_are_refused_as_a_whole(start: Callable[..., WarmEnvironment]) -> None:
    """A list that exceeds the limit is 409, names the limit, and adds no contact."""
    environment = start(max_contacts=2)
    assert ask(environment, "PUT", CONTACTS, {"add": ["bob", "carol", "bob"]})[0] == 204
    status, problem = ask(environment, "PUT", "/v1/users/dave/contacts", {"add": ["erin", "alice"]})
    assert status == 409
    assert "alice" in problem["detail"]
    assert "2" in problem["detail"]
    assert [error["field"] for error in problem["errors"]] == ["add"]
    assert ask(environment, "GET", "/v1/users/dave/contacts")[1] == {"viewers": [], "sees": []}


def test_privacy_changes_what_is_given(environment: WarmEnvironment) -> None:
    """A given list replaces the old one, and an absent field stays."""
    assert ask(environment, "GET", PRIVACY) == (
        200,
        {"invisible": False, "lastSeen": "everyone", "hideFrom": [], "blocks": []},
    )
    ask(environment, "PUT", PRIVACY, {"invisible": True, "hideFrom": ["bob"], "blocks": ["eve"]})
    assert ask(environment, "PUT", PRIVACY, {"lastSeen": "nobody", "hideFrom": ["carol"]}) == (204, None)
    assert ask(environment, "GET", PRIVACY) == (
        200,
        {"invisible": True, "lastSeen": "nobody", "hideFrom": ["carol"], "blocks": ["eve"]},
    )
    ask(environment, "PUT", PRIVACY, {"invisible": False, "hideFrom": [], "blocks": []})
    assert ask(environment, "GET", PRIVACY)[1] == {
        "invisible": False,
        "lastSeen": "nobody",
        "hideFrom": [],
        "blocks": [],
    }


def test_a_status_over_http_is_a_claim(environment: WarmEnvironment) -> None:
    """Without a device a status applies to all devices, until it is cleared; `scope` is optional."""
    environment.open("alice", "A=")
    assert ask(environment, "PUT", STATUS, {"status": "busy", "customStatus": {"emoji": "🎧"}}) == (204, None)
    status, real = ask(environment, "GET", "/v1/users/alice/presence")
    assert status == 200
    assert (real["status"], real["claim"]) == ("busy", {"status": "busy", "until": None})
    assert real["customStatus"] == {"text": "", "emoji": "🎧", "until": None}
    ask(environment, "PUT", STATUS, {"status": "online", "scope": "user", "customStatus": None})
    real = ask(environment, "GET", "/v1/users/alice/presence")[1]
    assert (real["status"], real["claim"], real["customStatus"]) == ("online", None, None)


def test_the_real_state_has_the_devices_and_the_reason(environment: WarmEnvironment) -> None:
    """The backend sees the real state in spite of invisibility, down to each device."""
    environment.open("alice", "A=", deviceId="phone", deviceType="mobile")
    ask(environment, "PUT", PRIVACY, {"invisible": True})
    real = ask(environment, "GET", "/v1/users/alice/presence")[1]
    assert (real["status"], real["invisible"], real["why"]) == ("online", True, "invisible: contacts see offline")
    [device] = real["devices"]
    assert (device["connectionId"], device["deviceId"], device["deviceType"]) == ("A=", "phone", "mobile")
    nobody = ask(environment, "GET", "/v1/users/nobody/presence")
    assert nobody[0] == 200
    assert (nobody[1]["status"], nobody[1]["devices"]) == ("offline", [])


def test_sign_out_everywhere(environment: WarmEnvironment) -> None:
    """Every socket is closed, the user is offline, and a message in transit does not bring the user back."""
    context = environment.open("alice", "A1=")
    environment.open("alice", "A2=")
    assert ask(environment, "POST", "/v1/users/alice/disconnect") == (200, {"closed": 2})
    assert sorted(environment.closed()) == ["A1=", "A2="]
    environment.say(context, "A1=", '{"action":"heartbeat"}', function="heartbeat")
    assert ask(environment, "GET", "/v1/users/alice/presence")[1]["status"] == "offline"
    assert ask(environment, "POST", "/v1/users/alice/disconnect") == (200, {"closed": 0})


# What is refused


def test_every_user_id_can_stand_in_a_path(environment: WarmEnvironment) -> None:
    """An id with every allowed character is the same user, however much of it a client encodes."""
    id = "aZ09._~:@|+=-"
    ask(environment, "PUT", f"/v1/users/{quote(id, safe='')}/contacts", {"add": ["bob"]})
    everything = "".join(f"%{ord(char):02X}" for char in id)
    for path in (id, quote(id, safe=":@+="), quote(id, safe=""), everything):
        assert ask(environment, "GET", f"/v1/users/{path}/contacts") == (200, {"viewers": ["bob"], "sees": ["bob"]})
    assert ask(environment, "GET", "/v1/users/bob/contacts")[1]["viewers"] == [id]


@pytest.mark.parametrize("id", ["..", "%2E", "a%20b", "a%2540b", "%C3%A9", "a" * 129, "a%25", "a*b"])
@pytest.mark.parametrize("route", [route for route in BACKEND if "{id}" in route.path], ids=name)
def test_a_path_with_a_bad_user_id_is_refused(environment: WarmEnvironment, route: HttpRoute, id: str) -> None:
    """An invalid user id, after decoding once, is 400 in every call, and nothing is written."""
    status, problem = ask(environment, route.method, route.path.replace("{id}", id), body_of(route))
    assert status == 400
    assert [error["field"] for error in problem["errors"]] == ["id"]
    assert environment.redis.dbsize() == 0


@pytest.mark.parametrize("id", ["a%2Fb", "a%0A", "%22", "a%00"])
def test_an_id_that_makes_another_path_is_404(environment: WarmEnvironment, id: str) -> None:
    """An encoded slash or control character in an id does not reach a call: 404."""
    assert ask(environment, "GET", f"/v1/users/{id}/contacts")[0] == 404


WRONG: list[tuple[str, str | bytes | None, list[str]]] = [
    (CONTACTS, None, ["body"]),
    (CONTACTS, "", ["body"]),
    (CONTACTS, "{", ["body"]),
    (CONTACTS, "null", ["body"]),
    (CONTACTS, "3", ["body"]),
    (CONTACTS, '[{"add":["bob"]}]', ["body"]),
    (CONTACTS, "[" * 100_000, ["body"]),
    (CONTACTS, '{"mutual":' + "1" * 5000 + "}", ["body"]),
    (CONTACTS, b'{"add":["\xff"]}', ["body"]),
    (CONTACTS, b"add=bob", ["body"]),
    (CONTACTS, '{"add":["bob\\ud800"]}', ["body"]),
    (CONTACTS, '{"add":["bob\ud800"]}', ["body"]),
    (CONTACTS, "{}", ["body"]),
    (CONTACTS, '{"mutual":true}', ["body"]),
    (CONTACTS, '{"ad":["bob"]}', ["ad"]),
    (CONTACTS, '{"add":["bob"],"mutal":false}', ["mutal"]),
    (CONTACTS, '{"add":["bob","alice"]}', ["add.1"]),
    (CONTACTS, '{"add":"bob"}', ["add"]),
    (CONTACTS, '{"add":null}', ["add"]),
    (CONTACTS, '{"add":["bob","a/b",7]}', ["add.1", "add.2"]),
    (CONTACTS, '{"add":["bob"],"remove":["bob"]}', ["remove"]),
    (CONTACTS, '{"add":["bob"],"mutual":"yes"}', ["mutual"]),
    (CONTACTS, json.dumps({"remove": [f"u{number}" for number in range(5001)]}), ["remove"]),
    (PRIVACY, "{}", ["body"]),
    (PRIVACY, '{"hidefrom":["bob"]}', ["hidefrom"]),
    (PRIVACY, '{"invisible":null}', ["invisible"]),
    (PRIVACY, '{"lastSeen":null,"hideFrom":null,"blocks":null}', ["lastSeen", "hideFrom", "blocks"]),
    (PRIVACY, '{"hideFrom":["bob","alice"]}', ["hideFrom.1"]),
    (PRIVACY, '{"blocks":["alice"]}', ["blocks.0"]),
    (PRIVACY, '{"invisible":1,"lastSeen":"friends"}', ["invisible", "lastSeen"]),
    (PRIVACY, '{"hideFrom":["é"],"blocks":{}}', ["hideFrom.0", "blocks"]),
    (PRIVACY, json.dumps({"blocks": [f"u{number}" for number in range(1001)]}), ["blocks"]),
    (STATUS, "{}", ["body"]),
    (STATUS, '{"status":null}', ["status"]),
    (STATUS, '{"status":"busy","untl":4102444800000}', ["untl"]),
    (STATUS, '{"customStatus":{"txt":"hi"}}', ["customStatus.txt"]),
    (STATUS, '{"status":"offline"}', ["status"]),
    (STATUS, '{"status":"busy","scope":"device"}', ["scope"]),
    (STATUS, '{"status":"busy","until":1}', ["until"]),
    (STATUS, '{"status":"online","until":99999999999999}', ["until"]),
    (STATUS, '{"customStatus":{"text":"a\\u0007"}}', ["customStatus.text"]),
    (STATUS, '{"customStatus":{"text":"a","until":1}}', ["customStatus.until"]),
    (STATUS, json.dumps({"customStatus": {"text": "a" * 141}}), ["customStatus.text"]),
    ("/v1/graph", "{}", ["loaded"]),
    ("/v1/graph", '{"loaded":true,"by":"me"}', ["by"]),
    ("/v1/graph", '{"loaded":"true"}', ["loaded"]),
    ("/v1/graph", '{"loaded":1}', ["loaded"]),
]


@pytest.mark.parametrize(("path", "body", "fields"), WRONG, ids=[f"{path} {body!s:.40}" for path, body, _ in WRONG])
def test_a_bad_body_is_refused(
    environment: WarmEnvironment, path: str, body: str | bytes | None, fields: list[str]
) -> None:
    """A body that violates the protocol is 400 with the invalid fields, and nothing is written."""
    status, problem = ask(environment, "PUT", path, body)
    assert status == 400
    assert [error["field"] for error in problem["errors"]] == fields
    assert all(error["message"] for error in problem["errors"])
    assert problem["detail"].startswith(f"{fields[0]}: ")
    assert environment.redis.dbsize() == 0


def test_a_body_in_base64_is_a_body(environment: WarmEnvironment) -> None:
    """API Gateway passes bodies without a JSON content type in base64; they are decoded."""
    assert ask(environment, "PUT", CONTACTS, b'{"add":["bob"]}') == (204, None)
    assert ask(environment, "GET", CONTACTS)[1]["viewers"] == ["bob"]


def test_query_parameters_of_a_newer_protocol_are_ignored(environment: WarmEnvironment) -> None:
    """Unknown query parameters change nothing."""
    assert ask(environment, "GET", "/v1/graph?order=up")[0] == 200


@pytest.mark.parametrize(
    ("until", "detail"),
    [
        (now_ms() - 1, "customStatus.until: is past"),
        (
            now_ms() // 1000 + 3600,
            "customStatus.until: is past: times are in milliseconds since the epoch, and this one is in seconds",
        ),
    ],
    ids=["a moment ago", "in seconds"],
)
def test_the_detail_names_a_field_once(environment: WarmEnvironment, until: int, detail: str) -> None:
    """`detail` names the field and the mistake; for a time in seconds it gives the expected unit."""
    status, problem = ask(environment, "PUT", STATUS, {"customStatus": {"text": "Lunch", "until": until}})
    assert (status, problem["detail"]) == (400, detail)


def test_an_until_of_null_means_no_end(environment: WarmEnvironment) -> None:
    """A claim and a custom status can be sent back exactly as a response contains them."""
    sent = {"status": "busy", "until": None, "customStatus": {"text": "Lunch", "emoji": "", "until": None}}
    assert ask(environment, "PUT", STATUS, sent) == (204, None)
    real = ask(environment, "GET", "/v1/users/alice/presence")[1]
    assert (real["claim"], real["customStatus"]) == ({"status": "busy", "until": None}, sent["customStatus"])
    assert ask(environment, "PUT", STATUS, {"customStatus": None}) == (204, None)
    assert ask(environment, "GET", "/v1/users/alice/presence")[1]["customStatus"] is None


def test_the_document_has_only_the_nulls_that_mean_something(environment: WarmEnvironment) -> None:
    """In a body the OpenAPI document allows null for `customStatus`, which clears it, and for `until`: no end."""
    document = ask(environment, "GET", "/v1/openapi.json", signed=False)[1]
    nulls = set()
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation["parameters"]:
                assert "null" not in json.dumps(parameter)
            if "requestBody" in operation:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                model = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
                nulls |= {field for field, schema in model["properties"].items() if "null" in json.dumps(schema)}
    assert nulls == {"customStatus", "until"}


def test_the_document_promises_409_and_429_only_where_they_come_from(environment: WarmEnvironment) -> None:
    """409 belongs to routes that add contacts, blocks or polling devices; 429 belongs to users' calls."""
    document = ask(environment, "GET", "/v1/openapi.json", signed=False)[1]
    promised: dict[str, set[str]] = {"409": set(), "429": set()}
    for path in document["paths"].values():
        for operation in path.values():
            for status in promised.keys() & operation["responses"].keys():
                promised[status].add(operation["operationId"])
    assert promised == {
        "409": {"post_my_heartbeat", "put_my_status", "put_my_block", "put_contacts"},
        "429": {operation.function.__name__ for operation in OPERATIONS if operation.route.access == "user"},
    }


def test_a_misspelled_privacy_field_is_refused(environment: WarmEnvironment) -> None:
    """Ignoring `hidefrom` would silently hide the user from nobody."""
    status, problem = ask(environment, "PUT", PRIVACY, {"lastSeen": "nobody", "hidefrom": ["bob"]})
    assert (status, [error["field"] for error in problem["errors"]]) == (400, ["hidefrom"])
    assert ask(environment, "GET", PRIVACY)[1]["lastSeen"] == "everyone"


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_body_that_is_too_large_is_refused(environment: WarmEnvironment, as_bytes: bool) -> None:
    """A megabyte is accepted, one byte more is 413."""
    body = '{"loaded":true}'.ljust(MAX_REQUEST_BYTES)
    assert ask(environment, "PUT", "/v1/graph", body.encode() if as_bytes else body)[0] == 204
    body += " "
    assert ask(environment, "PUT", "/v1/graph", body.encode() if as_bytes else body)[0] == 413
    assert (
        ask(environment, "PUT", CONTACTS, {"add": [f"{number:0128}" for number in range(5000)], "mutual": False})[0]
        == 204
    )


def test_a_response_does_not_grow_with_the_mistakes(environment: WarmEnvironment) -> None:
    """Of thousands of invalid fields the first few are named."""
    problem = ask(environment, "PUT", CONTACTS, {"add": ["a b"] * 5000})[1]
    assert [error["field"] for error in problem["errors"]] == [f"add.{place}" for place in range(MOST_ERRORS)]


def test_an_internal_error_reveals_nothing(environment: WarmEnvironment) -> None:
    """An unforeseen error is counted, and is 500 without a reason (here, a store laid out for another bucket count)."""
    Bench(environment.redis, Settings(buckets=8)).open("alice")
    assert ask(environment, "GET", "/v1/health") == (
        500,
        {
            "type": "about:blank",
            "title": "Internal Server Error",
            "status": 500,
            "detail": "an internal error; it is in the log",
        },
    )
    assert metrics()._counts["Errors"] == 1
