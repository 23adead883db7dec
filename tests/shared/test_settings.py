"""The settings: what a deployment may set, what is refused, and what a function gets."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.settings import Settings, SettingsError

REFUSED = [
    ({"device_ttl": 74.9}, "device_ttl (74.9 s) must be at least 2.5 heartbeat intervals (75 s)"),
    ({"retention": 169}, "retention (169 s) must be at least twice device_ttl (75 s) and the grace (10 s)"),
    ({"heartbeat_interval": 600, "device_ttl": 1500}, "heartbeat_interval (600 s) must be below 600 s"),
    ({"announce_lease": 5, "push_budget": 5}, "announce_lease (5 s) must be longer than push_budget (5 s)"),
    ({"push_budget": 10}, "announce_lease (10 s) must be longer than push_budget (10 s)"),
    ({"rotate_after": 7200}, "rotate_after (7200 s) must be below 7200 s"),
    ({"status_priority": "online,busy"}, "status_priority must name online, busy and away once each"),
    ({"status_priority": "online,busy,away,away"}, "status_priority must name online, busy and away once each"),
    ({"redis_iam_user": "presence"}, "redis_iam_user and redis_iam_cache go together: give both or neither"),
    ({"redis_iam_cache": "presence"}, "redis_iam_user and redis_iam_cache go together: give both or neither"),
    ({"jwt_secret": "s", "jwks_url": "u", "jwt_issuer": "i", "jwt_audience": "a"}, "give jwt_secret"),
    ({"jwt_secret_arn": "s", "jwks_url": "u", "jwt_issuer": "i", "jwt_audience": "a"}, "give jwt_secret"),
    ({"jwks_url": "https://login.example/jwks"}, "jwks_url needs jwt_issuer and jwt_audience"),
    ({"jwks_url": "https://login.example/jwks", "jwt_issuer": "i"}, "jwks_url needs jwt_issuer and jwt_audience"),
]

OUT_OF_RANGE = [
    ("heartbeat_interval", "0"),
    ("heartbeat_interval", "soon"),
    ("heartbeat_interval", "inf"),
    ("device_ttl", "nan"),
    ("away_after", "-1"),
    ("grace", "-0.1"),
    ("grace", "61"),
    ("buckets", "0"),
    ("buckets", "1025"),
    ("buckets", "1.5"),
    ("redis_cluster", "perhaps"),
    ("token_source", "cookie"),
    ("rate_limit", "0"),
    ("rate_burst", "0"),
    ("max_contacts", "0"),
    ("max_devices", "0"),
    ("max_devices", "21"),
    ("max_sockets", "0"),
    ("max_sockets", "51"),
    ("push_budget", "0"),
    ("status_priority", "online,busy,offline"),
]


@pytest.mark.parametrize(("given", "sentence"), REFUSED)
def test_settings_that_cannot_work_together_are_refused_with_one_sentence(
    given: dict[str, object], sentence: str
) -> None:
    """Settings that cannot work together are refused at load, with one sentence that names them."""
    environ = {f"PRESENCE_{name.upper()}": str(value) for name, value in given.items()}
    with pytest.raises(SettingsError) as refused:
        Settings.from_env(environ)
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValidationError):
        Settings.model_validate(given)


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_variable(name: str, value: str) -> None:
    """An invalid value is refused, with the name of its variable."""
    with pytest.raises(SettingsError, match=rf"^PRESENCE_{name.upper()}: [^\n]+$"):
        Settings.from_env({f"PRESENCE_{name.upper()}": value})


def test_the_limits_themselves_are_allowed() -> None:
    """The cross-checks refuse values beyond a limit, and not the limit itself."""
    Settings(heartbeat_interval=30, device_ttl=75)
    Settings(heartbeat_interval=599.9, device_ttl=1499.75)
    Settings(announce_lease=5.1, push_budget=5)
    Settings(rotate_after=7199.9)
    Settings(jwks_url="https://login.example/jwks", jwt_issuer="i", jwt_audience="a")
    Settings(grace=0)


def test_an_unset_setting_has_its_documented_default() -> None:
    """Without any variable each setting has the default that the documentation gives."""
    settings = Settings.from_env({"PATH": "/bin", "presence_grace": "3"})
    assert settings == Settings()
    assert (settings.heartbeat_interval, settings.device_ttl, settings.away_after) == (30, 75, 300)
    assert (settings.grace, settings.announce_lease, settings.rotate_after) == (10, 10, 6600)
    assert (settings.retention, settings.buckets, settings.max_contacts) == (30 * 86400, 16, 5000)
    assert (settings.max_devices, settings.push_budget, settings.token_source) == (20, 5, "query")
    assert settings.status_priority == ("online", "busy", "away")


def test_a_misspelled_variable_is_refused() -> None:
    """A variable that names no setting is refused: otherwise nobody would notice that it has no effect."""
    with pytest.raises(SettingsError, match=r"^PRESENCE_DEVICE_TIL is not a setting$"):
        Settings.from_env({"PRESENCE_DEVICE_TIL": "90"})


def test_what_was_set_comes_back_in_a_functions_environment() -> None:
    """`from_env` reads the output of `to_env` back as the same settings, every one of them set."""
    settings = Settings(
        heartbeat_interval=20.5,
        device_ttl=60,
        away_after=120,
        grace=0,
        announce_lease=8,
        rotate_after=3600,
        retention=86400,
        status_priority=("busy", "online", "away"),
        redis_url="rediss://cache.example:6379/0",
        redis_url_arn="arn:aws:secretsmanager:eu-central-1:1:secret:url",
        redis_cluster=True,
        redis_iam_user="presence-user",
        redis_iam_cache="presence-cache",
        buckets=32,
        jwt_secret="s" * 32,
        jwt_secret_arn="arn:aws:secretsmanager:eu-central-1:1:secret:jwt",
        jwks_url="",
        jwt_issuer="https://login.example/",
        jwt_audience="presence",
        token_source="subprotocol",
        rate_limit=2.5,
        rate_burst=7,
        max_contacts=10,
        max_devices=3,
        max_sockets=4,
        http_rate_limit=9.0,
        http_rate_burst=10,
        callback_url="https://a.execute-api.eu-central-1.amazonaws.com/live",
        push_budget=4,
        cors_origins=("https://a.example", "https://b.example"),
        log_key="k",
    )
    assert settings.model_fields_set == set(Settings.model_fields), "a new setting is missing from this test"
    environment = settings.to_env()
    assert all(name.startswith("PRESENCE_") for name in environment)
    assert Settings.from_env(environment) == settings


def test_an_environment_holds_only_what_was_set() -> None:
    """A default is not written out, so that a release may change it."""
    assert Settings(grace=5).to_env() == {"PRESENCE_GRACE": "5.0"}


def test_secrets_do_not_show_when_settings_are_printed() -> None:
    """No secret shows when settings are printed: for tokens, for the log's hashes, or the password in a Redis URL."""
    shown = repr(Settings(jwt_secret="of tokens", log_key="of logs", redis_url="rediss://:of-redis@cache.example"))
    assert "of tokens" not in shown
    assert "of logs" not in shown
    assert "of-redis" not in shown


def test_settings_cannot_be_changed() -> None:
    """An environment cannot change its settings while it runs."""
    with pytest.raises(ValidationError):
        Settings().grace = 3  # type: ignore[misc]
