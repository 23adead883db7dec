"""A service to test from outside, wherever it runs: its addresses, its settings, and the credentials for it.

Either a `presence run` that a test started, or the service at `--url` and `--ws-url`. Nothing here looks inside.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.session import Session

from cli.home import Home, Run
from cli.identity_provider import IdentityProvider
from shared.settings import Settings
from tests.support.presence_run import PresenceRun

HTTP_PATIENCE = 40.0
"""In seconds: API Gateway itself gives up after 30."""
SHORT_TIMES = {
    "PRESENCE_HEARTBEAT_INTERVAL": "0.5",
    "PRESENCE_DEVICE_TTL": "3",
    "PRESENCE_GRACE": "1.5",
    "PRESENCE_PUSH_BUDGET": "2",
    "PRESENCE_ANNOUNCE_LEASE": "3",
}
"""Settings with short durations."""


@dataclass(frozen=True)
class Deployment:
    """Where a service runs, and the credentials of its users and of the application's backend."""

    url: str
    ws_url: str
    settings: Settings
    """The durations of its settings, which tests rely on."""
    identity_provider: IdentityProvider
    credentials: Credentials
    region: str

    @classmethod
    def started(cls, service: PresenceRun, environment: Mapping[str, str]) -> Self:
        """A run that a test started with these settings."""
        return cls._of_run(Home(service.directory / ".presence"), service.run, Settings.from_env(environment))

    @classmethod
    def given(cls, url: str, ws_url: str) -> Self:
        """The service at two URLs.

        Its settings are the `PRESENCE_*` variables of this environment, with the secret for tokens, and requests are
        signed with the credentials that AWS tools find here. A run in this directory needs neither.
        """
        run, settings = Home().run(), Settings.from_env()
        if run and run.url == url.rstrip("/"):
            return cls._of_run(Home(), run, settings)
        session = Session()
        credentials = session.get_credentials()
        assert credentials, "found no AWS credentials to sign the backend's requests with"
        in_host = re.search(r"\.execute-api\.([a-z0-9-]+)\.amazonaws\.com", url)
        region = in_host[1] if in_host else os.environ.get("AWS_REGION") or session.get_config_variable("region")
        assert region, "found no region to sign the backend's requests for: set AWS_REGION"
        return cls(url.rstrip("/"), ws_url, settings, IdentityProvider.find(Home(), os.environ), credentials, region)

    @classmethod
    def _of_run(cls, home: Home, run: Run, settings: Settings) -> Self:
        keys = home.key_pair()
        credentials = Credentials(keys.access_key_id, keys.secret_access_key)
        return cls(run.url, run.ws_url, settings, IdentityProvider.find(home, {}), credentials, run.region)

    async def call(self, method: str, path: str, body: Any = None, *, signed: bool = True) -> tuple[int, Any]:
        """Status and JSON of a request to the HTTP API."""
        return await asyncio.to_thread(self._call, method, self.url + path, body, signed)

    async def call_as(
        self, user: str, method: str, path: str, body: Any = None, *, token: str | None = None
    ) -> tuple[int, Any]:
        """Status and JSON of a user's request, with the user's own token or the given one."""
        headers = {"Authorization": f"Bearer {token or self.identity_provider.token(user)}"}
        return await asyncio.to_thread(self._call, method, self.url + path, body, False, headers)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of a backend request that succeeds. It is retried while Redis is unavailable, as backends do."""
        status, answer = await self.call(method, path, body)
        for _ in range(10):
            if status != 503:
                break
            await asyncio.sleep(1)  # the value of its Retry-After header
            status, answer = await self.call(method, path, body)
        assert status < 300, answer
        return answer

    def handshake(self, user: str, token: str | None = None, **query: str) -> tuple[str, list[str]]:
        """The URL and the subprotocols with which a user connects; an empty token is omitted."""
        token = self.identity_provider.token(user) if token is None else token
        if self.identity_provider.token_source == "subprotocol":
            return f"{self.ws_url}?{urlencode(query)}", ["presence.v2", token] if token else []
        return f"{self.ws_url}?{urlencode(query | ({'token': token} if token else {}))}", []

    def _call(
        self, method: str, url: str, body: Any, signed: bool, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        request = AWSRequest(method, url, {"Content-Type": "application/json", **(headers or {})}, data)
        if signed:
            SigV4Auth(self.credentials, "execute-api", self.region).add_auth(request)
        wire = urllib.request.Request(url, data or None, dict(request.headers.items()), method=method)  # noqa: S310 - http(s) as given
        try:
            with urllib.request.urlopen(wire, timeout=HTTP_PATIENCE) as response:  # noqa: S310
                return response.status, _json(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _json(error.read())


def of(user: str, what: str) -> str:
    """The path of a user's resource."""
    return f"/v1/users/{quote(user, safe='')}/{what}"


def _json(text: bytes) -> Any:
    return json.loads(text) if text else None
