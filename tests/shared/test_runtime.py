"""What a warm sandbox holds: its meter, its log, its secrets, and how `@entrypoint` answers."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any, TextIO, cast

import boto3
import pytest
from moto import mock_aws

from local.elasticache import RedisServer
from shared import runtime
from shared.delivery import Unavailable
from shared.events import Event
from shared.messages import MessageRefused
from shared.runtime import FLUSH_SECONDS, MOST_VALUES, Meter, entrypoint, pseudonym
from tests.support import events
from tests.support.warm_sandbox import WarmSandbox, nobody_there, warm_sandbox

ID = "BFaT_fALIAMCKug="
ALICE = events.vouched("alice", 1_732_400_000, 4_102_444_800)


class Monotonic:
    """A clock in seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[WarmSandbox]:
    """A sandbox whose Redis does not answer: nothing here needs it."""
    with (
        nobody_there() as url,
        warm_sandbox(monkeypatch, redis_url=url, log_key="a key for the log") as sandbox,
    ):
        yield sandbox


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the sandbox's logger writes; it took hold of standard output when it was made."""
    stream = io.StringIO()
    handler = cast("logging.StreamHandler[TextIO]", runtime.logger.registered_handler)
    before = handler.setStream(stream)
    yield stream
    if before:
        handler.setStream(before)


def lines(written: str) -> list[dict[str, Any]]:
    """Lines of JSON."""
    return [json.loads(line) for line in written.splitlines()]


# The meter -----------------------------------------------------------------------------------------------------------


def test_numbers_are_written_together_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """Counts and durations of several seconds come as one line of the embedded metric format, each with its unit."""
    clock = Monotonic()
    meter = Meter("Presence", "heartbeat", clock)
    for _ in range(3):
        meter.count("Connections")
        meter.time("RedisTime", 1.23456)
        clock.now += 1
        meter.flush()
    meter.count("PostsSent", 40)
    assert lines(capsys.readouterr().out) == []
    clock.now = FLUSH_SECONDS
    meter.flush()
    [line] = lines(capsys.readouterr().out)
    [directive] = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Presence"
    assert directive["Dimensions"] == [["service"]]
    assert {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]} == {
        "Connections": "Count",
        "PostsSent": "Count",
        "RedisTime": "Milliseconds",
    }
    assert (line["service"], line["function"]) == ("Presence", "heartbeat")
    assert (line["Connections"], line["PostsSent"], line["RedisTime"]) == ([3.0], [40.0], [1.235] * 3)


def test_nothing_is_written_twice_and_nothing_where_nothing_happened(capsys: pytest.CaptureFixture[str]) -> None:
    """After a flush the numbers begin at nothing, and a quiet sandbox writes nothing at all."""
    clock = Monotonic()
    meter = Meter("Presence", "update", clock)
    for second in range(1, 60):
        clock.now = second
        meter.flush()
    assert lines(capsys.readouterr().out) == []
    meter.count("Updates")
    meter.flush()
    assert [line["Updates"] for line in lines(capsys.readouterr().out)] == [[1.0]]
    clock.now += FLUSH_SECONDS
    meter.flush()
    assert lines(capsys.readouterr().out) == []


def test_a_line_stays_within_what_the_format_allows(capsys: pytest.CaptureFixture[str]) -> None:
    """Of very many durations as many are kept as one line may hold, and all of the counts."""
    clock = Monotonic()
    meter = Meter("Presence", "update", clock)
    for _ in range(1000):
        meter.time("RedisTime", 1)
        meter.time("PostTime", 2)
        meter.count("PostsSent")
    clock.now = FLUSH_SECONDS
    meter.flush()
    [line] = lines(capsys.readouterr().out)
    assert len(line["RedisTime"]) == len(line["PostTime"]) == MOST_VALUES < 100
    assert line["PostsSent"] == [1000.0]


# The log -------------------------------------------------------------------------------------------------------------


def test_a_pseudonym_is_the_same_for_the_same_user_and_key_alone(sandbox: WarmSandbox) -> None:
    """Logs name users by a hash that is the same in every sandbox of a deployment, and another with another key."""
    first = pseudonym("alice")
    assert first == pseudonym("alice") != pseudonym("bob")
    assert len(first) == 16
    assert "alice" not in first
    runtime.settings.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRESENCE_LOG_KEY", "k" * 200)
        other = pseudonym("alice")
    runtime.settings.cache_clear()
    assert other != first == pseudonym("alice")


