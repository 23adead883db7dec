"""Generates the OpenAPI document of the HTTP API from its calls and from the types that they read and return.

Nothing about a single call is written here: what it does is its docstring in `functions/api/routes.py`, and who may
make it is in `shared/routes.py`. The result is the file `functions/api/openapi.json`, which the service serves.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

import functions.api.routes  # noqa: F401 - registers the operations
from functions.api.problems import CONTENT_TYPE
from functions.api.requests import ProblemDetails
from functions.api.resolver import OPERATIONS, Operation
from shared.messages import PROTOCOL_VERSION, UserId
from shared.routes import Access
from tools.protocol_schema import Untitled

_REFERENCE = "#/components/schemas/{model}"
_GATEWAY_MESSAGE = {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}
"""The body of errors that API Gateway itself returns, before it invokes a function."""
_GATEWAYS_OWN = {
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
}
_PROBLEMS = {
    HTTPStatus.BAD_REQUEST: "The request is wrong; `errors` names the fields.",
    HTTPStatus.UNAUTHORIZED: "The token is missing or not valid.",
    HTTPStatus.FORBIDDEN: "Only the backend may make this call, and its signature is missing or wrong.",
    HTTPStatus.NOT_FOUND: "No operation has this path; an id may contain characters that change it.",
    HTTPStatus.CONFLICT: "A limit would be exceeded, or the device left a moment ago; nothing was changed.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many calls of this user, or messages of this device, or requests of all.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "An error of the service.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Redis cannot be reached, or the service is unhealthy; retry after `Retry-After`.",
}
_SECURITY: dict[Access, list[dict[str, list[str]]]] = {"open": [], "user": [{"bearer": []}], "backend": [{"sigv4": []}]}
_TAGS: dict[Access, str] = {"open": "service", "user": "users", "backend": "backend"}
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The user's token."},
    "sigv4": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "AWS Signature Version 4 of the service `execute-api`, by the application's backend.",
        "x-amazon-apigateway-authtype": "awsSigv4",
    },
}


def document() -> dict[str, Any]:
    """The document, in OpenAPI 3.1."""
    types: dict[int, tuple[Any, JsonSchemaMode, TypeAdapter[Any]]] = {}
    for operation in OPERATIONS:
        for type_ in (operation.body, operation.answer):
            if type_ is not None:
                types[id(type_)] = (id(type_), "validation", TypeAdapter(type_))
    types[id(ProblemDetails)] = (id(ProblemDetails), "validation", TypeAdapter(ProblemDetails))
    schemas, definitions = TypeAdapter.json_schemas(types.values(), ref_template=_REFERENCE, schema_generator=Untitled)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        route = operation.route
        paths.setdefault(route.path, {})[route.method.lower()] = _described(
            operation, {key: schema for (key, _), schema in schemas.items()}
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Presence",
            "version": PROTOCOL_VERSION,
            "description": "Who is online: the HTTP side of the protocol in docs/protocol.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "users", "description": "For clients: the same as over a WebSocket, and what the user stores."},
            {"name": "backend", "description": "For the application's backend."},
            {"name": "service", "description": "For everybody."},
        ],
        "paths": paths,
        "components": {"schemas": definitions["$defs"], "securitySchemes": _SECURITY_SCHEMES},
    }


def _described(operation: Operation, schemas: dict[int, Any]) -> dict[str, Any]:
    route = operation.route
    lines = (operation.function.__doc__ or "").strip().splitlines()
    described: dict[str, Any] = {
        "operationId": operation.function.__name__,
        "summary": lines[0],
        "tags": [_TAGS[route.access]],
        "security": _SECURITY[route.access],
        "parameters": _parameters(operation),
        "responses": _responses(operation, schemas),
    }
    if operation.body:
        content: dict[str, Any] = {"schema": schemas[id(operation.body)]}
        if example := EXAMPLES.get(operation.function.__name__):
            content["examples"] = {str(number): {"value": value} for number, value in enumerate(example, 1)}
        described["requestBody"] = {"required": True, "content": {"application/json": content}}
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    user = TypeAdapter(UserId).json_schema()
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": user}
        for name in re.findall(r"{(\w+)}", operation.route.path)
    ]
    if operation.query:
        schema = operation.query.model_json_schema(schema_generator=Untitled)
        for name, field in schema["properties"].items():
            required = name in schema.get("required", ())
            parameter = {"name": name, "in": "query", "required": required, "schema": field}
            if field.get("type") == "array":
                parameter |= {"style": "form", "explode": False}
            parameters.append(parameter)
    return parameters


def _responses(operation: Operation, schemas: dict[int, Any]) -> dict[str, Any]:
    route = operation.route
    if operation.answer is None:
        responses: dict[str, Any] = {"204": {"description": "Done."}}
    else:
        content = {"application/json": {"schema": schemas[id(operation.answer)]}}
        responses = {"200": {"description": "The response.", "content": content}}
    problems = [HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE]
    if operation.body or operation.query or "{" in route.path:
        problems.append(HTTPStatus.BAD_REQUEST)
    if "{" in route.path:
        problems.append(HTTPStatus.NOT_FOUND)
    if operation.body:
        problems.append(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    problems += operation.also
    if route.access != "open":
        problems.append(HTTPStatus.UNAUTHORIZED if route.access == "user" else HTTPStatus.FORBIDDEN)
    if route.access == "user":
        problems.append(HTTPStatus.TOO_MANY_REQUESTS)
    schema = schemas[id(ProblemDetails)]
    for status in sorted(problems):
        content = {CONTENT_TYPE: {"schema": schema}}
        if status in _GATEWAYS_OWN:
            content["application/json"] = {"schema": _GATEWAY_MESSAGE}
        responses[str(status.value)] = {"description": _PROBLEMS[status], "content": content}
    return responses


EXAMPLES: dict[str, list[Any]] = {
    "post_presence_query": [{"userIds": ["bob", "carol"]}],
    "post_my_heartbeat": [
        {"deviceId": "d1", "deviceType": "web", "active": True, "status": "busy", "seq": 1764000000012}
    ],
    "post_my_leave": [{"deviceId": "d1"}, {"connectionId": "L0SM9cOFvHcCIhw="}],
    "put_my_status": [
        {"status": "busy", "until": 4102444800000},
        {"customStatus": {"text": "Lunch", "emoji": "🍜"}},
        {"deviceId": "d1", "status": "away"},
        {"status": "online", "customStatus": None},
    ],
    "put_my_privacy": [{"invisible": True}, {"lastSeen": "nobody", "hideFrom": ["bob"]}],
    "put_graph": [{"loaded": True}],
    "put_contacts": [{"add": ["bob", "carol"], "remove": ["dave"], "mutual": True}],
    "put_privacy": [{"invisible": False, "blocks": ["eve"]}],
    "put_status": [{"status": "away"}, {"customStatus": None}],
}
"""Valid bodies of each operation; a test sends each of them."""
