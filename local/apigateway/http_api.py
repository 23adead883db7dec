"""API Gateway's HTTP API on a laptop, with payload format 2.0 for events and responses.

The routes table defines the routes and their access. Signatures of the backend's routes are checked here, before the
function is invoked; tokens are checked by the function. CORS follows the settings: preflights get a response without a
route or a function, and the headers of every response replace a function's own (Amazon API Gateway Developer Guide,
"Configuring CORS for HTTP APIs").
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

from aiohttp import web
from multidict import CIMultiDict

from local import iam
from local.apigateway import gateway
from local.apigateway.gateway import Integration, IntegrationTimeout
from local.awslambda.invocation import FunctionError, Invoker, Throttled
from local.iam import Caller, SignatureRefused, SignatureVerifier
from shared.routes import HttpRoute

API_ID = "presencehttp"
STAGE = "$default"

TEXT_TYPES = ("text/", "application/json", "application/javascript", "application/xml")
"""Content types whose bodies arrive as text. All others, and bodies without a type, arrive in base64 (observed by the
authors of ministackorg/ministack, pull request 766)."""

CORS_MAX_AGE = 3600
"""Seconds for which a browser may cache the response to a preflight, as in the stack."""

Parameters = dict[str, str]


class HttpApi:
    """One deployed HTTP API: stage `$default`, Lambda proxy integrations.

    Args:
        invoker: runs the functions.
        verifier: checks the signatures of the backend's calls.
        routes: which request invokes which function.
        cors_origins: origins whose pages may read responses, or `*` for all; if there are none, there is no CORS.
        integration_timeout: seconds within which a function must respond.
        clock: seconds since the epoch, for events.
    """

    def __init__(
        self,
        invoker: Invoker,
        verifier: SignatureVerifier,
        *,
        routes: Iterable[HttpRoute],
        cors_origins: Iterable[str] = (),
        integration_timeout: float = gateway.INTEGRATION_TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._integration = Integration(invoker, integration_timeout)
        self._verifier = verifier
        self._clock = clock
        self._routes = [(route, route.path.split("/")) for route in routes]
        self._cors = frozenset(cors_origins)

    async def handle(self, request: web.Request) -> web.Response:
        """Handle a request."""
        if not self._cors:
            return await self._respond(request)
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response = web.Response(status=204, headers={"Apigw-Requestid": gateway.new_id()})
        else:
            response = await self._respond(request)
        for name in [name for name in response.headers if name.lower().startswith("access-control-")]:
            del response.headers[name]
        response.headers.update(self._cors_headers(request))
        return response

    def _cors_headers(self, request: web.Request) -> dict[str, str]:
        """The CORS headers for the request's origin, if it is an allowed one."""
        origin = request.headers.get("Origin")
        if origin is None or not self._cors & {origin, "*"}:
            return {}
        headers = {"Access-Control-Allow-Origin": "*" if "*" in self._cors else origin}
        headers["Access-Control-Expose-Headers"] = "retry-after"
        if request.method == "OPTIONS":
            headers |= {
                "Access-Control-Allow-Methods": "*",
                "Access-Control-Allow-Headers": "authorization,content-type",
                "Access-Control-Max-Age": str(CORS_MAX_AGE),
            }
        return headers if "*" in self._cors else {**headers, "Vary": "Origin"}

    async def _respond(self, request: web.Request) -> web.Response:
        size = len(request.method) + len(request.raw_path) + sum(len(k) + len(v) for k, v in request.raw_headers)
        if size > gateway.HEADERS_LIMIT:
            return _refusal(431)
        found = self._route(request)
        if found is None:
            return _refusal(404)
        route, parameters = found
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _refusal(413)
        if len(body) > gateway.BODY_LIMIT:
            return _refusal(413)
        caller = None
        if route.access == "backend":
            try:
                caller = self._verifier.verify(request.method, request.raw_path, request.headers, body)
            except SignatureRefused:
                return _refusal(403)
        event = _event(request, route, parameters, body, caller, self._clock())
        try:
            return _response(await self._integration.invoke(route.function, event))
        except (IntegrationTimeout, Throttled):
            return _refusal(503)
        except FunctionError:
            return _refusal(500)

    def _route(self, request: web.Request) -> tuple[HttpRoute, Parameters] | None:
        segments = gateway.split_target(request)[0].split("/")
        for route, template in self._routes:
            if route.method == request.method and (parameters := _match(template, segments)) is not None:
                return route, parameters
        return None


