"""The application's backend, as far as the command line plays it: signed calls to the service's HTTP side.

Calls are signed with the key pair of this machine's run, or, for a deployed stack, with AWS credentials found where AWS
tools look for them. What the calls mean is in docs/protocol.md; files of contacts are `graph_files.py`'s matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials
from yarl import URL

from local.cli.complaint import Complaint
from local.cli.home import Home, Run
from local.iam import SERVICE

DEFAULT_URL = "http://127.0.0.1:8080"
REGION = "us-east-1"
"""What calls on this machine are signed for, if the run does not say."""
TIMEOUT = aiohttp.ClientTimeout(total=35, connect=5)
"""API Gateway answers after 30 s at the latest, with 503 if need be."""
AGAIN = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE}
"""Answers after which the same call may succeed; every call here may be made twice."""
TRIES = 5
FIRST_WAIT = 0.25
"""Seconds: before try n + 1 a random part of FIRST_WAIT · 2ⁿ is waited."""


class Backend:
    """Makes signed calls. Every method raises Complaint when its call fails."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, credentials: ReadOnlyCredentials | Credentials, region: str
    ) -> None:
        self.url = url.rstrip("/")
        self._session = session
        self._signer = SigV4Auth(credentials, SERVICE, region)

    @classmethod
    @contextlib.asynccontextmanager
    async def find(cls, home: Home, url: str | None = None) -> AsyncIterator[Self]:
        """The backend of the service at `url`; of this machine's run when no URL is given.

        Raises:
            Complaint: no credentials are found, or `url` is none.
        """
        run = home.run()
        url = url or (run.url if run else DEFAULT_URL)
        if not re.match(r"https?://[^/?#]+/?$", url):
            raise Complaint(f"{url} is no URL of an HTTP API, which is like {DEFAULT_URL}")
        credentials, region = _of_this_machine(home, run) if is_local(url) else _of_aws(url)
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            yield cls(session, url, credentials, region)

    async def health(self) -> dict[str, Any]:
        """What the service says about itself: `graph` is `loaded` or `not_loaded`."""
        health: dict[str, Any] = await self._call("GET", "/v1/health")
        return health

    async def set_contacts(self, user: str, add: Sequence[str], *, mutual: bool) -> None:
        """Let each in `add` see `user`, and with `mutual` the other way round."""
        await self._call("PUT", f"{_path(user)}/contacts", {"add": list(add), "mutual": mutual})

    async def set_privacy(self, user: str, privacy: Mapping[str, Any]) -> None:
        """Replace what `user` hides: `invisible`, `lastSeen`, `hideFrom`, `blocks`."""
        await self._call("PUT", f"{_path(user)}/privacy", privacy)

    async def set_status(self, user: str, change: Mapping[str, Any]) -> None:
        """Choose a claim or a custom status on behalf of `user`."""
        await self._call("PUT", f"{_path(user)}/status", change)

    async def set_graph_loaded(self) -> None:
        """Say that privacy and contacts are loaded: from now on people may see each other."""
        await self._call("PUT", "/v1/graph", {"loaded": True})

    async def graph_page(self, cursor: str) -> tuple[list[dict[str, Any]], str]:
        """A page of everything that the application or users gave, and the next cursor ("" begins and ends)."""
        page = await self._call("GET", "/v1/graph?" + urlencode({"cursor": cursor}) if cursor else "/v1/graph")
        return page["users"], page["next"] or ""

    async def _call(self, method: str, target: str, body: Mapping[str, Any] | None = None) -> Any:
        data = json.dumps(body).encode() if body is not None else b""
        for left in reversed(range(TRIES)):
            request = AWSRequest(method, self.url + target, {"Content-Type": "application/json"}, data)
            self._signer.add_auth(request)
            try:
                async with self._session.request(
                    method,
                    URL(self.url + target, encoded=True),  # As it was signed, not as yarl would write it.
                    data=data,
                    headers=dict(request.headers.items()),
                ) as response:
                    text = await response.text()
            except TimeoutError:
                raise Complaint(f"{self.url} does not answer") from None
            except aiohttp.ClientConnectorError:
                raise Complaint(f"nothing answers at {self.url}: is `presence run` running?") from None
            except (aiohttp.ClientError, ValueError) as error:
                raise Complaint(f"{self.url} cannot be asked: {error}") from None
            if response.status < HTTPStatus.BAD_REQUEST:
                return _json(text, self.url) if text else None
            if response.status not in AGAIN or not left:
                raise Complaint(_words(method, target, response.status, text))
            await asyncio.sleep(random.uniform(0, FIRST_WAIT * 2.0 ** (TRIES - left)))  # noqa: S311 - jitter
        raise AssertionError("the last try returns or raises")


def is_local(url: str) -> bool:
    """Whether a URL leads to this machine."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _of_this_machine(home: Home, run: Run | None) -> tuple[ReadOnlyCredentials, str]:
    keys = home.key_pair()
    credentials = ReadOnlyCredentials(keys.access_key_id, keys.secret_access_key, None)
    return credentials, run.region if run else REGION


def _of_aws(url: str) -> tuple[Credentials, str]:
    from botocore.session import Session  # a fifth of a second that calls on this machine need not wait

    session = Session()
    credentials = session.get_credentials()
    if credentials is None:
        raise Complaint("no AWS credentials are found: set AWS_PROFILE, or log in as you do for the AWS CLI")
    in_host = re.search(r"\.execute-api\.([a-z0-9-]+)\.amazonaws\.com", urlsplit(url).hostname or "")
    return credentials, in_host[1] if in_host else session.get_config_variable("region") or REGION


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
