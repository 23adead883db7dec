"""What clients send: the messages of the protocol, version 2, as types that check them.

What the service sends is in `frames.py`; what a message means is in `presence.py` and `lua/`. Nothing here acts. Times
are integer milliseconds since the epoch. Unknown fields of a message are ignored, so that both sides can grow. Those
within a custom status are refused, since it replaces the one before.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue

from shared import commands
from shared.frames import ErrorCode, ErrorFrame, encode, error_frame
from shared.settings import OnlineStatus

PROTOCOL_VERSION = "2"
MAX_MESSAGE_BYTES = 4096
MAX_QUERY_USERS = 100
MAX_BLOCKS = 1000

USER_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~:@|+=-]{1,128}\Z")
"""A user id, as in a token's `sub`, in paths and in keys. Not `.` or `..`, which URL paths would resolve."""
_USER_ID_SCHEMA = {
    "type": "string",
    "pattern": "^[A-Za-z0-9._~:@|+=-]{1,128}$",
    "not": {"enum": [".", ".."]},
    "examples": ["alice"],
}
DEVICE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_CONNECTION_ID = re.compile(r"[A-Za-z0-9_=-]{1,128}\Z")

LATEST_TIME = 99_999_999_999_999
"""A time in the year 5138: later ones are mistakes, and 14 digits are what Lua's JSON keeps."""
_EARLIEST_END = 100_000_000_000
"""A time in the year 1973: a smaller number is in seconds."""


_PRINTABLE_SCHEMA: dict[str, Any] = {"pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028-\\u202e\\u2066-\\u2069]*$"}
LINE_CONTROLS = frozenset("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Line separators and overrides of the writing direction: they would change the text around them."""


def matching(pattern: re.Pattern[str], words: str) -> AfterValidator:
    """Checks a text against a pattern; `words` is the error of one that does not match."""

    def check(value: str) -> str:
        if not pattern.match(value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


def _end(value: int) -> int:
    if value < _EARLIEST_END:
        raise ValueError("is past: times are in milliseconds since the epoch, and this one is in seconds")
    return value


def _printable(value: str) -> str:
    if any(ord(char) < 32 or 127 <= ord(char) < 160 or char in LINE_CONTROLS for char in value):
        raise ValueError("must not contain control characters")
    return value


UserId = Annotated[
    str,
    matching(USER_ID, "must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ | + = - and not . or .."),
    WithJsonSchema(_USER_ID_SCHEMA),
]
DeviceId = Annotated[
    str,
    matching(DEVICE_ID, "must be 1 to 64 characters of A-Z a-z 0-9 . _ -"),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}),
]
ConnectionId = Annotated[
    str,
    matching(_CONNECTION_ID, "must be a connectionId as the service gave it"),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9_=-]{1,128}$"}),
]
"""One of API Gateway's connection ids: base64url with padding."""
Time = Annotated[int, Field(ge=0, le=LATEST_TIME)]
Sequence = Annotated[int, Field(ge=0, le=LATEST_TIME)]
UpdateNumber = Annotated[int, Field(ge=1, le=2**31)]
End = Annotated[
    Time,
    AfterValidator(_end),
    WithJsonSchema({"type": "integer", "minimum": _EARLIEST_END, "maximum": LATEST_TIME}),
]
"""When something ends; None: never."""


class _NotNull:
    """A field that may be absent, which is None here, but is never null: a null would silently change nothing."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        schema = handler(source)
        return schema["schema"] if schema["type"] == "nullable" else schema


def _without_default(schema: JsonSchemaValue) -> None:
    schema.pop("default", None)


_Type = TypeVar("_Type")
Given = Annotated[_Type | None, _NotNull(), Field(json_schema_extra=_without_default)]
"""A field that may be absent, but not null."""


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Change(_Model):
    """A request that changes something. One that changes nothing is a mistake, and refused."""

    changes: ClassVar[tuple[str, ...]]
    """At least one of these fields must be given."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the rule in schemas."""
        schema = handler.resolve_ref_schema(handler(core))
        schema["anyOf"] = [{"required": [change]} for change in cls.changes]
        return schema

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.model_fields_set.isdisjoint(self.changes):
            raise ValueError(f"give at least one of {', '.join(self.changes)}")
        return self


class CustomStatus(_Model):
    """A status in the user's own words, until a time or permanently."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(max_length=140, json_schema_extra=_PRINTABLE_SCHEMA), AfterValidator(_printable)] = ""
    emoji: Annotated[str, Field(max_length=16, json_schema_extra=_PRINTABLE_SCHEMA), AfterValidator(_printable)] = ""
    until: End | None = None


class _Message(_Model):
    id: Annotated[str, Field(max_length=64, json_schema_extra=_PRINTABLE_SCHEMA), AfterValidator(_printable)] | None = (
        None
    )
    """Returned in the answer or the error, so that a client can match them."""


class Sync(_Message):
    """Asks for everything that the user may see; the first message after opening."""

    action: Literal["sync"]
    seq: Sequence | None = None
    """The number up to which the client is complete."""
    replaces: ConnectionId | None = None


class Heartbeat(_Message):
    """The connection is still here. `status` is used only where the server lost this device's own."""

    action: Literal["heartbeat"]
    seq: Sequence | None = None
    """As in `Sync`."""
    active: bool = True
    status: OnlineStatus | None = None
    n: UpdateNumber | None = None
    """The number of this connection's last update of the device's status."""


