"""Every setting of the service, checked against each other once, when they are loaded.

In the environment each is `PRESENCE_<NAME>`: `infra` and `local` write them with `to_env()`, a function reads them
with `from_env()`. Durations are seconds, fractions allowed. No other module reads the environment for a setting.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

PREFIX = "PRESENCE_"
GATEWAY_IDLE_CUT = 600.0
"""API Gateway closes a WebSocket that was idle for ten minutes (its quota, in seconds)."""
GATEWAY_HARD_CUT = 7200.0
"""API Gateway closes every WebSocket after two hours (its quota, in seconds)."""
REDIS_ACCESS = (
    "on ~presence:* -@all +eval +evalsha +info +scan "
    "+del +exists +pexpire +hdel +hexists +hget +hgetall +hincrby +hlen +hmget +hset +hsetnx "
    "+sadd +scard +sismember +smembers +srem +zadd +zrange +zrangebyscore +zrem +zscore"
)
"""The permissions of the service's Redis user, as an ACL or as the access string of an ElastiCache user: the commands
of the store and its scripts, on the store's keys. For a cluster, add `+asking +cluster|slots +command`."""

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
OnlineStatus = Literal["online", "busy", "away"]


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_split)]


class SettingsError(ValueError):
    """The settings cannot work; the message is one sentence that names the setting."""


class Settings(BaseModel):
    """The service's settings; frozen. Raises `pydantic.ValidationError` on a value that cannot work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Liveness
    heartbeat_interval: Seconds = 30.0
    device_ttl: Seconds = 75.0
    away_after: Seconds = 300.0
    grace: Annotated[float, Field(ge=0, le=60)] = 10.0
    announce_lease: Seconds = 10.0
    rotate_after: Seconds = 6600.0
    retention: Seconds = 30 * 86400.0
    status_priority: Annotated[tuple[OnlineStatus, ...], BeforeValidator(_split)] = ("online", "busy", "away")

    # The store
    redis_url: str = Field(default="redis://127.0.0.1:6379/0", repr=False)
    redis_url_arn: str = ""
    redis_cluster: bool = False
    redis_iam_user: str = ""
    """The ElastiCache user for IAM sign-in. `redis_url` must then be rediss://, without a user or password."""
    redis_iam_cache: str = ""
    """The name of the cache for which IAM tokens are created; not its address."""
    buckets: Annotated[int, Field(ge=1, le=1024)] = 16

    # Tokens
    jwt_secret: str = Field(default="", repr=False)
    jwt_secret_arn: str = ""
    jwks_url: str = ""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    token_source: Literal["query", "subprotocol"] = "query"

    # Limits
    rate_limit: Annotated[float, Field(gt=0)] = 5.0
    """Messages per second that one connection may send, over time."""
    rate_burst: Annotated[int, Field(ge=1)] = 20
    """Messages that one connection may send in a burst."""
    http_rate_limit: Annotated[float, Field(gt=0)] = 5.0
    """Calls of the HTTP API per second that one user may make, over time."""
    http_rate_burst: Annotated[int, Field(ge=1)] = 50
    """Calls of the HTTP API that one user may make in a burst."""
    max_contacts: Annotated[int, Field(ge=1)] = 5000
    max_sockets: Annotated[int, Field(ge=1, le=50)] = 50
    """Open sockets per user. Each change for the user is posted to all of them, and each is an entry of `self`, which
    must stay under 32 KB: that of 50 sockets and 20 polling devices with the longest ids is about 24 KB."""
    max_devices: Annotated[int, Field(ge=1, le=20)] = 20
    """Polling devices per user."""

    # Pushing
    callback_url: str = ""
    push_budget: Seconds = 5.0

    # HTTP API and log
    cors_origins: Words = ()
    log_key: str = Field(default="", repr=False)
    """The key of the hash that replaces user ids in logs."""

    @model_validator(mode="after")
    def _cross_check(self) -> Self:
        refusals = {
            "status_priority must name online, busy and away once each": sorted(self.status_priority)
            != ["away", "busy", "online"],
            f"device_ttl ({self.device_ttl:g} s) must be at least 2.5 heartbeat intervals "
            f"({2.5 * self.heartbeat_interval:g} s), or one lost heartbeat would end a device": self.device_ttl
            < 2.5 * self.heartbeat_interval,
            f"heartbeat_interval ({self.heartbeat_interval:g} s) must be below {GATEWAY_IDLE_CUT:g} s, "
            "where API Gateway closes a silent connection": self.heartbeat_interval >= GATEWAY_IDLE_CUT,
            f"announce_lease ({self.announce_lease:g} s) must be longer than push_budget ({self.push_budget:g} s), "
            "or two functions would announce the same change": self.announce_lease <= self.push_budget,
            f"retention ({self.retention:g} s) must be at least twice device_ttl ({self.device_ttl:g} s) and the grace "
            f"({self.grace:g} s), or users would be forgotten while they are online": self.retention
            < 2 * (self.device_ttl + self.grace),
            f"rotate_after ({self.rotate_after:g} s) must be below {GATEWAY_HARD_CUT:g} s, "
            "where API Gateway closes every connection": self.rotate_after >= GATEWAY_HARD_CUT,
            "redis_iam_user and redis_iam_cache go together: give both or neither": bool(self.redis_iam_user)
            != bool(self.redis_iam_cache),
            "give jwt_secret (or jwt_secret_arn) or jwks_url, not both": bool(
                (self.jwt_secret or self.jwt_secret_arn) and self.jwks_url
            ),
            "jwks_url needs jwt_issuer and jwt_audience: without them a token made for another application "
            "would be accepted": bool(self.jwks_url) and not (self.jwt_issuer and self.jwt_audience),
        }
        for refusal, refused in refusals.items():
            if refused:
                raise ValueError(refusal)
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read `PRESENCE_*`. A variable that names no setting is refused, since it is misspelled.

        Raises:
            SettingsError: with one sentence that names the setting.
        """
        given = {name[len(PREFIX) :].lower(): value for name, value in environ.items() if name.startswith(PREFIX)}
        unknown = sorted(given.keys() - cls.model_fields.keys())
        if unknown:
            raise SettingsError(f"{PREFIX}{unknown[0].upper()} is not a setting")
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = f"{PREFIX}{str(first['loc'][0]).upper()}: " if first["loc"] else ""
            raise SettingsError(where + first["msg"].removeprefix("Value error, ")) from None

    def to_env(self) -> dict[str, str]:
        """The environment variables from which `from_env()` makes these settings again."""
        env = {}
        for name in sorted(self.model_fields_set):  # the same settings give the same template
            value = getattr(self, name)
            if isinstance(value, tuple):
                value = ",".join(value)
            elif isinstance(value, bool):
                value = str(value).lower()
            env[PREFIX + name.upper()] = str(value)
        return env
