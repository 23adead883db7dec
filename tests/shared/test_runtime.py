"""What every handler has: its log, its secrets, and how `@entrypoint` handles errors."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any, TextIO, cast

import boto3
import pytest
from moto import mock_aws

from shared import runtime
from shared.delivery import Unavailable
from shared.events import Event
from shared.messages import MessageRefused
from shared.runtime import entrypoint, pseudonym
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


def test_a_pseudonym_is_the_same_for_the_same_user_and_key_alone(environment: WarmEnvironment) -> None:
    """Logs name users by a hash that is the same in every environment of a deployment, and differs with another key."""
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


def test_a_failure_is_logged_with_request_connection_and_pseudonym(
    environment: WarmEnvironment, log: io.StringIO
) -> None:
    """An error is one log line with its request and connection, without the user's id; it is raised to Lambda, too."""

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
    assert environment.management.requests == []


def test_a_response_passes_through(environment: WarmEnvironment) -> None:
    """Lambda gets what a handler returns; the handler keeps its name."""

    @entrypoint
    def handler(event: Event, context: Any) -> Any:
        return {"answer": event["n"], "context": context}

    assert handler({"n": 1}, "context") == {"answer": 1, "context": "context"}
    assert handler.__name__ == "handler"


@pytest.mark.parametrize("error", [Unavailable("away"), MessageRefused("invalid_message", "no")])
@pytest.mark.parametrize("event", [events.connect(ALICE, ID), events.disconnect(ALICE, ID), {}], ids=["c", "d", "s"])
def test_an_error_without_a_message_is_not_answered(
    environment: WarmEnvironment, event: Event, error: Exception
) -> None:
    """On `$connect`, `$disconnect` and the schedule such an error is raised to Lambda, and nothing is posted."""

    @entrypoint
    def handler(event: Event, context: Any) -> Any:
        raise error

    with pytest.raises(type(error)):
        handler(event, None)
    assert environment.management.requests == []


def test_secrets_are_read_by_their_arns_once(environment: WarmEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets that a deployment names by ARN replace the environment's variables, and are read once."""
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
