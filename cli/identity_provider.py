"""What proves who a user is: tokens made here, with the secret that the service shares, or one that was given.

How a token is verified is `shared/auth.py`'s matter, and no token is verified here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Protocol

import jwt

from cli.errors import Complaint
from cli.home import Home, Run
from load.session import TokenSource
from shared.messages import USER_ID
from shared.settings import Settings, SettingsError

TOKEN_VARIABLE = "PRESENCE_TOKEN"
"""Where commands that connect as a user look for a token; it is the one `PRESENCE_*` that is no setting."""
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = 10 * 365 * 86400
"""Seconds that a token made here lives at most: ten years."""


def seconds(text: str) -> int:
    """A duration like `90`, `90s`, `15m`, `1h` or `7d`, in seconds.

    Raises:
        Complaint: it is none, or too long.
    """
    match = re.fullmatch(r"([0-9]{1,12})([smhd]?)", text.strip())
    duration = int(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < duration <= LONGEST:
        raise Complaint(f"{text!r} is no duration: say 90s, 15m, 1h or 7d, up to ten years")
    return duration


class Tokens(Protocol):
    """Where a client has its tokens from."""

    @property
    def token_source(self) -> TokenSource:
        """Where in a handshake the service looks for them."""

    def token(self, user_id: str) -> str:
        """A token of a user; raises Complaint where there cannot be one."""


class GivenToken:
    """One token, of an identity provider elsewhere; it ends when it ends.

    Raises:
        Complaint: it is no token.
    """

    def __init__(self, token: str, token_source: TokenSource) -> None:
        self.token_source = token_source
        self._token = token
        try:
            subject = jwt.decode(token, options={"verify_signature": False}).get("sub")
        except jwt.PyJWTError:
            raise Complaint("what was given with --token or PRESENCE_TOKEN is no JWT") from None
        if not isinstance(subject, str):
            raise Complaint("the token that was given says in no `sub` whose it is")
        self.user_id = user_id_of(subject)
        """Whose it says that it is."""

    def token(self, user_id: str) -> str:
        """The token.

        Raises:
            Complaint: it is somebody else's.
        """
        if user_id != self.user_id:
            raise Complaint(f"the token is {self.user_id}'s, and not {user_id}'s")
        return self._token


class IdentityProvider:
    """Makes users' tokens: HS256, with issuer and audience where the service asks for them.

    `token_source` says where in a handshake the service looks for them.
    """

    def __init__(self, secret: str, token_source: TokenSource, *, issuer: str = "", audience: str = "") -> None:
        self.token_source = token_source
        self._secret = secret
        self._claims = {name: value for name, value in (("iss", issuer), ("aud", audience)) if value}

    @classmethod
    def find(cls, home: Home, environ: Mapping[str, str]) -> IdentityProvider:
        """The one whose tokens the service takes: `PRESENCE_JWT_SECRET` of the environment, else the run in `home`.

        Raises:
            Complaint: there is none.
        """
        if environ.get("PRESENCE_JWT_SECRET"):
            return cls._of(settings_of(environ))
        run = home.run()
        if run is None:
            raise Complaint(
                f"no run is known in {home.path.resolve()}: start `presence run` in this directory, "
                "or set PRESENCE_JWT_SECRET to the secret of the service"
            )
        if not run.jwt_secret:
            raise Complaint("the run takes no tokens but those of the provider behind its PRESENCE_JWKS_URL")
        return cls._of(run)

    @classmethod
    def _of(cls, about: Settings | Run) -> IdentityProvider:
        return cls(about.jwt_secret, about.token_source, issuer=about.jwt_issuer, audience=about.jwt_audience)

    def token(self, user_id: str, ttl: int = 3600) -> str:
        """A token of a user that is good for `ttl` seconds from now.

        Raises:
            Complaint: there cannot be such a user.
        """
        user_id_of(user_id)
        now = int(time.time())
        return jwt.encode({"sub": user_id, "iat": now, "exp": now + ttl, **self._claims}, self._secret, "HS256")


def settings_of(environ: Mapping[str, str]) -> Settings:
    """The service's settings in an environment, which may hold a client's token too.

    Raises:
        Complaint: one of them cannot work.
    """
    try:
        return Settings.from_env({name: value for name, value in environ.items() if name != TOKEN_VARIABLE})
    except SettingsError as error:
        raise Complaint(str(error)) from None


def user_id_of(text: str) -> str:
    """A user id, as it was given.

    Raises:
        Complaint: it is none.
    """
    if not USER_ID.match(text):
        raise Complaint(f"{text!r} is no user id: 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ | + = - and not . or ..")
    return text
