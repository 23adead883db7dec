"""The calls of the HTTP API: how each is read, what it asks of the service, and how it is answered.

Which calls there are, and who may make them, is said in `shared.routes`; what they mean for anybody's presence is said
in `shared.presence`. Neither belongs here.

Errors are problem details (RFC 9457). Their type is `about:blank`: the status says what kind of problem it is, `detail`
what is wrong this time, and `errors` with which fields.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.api_gateway import ApiGatewayResolver
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.middlewares import NextMiddleware
from pydantic import BaseModel, TypeAdapter, ValidationError

from shared.delivery import Unavailable
from shared.events import Event
from shared.messages import (
    MAX_REQUEST_BYTES,
    ContactsChange,
    GraphPage,
    GraphState,
    MessageRefused,
    PrivacyChange,
    UserId,
    UserStatusChange,
)
from shared.presence import LimitReached
from shared.routes import HTTP_ROUTES, Access
from shared.runtime import logger, meter, service, settings

MOST_LATE = 60_000
"""Milliseconds by which a user may be settled too late before the service counts as ill: a sweeper works for 150 s and
the next begins within two minutes, so a healthy service is late by a second."""
MOST_ERRORS = 20
"""Wrong fields that one answer names."""

Call = TypeVar("Call", bound=Callable[..., "dict[str, Any] | Response[str]"])

# Without its validation (`enable_validation`), which takes `[{…}]` and HTML forms for objects, fails on JSON that is
# nested deeply, and makes the start of a sandbox longer. The models read a body themselves, strictly.
app = APIGatewayHttpResolver()


class Problem(Exception):
    """Why a request gets no answer but this.

    Args:
        status: what kind of problem it is.
        detail: what is wrong.
        errors: the wrong fields, as `{"field", "message"}`.
        retry_after: seconds after which it is worth asking again.
        more: further members of the document.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        retry_after: int | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self._status, self._more = status, {"errors": list(errors), **more} if errors else more
        self._headers = {} if retry_after is None else {"Retry-After": str(retry_after)}

    def response(self) -> Response[str]:
        """The answer that says so."""
        status = self._status.value
        document = {"type": "about:blank", "title": self._status.phrase, "status": status, "detail": str(self)}
        body = json.dumps(document | self._more)
        return Response(status, "application/problem+json", body, headers=self._headers)


def answer(event: Event, context: Any) -> dict[str, Any]:
    """Answer a request (payload format 2.0), whatever becomes of it."""
    cors = _cors(event)
    if event["requestContext"]["http"]["method"] == "OPTIONS":
        return {"statusCode": HTTPStatus.NO_CONTENT.value, "headers": cors | _PREFLIGHT if cors else {}}
    response = app.resolve(event, context)
    response["headers"] |= {"Cache-Control": "no-store", **cors}
    return response


