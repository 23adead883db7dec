"""Authenticates, parses and answers any call of the HTTP API.

Which calls there are, and who may make them, is in `shared.routes`; what each does is in `routes.py`. CORS is handled
by API Gateway.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from pydantic import BaseModel, TypeAdapter, ValidationError

from functions.api.problems import Problem, refuse, wrong
from functions.api.requests import MAX_REQUEST_BYTES
from shared.auth import Authenticator, Identity
from shared.events import Event
from shared.messages import UserId
from shared.routes import HTTP_ROUTES, HttpRoute
from shared.runtime import authenticator, now_ms

Call = TypeVar("Call", bound=Callable[..., Any])

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)
"""RFC 6750, section 2.1; the scheme's name in any case (RFC 9110, section 11.1)."""
_USER_ID: TypeAdapter[str] = TypeAdapter(UserId)
_ROUTES = {(route.method, route.path): route for route in HTTP_ROUTES}

# Without Powertools' validation (`enable_validation`): it accepts `[{…}]` and HTML forms as objects, fails on deeply
# nested JSON, and makes the cold start longer. The models read a body themselves, strictly.
app = APIGatewayHttpResolver()
app.exception_handler(Exception)(refuse)


@dataclass(frozen=True, slots=True)
class Operation:
    """A call as it is answered here; the OpenAPI document is generated from these."""

    route: HttpRoute
    function: Callable[..., Any]
    """Its docstring describes the call."""
    body: type[BaseModel] | None
    query: type[BaseModel] | None
    answer: Any
    """The type of a 200's body; None where the response is a 204."""
    also: tuple[HTTPStatus, ...]
    """Problems that only this call has."""


OPERATIONS: list[Operation] = []


def call(
    method: str,
    path: str,
    *,
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    answer: Any = None,
    also: tuple[HTTPStatus, ...] = (),
) -> Callable[[Call], Call]:
    """Register the function that answers a route of the table, for callers whom the table allows.

    It receives the path's parameters, which are user ids, by name; `me`, the token's identity, where users may call;
    and `body` or `query` as their model. It returns the response's body; without an `answer` type the response is
    204. `also` are problems that only this call has, for the OpenAPI document.

    Raises:
        KeyError: there is no such route.
    """
    route = _ROUTES[method, path]

    def register(function: Call) -> Call:
        def handle(**path_parameters: str) -> Any:
            given: dict[str, Any] = {}
            if route.access == "backend":
                _check_signature()
            elif route.access == "user":
                given["me"] = _identity()
            given |= {name: _user(value, name) for name, value in path_parameters.items()}
            if query:
                given["query"] = _query(query)
            if body:
                given["body"] = _body(body)
            result = function(**given)
            return Response(HTTPStatus.NO_CONTENT.value, body="") if answer is None else result

        app.route(path.replace("{", "<").replace("}", ">"), method)(handle)
        OPERATIONS.append(Operation(route, function, body, query, answer, also))
        return function

    return register


def answer(event: Event, context: Any) -> dict[str, Any]:
    """Answer a request (payload format 2.0)."""
    response = app.resolve(event, context)
    response["headers"]["Cache-Control"] = "no-store"
    return response


def _check_signature() -> None:
    """Admit the application's backend. API Gateway has verified its signature, unless it was deployed without IAM."""
    if not app.current_event["requestContext"].get("authorizer", {}).get("iam"):
        raise Problem(HTTPStatus.FORBIDDEN, "this call is for the application's backend, with a signature (SigV4)")


def _identity() -> Identity:
    """The caller's identity. The token is only accepted in the header: URLs and bodies end up in logs."""
    header = app.current_event.headers.get("authorization") or ""
    bearer = _BEARER.fullmatch(header)
    if not bearer:
        text = "this call is for users: send Authorization: Bearer and a token"
        raise Problem(HTTPStatus.UNAUTHORIZED, text, challenge="Bearer")
    return authenticator(Authenticator).verify(bearer[1], now_ms() / 1000)


def _user(id: str, name: str) -> str:
    """A user id in the path. API Gateway has decoded it once."""
    try:
        return _USER_ID.validate_python(id)
    except ValidationError as error:
        raise wrong(error, name) from None


def _query(model: type[BaseModel]) -> BaseModel:
    try:
        return model.model_validate(app.current_event.query_string_parameters or {})
    except ValidationError as error:
        raise wrong(error, "query") from None


def _body(model: type[BaseModel]) -> BaseModel:
    event = app.current_event
    text = event.body or ""
    body = base64.b64decode(text) if event.is_base64_encoded else text.encode("utf-8", "surrogatepass")
    if len(body) > MAX_REQUEST_BYTES:
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {MAX_REQUEST_BYTES} bytes")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise wrong(error, "body") from None
