"""API Gateway's HTTP API on a real port: events, responses, signatures and quotas."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from yarl import URL

from local.awslambda.invocation import Throttled
from local.iam import KeyPair
from shared.routes import HttpRoute
from tests.support.local_gateway import Event, Gateway, crash, running_gateway, sign

ROUTES = (
    HttpRoute("GET", "/v1/health", "open"),
    HttpRoute("POST", "/v1/presence/query", "user"),
    HttpRoute("PUT", "/v1/users/{id}/contacts", "backend"),
    HttpRoute("GET", "/v1/users/{id}/contacts", "backend"),
    HttpRoute("PUT", "/v1/me/blocks/{userId}", "user"),
)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """A gateway with one route of each kind."""
    async with running_gateway(http_routes=ROUTES) as running:
        yield running


@dataclass
class Response:
    """A response as a client gets it."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def call(
    gateway: Gateway, method: str, target: str, body: bytes = b"", headers: Any = None, *, signed: bool = False
) -> Response:
    """Send a request whose target is sent exactly as written."""
    url = gateway.url + target
    if signed:
        headers = gateway.signed(method, url, body, **dict(headers or {}))
    data = io.BytesIO(body) if body else None
    async with (
        aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as session,
        session.request(method, URL(url, encoded=True), headers=headers, data=data) as response,
    ):
        return Response(response.status, response.headers, await response.read())


async def test_an_event_has_the_keys_of_a_captured_one(gateway: Gateway) -> None:
    """A plain GET is an event without cookies, query, path parameters and body.

    Keys and order: awslabs/aws-lambda-rust-runtime, example-apigw-v2-request-no-authorizer.json.
    """
    await call(gateway, "GET", "/v1/health", headers={"User-Agent": "agent/1", "X-Custom": "Value"})
    (event,) = gateway.functions.events_of("api")
    assert list(event) == [
        "version",
        "routeKey",
        "rawPath",
        "rawQueryString",
        "headers",
        "requestContext",
        "isBase64Encoded",
    ]
    assert (event["version"], event["routeKey"]) == ("2.0", "GET /v1/health")
    assert (event["rawPath"], event["rawQueryString"], event["isBase64Encoded"]) == ("/v1/health", "", False)
    assert list(event["headers"]) == [
        "accept",
        "accept-encoding",
        "content-length",
        "host",
        "user-agent",
        "x-amzn-trace-id",
        "x-custom",
        "x-forwarded-for",
        "x-forwarded-port",
        "x-forwarded-proto",
    ]
    assert event["headers"]["x-custom"] == "Value"
    context = event["requestContext"]
    assert list(context) == [
        "accountId",
        "apiId",
        "domainName",
        "domainPrefix",
        "http",
        "requestId",
        "routeKey",
        "stage",
        "time",
        "timeEpoch",
    ]
    assert context["http"] == {
        "method": "GET",
        "path": "/v1/health",
        "protocol": "HTTP/1.1",
        "sourceIp": "127.0.0.1",
        "userAgent": "agent/1",
    }
    assert (context["routeKey"], context["stage"]) == ("GET /v1/health", "$default")
    assert re.fullmatch(r"[A-Za-z0-9_-]{15}=", context["requestId"])
    assert re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000", context["time"])


async def test_a_full_event_has_cookies_query_parameters_and_body(gateway: Gateway) -> None:
    """Repeated query parameters are joined by commas, cookies are no header, path parameters are decoded.

    Keys and order: the documentation's example of payload format 2.0, without what this API never has.
    """
    await call(
        gateway,
        "PUT",
        "/v1/me/blocks/bob%40example.com%7C1?a=1&a=2&b=%20x&c",
        b'{"\xc3\xa4":1}',
        [
            ("Cookie", "one=1; two=2"),
            ("Content-Type", "application/json; charset=utf-8"),
            ("X-Twice", "a"),
            ("X-Twice", "b"),
        ],
    )
    (event,) = gateway.functions.events_of("api")
    assert list(event) == [
        "version",
        "routeKey",
        "rawPath",
        "rawQueryString",
        "cookies",
        "headers",
        "queryStringParameters",
        "requestContext",
        "pathParameters",
        "body",
        "isBase64Encoded",
    ]
    assert event["routeKey"] == "PUT /v1/me/blocks/{userId}"
    assert event["pathParameters"] == {"userId": "bob@example.com|1"}
    assert event["rawPath"] == event["requestContext"]["http"]["path"] == "/v1/me/blocks/bob@example.com|1"
    assert event["rawQueryString"] == "a=1&a=2&b=%20x&c"
    assert event["queryStringParameters"] == {"a": "1,2", "b": " x", "c": ""}
    assert event["cookies"] == ["one=1", "two=2"]
    assert "cookie" not in event["headers"]
    assert event["headers"]["x-twice"] == "a,b"
    assert (event["body"], event["isBase64Encoded"]) == ('{"ä":1}', False)


