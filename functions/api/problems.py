"""Problem details (RFC 9457): how the HTTP API reports errors.

Their type is `about:blank`: the status gives the kind of problem, `detail` what is wrong this time, and `errors` the
wrong fields. Internal details go to the log only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from pydantic import ValidationError

from shared.auth import Refused
from shared.commands import SignedOut, TooManyCalls
from shared.contacts import StillAnnouncing
from shared.delivery import Unavailable
from shared.messages import LimitReached, MessageRefused, in_words
from shared.presence import DeviceLeft
from shared.runtime import logger, metrics

MOST_ERRORS = 20
"""Wrong fields that one response names."""
CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """A request that cannot be answered, and why.

    Args:
        status: the kind of problem.
        detail: what is wrong.
        errors: the wrong fields, as `{"field", "message"}`.
        retry_after: seconds after which a retry makes sense.
        challenge: how to authenticate (RFC 6750).
        more: further members of the document.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        retry_after: int | None = None,
        challenge: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self._status, self._more = status, {"errors": list(errors), **more} if errors else more
        self._headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if challenge:
            self._headers["WWW-Authenticate"] = challenge

    def response(self) -> Response[str]:
        """The response."""
        status = self._status.value
        document = {"type": "about:blank", "title": self._status.phrase, "status": status, "detail": str(self)}
        return Response(status, CONTENT_TYPE, json.dumps(document | self._more), headers=self._headers)


def refuse(error: Exception) -> Response[str]:
    """The response for an error."""
    return _problem(error).response()


def _problem(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case NotFoundError():
            return Problem(HTTPStatus.NOT_FOUND, "there is nothing at this path")
        case Refused() | SignedOut():
            logger.warning("token refused", reason=str(error) or "signed out everywhere")
            metrics().count("TokensRefused")
            return Problem(HTTPStatus.UNAUTHORIZED, "the token is not valid", challenge='Bearer error="invalid_token"')
        case MessageRefused(retry_after=int(wait)) | TooManyCalls(retry_after=wait):
            return Problem(HTTPStatus.TOO_MANY_REQUESTS, str(error), retry_after=_seconds(wait))
        case MessageRefused():
            return bad_request([{"field": error.field or "body", "message": str(error)}])
        case LimitReached():
            errors = [{"field": error.field, "message": str(error)}]
            return Problem(HTTPStatus.CONFLICT, str(error), errors=errors)
        case DeviceLeft():
            text = "this device left a moment ago: without seq it starts over"
            return Problem(HTTPStatus.CONFLICT, text, retry_after=_seconds(error.retry_after))
        case StillAnnouncing():
            text = "contacts are still being notified that the user is offline: try again"
            return Problem(HTTPStatus.SERVICE_UNAVAILABLE, text, retry_after=1)
        case Unavailable():
            logger.warning("unavailable", reason=str(error))
            seconds = _seconds(error.retry_after)
            return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "Redis cannot be reached", retry_after=seconds)
    logger.exception("request failed")
    metrics().count("Errors")
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an internal error; it is in the log")


def wrong(error: ValidationError, whole: str) -> Problem:
    """The problem of a request with wrong fields. Errors that belong to no single field are reported under `whole`."""
    faults = error.errors(include_url=False, include_input=False)
    within = {fault["loc"][:-1] for fault in faults}
    # A list in which every user is wrong also counts as too short, which adds nothing.
    faults = [fault for fault in faults if fault["type"] != "too_short" or fault["loc"] not in within]
    return bad_request(
        {"field": ".".join(str(part) for part in fault["loc"]) or whole, "message": in_words(fault)}
        for fault in faults[:MOST_ERRORS]
    )


def bad_request(errors: Iterable[Mapping[str, str]]) -> Problem:
    """The problem of a request that does not follow the protocol; its detail is the first of the errors."""
    errors = list(errors)
    field, message = errors[0]["field"], errors[0]["message"]
    repeated = field.rpartition(".")[2] + " "
    return Problem(HTTPStatus.BAD_REQUEST, f"{field}: {message.removeprefix(repeated)}", errors=errors)


def _seconds(ms: int) -> int:
    return -(-ms // 1000)
