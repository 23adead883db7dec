"""The application's backend, as far as the command line plays it: signed calls to the service's HTTP side.

Where that is and what signs for it is `target.py`'s matter, what the calls mean is in docs/protocol.md, and files of
contacts are read in `graph_files.py`.
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
from cli.errors import Complaint
from local.iam import SERVICE

REGION = "us-east-1"
"""What calls to a run on this machine are signed for."""
TIMEOUT = aiohttp.ClientTimeout(total=35, connect=5)
"""API Gateway answers after 30 s at the latest, with 503 if need be."""
AGAIN = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE}
"""Answers after which the same call may succeed; every call here may be made twice."""
TRIES = 5
FIRST_WAIT = 0.25
"""Seconds: before try n + 1 a random part of FIRST_WAIT · 2ⁿ is waited."""


class Backend:
    """Makes signed calls. Every method raises Complaint when its call fails."""

    def __init__(self, session: aiohttp.ClientSession, url: str, credentials: ReadOnlyCredentials, region: str) -> None:
        self.url = url.rstrip("/")
        self._session = session
        self._signer = SigV4Auth(credentials, SERVICE, region)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str, credentials: ReadOnlyCredentials, region: str) -> AsyncIterator[Self]:
        """One whose calls go to `url`, signed for `region`."""
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            yield cls(session, url, credentials, region)

    async def health(self) -> dict[str, Any]:
        """What the service says about itself: `graph` is `loaded` or `not_loaded`."""
        health: dict[str, Any] = await self._call("GET", "/v1/health")
        return health

    async def set_contacts(
        self, user: str, add: Sequence[str] = (), remove: Sequence[str] = (), *, mutual: bool
    ) -> None:
        """Let each in `add` see `user`, and no longer those in `remove`; with `mutual` the other way round too."""
        change = {"add": list(add), "remove": list(remove), "mutual": mutual}
        await self._call("PUT", f"{_path(user)}/contacts", change)

    async def contacts(self, user: str) -> set[str]:
        """Who may see `user`, and whom `user` may see."""
        told = await self._call("GET", f"{_path(user)}/contacts")
        return {*told["viewers"], *told["sees"]}

    async def set_privacy(self, user: str, privacy: Mapping[str, Any]) -> None:
        """Replace what `user` hides: `invisible`, `lastSeen`, `hideFrom`, `blocks`."""
        await self._call("PUT", f"{_path(user)}/privacy", privacy)

    async def set_status(self, user: str, change: Mapping[str, Any]) -> None:
        """Choose a claim or a custom status on behalf of `user`."""
        await self._call("PUT", f"{_path(user)}/status", change)

    async def erase(self, user: str) -> None:
        """Leave nothing of `user` in the service."""
        await self._call("DELETE", _path(user))

    async def set_graph_loaded(self) -> None:
        """Say that privacy and contacts are loaded: from now on people may see each other."""
        await self._call("PUT", "/v1/graph", {"loaded": True})

    async def graph_page(self, cursor: str) -> tuple[list[dict[str, Any]], str]:
        """A page of everything that the application or users gave, and the next cursor ("" begins and ends)."""
        page = await self._call("GET", "/v1/graph?" + urlencode({"cursor": cursor}) if cursor else "/v1/graph")
        return page["users"], page["next"] or ""

    async def status_unsigned(self, method: str, target: str) -> int:
        """With which status a call is answered that carries no signature."""
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
            if status not in AGAIN or not left:
                raise Complaint(_words(method, target, status, text))
            await asyncio.sleep(random.uniform(0, FIRST_WAIT * 2.0 ** (TRIES - left)))  # noqa: S311 - jitter
        raise AssertionError("the last try returns or raises")

    async def _send(self, method: str, target: str, headers: Mapping[str, str], data: bytes) -> tuple[int, str]:
        url = URL(self.url + target, encoded=True)  # As it was signed, not as yarl would write it.
        try:
            async with self._session.request(method, url, data=data, headers=headers) as response:
                return response.status, await response.text(errors="replace")
        except TimeoutError:
            raise Complaint(f"{self.url} does not answer") from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            raise Complaint(f"{self.url} speaks no TLS that this machine trusts") from None
        except aiohttp.ClientConnectorError:
            raise Complaint(nothing_answers(self.url)) from None
        except aiohttp.ClientError:
            raise Complaint(f"{self.url} is something else: it does not speak HTTP") from None


def _path(user: str) -> str:
    return f"/v1/users/{quote(user, safe='')}"


def _json(text: str, url: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise Complaint(f"{url} is something else: it answers no JSON") from None


def _words(method: str, target: str, status: int, text: str) -> str:
    """One line about an answer that is an error: problem details of the service, or the gateway's `message`."""
    try:
        told = json.loads(text)
        why = told.get("detail") or told.get("title") or told.get("message")
    except (ValueError, AttributeError):
        why = None
    if status == HTTPStatus.FORBIDDEN:
        why = f"{why or 'Forbidden'} (are these the credentials of that service?)"
    return f"{method} {target} is answered {status}: {why or 'no reason given'}"
