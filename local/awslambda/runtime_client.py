"""A client of the Runtime API in plain Python, for platforms where `awslambdaric` lacks its extension (macOS).

The extension is a module `runtime_client` with the four functions below; `worker.py` replaces it by this module. It
only calls the Runtime API. The loop that calls handlers is AWS's own, `awslambdaric.bootstrap`.
"""

from __future__ import annotations

import http.client
import os

_API = "/2018-06-01/runtime/invocation/"
_connection = http.client.HTTPConnection(os.environ.get("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001"))
_user_agent = ""


def _call(method: str, path: str, body: bytes | None = None, **headers: str | None) -> http.client.HTTPResponse:
    given = {name.replace("_", "-"): value.encode() for name, value in headers.items() if value}
    _connection.request(method, _API + path, body, {"User-Agent": _user_agent.encode(), **given})
    return _connection.getresponse()


def _post(what: str, path: str, body: bytes, **headers: str | None) -> None:
    answer = _call("POST", path, body, **headers)
    answer.read()
    if answer.status // 100 != 2:
        raise RuntimeError(f"Failed to post invocation {what}")


def initialize_client(user_agent: str) -> None:
    """Called once, before anything else."""
    global _user_agent  # noqa: PLW0603 - the extension's state is its module, too
    _user_agent = user_agent


def next() -> tuple[bytes, dict[str, str | int | None]]:
    """Wait for an event. Returns its JSON text and its headers, with the deadline as an int (ms since 1970).

    Raises:
        RuntimeError: the Runtime API returned no event.
        OSError, http.client.HTTPException: the Runtime API is unreachable.
    """
    answer = _call("GET", "next")
    event = answer.read()
    if answer.status != http.client.OK:
        raise RuntimeError("Failed to get next")
    headers: dict[str, str | int | None] = {
        name: answer.getheader(name)
        for name in (
            "Content-Type",
            "Lambda-Runtime-Aws-Request-Id",
            "Lambda-Runtime-Trace-Id",
            "Lambda-Runtime-Invoked-Function-Arn",
            "Lambda-Runtime-Client-Context",
            "Lambda-Runtime-Cognito-Identity",
            "Lambda-Runtime-Aws-Tenant-Id",
            "Lambda-Runtime-Invocation-Id",
        )
    }
    headers["Lambda-Runtime-Deadline-Ms"] = int(answer.headers["Lambda-Runtime-Deadline-Ms"])
    return event, headers


def post_invocation_result(request_id: str, result: bytes, content_type: str, invocation_id: str | None) -> None:
    """Respond to the event `request_id` with `result`.

    Raises:
        RuntimeError: the Runtime API refused it.
    """
    _post(
        "response",
        f"{request_id}/response",
        result,
        Content_Type=content_type,
        Lambda_Runtime_Invocation_Id=invocation_id,
    )


def post_error(request_id: str, error: str, xray_fault: str, invocation_id: str | None) -> None:
    """Respond to the event `request_id` with `error`, a JSON text with errorType, errorMessage and stackTrace.

    Raises:
        RuntimeError: the Runtime API refused it.
    """
    _post(
        "error",
        f"{request_id}/error",
        error.encode(),
        Content_Type="application/json",
        Lambda_Runtime_Function_XRay_Error_Cause=xray_fault,
        Lambda_Runtime_Invocation_Id=invocation_id,
    )
