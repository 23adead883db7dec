"""The options of a deployment: the context of `cdk deploy -c NAME=VALUE`, read once and checked against each other.

A name belongs to `Options` or to `shared.settings.Settings`. Any other name is an error, since it is a misspelled one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.settings import Settings


def _arn(value: str) -> str:
    if value and not re.fullmatch(r"arn:[a-z-]+:[a-z]+:[a-z0-9-]+:[0-9]{12}:.+", value):
        raise ValueError("must be an ARN, like arn:aws:SERVICE:REGION:ACCOUNT:…")
    return value


def _email(value: str) -> str:
    if value and not re.fullmatch(r"[^@\s]+@[^@\s]+", value):
        raise ValueError("must be an email address")
    return value


Arn = Annotated[str, AfterValidator(_arn)]

FILLED_IN = frozenset(
    {"callback_url", "jwt_secret", "log_key", "redis_iam_cache", "redis_iam_user", "redis_url", "redis_url_arn"}
)
"""Settings that the stack sets itself, or whose value would be readable in the template. They are not options."""

CDKS_OWN = frozenset({"acknowledged-issue-numbers", "cli-telemetry"})
"""Context keys of CDK without a `/` or `:`, which other keys of CDK have."""


class OptionsError(ValueError):
    """The options are invalid; the message is one sentence that names the option."""


class Options(BaseModel):
    """The options of a deployment; frozen. `settings` holds the given settings of the service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")] = "Presence"

    # Where the state is
    cache: Literal["public", "vpc", "url"] = "public"
    """`public`: a serverless cache with a public endpoint; `vpc`: one in a VPC; `url`: your own Redis or Valkey."""
    redis_url_secret: Arn = ""
    """The ARN of the secret that holds the URL of your own Redis; only with `cache=url`."""
    restore_snapshot: Arn = ""
    """The ARN of a snapshot that a new cache is restored from."""

    # Custom domains
    websocket_domain: str = ""
    http_domain: str = ""
    certificate: Arn = ""
    """The ARN of a certificate in this region that covers the domains."""

    # Alarms and logs
    alarm_email: Annotated[str, AfterValidator(_email)] = ""
    alarm_topic: Arn = ""
    """The ARN of an SNS topic for alarms, instead of a new one for `alarm_email`."""
    alarm_messages: Annotated[int, Field(ge=1)] = 1_000_000
    """Messages per hour, from and to clients, above which an alarm points at the bill."""
    log_days: Literal[1, 7, 30, 90, 365] = 30
    """Days for which the logs of the functions are kept."""

    # Lambda runtime
    architecture: Literal["arm64", "x86_64"] = "arm64"
    python: Literal["3.11", "3.12", "3.13", "3.14"] = "3.13"

    settings: Settings = Settings()

    @model_validator(mode="after")
    def _cross_check(self) -> Self:
        own = self.cache == "url"
        _arn(self.settings.jwt_secret_arn)
        refusals = {
            "cache=url needs redis_url_secret: the ARN of the secret that holds the URL": own
            and not self.redis_url_secret,
            f"redis_url_secret needs cache=url, but this is cache={self.cache}": bool(self.redis_url_secret)
            and not own,
            "restore_snapshot needs a cache of the stack: cache=public or cache=vpc": bool(self.restore_snapshot)
            and own,
            "redis_cluster needs cache=url: a serverless cache looks like one node to its clients": (
                self.settings.redis_cluster and not own
            ),
            "a domain needs certificate: the ARN of a certificate in this region": bool(
                self.websocket_domain or self.http_domain
            )
            and not self.certificate,
            "certificate needs a domain: websocket_domain or http_domain": bool(self.certificate)
            and not (self.websocket_domain or self.http_domain),
            "the two domains must differ: API Gateway cannot map an HTTP and a WebSocket API to the same domain": bool(
                self.websocket_domain
            )
            and self.websocket_domain == self.http_domain,
            "give alarm_email or alarm_topic, not both": bool(self.alarm_email and self.alarm_topic),
        }
        for refusal, refused in refusals.items():
            if refused:
                raise ValueError(refusal)
        return self

    @classmethod
    def of(cls, context: Mapping[str, Any]) -> Options:
        """Read the context of a CDK app. CDK's own keys are ignored: they have a `/` or `:`, or are in `CDKS_OWN`.

        Raises:
            OptionsError: an option is unknown or invalid.
        """
        given = {name: value for name, value in context.items() if not set(name) & {"/", ":"} and name not in CDKS_OWN}
        settings = Settings.model_fields.keys() - FILLED_IN
        known = (cls.model_fields.keys() - {"settings"}) | settings
        for name in given.keys() - known:
            near = difflib.get_close_matches(name, known, 1)
            raise OptionsError(f"{name} is not an option" + (f"; did you mean {near[0]}?" if near else ""))
        try:
            chosen = {name: value for name, value in given.items() if name in settings}
            others = {name: _number(value) for name, value in given.items() if name not in settings}
            return cls(**others, settings=Settings.model_validate(chosen))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = f"{first['loc'][0]}: " if first["loc"] else ""
            raise OptionsError(where + first["msg"].removeprefix("Value error, ")) from None


def _number(value: Any) -> Any:
    """The command line gives every value as text, which pydantic does not convert for a `Literal` of numbers."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value
