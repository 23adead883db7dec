"""The OpenAPI document against a running service: requests that the document allows, and some that it does not.

Schemathesis generates the requests from the document alone. Each response must be one that the document describes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from shared.routes import HTTP_ROUTES, Access, HttpRoute
from tests.support.deployment import SHORT_TIMES, Deployment
from tests.support.http_calls import name
from tests.support.presence_run import presence_run

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
EXAMPLES = 12
"""Requests per operation."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A service of its own, since these requests may change anything in it."""
    with presence_run(tmp_path_factory.mktemp("run"), **SHORT_TIMES) as service:
        yield Deployment.started(service, SHORT_TIMES)


@pytest.fixture(scope="module")
def document(running: Deployment) -> Any:
    """Its document without the security schemes: every request is authorized, so that the rest is tested."""
    open_to_all = requests.get(running.url + "/v1/openapi.json", timeout=30).json()
    for path in open_to_all["paths"].values():
        for call in path.values():
            del call["security"]
    document = schemathesis.openapi.from_dict(open_to_all)
    document.config.update(base_url=running.url)
    return document


class Signed(requests.auth.AuthBase):
    """Signs as the backend, or presents a user's token, as the route requires."""

    def __init__(self, deployment: Deployment, access: Access) -> None:
        self._deployment, self._access = deployment, access

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        assert request.method
        assert request.url
        if self._access == "user":
            token = self._deployment.identity_provider.token("alice")
            request.headers["Authorization"] = f"Bearer {token}"
        if self._access == "backend":
            body = request.body.encode() if isinstance(request.body, str) else request.body or b""
            wire = AWSRequest(request.method, request.url, {}, body)
            SigV4Auth(self._deployment.credentials, "execute-api", self._deployment.region).add_auth(wire)
            request.headers.update(dict(wire.headers.items()))
        return request


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("route", HTTP_ROUTES, ids=name)
def test_the_service_keeps_what_its_document_promises(
    running: Deployment, document: Any, route: HttpRoute, mode: GenerationMode
) -> None:
    """No response has an undocumented status, content type or body, and no invalid request is accepted."""
    operation = document[route.path][route.method]
    auth = Signed(running, route.access)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, auth=auth)

    try:
        holds()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "a call without input cannot get invalid input"
        assert not operation.body
        assert not route.path.count("{")