@pytest.mark.parametrize(
    ("content_type", "is_text"),
    [
        ("application/json", True),
        ("text/plain; charset=utf-8", True),
        ("application/xml", True),
        ("application/octet-stream", False),
        ("application/x-www-form-urlencoded", False),
        (None, False),
    ],
)
async def test_a_body_that_is_not_text_arrives_in_base64(
    gateway: Gateway, content_type: str | None, is_text: bool
) -> None:
    """Only text, JSON, XML and JavaScript arrive as text; a body without a content type does not."""
    headers = {"Content-Type": content_type} if content_type else {}
    await call(gateway, "POST", "/v1/presence/query", b"body", headers)
    (event,) = gateway.functions.events_of("api")
    assert event["isBase64Encoded"] is not is_text
    assert event["body"] == ("body" if is_text else base64.b64encode(b"body").decode())


async def test_a_compressed_body_is_forwarded_unchanged(gateway: Gateway) -> None:
    """Signatures cover the compressed body."""
    await call(gateway, "POST", "/v1/presence/query", b"\x1f\x8bnot really", {"Content-Encoding": "gzip"})
    (event,) = gateway.functions.events_of("api")
    assert base64.b64decode(event["body"]) == b"\x1f\x8bnot really"


# Routes


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1/health"),
        ("HEAD", "/v1/health"),
        ("OPTIONS", "/v1/health"),
        ("GET", "/v1/health/"),
        ("GET", "/v1"),
        ("GET", "/"),
        ("PUT", "/v1/users//contacts"),
        ("PUT", "/v1/users/a/b/contacts"),
        ("PUT", "/v1/users/a/contacts/b"),
        ("GET", "/v2/health"),
        ("GET", "/v1/users/a%0Ab"),
    ],
)
async def test_an_unknown_route_is_not_found(gateway: Gateway, method: str, target: str) -> None:
    """The response is 404, and no function is invoked."""
    answer = await call(gateway, method, target, signed=True)
    assert answer.status == 404
    if method != "HEAD":
        assert answer.json == {"message": "Not Found"}
    assert gateway.functions.events == []


# Signatures


async def test_a_route_of_the_backend_needs_a_signature(gateway: Gateway) -> None:
    """A signed call reaches the function with the caller's identity, in AWS's keys."""
    answer = await call(gateway, "PUT", "/v1/users/a%7Cb/contacts?x=1", b'{"add":["bob"]}', signed=True)
    assert answer.status == 200
    (event,) = gateway.functions.events_of("api")
    assert event["pathParameters"] == {"id": "a|b"}
    assert list(event["requestContext"])[2] == "authorizer"
    iam = event["requestContext"]["authorizer"]["iam"]
    assert list(iam) == [
        "accessKey",
        "accountId",
        "callerId",
        "cognitoIdentity",
        "principalOrgId",
        "userArn",
        "userId",
    ]
    assert iam["accessKey"] == gateway.keys.access_key_id
    assert iam["userArn"] == "arn:aws:iam::000000000000:user/local"


@pytest.mark.parametrize("wrong", ["unsigned", "bearer", "key", "secret", "region", "service", "body", "method"])
async def test_a_wrong_signature_is_forbidden(gateway: Gateway, wrong: str) -> None:
    """The response is the same 403 for every fault of a signature."""
    url, body, keys = gateway.url + "/v1/users/alice/contacts", b"{}", gateway.keys
    headers = {
        "unsigned": {},
        "bearer": {"Authorization": "Bearer x.y.z"},
        "key": sign(KeyPair.create(), "PUT", url, body),
        "secret": sign(KeyPair(keys.access_key_id, "wrong"), "PUT", url, body),
        "region": sign(keys, "PUT", url, body, region="us-east-1"),
        "service": sign(keys, "PUT", url, body, service="lambda"),
        "body": sign(keys, "PUT", url, b"{} "),
        "method": sign(keys, "GET", url, body),
    }[wrong]
    answer = await call(gateway, "PUT", "/v1/users/alice/contacts", body, headers)
    assert (answer.status, answer.json) == (403, {"message": "Forbidden"})
    assert gateway.functions.events == []


