"""Lambda authorizers of type REQUEST, as API Gateway's WebSocket APIs invoke them: once, before `$connect`.

The authorizer returns an IAM policy, which is evaluated here. This module does not read tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Literal

from local.apigateway.websocket_events import Handshake
from local.awslambda.invocation import FunctionError, Invoker, Throttled

TokenSource = Literal["query", "subprotocol"]
"""The one identity source: `route.request.querystring.token`, or `route.request.header.Sec-WebSocket-Protocol`."""

ACTION = "execute-api:Invoke"
ANSWER_LIMIT = 8 * 1024
"""Bytes of an authorizer's response (API Gateway's quota)."""


class HandshakeRefused(Exception):
    """The WebSocket is not opened; the response to the handshake has this `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message


class _Malformed(Exception):
    """The authorizer's response is invalid."""


def check_identity_source(source: TokenSource, handshake: Handshake) -> None:
    """Check that there is a token where the deployment expects it. Without one, the authorizer is not invoked.

    Raises:
        HandshakeRefused: 401, there is none.
    """
    if source == "query":
        values = handshake.query.get("token", [])
    else:
        values = handshake.headers.get("Sec-WebSocket-Protocol", [])
    if not any(values):
        raise HandshakeRefused(401, "Unauthorized")


async def authorize(invoker: Invoker, function: str, event: dict[str, Any]) -> dict[str, str]:
    """Invoke authorizer `function`. Returns what events carry: `principalId` and its context, all strings.

    Raises:
        HandshakeRefused: 401 if it raised `Exception("Unauthorized")`, 403 if its policy does not allow the
            connection, 500 if it failed in any other way or did not return a policy.
    """
    try:
        answer = await invoker.invoke(function, event)
        allowed = _allows(_policy(answer), event["methodArn"])
        principal = {"principalId": answer["principalId"], **_context(answer.get("context") or {})}
    except FunctionError as error:
        if error.message == "Unauthorized":
            raise HandshakeRefused(401, "Unauthorized") from None
        raise HandshakeRefused(500, "Internal server error") from None
    except (Throttled, _Malformed):
        raise HandshakeRefused(500, "Internal server error") from None
    if not allowed:
        raise HandshakeRefused(403, "Forbidden")
    return principal


def _policy(answer: Any) -> list[dict[str, Any]]:
    """The policy statements in an authorizer's response."""
    match answer:
        case {"principalId": str(), "policyDocument": {"Statement": dict() as statement}}:
            statements = [statement]
        case {"principalId": str(), "policyDocument": {"Statement": [*statements]}}:
            pass
        case _:
            raise _Malformed
    if len(json.dumps(answer)) > ANSWER_LIMIT:
        raise _Malformed
    return statements


def _allows(statements: Iterable[Any], resource: str) -> bool:
    """IAM's rule: at least one statement allows it, and none denies it."""
    effects = set()
    for statement in statements:
        # A statement with a condition must not count as one without. Conditions cannot be evaluated here.
        if not isinstance(statement, dict) or not statement.keys() <= {"Sid", "Effect", "Action", "Resource"}:
            raise _Malformed
        if _matches(statement.get("Action"), ACTION, re.IGNORECASE) and _matches(statement.get("Resource"), resource):
            effects.add(statement.get("Effect"))
    return "Allow" in effects and "Deny" not in effects


def _matches(patterns: Any, value: str, flags: int = 0) -> bool:
    """Whether the value matches a pattern, or one of a list of patterns; `*` and `?` are wildcards."""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise _Malformed
    expressions = (re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".") for pattern in patterns)
    return any(re.fullmatch(expression, value, flags) for expression in expressions)


def _context(context: Any) -> dict[str, str]:
    """The context with its strings, numbers and booleans as strings; API Gateway allows no other types."""
    if not isinstance(context, dict):
        raise _Malformed
    strings = {}
    for name, value in context.items():
        if not isinstance(value, str | int | float):
            raise _Malformed
        strings[name] = value if isinstance(value, str) else json.dumps(value)
    return strings
