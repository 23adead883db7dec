"""The requests and responses of the HTTP API, as types: a model for each body and query, a typed dictionary for each
response.

A body that changes something must change at least one thing, and an unknown field in it is refused: a misspelled
`mutual` or `until` would grant more than was meant. A poll may have unknown fields, as a heartbeat may. Nothing here
acts. The messages and frames of the WebSocket are in `shared.messages` and `shared.frames`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, NotRequired, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from shared.frames import Claim, OwnState, Record, ShownCustomStatus
from shared.messages import (
    MAX_BLOCKS,
    MAX_QUERY_USERS,
    Change,
    ConnectionId,
    DeviceId,
    Given,
    Sequence,
    StatusChange,
    UpdateNumber,
    UserId,
    matching,
)
from shared.responses import DeviceType, LastSeenPolicy
from shared.settings import OnlineStatus

MAX_LISTED_USERS = 5000
"""Users in one list of a request. How many contacts a user may have is a setting."""
MAX_REQUEST_BYTES = 1024 * 1024
"""The size of a body: `MAX_LISTED_USERS` of the longest ids fit."""

_CURSOR = re.compile(r"([0-9]{1,4}-[0-9]{1,19})?\Z")
QueriedUsers = Annotated[tuple[UserId, ...], Field(min_length=1, max_length=MAX_QUERY_USERS)]


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch("-?[0-9]{1,14}", value) else value


def _listed(value: object) -> object:
    return tuple(value.split(",")) if isinstance(value, str) else value


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", defer_build=True)


class _Order(_Request):
    """A request that changes something."""

    model_config = ConfigDict(extra="forbid")


# The application's backend


class ContactsChange(Change, _Order):
    """Who may see a user from now on, and who no longer; with `mutual` also the other way round."""

    changes: ClassVar[tuple[str, ...]] = ("add", "remove")
    add: Annotated[tuple[UserId, ...], Field(max_length=MAX_LISTED_USERS)] = ()
    remove: Annotated[tuple[UserId, ...], Field(max_length=MAX_LISTED_USERS)] = ()
    mutual: bool = True

    @field_validator("remove")
    @classmethod
    def _not_added(cls, remove: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        both = sorted(set(remove) & set(info.data.get("add", ())))
        if both:
            raise ValueError(f"{both[0]} is in add, too")
        return remove


class OwnPrivacyChange(Change, _Order):
    """What a user hides. A given field replaces the earlier value; other fields stay."""

    changes: ClassVar[tuple[str, ...]] = ("invisible", "lastSeen", "hideFrom")
    invisible: Given[bool] = None
    lastSeen: Given[LastSeenPolicy] = None
    hideFrom: Given[Annotated[tuple[UserId, ...], Field(max_length=MAX_LISTED_USERS)]] = None


class PrivacyChange(OwnPrivacyChange):
    """The same on behalf of a user, and the users whom that user blocks."""

    changes: ClassVar[tuple[str, ...]] = ("invisible", "lastSeen", "hideFrom", "blocks")
    blocks: Given[Annotated[tuple[UserId, ...], Field(max_length=MAX_BLOCKS)]] = None


class UserStatusChange(StatusChange, _Order):
    """A status is a claim over all of the user's devices. An absent field stays, `customStatus: null` clears."""

    scope: Literal["user"] = "user"


class GraphState(_Order):
    """Whether privacy and contacts are loaded: until they are, nobody sees anybody."""

    loaded: bool


class GraphPageQuery(_Request):
    """Which page of a backup to read: none for the first, then the `next` of the last page."""

    cursor: Annotated[
        str,
        matching(_CURSOR, "must be the next of an earlier page"),
        WithJsonSchema({"type": "string", "pattern": "^([0-9]{1,4}-[0-9]{1,19})?$"}),
    ] = ""


# Users


class UsersQuery(_Request):
    """The users to report on."""

    userIds: QueriedUsers


class UsersParameter(_Request):
    """The same in the URL: separated by commas, which no id contains."""

    userIds: Annotated[QueriedUsers, BeforeValidator(_listed)]