async def test_other_routes_need_no_signature(gateway: Gateway) -> None:
    """Open routes and users' routes reach the function unsigned; the function checks the token."""
    assert (await call(gateway, "GET", "/v1/health")).status == 200
    await call(gateway, "POST", "/v1/presence/query", b"{}", {"Authorization": "Bearer x.y.z"})
    event = gateway.functions.events_of("api")[1]
    assert event["headers"]["authorization"] == "Bearer x.y.z"
    assert "authorizer" not in event["requestContext"]


# Answers


@pytest.mark.parametrize(
    ("answer", "status", "content_type", "body"),
    [
        ({"statusCode": 204}, 204, None, b""),
        ({"statusCode": 201, "body": "ä"}, 201, "text/plain;charset=UTF-8", "ä".encode()),
        (
            {"statusCode": 400, "headers": {"content-type": "application/problem+json"}, "body": "{}"},
            400,
            "application/problem+json",
            b"{}",
        ),
        ({"statusCode": "200", "body": "eA==", "isBase64Encoded": True}, 200, "text/plain;charset=UTF-8", b"x"),
        ({"statusCode": 200, "headers": {"Content-Length": "99"}, "body": "x"}, 200, "text/plain;charset=UTF-8", b"x"),
        ({"message": "hi"}, 200, "application/json; charset=utf-8", b'{"message": "hi"}'),
        ("Hello", 200, "application/json; charset=utf-8", b"Hello"),
        ([1], 200, "application/json; charset=utf-8", b"[1]"),
        (None, 200, "application/json; charset=utf-8", b"null"),
    ],
)
async def test_a_functions_result_becomes_a_response(
    gateway: Gateway, answer: Any, status: int, content_type: str | None, body: bytes
) -> None:
    """A result with a status is a response; any other value is the body of a 200."""
    gateway.functions.answers["api"] = answer
    response = await call(gateway, "GET", "/v1/health")
    assert (response.status, response.body) == (status, body)
    if content_type:
        assert response.headers["Content-Type"] == content_type


async def test_a_function_may_set_headers_and_cookies(gateway: Gateway) -> None:
    """Headers are forwarded, and each cookie is a Set-Cookie of its own."""
    gateway.functions.answers["api"] = {
        "statusCode": 200,
        "headers": {"Retry-After": 1, "X-A": "b"},
        "cookies": ["one=1; Secure", "two=2"],
    }
    response = await call(gateway, "GET", "/v1/health")
    assert (response.headers["Retry-After"], response.headers["X-A"]) == ("1", "b")
    assert response.headers.getall("Set-Cookie") == ["one=1; Secure", "two=2"]


async def never(event: Event) -> None:
    """A function that does not respond in time."""
    raise TimeoutError


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (crash(), 500, "Internal Server Error"),
        ({"statusCode": "two hundred"}, 500, "Internal Server Error"),
        ({"statusCode": 200, "body": {"not": "text"}}, 500, "Internal Server Error"),
        ({"statusCode": 200, "body": "ä", "isBase64Encoded": True}, 500, "Internal Server Error"),
        ({"statusCode": 200, "headers": ["a"]}, 500, "Internal Server Error"),
        ({"statusCode": 42}, 500, "Internal Server Error"),
        (Throttled(), 503, "Service Unavailable"),
        (never, 503, "Service Unavailable"),
    ],
)
async def test_a_failed_function_is_an_error_of_the_gateway(
    gateway: Gateway, answer: Any, status: int, message: str
) -> None:
    """A crash or an invalid result is 500, throttling or a timeout 503; the function's error text is never shown."""
    gateway.functions.answers["api"] = answer
    response = await call(gateway, "GET", "/v1/health")
    assert (response.status, response.json) == (status, {"message": message})


# Quotas


async def test_headers_have_a_quota(gateway: Gateway) -> None:
    """Request line and headers over 10,240 bytes together are 431."""
    assert (await call(gateway, "GET", "/v1/health", headers={"X-Long": "x" * 9_000})).status == 200
    answer = await call(gateway, "GET", "/v1/health", headers={"X-Long": "x" * 10_200})
    assert (answer.status, answer.json) == (431, {"message": "Request Header Fields Too Large"})


