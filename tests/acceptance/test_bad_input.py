"""Bad input gets one clear error frame; the connection stays open and nothing is written."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from local.elasticache import RedisServer
from shared import runtime
from shared.messages import ACTIONS, MessageRefused
from shared.routes import WEBSOCKET_ROUTES
from tests.support import events
from tests.support.bad_messages import NO_MESSAGE, WRONG_ACTION, WRONG_FIELD
from tests.support.service import Bench
from tests.support.warm_environment import WarmEnvironment, warm_environment

everywhere = pytest.mark.parametrize("client", ["fakeredis", "redis"], indirect=True)

ID = "BFaT_fALIAMCKug="
ROUTES = {route.key: route.function for route in WEBSOCKET_ROUTES}


class Speaker:
    """A client that is connected through the real handlers and sends messages."""

    def __init__(self, environment: WarmEnvironment) -> None:
        self.environment = environment
        self._context = environment.open("alice", ID)

    def say(self, body: str, *, encoded: bool = False) -> list[dict[str, Any]]:
        """Send a text frame through the route that API Gateway would choose; returns the frames posted in response."""
        before = len(self.environment.management.requests)
        try:
            action = json.loads(body)["action"]
            route = action if action in ACTIONS else "$default"
        except (ValueError, TypeError, KeyError, RecursionError):
            route = "$default"
        event = events.message(self._context, body, ID, runtime.now_ms(), route=route, base64=encoded)
        assert self.environment.invoke(ROUTES[route], event) == {"statusCode": 200}
        posted = self.environment.management.requests[before:]
        return [json.loads(received.body) for received in posted if received.method == "POST"]


@pytest.fixture
def alice(request: pytest.FixtureRequest, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Speaker]:
    """Alice, connected to a service with the settings that the test is parametrized with."""
    given = getattr(request, "param", {"rate_limit": 1000, "rate_burst": 1000})
    with warm_environment(monkeypatch, redis_url=server.url, **given) as environment:
        environment.redis.flushall()
        yield Speaker(environment)


def check(alice: Speaker, body: str, *, encoded: bool = False) -> dict[str, Any]:
    """Send a bad message, check what holds for all of them, and return the one error frame."""
    before = alice.environment.stored()
    [error] = alice.say(body, encoded=encoded)
    assert alice.environment.stored() == before, "something was written"
    assert alice.environment.closed() == [], "the connection was closed"
    assert error["type"] == "error"
    assert set(error) <= {"type", "code", "message", "field", "id", "retryAfter"}
    assert 10 < len(error["message"]) < 200
    assert "Traceback" not in error["message"]
    return error


def test_27_a_body_that_is_not_a_message_is_invalid(alice: Speaker) -> None:
    """Line 27: non-JSON, bare values, deep nesting, wrong encodings: `invalid_message`; the next good message works."""
    for name, body in NO_MESSAGE.items():
        error = check(alice, body)
        assert (error["code"], error.get("field")) == ("invalid_message", None), name
    assert alice.say('{"action":"get_presence","userIds":["bob"]}')[0]["type"] == "presence"


def test_27_an_unknown_action_lists_the_known_ones(alice: Speaker) -> None:
    """Line 27: an unknown action gets an error that lists the known actions and carries the message's `id`."""
    for action in WRONG_ACTION:
        error = check(alice, json.dumps({"action": action, "id": "m1"}))
        assert (error["code"], error["field"], error["id"]) == ("unknown_action", "action", "m1")
        assert all(known in error["message"] for known in ACTIONS)
    assert check(alice, '{"id":"m1"}')["field"] == "action"


def test_27_the_error_names_the_wrong_field(alice: Speaker) -> None:
    """Line 27: wrong types, huge numbers, control characters and long lists: the error names the field at any depth."""
    for action, fields, field in WRONG_FIELD:
        error = check(alice, json.dumps({"action": action, **fields}))
        assert (error["code"], error["field"]) == ("invalid_message", field), (action, fields)


def test_27_a_time_in_the_past_is_refused(alice: Speaker) -> None:
    """Line 27: a claim or custom status that has already ended is refused, and the error names the field."""
    past = runtime.now_ms() - 1
    claim = {"action": "presence_update", "status": "busy", "scope": "user", "until": past}
    assert check(alice, json.dumps(claim))["field"] == "until"
    custom = {"action": "presence_update", "customStatus": {"text": "x", "until": past}}
    assert check(alice, json.dumps(custom))["field"] == "customStatus.until"


