"""What a deployment may choose: the context of `cdk deploy -c NAME=VALUE`, read once and checked against each other.

A name is one of `Options`' own, or one of `shared.settings.Settings`; any other is refused, since it is a misspelt one.
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
        raise ValueError("must be a mail address")
    return value


Arn = Annotated[str, AfterValidator(_arn)]

FILLED_IN = frozenset(
    {"callback_url", "jwt_secret", "log_key", "redis_iam_cache", "redis_iam_user", "redis_url", "redis_url_arn"}
)
"""Settings that the stack itself knows, or that would stand readable in a template: no option sets them."""

CDKS_OWN = frozenset({"acknowledged-issue-numbers", "cli-telemetry"})
"""Names in the context that are CDK's own and do not look like it."""


class OptionsError(ValueError):
    """A deployment as it was asked for cannot work; the message is one sentence that names the option."""


class Options(BaseModel):
    """A deployment's choices; frozen. `settings` are those of the service that were given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")] = "Presence"

    # Where the state is
    cache: Literal["public", "vpc", "url"] = "public"
    """`public`: a serverless cache, reached over the internet; `vpc`: one inside a VPC; `url`: a Redis of your own."""
    redis_url_secret: Arn = ""
    """The ARN of the secret that holds your own Redis' URL; with `cache=url` only."""
    restore_snapshot: Arn = ""
    """The ARN of a snapshot that a new cache starts with."""

    # Names of your own
    websocket_domain: str = ""
    http_domain: str = ""
    certificate: Arn = ""
    """The ARN of a certificate, of this region, for both domains."""

    # Who looks after it
    alarm_email: Annotated[str, AfterValidator(_email)] = ""
    alarm_topic: Arn = ""
    """The ARN of a topic of SNS that alarms go to, in place of a new one for `alarm_email`."""
    alarm_messages: Annotated[int, Field(ge=1)] = 1_000_000
    """Messages in an hour, from and to clients, above which the bill is worth a look."""
    log_days: Literal[1, 7, 30, 90, 365] = 30
    """How long the functions' logs are kept."""

    # What the functions run on
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
            f"redis_url_secret belongs to cache=url, and this is cache={self.cache}": bool(self.redis_url_secret)
            and not own,
            "restore_snapshot belongs to a cache that the stack makes: cache=public or cache=vpc": bool(
                self.restore_snapshot
            )
            and own,
            "redis_cluster belongs to cache=url: a serverless cache is one node to its clients": (
                self.settings.redis_cluster and not own
            ),
            "a domain needs certificate: the ARN of a certificate of this region": bool(
                self.websocket_domain or self.http_domain
            )
            and not self.certificate,
            "certificate belongs to a domain: websocket_domain or http_domain": bool(self.certificate)
            and not (self.websocket_domain or self.http_domain),
            "the two domains must differ: API Gateway does not put an HTTP and a WebSocket API under one name": bool(
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
        """Read the context of a CDK app; what CDK itself put there has a `/` or a `:` in its name.

        Raises:
            OptionsError: with one sentence that names the option.
        """
        given = {name: value for name, value in context.items() if not set(name) & {"/", ":"} and name not in CDKS_OWN}
        settings = Settings.model_fields.keys() - FILLED_IN
        known = (cls.model_fields.keys() - {"settings"}) | settings
        for name in given.keys() - known:
            near = difflib.get_close_matches(name, known, 1)
            raise OptionsError(f"{name} is not an option" + (f"; is it {near[0]}?" if near else ""))
        try:
            chosen = {name: value for name, value in given.items() if name in settings}
            others = {name: _number(value) for name, value in given.items() if name not in settings}
            return cls(**others, settings=Settings.model_validate(chosen))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = f"{first['loc'][0]}: " if first["loc"] else ""
            raise OptionsError(where + first["msg"].removeprefix("Value error, ")) from None


def _number(value: Any) -> Any:
    """The command line gives every value as text, and a choice among numbers takes no text for one."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value
