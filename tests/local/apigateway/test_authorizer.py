"""Which handshakes are accepted: the identity source, and the policies that an authorizer returns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from local.awslambda.invocation import Throttled
from tests.support.local_gateway import (
    Event,
    Gateway,
    connected,
    crash,
    refusal,
    running_gateway,
)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """A gateway with the service's own routes."""
    async with running_gateway() as running:
        yield running


@pytest.mark.parametrize("path", ["/live", "/live?token=", "/live?v=2", "/live?Token=t"])
async def test_without_a_token_the_authorizer_is_not_invoked(gateway: Gateway, path: str) -> None:
    """A handshake without the identity source is 401, and no function is invoked."""
    status, body = await refusal(gateway, path)
    assert (status, body["message"]) == (401, "Unauthorized")
    assert gateway.functions.events == []


async def test_with_the_subprotocol_as_identity_source_a_token_in_the_query_is_none() -> None:
    """There is exactly one identity source."""
    async with running_gateway(token_source="subprotocol") as gateway:
        assert (await refusal(gateway))[0] == 401
        assert gateway.functions.events == []


def policy(*statements: Mapping[str, Any]) -> Event:
    """An authorizer's response with these statements."""
    return {"principalId": "alice", "policyDocument": {"Version": "2012-10-17", "Statement": list(statements)}}


ALLOW = {"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": "arn:aws:execute-api:*/live/$connect"}
DENY = ALLOW | {"Effect": "Deny"}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (crash("Unauthorized", "Exception"), 401),
        (crash(), 500),
        (Throttled(), 500),
        (policy(DENY), 403),
        (policy(ALLOW, DENY), 403),
        (policy(), 403),
        (policy(ALLOW | {"Resource": "arn:aws:execute-api:eu-central-1:000000000000:presencews/test/*"}), 403),
        (policy(ALLOW | {"Resource": []}), 403),
        (policy(ALLOW | {"Resource": None}), 500),
        (policy(ALLOW | {"Action": [1]}), 500),
        (policy({"Effect": "Allow", "Resource": "*"}), 500),
        (policy(ALLOW) | {"context": ["a"]}, 500),
        (policy(ALLOW | {"Action": "s3:*"}), 403),
        (policy(ALLOW | {"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}), 500),
        (policy("no statement"), 500),  # type: ignore[arg-type]
        (None, 500),
        ("Allow", 500),
        ({"principalId": "alice"}, 500),
        ({"policyDocument": policy(ALLOW)["policyDocument"]}, 500),
        (policy(ALLOW) | {"principalId": 1}, 500),
        (policy(ALLOW) | {"context": {"nested": {"a": 1}}}, 500),
        (policy(ALLOW) | {"context": {"none": None}}, 500),
        (policy(ALLOW) | {"context": {"long": "x" * 8192}}, 500),
    ],
)
async def test_the_authorizer_decides_the_handshakes_status(gateway: Gateway, answer: Any, status: int) -> None:
    """Only a policy that allows the connection opens it; otherwise `$connect` is not invoked."""
    gateway.functions.answers["authorize"] = answer
    refused, body = await refusal(gateway)
    assert refused == status
    assert list(body) == ["message", "connectionId", "requestId"]
    assert gateway.functions.events_of("connect") == []
    assert gateway.websocket_api.connections == {}


@pytest.mark.parametrize(
    "statements",
    [
        [ALLOW],
        [ALLOW | {"Resource": ["x", "*"]}],
        [ALLOW | {"Action": ["execute-api:*"]}],
        [ALLOW | {"Action": "EXECUTE-API:invok?"}],
        [ALLOW | {"Sid": "a"}, DENY | {"Resource": "arn:aws:execute-api:*/test/*"}],
    ],
)
async def test_a_policy_that_allows_the_connection_opens_it(gateway: Gateway, statements: list[Any]) -> None:
    """Lists, wildcards and statements about other resources are evaluated as in IAM."""
    gateway.functions.answers["authorize"] = policy(*statements)
    async with connected(gateway):
        assert len(gateway.websocket_api.connections) == 1