def test_27_an_oversized_message_is_too_large(alice: Speaker) -> None:
    """Line 27: a message of more than 4 KB gets `too_large`, whatever it contains."""
    for body in ("x" * 4097, '{"action":"heartbeat","x":"%s"}' % ("é" * 2048), "\x00" * 30_000):
        assert check(alice, body)["code"] == "too_large"


def test_27_bytes_that_are_not_utf8_are_refused(alice: Speaker) -> None:
    """Line 27: a base64 body that does not decode to a UTF-8 message gets an error."""
    for raw in (b"\xff\xfe", b'{"action":"\xc3\x28"}', '{"action":"heartbeat"}'.encode("utf-16")):
        assert check(alice, base64.b64encode(raw).decode(), encoded=True)["code"] in (
            "invalid_message",
            "unknown_action",
        )


def test_27_a_thousand_random_messages_crash_nothing(alice: Speaker, rng: random.Random) -> None:
    """Line 27: each of a thousand random messages is either accepted or gets exactly one error."""
    actions = [action for action in ACTIONS if action != "leave"]  # after which the connection could send nothing
    words: list[Any] = [*actions, "busy", "user", "bob", "", "🎧", "\u0000", "x" * 200, None, True, -1, 0.5, 1e308]
    names = ["status", "scope", "until", "customStatus", "text", "userIds", "replaces", "n", "seq", "id"]

    def value(depth: int) -> Any:
        match rng.randrange(6 if depth < 3 else 4):
            case 4:
                return [value(depth + 1) for _ in range(rng.randrange(3))]
            case 5:
                return {rng.choice(names): value(depth + 1) for _ in range(rng.randrange(4))}
        return rng.choice(words)

    for _ in range(1000):
        fields = {name: value(1) for name in names if rng.random() < 0.2}
        text = json.dumps({"action": rng.choice(actions), **fields} if rng.random() < 0.9 else value(0))
        if rng.random() < 0.1:
            text = text[: rng.randrange(len(text) + 1)]
        frames = alice.say(text)
        assert sum(frame["type"] == "error" for frame in frames) <= 1, text
    assert ID not in alice.environment.closed()
    assert alice.say('{"action":"get_presence","userIds":["bob"]}')[-1]["type"] == "presence"


@pytest.mark.parametrize("alice", [{}], indirect=True)
def test_27_too_many_messages_are_rate_limited(alice: Speaker) -> None:
    """Line 27: beyond the burst, the error is `rate_limited`, with the message's `id` and when to retry."""
    said = (alice.say('{"action":"heartbeat","id":"b"}') for _ in range(100))
    [error] = next(frames for frames in said if frames)
    assert (error["code"], error["id"], error["retryAfter"]) == ("rate_limited", "b", 200)
    assert alice.environment.closed() == []


@everywhere
def test_27_the_rate_limit_is_per_connection(bench: Bench) -> None:
    """Line 27: a connection may send bursts of 20 and five messages a second; other connections are not affected."""
    loud, quiet = bench.open("alice"), bench.open("alice")
    for _ in range(19):  # after the first sync
        bench.beat(loud)
    with pytest.raises(MessageRefused) as refused:
        bench.beat(loud)
    assert (refused.value.code, refused.value.retry_after) == ("rate_limited", 200)
    bench.beat(quiet)
    for _ in range(50):
        bench.clock.advance(0.2)
        bench.beat(loud)
    with pytest.raises(MessageRefused):
        bench.beat(loud)
    bench.clock.advance(10)
    for _ in range(20):
        bench.beat(loud)


@everywhere
def test_27_a_rate_limited_message_changes_nothing(bench: Bench) -> None:
    """Line 27: an update beyond the rate limit is not applied and does not extend the connection's deadline.

    Only that there was one message too many is stored, beside the connection.
    """
    bench.service.contacts.change("alice", ["bob"])
    alice = bench.open("alice")
    for _ in range(19):
        bench.beat(alice)
    key = bench.store.key("user", "alice")
    before: Any = bench.client.hgetall(key)
    with pytest.raises(MessageRefused):
        bench.update(alice, status="busy")
    after: Any = bench.client.hgetall(key)
    field = f"!{alice.id}".encode()
    assert after.pop(field).rsplit(b" ", 2)[0] == before.pop(field)
    assert after == before
    assert bench.sees("bob", "alice")["status"] == "online"