async def test_a_body_has_a_quota(gateway: Gateway) -> None:
    """A body over 10 MB is 413 and reaches no function."""
    headers = {"Content-Type": "text/plain"}
    assert (await call(gateway, "POST", "/v1/presence/query", b"x" * 10 * 1024 * 1024, headers)).status == 200
    assert (await call(gateway, "POST", "/v1/presence/query", b"x" * (10 * 1024 * 1024 + 1), headers)).status == 413
    assert len(gateway.functions.events_of("api")) == 1


# CORS

CHAT = "https://chat.example"
PREFLIGHT = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}


def cors(answer: Response) -> dict[str, str]:
    """The CORS headers of a response, with names in lower case."""
    return {
        name.lower(): value
        for name, value in answer.headers.items()
        if name.lower().startswith("access-control-") or name == "Vary"
    }


async def test_a_preflight_needs_no_function() -> None:
    """On any path, the response is 204 and allows what the setting's origins may send."""
    async with running_gateway(http_routes=ROUTES, cors_origins=(CHAT, "https://beta.example")) as gateway:
        for path in ("/v1/presence/query", "/v1/users/alice/contacts", "/nowhere"):
            answer = await call(gateway, "OPTIONS", path, headers={"Origin": CHAT, **PREFLIGHT})
            assert (answer.status, answer.body) == (204, b"")
            assert cors(answer) == {
                "access-control-allow-origin": CHAT,
                "access-control-allow-methods": "*",
                "access-control-allow-headers": "authorization,content-type",
                "access-control-expose-headers": "retry-after",
                "access-control-max-age": "3600",
                "vary": "Origin",
            }
        assert gateway.functions.events == []


@pytest.mark.parametrize("origin", [None, "https://evil.example", "https://chat.example.evil.example", "null", "*"])
async def test_another_origin_is_not_mentioned(origin: str | None) -> None:
    """A page of another origin cannot read responses, and its preflights allow nothing."""
    headers = {"Origin": origin} if origin else {}
    async with running_gateway(http_routes=ROUTES, cors_origins=(CHAT,)) as gateway:
        preflight = await call(gateway, "OPTIONS", "/v1/health", headers={**headers, **PREFLIGHT})
        assert (preflight.status, cors(preflight)) == (204, {})
        assert cors(await call(gateway, "GET", "/v1/health", headers=headers)) == {}


@pytest.mark.parametrize(
    ("target", "status"), [("/v1/health", 200), ("/v1/nowhere", 404), ("/v1/users/a/contacts", 403)]
)
async def test_pages_of_named_origins_may_read_every_response(target: str, status: int) -> None:
    """Responses of functions and of the gateway itself; a function's own CORS headers are dropped."""
    async with running_gateway(http_routes=ROUTES, cors_origins=(CHAT,)) as gateway:
        headers = {"access-control-allow-origin": "*", "Access-Control-Allow-Credentials": "true", "X-A": "b"}
        gateway.functions.answers["api"] = {"statusCode": 200, "headers": headers}
        answer = await call(gateway, "GET", target, headers={"Origin": CHAT})
        assert answer.status == status
        expected = {
            "access-control-allow-origin": CHAT,
            "access-control-expose-headers": "retry-after",
            "vary": "Origin",
        }
        assert cors(answer) == expected


async def test_a_star_allows_every_origin() -> None:
    """`*` lets pages of every origin read responses."""
    async with running_gateway(http_routes=ROUTES, cors_origins=("*",)) as gateway:
        answer = await call(gateway, "GET", "/v1/health", headers={"Origin": "https://any.example"})
        assert cors(answer) == {"access-control-allow-origin": "*", "access-control-expose-headers": "retry-after"}


async def test_without_the_setting_there_is_no_cors(gateway: Gateway) -> None:
    """A preflight is 404 like any unknown route, and a function's headers are forwarded."""
    assert (await call(gateway, "OPTIONS", "/v1/health", headers={"Origin": CHAT, **PREFLIGHT})).status == 404
    gateway.functions.answers["api"] = {"statusCode": 200, "headers": {"Access-Control-Allow-Origin": CHAT}}
    assert cors(await call(gateway, "GET", "/v1/health", headers={"Origin": CHAT})) == {
        "access-control-allow-origin": CHAT
    }
