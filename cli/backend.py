"""Signed calls to the service's HTTP API, as the application's backend makes them.

`target.py` chooses the URL and the credentials. docs/protocol.md describes the calls. Files are read in
`graph_files.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import quote, urlencode

import aiohttp
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from yarl import URL

from cli.addresses import nothing_answers
from cli.errors import UserError
from local.iam import SERVICE

REGION = "us-east-1"
"""The region that calls to a run on this machine are signed for."""
TIMEOUT = aiohttp.ClientTimeout(total=35, connect=5)
"""API Gateway responds within 30 s, with 503 if the function takes longer."""
RETRIED = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE}
"""Statuses after which a call is repeated. Every call here is idempotent."""
TRIES = 5
FIRST_WAIT = 0.25
"""Seconds. Before try n + 1 the client waits for a random part of FIRST_WAIT · 2ⁿ."""


class Backend:
    """Makes signed calls. Every method raises UserError when its call fails."""

    def __init__(self, session: aiohttp.ClientSession, url: str, credentials: ReadOnlyCredentials, region: str) -> None:
        self.url = url.rstrip("/")
        self._session = session
        self._signer = SigV4Auth(credentials, SERVICE, region)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str, credentials: ReadOnlyCredentials, region: str) -> AsyncIterator[Self]:
        """A backend that calls the service at `url`, with signatures for `region`."""
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            yield cls(session, url, credentials, region)

    async def health(self) -> dict[str, Any]:
        """The service's health; `graph` is `loaded` or `not_loaded`."""
        health: dict[str, Any] = await self._call("GET", "/v1/health")
        return health

    async def set_contacts(
        self, user: str, add: Sequence[str] = (), remove: Sequence[str] = (), *, mutual: bool
    ) -> None:
        """Let the users in `add` see `user`, and stop those in `remove`. `mutual` does the same the other way round."""
        change = {"add": list(add), "remove": list(remove), "mutual": mutual}
        await self._call("PUT", f"{_path(user)}/contacts", change)

    async def contacts(self, user: str) -> set[str]:
        """All users who may see `user`, or whom `user` may see."""
        contacts = await self._call("GET", f"{_path(user)}/contacts")
        return {*contacts["viewers"], *contacts["sees"]}

    async def set_privacy(self, user: str, privacy: Mapping[str, Any]) -> None:
        """Replace the privacy settings of `user`: `invisible`, `lastSeen`, `hideFrom`, `blocks`."""
        await self._call("PUT", f"{_path(user)}/privacy", privacy)

    async def set_status(self, user: str, change: Mapping[str, Any]) -> None:
        """Set a claim or a custom status of `user`."""
        await self._call("PUT", f"{_path(user)}/status", change)

    async def erase(self, user: str) -> None:
        """Erase everything about `user`."""
        await self._call("DELETE", _path(user))

    async def set_graph_loaded(self) -> None:
        """Mark privacy and contacts as loaded. From then on, users may see each other."""
        await self._call("PUT", "/v1/graph", {"loaded": True})

    async def graph_page(self, cursor: str) -> tuple[list[dict[str, Any]], str]:
        """A page of what the application and its users gave, and the next cursor ("" is the start and the end)."""
        page = await self._call("GET", "/v1/graph?" + urlencode({"cursor": cursor}) if cursor else "/v1/graph")
        return page["users"], page["next"] or ""

    async def status_unsigned(self, method: str, target: str) -> int:
        """The response status of a call without a signature."""
        status, _ = await self._send(method, target, {}, b"")
        return status

    async def _call(self, method: str, target: str, body: Mapping[str, Any] | None = None) -> Any:
        data = json.dumps(body).encode() if body is not None else b""
        for left in reversed(range(TRIES)):
            request = AWSRequest(method, self.url + target, {"Content-Type": "application/json"}, data)
            self._signer.add_auth(request)
            status, text = await self._send(method, target, dict(request.headers.items()), data)
            if status < HTTPStatus.BAD_REQUEST:
                return _json(text, self.url) if text else None
            if status not in RETRIED or not left:
                raise UserError(_error_text(method, target, status, text))
            await asyncio.sleep(random.uniform(0, FIRST_WAIT * 2.0 ** (TRIES - left)))  # noqa: S311 - jitter
        raise AssertionError("the last try returns or raises")

    async def _send(self, method: str, target: str, headers: Mapping[str, str], data: bytes) -> tuple[int, str]:
        url = URL(self.url + target, encoded=True)  # Exactly as signed; yarl would normalize it.
        try:
            async with self._session.request(method, url, data=data, headers=headers) as response:
                return response.status, await response.text(errors="replace")
        except TimeoutError:
            raise UserError(f"{self.url} does not answer") from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            raise UserError(f"{self.url} speaks no TLS that this machine trusts") from None
        except aiohttp.ClientConnectorError:
            raise UserError(nothing_answers(self.url)) from None
        except aiohttp.ClientError:
            raise UserError(f"{self.url} is not this service: it does not speak HTTP") from None


def _path(user: str) -> str:
    return f"/v1/users/{quote(user, safe='')}"


def _json(text: str, url: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise UserError(f"{url} is not this service: its response is not JSON") from None


def _error_text(method: str, target: str, status: int, text: str) -> str:
    """One line about an error response: the service's problem details, or API Gateway's `message`."""
    try:
        body = json.loads(text)
        why = body.get("detail") or body.get("title") or body.get("message")
    except (ValueError, AttributeError):
        why = None
    if status == HTTPStatus.FORBIDDEN:
        why = f"{why or 'Forbidden'} (are these the credentials of that service?)"
    return f"{method} {target} returned {status}: {why or 'no reason given'}"
