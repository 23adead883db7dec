"""Events as an HTTP API sends them (payload format 2.0), key for key: the function's input, without a gateway.

The shape is that of API Gateway's developer guide ("Create AWS Lambda proxy integrations for HTTP APIs"): keys without
a value are omitted, header names are lower-case, and path and parameters are percent-decoded once.
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qsl, unquote

from shared.routes import HTTP_ROUTES

Event = dict[str, Any]

HOST = "ht5pq6rs7t.execute-api.eu-central-1.amazonaws.com"
SIGNED = {
    "accessKey": "AKIAIOSFODNN7EXAMPLE",
    "accountId": "123456789012",
    "callerId": "AIDACKCEVSQ6C2EXAMPLE",
    "cognitoIdentity": None,
    "principalOrgId": None,
    "userArn": "arn:aws:iam::123456789012:user/backend",
    "userId": "AIDACKCEVSQ6C2EXAMPLE",
}
"""The caller whose signature API Gateway verified, on a route with an IAM authorizer."""


def request(
    method: str,
    target: str,
    body: str | bytes | None = None,
    *,
    signed: bool = True,
    headers: dict[str, str] | None = None,
) -> Event:
    """The event of a request.

    Args:
        method: the HTTP method.
        target: path and query, percent-encoded, as the client sends them.
        body: text, as with a JSON content type; bytes arrive in base64, as with any other.
        signed: whether the request came through a route with an IAM authorizer.
        headers: further headers.
    """
    raw_path, _, raw_query = target.partition("?")
    path, route = unquote(raw_path), _route(method, raw_path)
    content = {"content-type": "application/json"} if isinstance(body, str) else {}
    return {
        "version": "2.0",
        "routeKey": route[0],
        "rawPath": path,
        "rawQueryString": raw_query,
        "headers": {"content-length": str(len(body or "")), "host": HOST, **content, **(headers or {})},
        **({"queryStringParameters": dict(parse_qsl(raw_query, keep_blank_values=True))} if raw_query else {}),
        "requestContext": {
            "accountId": "123456789012",
            "apiId": HOST.partition(".")[0],
            **({"authorizer": {"iam": SIGNED}} if signed else {}),
            "domainName": HOST,
            "domainPrefix": HOST.partition(".")[0],
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "test",
            },
            "requestId": "PJqB0E1tKRcF-Qw=",
            "routeKey": route[0],
            "stage": "$default",
            "time": "23/Nov/2024:22:13:20 +0000",
            "timeEpoch": 1_732_400_000_000,
        },
        **({"pathParameters": route[1]} if route[1] else {}),
        **({"body": body if isinstance(body, str) else base64.b64encode(body).decode()} if body is not None else {}),
        "isBase64Encoded": isinstance(body, bytes),
    }


def _route(method: str, raw_path: str) -> tuple[str, dict[str, str]]:
    """The matching route and its parameters; if none matches, a route that accepts any path."""
    segments = raw_path.split("/")
    for route in HTTP_ROUTES:
        template = route.path.split("/")
        if route.method == method and len(template) == len(segments):
            pairs = list(zip(template, segments, strict=True))
            if all(expected == segment or expected.startswith("{") for expected, segment in pairs):
                return f"{method} {route.path}", {
                    expected[1:-1]: unquote(segment) for expected, segment in pairs if expected.startswith("{")
                }
    return "$default", {}
