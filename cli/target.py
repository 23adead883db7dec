"""The service that a command is for, chosen by its options: the run of this directory, two URLs, or a deployed stack.

A target knows the URLs, the credentials for the backend's calls, and the tokens that the service accepts. It sends
nothing to the service.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cli.addresses import checked, is_local
from cli.errors import UserError
from cli.home import Home
from cli.identity_provider import GivenToken, IdentityProvider, Tokens, settings_of
from load.session import TokenSource

if TYPE_CHECKING:
    from cli.account import Account, Stack
    from cli.backend import Backend

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_WS_URL = "ws://127.0.0.1:8080/live"
API_REGION = re.compile(r"[^.]+\.execute-api\.([a-z0-9-]+)\.")
"""API Gateway's host names contain their region; custom domains do not."""


class Target:
    """A service. Every method raises UserError if the options, or the files here, do not lead to one.

    Args:
        home: the folder of this directory's run.
        environ: `PRESENCE_*`, for the tokens of a service that is not the run.
        url: its HTTP API; by default that of the stack, else of the run.
        ws_url: its WebSocket API; by default that of the stack, else the one that belongs to `url`.
        stack: the name of a deployed stack.
        region: the stack's region, or the one that calls to a custom domain are signed for.
        profile: the AWS profile to use.
    """

    def __init__(
        self,
        home: Home,
        environ: Mapping[str, str],
        *,
        url: str | None = None,
        ws_url: str | None = None,
        stack: str | None = None,
        region: str | None = None,
        profile: str | None = None,
    ) -> None:
        self._home, self._environ = home, environ
        self._url = url and checked(url, "http", f"is not the URL of an HTTP API, like {DEFAULT_URL}")
        self._ws_url = ws_url and checked(ws_url, "ws", f"is not the URL of a WebSocket API, like {DEFAULT_WS_URL}")
        if stack == "":
            raise UserError("--stack needs a name")
        self._stack_name, self._region, self._profile = stack, region, profile

    @functools.cached_property
    def account(self) -> Account:
        """The AWS account of a deployed service."""
        from cli.account import Account  # imports botocore, which takes a third of a second

        return Account(self._region, self._profile)

    @functools.cached_property
    def stack(self) -> Stack | None:
        """The stack, if one was named."""
        return self.account.stack(self._stack_name) if self._stack_name else None

    @property
    def url(self) -> str:
        """Its HTTP API, without a final slash."""
        if self._url:
            return self._url
        if self.stack:
            return _output(self.stack, "HttpUrl").rstrip("/")
        run = self._home.run()
        return run.url if run else DEFAULT_URL

    @property
    def ws_url(self) -> str:
        """Its WebSocket API, without a query."""
        if self._ws_url:
            return self._ws_url
        if self.stack:
            return _output(self.stack, "WebSocketUrl")
        if self._url:
            if not is_local(self._url):
                raise UserError(
                    "give --ws-url too: the WebSocket API of a deployed stack has another address than --url"
                )
            return f"ws://{urlsplit(self._url).netloc}/live"
        run = self._home.run()
        return run.ws_url if run else DEFAULT_WS_URL

    @property
    def token_source(self) -> TokenSource:
        """Where in a handshake the service looks for the token."""
        if self.stack:
            return "subprotocol" if _output(self.stack, "TokenSource") == "subprotocol" else "query"
        run = self._home.run()
        return run.token_source if run and run.ws_url == self.ws_url else settings_of(self._environ).token_source

    @contextlib.asynccontextmanager
    async def backend(self) -> AsyncIterator[Backend]:
        """A backend of the service. Calls to a run are signed with its key pair, all others with AWS credentials."""
        from cli.backend import REGION, Backend

        if not self._stack_name and is_local(self.url):
            run = self._home.run()
            credentials, region = self._home.key_pair().credentials, run.region if run else REGION
        else:
            in_host = API_REGION.match(urlsplit(self.url).hostname or "")
            credentials, region = self.account.credentials(), in_host[1] if in_host else self.account.region
        async with Backend.open(self.url, credentials, region) as backend:
            yield backend

    def tokens(self, token: str | None = None) -> Tokens:
        """The tokens of users' handshakes: the given one, or those of `identity_provider`."""
        return GivenToken(token, self.token_source) if token else self.identity_provider()

    def identity_provider(self) -> IdentityProvider:
        """Makes tokens that the service accepts, with the secret of the stack, the environment, or the run."""
        if not self.stack:
            return IdentityProvider.find(self._home, self._environ)
        settings, arn = settings_of(self._environ), self.stack.outputs.get("TokenSecretArn")
        secret = self.account.secret(arn) if arn else settings.jwt_secret
        if not secret:
            raise UserError(
                f"{self.stack.name} accepts only tokens of your identity provider: give one with --token, or set "
                "PRESENCE_JWT_SECRET if it uses a shared secret"
            )
        return IdentityProvider(secret, self.token_source, issuer=settings.jwt_issuer, audience=settings.jwt_audience)


def _output(stack: Stack, name: str) -> str:
    try:
        return stack.outputs[name]
    except KeyError:
        raise UserError(f"{stack.name} is not a presence stack: it has no output {name}") from None