class StatusChange(Change):
    """A change of the user's own status; a field that is absent stays as it is, `customStatus: null` clears."""

    changes: ClassVar[tuple[str, ...]] = ("status", "customStatus")
    status: Given[OnlineStatus] = None
    scope: Literal["device", "user"] = "device"
    until: End | None = None
    customStatus: CustomStatus | None = None

    @field_validator("until")
    @classmethod
    def _belongs_to_a_claim(cls, until: int | None, info: ValidationInfo) -> int | None:
        if until is not None and (info.data.get("scope") != "user" or info.data.get("status") in (None, "online")):
            raise ValueError("until belongs to a claim: a status other than online with scope user")
        return until

    def to_change(self, now: int) -> commands.Change:
        """The change for the state machine, at `now` (ms).

        Raises:
            MessageRefused: a time is past.
        """
        if self.until is not None and self.until <= now:
            raise MessageRefused("invalid_message", "until is past", field="until")
        change: commands.Change = {"scope": self.scope}
        if self.status is not None:
            change["status"] = self.status
        if self.until is not None:
            change["until"] = self.until
        if "customStatus" in self.model_fields_set:
            custom = self.customStatus
            if custom is not None and custom.until is not None and custom.until <= now:
                raise MessageRefused("invalid_message", "until is past", field="customStatus.until")
            stored = custom.model_dump(exclude_none=True) if custom and (custom.text or custom.emoji) else None
            change["custom"] = encode(stored).decode() if stored else ""
        return change


class PresenceUpdate(_Message, StatusChange):
    """A `StatusChange` by a connection; `n` counts that connection's updates, from 1, and an older one is ignored."""

    action: Literal["presence_update"]
    n: UpdateNumber | None = None

    def to_change(self, now: int) -> commands.Change:
        """The same, with its number; an error carries the message's `id`."""
        try:
            change = super().to_change(now)
        except MessageRefused as error:
            error.id = self.id
            raise
        if self.n is not None:
            change["n"] = self.n
        return change


class GetPresence(_Message):
    """Asks about these users."""

    action: Literal["get_presence"]
    userIds: Annotated[list[UserId], Field(min_length=1, max_length=MAX_QUERY_USERS)]


class Leave(_Message):
    """Sign-out of this connection: no grace."""

    action: Literal["leave"]


Message = Annotated[Sync | Heartbeat | PresenceUpdate | GetPresence | Leave, Field(discriminator="action")]


class MessageRefused(ValueError):
    """A message that violates the protocol; it becomes one `error` frame.

    Attributes:
        code: the `code` of the frame.
        field: the field that was wrong, dotted, or None when there is no such field.
        id: the message's `id` where it could be read.
        retry_after: milliseconds after which the same message may be accepted, or None.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        field: str | None = None,
        id: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.field, self.id, self.retry_after = code, field, id, retry_after

    def frame(self) -> ErrorFrame:
        """The frame for the client."""
        return error_frame(self.code, str(self), field=self.field, id=self.id, retry_after=self.retry_after)


class LimitReached(Exception):
    """A request would take somebody over a limit; nothing of it was done.

    Attributes:
        field: the field of the request that asks for too much.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


_MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)
ACTIONS = ("sync", "heartbeat", "presence_update", "get_presence", "leave")


def parse_message(body: str) -> Message:
    """Read one text frame of a client.

    Raises:
        MessageRefused: naming the field that is wrong.
    """
    if len(body.encode("utf-8", "surrogatepass")) > MAX_MESSAGE_BYTES:
        raise MessageRefused("too_large", f"a message has at most {MAX_MESSAGE_BYTES} bytes")
    try:
        return _MESSAGE.validate_json(body)
    except ValidationError as error:
        raise _refusal(body, error) from None


def _refusal(body: str, error: ValidationError) -> MessageRefused:
    """The error for a body that is not a message: the first fault, in the protocol's terms."""
    first = error.errors(include_url=False, include_input=False, include_context=True)[0]
    id = id_of(body)
    match first["type"]:
        case "json_invalid":
            return MessageRefused("invalid_message", "the message is not JSON")
        case "union_tag_invalid":
            return MessageRefused("unknown_action", f"action is one of {', '.join(ACTIONS)}", field="action", id=id)
        case "string_unicode":
            return MessageRefused("invalid_message", "the message is not valid Unicode")
        case "union_tag_not_found":
            return MessageRefused("invalid_message", "action is missing", field="action", id=id)
        case "model_attributes_type" | "dict_type":
            if len(first["loc"]) <= 1:
                return MessageRefused("invalid_message", "the message is not a JSON object")
    field = ".".join(str(part) for part in first["loc"][1:])
    return MessageRefused("invalid_message", in_words(first), field=field or None, id=id)


def in_words(fault: Any) -> str:
    """What is wrong with a field, in the protocol's terms and not in those of its types here.

    Args:
        fault: one of a `ValidationError`'s `errors`, with its context. Every list in the protocol is a list of users.
    """
    limits = fault.get("ctx", {})
    match fault["type"]:
        case "too_long":
            return f"at most {limits['max_length']} users"
        case "too_short":
            return "at least one user"
        case "string_too_long":
            return f"at most {limits['max_length']} characters"
        case "greater_than_equal":
            return f"must be at least {limits['ge']}"
        case "less_than_equal":
            return f"must be at most {limits['le']}"
        case "missing":
            return "must be given"
        case "extra_forbidden":
            return "unknown field"
        case "list_type" | "tuple_type":
            return "must be a list"
        case "model_type" | "model_attributes_type":
            return "must be a JSON object"
    text: str = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return text[:1].lower() + text[1:]


def id_of(body: str) -> str | None:
    """The `id` of a message that is not valid, where it can still be read."""
    try:
        id = json.loads(body).get("id")
    except (ValueError, AttributeError, RecursionError):
        return None
    return id if isinstance(id, str) and len(id) <= 64 and id.isprintable() else None
