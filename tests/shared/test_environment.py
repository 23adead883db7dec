"""What a warm environment keeps, and how it responds to errors of messages."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any, TextIO, cast

import pytest

from local.elasticache import RedisServer
from shared import environment as cached
from shared import runtime
from shared.delivery import Unavailable
from shared.environment import message_entrypoint
from shared.events import Event
from shared.messages import MessageRefused
from shared.runtime import pseudonym
from tests.support import events
from tests.support.warm_environment import WarmEnvironment, nobody_there, warm_environment

ID = "BFaT_fALIAMCKug="
ALICE = events.vouched("alice", 1_732_400_000, 4_102_444_800)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[WarmEnvironment]:
    """An environment whose Redis does not respond: nothing here needs it."""
    with (
        nobody_there() as url,
        warm_environment(monkeypatch, redis_url=url, log_key="a key for the log") as environment,
    ):
        yield environment


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the environment's logger writes; it opened standard output when it was created."""
    stream = io.StringIO()
    handler = cast("logging.StreamHandler[TextIO]", runtime.logger.registered_handler)
    before = handler.setStream(stream)
    yield stream
    if before:
        handler.setStream(before)


def lines(written: str) -> list[dict[str, Any]]:
    """Lines of JSON."""
    return [json.loads(line) for line in written.splitlines()]


def test_unavailable_is_logged_as_a_warning_with_its_reason(environment: WarmEnvironment, log: io.StringIO) -> None:
    """A message that cannot reach Redis is one warning with the reason and the user's pseudonym."""
    environment.say(ALICE, ID, '{"action":"heartbeat","id":"b1"}', function="heartbeat")
    [line] = lines(log.getvalue())
    assert (line["level"], line["message"], line["user"]) == ("WARNING", "unavailable", pseudonym("alice"))
    assert "ConnectionError" in line["reason"]
    assert "alice" not in json.dumps(line)


def test_a_refused_message_is_answered_with_its_error(environment: WarmEnvironment) -> None:
    """A refusal becomes one error frame on the sender's connection, and the invocation succeeds."""

    @message_entrypoint
    def handler(event: Event) -> None:
        raise MessageRefused("invalid_message", "no", field="f", id="m", retry_after=7)

    assert handler(events.message(ALICE, "{}", ID), None) == {"statusCode": 200}
    [frame] = environment.frames(ID)
    assert frame == {
        "type": "error",
        "code": "invalid_message",
        "message": "no",
        "field": "f",
        "id": "m",
        "retryAfter": 7,
    }


@pytest.mark.parametrize("body", ["{}", "rubbish", '{"id":5}', "[" * 3000])
def test_unavailable_names_the_message_where_it_has_an_id(environment: WarmEnvironment, body: str) -> None:
    """Any message is answered with `unavailable`; the id is returned only if the message has one."""

    @message_entrypoint
    def handler(event: Event) -> None:
        raise Unavailable("away")

    handler(events.message(ALICE, body, ID), None)
    [frame] = environment.frames(ID)
    assert (frame["code"], frame["retryAfter"], "id" in frame) == ("unavailable", 1000, False)


def test_an_environment_creates_its_service_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service, its connections and its metrics are created with the first event and reused for the next."""
    with RedisServer.start() as server, warm_environment(monkeypatch, redis_url=server.url) as environment:
        environment.open("alice", ID)
        service, metrics = cached.service(), runtime.metrics()
        connections = environment.redis.info("stats")["total_connections_received"]
        links = set(environment.management.links)
        for _ in range(10):
            environment.say(ALICE, ID, '{"action":"get_presence","userIds":["bob"]}')
        assert cached.service() is service
        assert runtime.metrics() is metrics
        assert environment.redis.info("stats")["total_connections_received"] == connections
        assert environment.management.links == links
