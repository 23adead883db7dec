"""Verifies tokens: a JWT with a shared secret, or with the keys that an issuer publishes (JWKS).

Time is always an argument, in seconds. Not here: where a token was found (query, subprotocol, header), the response
to an invalid one, whether its user signed out everywhere, and creating tokens. An exception's text is for the log
only: in a response it would help an attacker.
"""

from __future__ import annotations

import json
import logging
import math
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

import jwt

from shared.messages import USER_ID
from shared.settings import Settings, SettingsError

MAX_TOKEN = 8192
"""Characters. API Gateway accepts no more in a handshake's URL or in a request's headers."""
LEEWAY = 10.0
"""Seconds by which the issuer's clock and ours may differ."""
LATEST_TIME = 1e11
"""Seconds, in the year 5138. A later time was meant in milliseconds; the token would never expire."""
SHORTEST_SECRET = 32
"""Bytes: as long as HS256's hash (RFC 7518, section 3.2). A shorter one can be guessed offline from any token."""
SHORTEST_RSA_KEY = 2048
"""Bits (RFC 7518, section 3.3)."""
REFRESH_EVERY = 600.0
"""Seconds after which published keys are fetched again, so that a withdrawn key is not accepted forever."""
FETCH_PAUSE = 30.0
"""Minimum seconds between two fetches, whatever unknown keys tokens name, and whether or not the issuer answers."""
FETCH_TIMEOUT = 2.0
"""Seconds without a byte after which a fetch has failed."""
MAX_KEY_SET = 256 * 1024
"""Bytes."""


_logger = logging.getLogger(__name__)


class Refused(Exception):
    """The token is not valid. The reason is for the log only."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a token proves. Times are in seconds since the epoch; without `iat`, `issued_at` is 0: before any
    sign-out.
    """

    user_id: str
    issued_at: int
    expires_at: int


class Authenticator:
    """Verifies tokens according to the settings.

    HS256 with a shared secret (`secret`, or else `jwt_secret`), or RS256 and ES256 with the keys at `jwks_url`. `exp`
    and `sub` are required. `nbf` and `iat` must not be in the future: a token "issued" tomorrow would survive a
    sign-out. `iss` must be `jwt_issuer` and `aud` must contain `jwt_audience` where these are set; a token that names
    an audience is refused where none is set (RFC 7519, 4.1.3).

    Raises:
        SettingsError: neither is configured, or what is configured is not secure.
    """

    def __init__(self, settings: Settings, secret: str = "") -> None:
        secret = secret or settings.jwt_secret
        self._issuer = settings.jwt_issuer or None
        self._audience = settings.jwt_audience or None
        self._secret = ""
        self._keys: _KeySet | None = None
        if settings.jwks_url:
            self._keys = _KeySet(settings.jwks_url)
        elif secret:
            self._secret = _strong(secret)
        else:
            raise SettingsError("set jwt_secret (or jwt_secret_arn) or jwks_url: without one no token can be verified")

    def verify(self, token: str, now: float) -> Identity:
        """The user whose token this is, at `now` (seconds since the epoch).

        Raises:
            Refused: the token is not valid.
        """
        if len(token) > MAX_TOKEN:
            raise Refused("longer than any token")
        try:
            claims = self._claims(token, now)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise Refused(str(error)) from error
        expires_at = _seconds(claims, "exp")
        if expires_at is None:
            raise Refused("no exp")
        if expires_at + LEEWAY <= now:
            raise Refused("expired")
        issued_at = _seconds(claims, "iat") or 0.0
        if max(issued_at, _seconds(claims, "nbf") or 0.0) > now + LEEWAY:
            raise Refused("not valid yet")
        user_id = claims.get("sub")
        if not isinstance(user_id, str) or not USER_ID.fullmatch(user_id):
            raise Refused("sub is no user id")
        return Identity(user_id, int(issued_at), int(expires_at))

    def _claims(self, token: str, now: float) -> Mapping[str, Any]:
        key: jwt.PyJWK | str = self._secret
        algorithms = ["HS256"]
        if self._keys is not None:
            key = self._keys.find(jwt.get_unverified_header(token).get("kid"), now)
            algorithms = [key.algorithm_name]
        return jwt.decode(
            token,
            key,
            algorithms=algorithms,
            audience=self._audience,
            issuer=self._issuer,
            # PyJWT would use the real clock; `verify` uses the caller's.
            options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )


class _KeySet:
    """The keys that an issuer publishes, cached in this environment, and kept while the issuer cannot be reached."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1")):
            raise SettingsError(
                "jwks_url must be https: an attacker who replaced the keys on their way could impersonate any user"
            )
        self._url = url
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = -math.inf

    def find(self, kid: str | None, now: float) -> jwt.PyJWK:
        """The key with this id. The set is fetched when it is old or lacks the key, unless that was tried a moment ago.

        Raises:
            Refused: the last fetched set has no such key.
        """
        wanted = kid not in self._keys or now - self._fetched_at >= REFRESH_EVERY
        if wanted and now - self._tried_at >= FETCH_PAUSE:
            self._tried_at = now
            try:
                self._keys = self._fetch()
                self._fetched_at = now
            except (OSError, HTTPException, ValueError, RecursionError) as error:
                _logger.warning("the keys at %s could not be fetched: %s", self._url, error)
        if kid is None or kid not in self._keys:
            raise Refused("names no known key")
        return self._keys[kid]

    def _fetch(self) -> dict[str, jwt.PyJWK]:
        request = urllib.request.Request(self._url, headers={"User-Agent": "serverless-presence"})  # noqa: S310 - see __init__
        with self._opener.open(request, timeout=FETCH_TIMEOUT) as response:
            document = json.loads(response.read(MAX_KEY_SET))
        published = document.get("keys") if isinstance(document, dict) else None
        keys = {jwk["kid"]: key for jwk in published or () if (key := _public_key(jwk))}
        if not keys:
            raise ValueError("no RS256 or ES256 key in it")
        return keys


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead from https to anywhere."""

    def redirect_request(self, *_args: object) -> None:
        """No request follows: the redirect is an error."""


def _public_key(jwk: object) -> jwt.PyJWK | None:
    """A published key, bound to the one algorithm for its type; None when the service does not accept it.

    A symmetric key in the set, or an algorithm chosen by the token's header, would let anybody sign.
    """
    if not isinstance(jwk, dict) or not isinstance(jwk.get("kid"), str):
        return None
    algorithm = {"RSA": "RS256", "EC": "ES256"}.get(str(jwk.get("kty")))
    if algorithm is None or jwk.get("alg", algorithm) != algorithm or jwk.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(jwk, algorithm)
    except (jwt.PyJWTError, ValueError):
        return None
    return key if algorithm == "ES256" or key.key.key_size >= SHORTEST_RSA_KEY else None


def _strong(secret: str) -> str:
    """The secret, if it is strong enough.

    Raises:
        SettingsError: it is too short, or a public key.
    """
    if len(secret.encode()) < SHORTEST_SECRET:
        raise SettingsError(f"jwt_secret must have at least {SHORTEST_SECRET} bytes: a shorter one can be guessed")
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise SettingsError("jwt_secret is a key or certificate, which is no secret: publish it at jwks_url") from None
    return secret


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    """A time among the claims; None when it is absent.

    Raises:
        Refused: it is not a time, or so late that it must have been meant in milliseconds.
    """
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LATEST_TIME:
        raise Refused(f"{name} is no time in seconds")
    return value