def _match(template: list[str], segments: list[str]) -> Parameters | None:
    """The decoded path parameters if the path matches; `{id}` matches one segment that is not empty."""
    if len(template) != len(segments):
        return None
    parameters = {}
    for expected, segment in zip(template, segments, strict=True):
        if expected.startswith("{") and segment:
            parameters[expected[1:-1]] = unquote(segment)
        elif expected != segment:
            return None
    return parameters


def _event(
    request: web.Request, route: HttpRoute, parameters: Parameters, body: bytes, caller: Caller | None, now: float
) -> dict[str, Any]:
    """The event of an integration, payload format 2.0. As in AWS, keys without a value are left out."""
    raw_path, raw_query = gateway.split_target(request)
    path = unquote(raw_path)  # An HTTP API decodes even the path that it calls raw.
    route_key = f"{route.method} {route.path}"
    headers, cookies = _headers(request)
    is_text = headers.get("content-type", "").startswith(TEXT_TYPES)
    return {
        "version": "2.0",
        "routeKey": route_key,
        "rawPath": path,
        "rawQueryString": raw_query,
        **({"cookies": cookies} if cookies else {}),
        "headers": headers,
        **({"queryStringParameters": query} if (query := _query(raw_query)) else {}),
        "requestContext": {
            "accountId": iam.ACCOUNT,
            "apiId": API_ID,
            **({"authorizer": {"iam": _identity(caller)}} if caller else {}),
            "domainName": gateway.host(request),
            "domainPrefix": gateway.host(request).partition(".")[0],
            "http": {
                "method": request.method,
                "path": path,
                "protocol": f"HTTP/{request.version.major}.{request.version.minor}",
                "sourceIp": request.remote or "",
                "userAgent": request.headers.get("User-Agent", ""),
            },
            "requestId": gateway.new_id(),
            "routeKey": route_key,
            "stage": STAGE,
            "time": gateway.request_time(now),
            "timeEpoch": int(now * 1000),
        },
        **({"pathParameters": parameters} if parameters else {}),
        **({"body": body.decode(errors="replace") if is_text else base64.b64encode(body).decode()} if body else {}),
        "isBase64Encoded": bool(body) and not is_text,
    }


def _headers(request: web.Request) -> tuple[Parameters, list[str]]:
    """The headers in lower case, with repeated ones joined by commas, and the cookies, which are separate in 2.0."""
    headers: Parameters = {}
    cookies: list[str] = []
    for original_name, value in request.headers.items():
        name = original_name.lower()
        if name == "cookie":
            cookies.extend(part.strip() for part in value.split(";"))
        elif name not in ("connection", "transfer-encoding"):
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    headers.setdefault("content-length", "0")
    headers.update((name.lower(), value) for name, value in gateway.forwarded(request).items())
    return dict(sorted(headers.items())), cookies


def _query(raw_query: str) -> Parameters:
    """The decoded query parameters, with repeated ones joined by commas."""
    query: Parameters = {}
    for name, value in parse_qsl(raw_query, keep_blank_values=True):
        query[name] = f"{query[name]},{value}" if name in query else value
    return query


def _identity(caller: Caller) -> dict[str, str | None]:
    return {
        "accessKey": caller.access_key,
        "accountId": caller.account_id,
        "callerId": caller.user_id,
        "cognitoIdentity": None,
        "principalOrgId": None,
        "userArn": caller.user_arn,
        "userId": caller.user_id,
    }


def _response(answer: Any) -> web.Response:
    """A function's response as HTTP. Without a `statusCode`, all of it is the body of a 200."""
    if not isinstance(answer, dict) or "statusCode" not in answer:
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return web.Response(text=text, content_type="application/json")
    try:
        status = int(answer["statusCode"])
        body = answer.get("body") or ""
        content = base64.b64decode(body, validate=True) if answer.get("isBase64Encoded") else body.encode()
        headers = CIMultiDict({name: str(value) for name, value in (answer.get("headers") or {}).items()})
        cookies = [str(cookie) for cookie in answer.get("cookies") or []]
    except (ValueError, TypeError, AttributeError, binascii.Error):
        return _refusal(500)
    if not 200 <= status <= 599:
        return _refusal(500)
    headers.pop("Content-Length", None)
    headers.setdefault("Content-Type", "text/plain;charset=UTF-8")
    headers.setdefault("Apigw-Requestid", gateway.new_id())
    for cookie in cookies:
        headers.add("Set-Cookie", cookie)
    return web.Response(status=status, body=content, headers=headers)


def _refusal(status: int) -> web.Response:
    """A response of the gateway itself."""
    message = "Internal Server Error" if status == 500 else HTTPStatus(status).phrase
    return web.json_response({"message": message}, status=status, headers={"Apigw-Requestid": gateway.new_id()})
