"""Users' tokens: made here, with a secret that the service knows, or given by the user of a command.

No token is verified here; `shared/auth.py` does that.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Protocol

import jwt

from cli.errors import UserError
from cli.home import Home, Run
from load.session import TokenSource
from shared.messages import USER_ID
from shared.settings import Settings, SettingsError

TOKEN_VARIABLE = "PRESENCE_TOKEN"
"""The variable with a token for commands that connect as a user. It is the only `PRESENCE_*` that is not a setting."""
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = 10 * 365 * 86400
"""The longest life of a token made here, in seconds: ten years."""


def seconds(text: str) -> int:
    """A duration like `90`, `90s`, `15m`, `1h` or `7d`, in seconds.

    Raises:
        UserError: it is not a duration, or too long.
    """
    match = re.fullmatch(r"([0-9]{1,12})([smhd]?)", text.strip())
    duration = int(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < duration <= LONGEST:
        raise UserError(f"{text!r} is not a duration: use 90s, 15m, 1h or 7d, up to ten years")
    return duration


class Tokens(Protocol):
    """The source of a client's tokens."""

    @property
    def token_source(self) -> TokenSource:
        """Where in a handshake the service looks for the token."""

    def token(self, user_id: str) -> str:
        """A token of a user; raises UserError if there cannot be one."""


class GivenToken:
    """A single token from an identity provider. It cannot be renewed.

    Raises:
        UserError: it is not a token.
    """

    def __init__(self, token: str, token_source: TokenSource) -> None:
        self.token_source = token_source
        self._token = token
        try:
            subject = jwt.decode(token, options={"verify_signature": False}).get("sub")
        except jwt.PyJWTError:
            raise UserError("the value of --token or PRESENCE_TOKEN is not a JWT") from None
        if not isinstance(subject, str):
            raise UserError("the given token has no claim `sub`, which names its user")
        self.user_id = user_id_of(subject)
        """The user that it names."""

    def token(self, user_id: str) -> str:
        """The token.

        Raises:
            UserError: it belongs to another user.
        """
        if user_id != self.user_id:
            raise UserError(f"the token belongs to {self.user_id}, not to {user_id}")
        return self._token


class IdentityProvider:
    """Makes users' tokens: HS256, with issuer and audience if the service requires them.

    `token_source` is where in a handshake the service looks for the token.
    """

    def __init__(self, secret: str, token_source: TokenSource, *, issuer: str = "", audience: str = "") -> None:
        self.token_source = token_source
        self._secret = secret
        self._claims = {name: value for name, value in (("iss", issuer), ("aud", audience)) if value}

    @classmethod
    def find(cls, home: Home, environ: Mapping[str, str]) -> IdentityProvider:
        """The provider with `PRESENCE_JWT_SECRET` of the environment, else with the secret of the run in `home`.

        Raises:
            UserError: there is none.
        """
        if environ.get("PRESENCE_JWT_SECRET"):
            return cls._of(settings_of(environ))
        run = home.run()
        if run is None:
            raise UserError(
                f"there is no run in {home.path.resolve()}: start `presence run` in this directory, "
                "or set PRESENCE_JWT_SECRET to the secret of the service"
            )
        if not run.jwt_secret:
            raise UserError("the run accepts only tokens of the identity provider at its PRESENCE_JWKS_URL")
        return cls._of(run)

    @classmethod
    def _of(cls, about: Settings | Run) -> IdentityProvider:
        return cls(about.jwt_secret, about.token_source, issuer=about.jwt_issuer, audience=about.jwt_audience)

    def token(self, user_id: str, ttl: int = 3600) -> str:
        """A token of a user, valid for `ttl` seconds from now.

        Raises:
            UserError: the user id is invalid.
        """
        user_id_of(user_id)
        now = int(time.time())
        return jwt.encode({"sub": user_id, "iat": now, "exp": now + ttl, **self._claims}, self._secret, "HS256")


def settings_of(environ: Mapping[str, str]) -> Settings:
    """The service's settings in an environment, which may also hold a client's token.

    Raises:
        UserError: a setting is invalid.
    """
    try:
        return Settings.from_env({name: value for name, value in environ.items() if name != TOKEN_VARIABLE})
    except SettingsError as error:
        raise UserError(str(error)) from None


def user_id_of(text: str) -> str:
    """A valid user id, unchanged.

    Raises:
        UserError: it is not a user id.
    """
    if not USER_ID.match(text):
        raise UserError(
            f"{text!r} is not a user id: 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ | + = - and not . or .."
        )
    return text
