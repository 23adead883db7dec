"""Which service a command is for, of what was typed: the run of this directory, two URLs, or a deployed stack.

It says where that is, who signs the backend's calls to it and whose tokens it takes. Nothing is asked of the service.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cli.addresses import checked, is_local
from cli.errors import Complaint
from cli.home import Home
from cli.identity_provider import GivenToken, IdentityProvider, Tokens, settings_of
from load.session import TokenSource

if TYPE_CHECKING:
    from cli.account import Account, Stack
    from cli.backend import Backend

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_WS_URL = "ws://127.0.0.1:8080/live"
API_REGION = re.compile(r"[^.]+\.execute-api\.([a-z0-9-]+)\.")
"""API Gateway's own hosts name their region; a domain of one's own does not."""


class Target:
    """A service. Every method raises Complaint where what was typed, or what is here, leads to none.

    Args:
        home: the folder of this directory's run.
        environ: `PRESENCE_*`, for the tokens of a service that is not the run.
        url: its HTTP side; that of the stack, or else of the run, when it is not given.
        ws_url: its WebSocket side; that of the stack, or else what belongs to `url`.
        stack: the name of a deployed stack.
        region: of the stack, or for which calls to a domain of one's own are signed.
        profile: whose AWS credentials are used.
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
        self._url = url and checked(url, "http", f"is no URL of an HTTP API, which is like {DEFAULT_URL}")
        self._ws_url = ws_url and checked(ws_url, "ws", f"is no URL of a WebSocket API, which is like {DEFAULT_WS_URL}")
        if stack == "":
            raise Complaint("--stack needs a name: this one is empty")
        self._stack_name, self._region, self._profile = stack, region, profile

    @functools.cached_property
    def account(self) -> Account:
        """The AWS account that it is in, if it is deployed."""
        from cli.account import Account  # brings botocore, which what is on this machine need not wait for

        return Account(self._region, self._profile)

    @functools.cached_property
    def stack(self) -> Stack | None:
        """The stack, where one was named."""
        return self.account.stack(self._stack_name) if self._stack_name else None

    @property
    def url(self) -> str:
        """Its HTTP side, without a slash at the end."""
        if self._url:
            return self._url
        if self.stack:
            return _output(self.stack, "HttpUrl").rstrip("/")
        run = self._home.run()
        return run.url if run else DEFAULT_URL

    @property
    def ws_url(self) -> str:
        """Its WebSocket side, without a query."""
        if self._ws_url:
            return self._ws_url
        if self.stack:
            return _output(self.stack, "WebSocketUrl")
        if self._url:
            if not is_local(self._url):
                raise Complaint("give --ws-url too: a deployed stack takes WebSockets at another address than --url")
            return f"ws://{urlsplit(self._url).netloc}/live"
        run = self._home.run()
        return run.ws_url if run else DEFAULT_WS_URL

    @property
    def token_source(self) -> TokenSource:
        """Where in a handshake it looks for a token."""
        if self.stack:
            return "subprotocol" if _output(self.stack, "TokenSource") == "subprotocol" else "query"
        run = self._home.run()
        return run.token_source if run and run.ws_url == self.ws_url else settings_of(self._environ).token_source

    @contextlib.asynccontextmanager
    async def backend(self) -> AsyncIterator[Backend]:
        """The application's backend: calls to a run are signed with its key pair, all others with AWS credentials."""
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
        """What a user's handshake carries: the token that was given, or those of `identity_provider`."""
        return GivenToken(token, self.token_source) if token else self.identity_provider()

    def identity_provider(self) -> IdentityProvider:
        """What makes tokens that it takes: with the stack's own secret, that of the environment, or that of the run."""
        if not self.stack:
            return IdentityProvider.find(self._home, self._environ)
        settings, arn = settings_of(self._environ), self.stack.outputs.get("TokenSecretArn")
        secret = self.account.secret(arn) if arn else settings.jwt_secret
        if not secret:
            raise Complaint(
                f"{self.stack.name} takes tokens of your identity provider only: give one with --token, or set "
                "PRESENCE_JWT_SECRET if it shares a secret of yours"
            )
        return IdentityProvider(secret, self.token_source, issuer=settings.jwt_issuer, audience=settings.jwt_audience)


def _output(stack: Stack, name: str) -> str:
    try:
        return stack.outputs[name]
    except KeyError:
        raise Complaint(f"{stack.name} is no presence stack: it has no output {name}") from None