class SnapshotQuery(_Request):
    """The `seq` of the snapshot that the client has, if it has one."""

    seq: Given[Annotated[Sequence, BeforeValidator(_number)]] = None


class Poll(_Request):
    """A polling device is still here. Without `seq` it starts over, even after it left."""

    deviceId: DeviceId
    deviceType: Annotated[DeviceType, WithJsonSchema({"type": "string", "examples": ["web", "mobile", "desktop"]})] = (
        "web"
    )
    """An unknown one is `web`."""
    active: bool = True
    status: Given[OnlineStatus] = None
    seq: Given[Sequence] = None
    n: Given[UpdateNumber] = None

    @field_validator("deviceType", mode="before")
    @classmethod
    def _known(cls, kind: object) -> object:
        return kind if kind in ("web", "mobile", "desktop") or not isinstance(kind, str) else "web"


class Leaving(_Order):
    """The connection or polling device to end; with `grace` it may return in time, as after a reload."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["connectionId"]}, {"required": ["deviceId"]}]})

    connectionId: ConnectionId = ""
    deviceId: DeviceId = ""
    grace: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if len(self.model_fields_set & {"connectionId", "deviceId"}) != 1:
            raise ValueError("give connectionId or deviceId, and not both")
        return self


class OwnStatusChange(StatusChange, _Order):
    """A status of the named polling device, or a claim over all devices where none is named.

    With `deviceId` and `"scope": "user"` it is a claim, too. An absent field stays, `customStatus: null` clears. `n`
    and `seq` are those of a `presence_update`, for a client that sends the same body both ways; they have no effect
    here.
    """

    deviceId: Given[DeviceId] = None
    n: Given[UpdateNumber] = None
    seq: Given[Sequence] = None
    scope: Literal["device", "user"] = "user"

    @model_validator(mode="before")
    @classmethod
    def _scope(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("deviceId"), str):
            return {"scope": "device", **given}
        return given

    @model_validator(mode="after")
    def _device(self) -> Self:
        if self.scope == "device" and self.deviceId is None:
            raise ValueError("a status with scope device needs the deviceId of a polling device")
        return self


# Responses


class Health(TypedDict):
    """How the service is."""

    graph: Literal["loaded", "not_loaded"]
    dueLate: int
    inconsistencies: dict[str, int]
    """Inconsistencies that were ever found, and repaired, by kind."""
    evictionPolicy: NotRequired[str]


class GraphUser(TypedDict):
    """Everything that the application and a user gave about the user."""

    userId: str
    viewers: list[str]
    invisible: bool
    lastSeen: LastSeenPolicy
    hideFrom: list[str]
    blocks: list[str]
    customStatus: ShownCustomStatus | None
    claim: Claim | None


class GraphPage(TypedDict):
    """One page of a backup; `next` is the cursor of the next one, "" on the last."""

    users: list[GraphUser]
    next: str


class Contacts(TypedDict):
    """Who may see a user, and whom the user may see."""

    viewers: list[str]
    sees: list[str]


class Privacy(TypedDict):
    """What a user hides, and from whom."""

    invisible: bool
    lastSeen: LastSeenPolicy
    hideFrom: list[str]
    blocks: list[str]


class SignedOutEverywhere(TypedDict):
    """How many sockets were closed."""

    closed: int


class Users(TypedDict):
    """Records, in the order of the request."""

    users: list[Record]


class PollAnswer(TypedDict):
    """The same for a polling device: a `presence_snapshot` as on a WebSocket, always in one part, or a resumed one."""

    type: Literal["presence_snapshot"]
    snapshot: NotRequired[str]
    seq: int
    part: NotRequired[Literal[1]]
    parts: NotRequired[Literal[1]]
    resumed: bool
    self: OwnState
    users: NotRequired[list[Record]]


class FieldError(TypedDict):
    """What is wrong with a field."""

    field: str
    message: str


class ProblemDetails(TypedDict):
    """Why a request failed (RFC 9457)."""

    type: Literal["about:blank"]
    title: str
    status: int
    detail: str
    errors: NotRequired[list[FieldError]]