def refuse(error: Exception) -> Response[str]:
    """The problem that an error is to whoever asked; what only we should know goes to the log."""
    match error:
        case Problem():
            problem = error
        case NotFoundError():
            problem = Problem(HTTPStatus.NOT_FOUND, "there is nothing at this path")
        case MessageRefused():
            problem = _bad_request([{"field": error.field or "body", "message": str(error)}])
        case LimitReached():
            problem = Problem(HTTPStatus.CONFLICT, str(error), errors=[{"field": "add", "message": str(error)}])
        case Unavailable():
            logger.warning("unavailable", reason=str(error))
            seconds = -(-error.retry_after // 1000)
            problem = Problem(HTTPStatus.SERVICE_UNAVAILABLE, "Redis cannot be reached", retry_after=seconds)
        case _:
            logger.exception("request failed")
            meter().count("Errors")
            problem = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of ours; it is in the log")
    return problem.response()


app.exception_handler(Exception)(refuse)

# Who may call


def backend(resolver: ApiGatewayResolver, proceed: NextMiddleware) -> Response[str]:
    """Let the application's backend in: API Gateway has verified its signature, unless somebody deployed it without."""
    if not resolver.current_event["requestContext"].get("authorizer", {}).get("iam"):
        raise Problem(HTTPStatus.FORBIDDEN, "this call is for the application's backend, with a signature (SigV4)")
    return proceed(resolver)


_GUARDS: dict[Access, list[Callable[..., Any]]] = {"open": [], "backend": [backend]}
_ACCESS = {(route.method, route.path): route.access for route in HTTP_ROUTES}


def call(method: str, path: str) -> Callable[[Call], Call]:
    """Let a function answer a route of the table, to those whom the table lets call it.

    Raises:
        KeyError: there is no such route, or nobody stands at its door.
    """
    guards = _GUARDS[_ACCESS[method, path]]
    return app.route(path.replace("{", "<").replace("}", ">"), method, middlewares=guards)


_PREFLIGHT = {
    "Access-Control-Allow-Methods": ", ".join(sorted({route.method for route in HTTP_ROUTES})),
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "7200",
}


def _cors(event: Event) -> dict[str, str]:
    """What lets pages of the origin that asks read the answer, if the settings name it."""
    origin, allowed = event["headers"].get("origin"), settings().cors_origins
    if origin and (origin in allowed or "*" in allowed):
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    return {}


# What a request says

_Model = TypeVar("_Model", bound=BaseModel)
_USER_ID: TypeAdapter[str] = TypeAdapter(UserId)


def _body(model: type[_Model]) -> _Model:
    event = app.current_event
    text = event.body or ""
    body = base64.b64decode(text) if event.is_base64_encoded else text.encode("utf-8", "surrogatepass")
    if len(body) > MAX_REQUEST_BYTES:
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {MAX_REQUEST_BYTES} bytes")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _wrong(error, "body") from None


def _user(id: str) -> str:
    """The user whom the path names; API Gateway has decoded it, once."""
    try:
        return _USER_ID.validate_python(id)
    except ValidationError as error:
        raise _wrong(error, "id") from None


def _wrong(error: ValidationError, whole: str) -> Problem:
    """The problem that is a request with wrong fields; a fault that is none of a field is one of the `whole`."""
    errors = []
    for fault in error.errors(include_url=False, include_input=False, include_context=False)[:MOST_ERRORS]:
        field = ".".join(str(part) for part in fault["loc"]) or whole
        text = fault["msg"].removeprefix("Value error, ")
        errors.append({"field": field, "message": text[:1].lower() + text[1:]})
    return _bad_request(errors)


def _bad_request(errors: Sequence[Mapping[str, str]]) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, f"{errors[0]['field']}: {errors[0]['message']}", errors=errors)


# The calls


def _done() -> Response[str]:
    return Response(HTTPStatus.NO_CONTENT.value, body="")


@call("GET", "/v1/health")
def get_health() -> dict[str, Any]:
    """How the service is; ill when nobody settles what is due."""
    health = service().health()
    if health["dueLate"] > MOST_LATE:
        late = f"somebody should have been settled {health['dueLate'] // 1000} s ago: does the sweeper run?"
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, late, retry_after=60, **health)
    return health


@call("GET", "/v1/graph")
def get_graph() -> dict[str, Any]:
    """One page of a backup; `next` is the cursor of the next one, "" on the last."""
    try:
        page = GraphPage.model_validate(app.current_event.query_string_parameters)
    except ValidationError as error:
        raise _wrong(error, "query") from None
    users, following = service().graph_page(page.cursor)
    return {"users": users, "next": following}


@call("PUT", "/v1/graph")
def put_graph() -> Response[str]:
    """Privacy and contacts are loaded, or are not any more."""
    service().set_graph_loaded(_body(GraphState).loaded)
    return _done()


@call("GET", "/v1/users/{id}/contacts")
def get_contacts(id: str) -> dict[str, Any]:
    """Who may see the user, and whom the user may see."""
    return service().get_user_contacts(_user(id))


@call("PUT", "/v1/users/{id}/contacts")
def put_contacts(id: str) -> Response[str]:
    """Change who may see the user."""
    user, change = _user(id), _body(ContactsChange)
    service().set_contacts(user, change.add, change.remove, mutual=change.mutual)
    return _done()


@call("GET", "/v1/users/{id}/privacy")
def get_privacy(id: str) -> dict[str, Any]:
    """What the user hides, and from whom."""
    return service().get_privacy(_user(id))


@call("PUT", "/v1/users/{id}/privacy")
def put_privacy(id: str) -> Response[str]:
    """Change what the user hides."""
    user, change = _user(id), _body(PrivacyChange)
    service().set_privacy(
        user,
        invisible=change.invisible,
        last_seen=change.lastSeen,
        hide_from=change.hideFrom,
        blocks=change.blocks,
    )
    return _done()


@call("PUT", "/v1/users/{id}/status")
def put_status(id: str) -> Response[str]:
    """Choose a claim or a custom status for the user."""
    service().set_status(_user(id), _body(UserStatusChange))
    return _done()


@call("GET", "/v1/users/{id}/presence")
def get_presence(id: str) -> dict[str, Any]:
    """The user's real state, and why it is so."""
    return service().inspect_user(_user(id))


@call("POST", "/v1/users/{id}/disconnect")
def post_disconnect(id: str) -> dict[str, Any]:
    """Sign the user out everywhere; says how many sockets were closed."""
    return {"closed": service().sign_out(_user(id))}