def test_a_failure_is_logged_with_request_connection_and_pseudonym(sandbox: WarmSandbox, log: io.StringIO) -> None:
    """An error of ours is one log line that can be followed up, without the user's id; Lambda hears of it too."""

    @entrypoint
    def handler(event: Event, context: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        handler(events.message(ALICE, "{}", ID, route="heartbeat"), None)
    [line] = lines(log.getvalue())
    assert (line["level"], line["message"]) == ("ERROR", "event failed")
    assert (line["correlation_id"], line["connection"], line["route"]) == ("PJqB0E1tKRcF-Qw=", ID, "heartbeat")
    assert line["user"] == pseudonym("alice")
    assert "ZeroDivisionError" in line["exception"]
    assert "alice" not in json.dumps(line)
    assert sandbox.management.requests == []


def test_redis_away_is_a_warning_with_its_reason(sandbox: WarmSandbox, log: io.StringIO) -> None:
    """A message that found Redis away is one warning that says why, and the user is a hash in it."""
    sandbox.say(ALICE, ID, '{"action":"heartbeat","id":"b1"}', function="heartbeat")
    [line] = lines(log.getvalue())
    assert (line["level"], line["message"], line["user"]) == ("WARNING", "unavailable", pseudonym("alice"))
    assert "ConnectionError" in line["reason"]
    assert "alice" not in json.dumps(line)


# The entrypoint ------------------------------------------------------------------------------------------------------


def test_an_answer_passes_through(sandbox: WarmSandbox) -> None:
    """What a handler answers is what Lambda gets; the handler keeps its name."""

    @entrypoint
    def handler(event: Event, context: Any) -> Any:
        return {"answer": event["n"], "context": context}

    assert handler({"n": 1}, "context") == {"answer": 1, "context": "context"}
    assert handler.__name__ == "handler"


def test_a_refused_message_is_answered_with_its_error(sandbox: WarmSandbox) -> None:
    """A refusal becomes one error frame on the connection that spoke, and the invocation succeeds."""

    @entrypoint
    def handler(event: Event, context: Any) -> Any:
        raise MessageRefused("invalid_message", "no", field="f", id="m", retry_after=7)

    assert handler(events.message(ALICE, "{}", ID), None) == {"statusCode": 200}
    [frame] = sandbox.frames(ID)
    assert frame == {
        "type": "error",
        "code": "invalid_message",
        "message": "no",
        "field": "f",
        "id": "m",
        "retryAfter": 7,
    }


@pytest.mark.parametrize("body", ["{}", "rubbish", '{"id":5}', "[" * 3000])
def test_unavailable_names_the_message_where_it_has_an_id(sandbox: WarmSandbox, body: str) -> None:
    """Whatever the message was, `unavailable` is answered; an id is only given back where there is one."""

    @entrypoint
    def handler(event: Event, context: Any) -> Any:
        raise Unavailable("away")

    handler(events.message(ALICE, body, ID), None)
    [frame] = sandbox.frames(ID)
    assert (frame["code"], frame["retryAfter"], "id" in frame) == ("unavailable", 1000, False)


@pytest.mark.parametrize("error", [Unavailable("away"), MessageRefused("invalid_message", "no")])
@pytest.mark.parametrize("event", [events.connect(ALICE, ID), events.disconnect(ALICE, ID), {}], ids=["c", "d", "s"])
def test_where_there_is_no_message_there_is_nobody_to_answer(
    sandbox: WarmSandbox, event: Event, error: Exception
) -> None:
    """On `$connect`, `$disconnect` and the schedule such an error goes on to Lambda, and nothing is posted."""

    @entrypoint
    def handler(event: Event, context: Any) -> Any:
        raise error

    with pytest.raises(type(error)):
        handler(event, None)
    assert sandbox.management.requests == []


# The settings --------------------------------------------------------------------------------------------------------


def test_secrets_are_read_by_their_arns_once(sandbox: WarmSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets that a deployment names by ARN take the place of what the environment says, and are read once."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        secrets = boto3.client("secretsmanager")
        for name, value in (("jwt_secret", "from the vault" * 3), ("redis_url", "rediss://:pw@cache.example:6379")):
            arn = secrets.create_secret(Name=name, SecretString=value)["ARN"]
            monkeypatch.setenv(f"PRESENCE_{name.upper()}_ARN", arn)
        runtime.settings.cache_clear()
        settings = runtime.settings()
        assert settings.jwt_secret == "from the vault" * 3
        assert settings.redis_url == "rediss://:pw@cache.example:6379"
    assert runtime.settings() is settings
    assert "pw" not in repr(settings)


def test_a_sandbox_makes_its_service_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service, its connections and its meter are made with the first event and kept for the next."""
    with RedisServer.start() as server, warm_sandbox(monkeypatch, redis_url=server.url) as sandbox:
        sandbox.open("alice", ID)
        service, meter = runtime.service(), runtime.meter()
        connections = sandbox.redis.info("stats")["total_connections_received"]
        links = set(sandbox.management.links)
        for _ in range(10):
            sandbox.say(ALICE, ID, '{"action":"get_presence","userIds":["bob"]}')
        assert runtime.service() is service
        assert runtime.meter() is meter
        assert sandbox.redis.info("stats")["total_connections_received"] == connections
        assert sandbox.management.links == links
