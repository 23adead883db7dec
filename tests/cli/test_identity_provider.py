"""Tokens made on a laptop are valid for the service, and none are made for invalid users."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest

from cli.errors import UserError
from cli.home import Home, Run
from cli.identity_provider import GivenToken, IdentityProvider, seconds, user_id_of
from shared.auth import Authenticator
from shared.settings import Settings

SECRET = "a secret of the tests, which is long enough"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A folder without a run."""
    return Home(tmp_path)


def about(**options: str) -> Run:
    """A run that accepts tokens signed with SECRET."""
    return Run(**{"url": "", "ws_url": "", "region": "", "pid": 1, "jwt_secret": SECRET, **options})  # type: ignore[arg-type]


def provider_time(token: str) -> float:
    """When a token was made, in seconds."""
    made: float = jwt.decode(token, options={"verify_signature": False})["iat"]
    return made


@pytest.mark.parametrize(("issuer", "audience"), [("", ""), ("https://issuer.example", "chat")])
def test_the_service_accepts_its_tokens(issuer: str, audience: str) -> None:
    """The service reads the user, the issue time and the end from the token."""
    provider = IdentityProvider(SECRET, "query", issuer=issuer, audience=audience)
    token = provider.token("alice@example.com", ttl=60)
    settings = Settings(jwt_secret=SECRET, jwt_issuer=issuer, jwt_audience=audience)
    identity = Authenticator(settings).verify(token, now=provider_time(token))
    assert identity.user_id == "alice@example.com"
    assert identity.expires_at - identity.issued_at == 60


def test_a_secret_of_the_environment_comes_first(home: Home) -> None:
    """PRESENCE_JWT_SECRET wins over the run."""
    with home.running(about(jwt_secret="x" * 40)):
        environ = {"PRESENCE_JWT_SECRET": SECRET, "PRESENCE_TOKEN_SOURCE": "subprotocol"}
        provider = IdentityProvider.find(home, environ)
    assert provider.token_source == "subprotocol"
    Authenticator(Settings(jwt_secret=SECRET)).verify(provider.token("alice"), provider_time(provider.token("alice")))


def test_the_run_of_this_directory_comes_next(home: Home) -> None:
    """Without a secret in the environment, the run's secret is used."""
    with home.running(about(jwt_audience="chat", token_source="subprotocol")):
        provider = IdentityProvider.find(home, {})
    settings = Settings(jwt_secret=SECRET, jwt_audience="chat")
    Authenticator(settings).verify(provider.token("alice"), provider_time(provider.token("alice")))
    assert provider.token_source == "subprotocol"


def test_without_either_there_are_no_tokens(home: Home) -> None:
    """Without a run and a secret, the error says how to get one."""
    with pytest.raises(UserError, match="start `presence run` in this directory, or set PRESENCE_JWT_SECRET"):
        IdentityProvider.find(home, {})


def test_a_run_with_an_identity_provider_accepts_no_tokens_from_here(home: Home) -> None:
    """If the service trusts published keys, no token can be made here."""
    with home.running(about(jwt_secret="")), pytest.raises(UserError, match="PRESENCE_JWKS_URL"):
        IdentityProvider.find(home, {})


def test_an_invalid_setting_is_a_user_error(home: Home) -> None:
    """The environment is checked as the service checks it."""
    with pytest.raises(UserError, match="PRESENCE_JTW_ISSUER is not a setting"):
        IdentityProvider.find(home, {"PRESENCE_JWT_SECRET": SECRET, "PRESENCE_JTW_ISSUER": "x"})


@pytest.mark.parametrize(
    ("text", "duration"), [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604800), (" 1h ", 3600)]
)
def test_durations_are_short(text: str, duration: int) -> None:
    """A duration is a number and a letter."""
    assert seconds(text) == duration


@pytest.mark.parametrize("text", ["", "h", "0", "0h", "-1h", "1.5h", "1w", "1h30m", "3651d", "9" * 30, "\u0661h"])
def test_other_durations_are_refused(text: str) -> None:
    """Invalid and endless durations are refused."""
    with pytest.raises(UserError, match="is not a duration"):
        seconds(text)


@pytest.mark.parametrize("id", ["", ".", "..", "a b", "a/b", "ä", "a" * 129, "alice\n"])
def test_an_invalid_user_gets_no_token(id: str) -> None:
    """User ids follow the protocol."""
    with pytest.raises(UserError, match="is not a user id"):
        user_id_of(id)
    with pytest.raises(UserError, match="is not a user id"):
        IdentityProvider(SECRET, "query").token(id)


def test_a_given_token_is_only_for_its_user() -> None:
    """The token names its user; other users, and invalid tokens, are refused."""
    token = jwt.encode({"sub": "alice"}, SECRET, "HS256")
    given = GivenToken(token, "query")
    assert (given.user_id, given.token("alice")) == ("alice", token)
    with pytest.raises(UserError, match="the token belongs to alice, not to bob"):
        given.token("bob")
    with pytest.raises(UserError, match="is not a JWT"):
        GivenToken("secret", "query")
    with pytest.raises(UserError, match="has no claim `sub`"):
        GivenToken(jwt.encode({"name": "alice"}, SECRET, "HS256"), "query")


def test_a_token_in_the_environment_is_not_a_setting(home: Home) -> None:
    """PRESENCE_TOKEN does not break other commands."""
    provider = IdentityProvider.find(home, {"PRESENCE_JWT_SECRET": SECRET, "PRESENCE_TOKEN": "x"})
    assert provider.token("alice")
