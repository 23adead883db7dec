"""A Lambda authorizer of type REQUEST, as API Gateway's WebSocket APIs ask it: once, before `$connect`.

What the authorizer answers is an IAM policy; it is evaluated here, and nothing about tokens is known here.
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
"""Bytes of an authorizer's answer (API Gateway's quota)."""


class HandshakeRefused(Exception):
    """The WebSocket is not opened: the handshake is answered with `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message


class _Malformed(Exception):
    """The authorizer's answer is none."""


def check_identity_source(source: TokenSource, handshake: Handshake) -> None:
    """Look for the token where the deployment says it is; without one the authorizer is not even asked.

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
    """Ask authorizer `function`; the answer is what events carry: `principalId` and its context, all strings.

    Raises:
        HandshakeRefused: 401 if it raised `Exception("Unauthorized")`, 403 if its policy does not allow the
            connection, 500 if it failed in any other way or answered something that is no policy.
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
    """The statements of an authorizer's answer."""
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
    """IAM's rule: some statement allows it, and none denies it."""
    effects = set()
    for statement in statements:
        # A statement with a condition must not count as one without: what cannot be evaluated is refused.
        if not isinstance(statement, dict) or not statement.keys() <= {"Sid", "Effect", "Action", "Resource"}:
            raise _Malformed
        if _matches(statement.get("Action"), ACTION, re.IGNORECASE) and _matches(statement.get("Resource"), resource):
            effects.add(statement.get("Effect"))
    return "Allow" in effects and "Deny" not in effects


def _matches(patterns: Any, value: str, flags: int = 0) -> bool:
    """Whether one of a statement's patterns, or its only one, fits the value: `*` and `?` are wildcards."""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise _Malformed
    expressions = (re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".") for pattern in patterns)
    return any(re.fullmatch(expression, value, flags) for expression in expressions)


def _context(context: Any) -> dict[str, str]:
    """Strings, numbers and booleans arrive as strings; API Gateway takes nothing else."""
    if not isinstance(context, dict):
        raise _Malformed
    strings = {}
    for name, value in context.items():
        if not isinstance(value, str | int | float):
            raise _Malformed
        strings[name] = value if isinstance(value, str) else json.dumps(value)
    return strings
