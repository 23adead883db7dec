"""The commands of the state machine (`lua/`): what each takes, and what it answers.

A command is a dataclass, and so is its response; the fields have the same names as in Lua. Fields that are None are not
sent. Lua leaves empty lists and maps out, and a field that is missing gets its default here, so that nothing above the
store meets either. docs/commands.md describes each command. Nothing here asks or decides.

Times are in ms since the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, NotRequired, Required, Self, TypeVar, get_args

from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from shared.settings import OnlineStatus

Status = Literal["online", "busy", "away", "offline"]
DeviceType = Literal["web", "mobile", "desktop"]
LastSeenPolicy = Literal["everyone", "nobody"]
Result = Literal["live", "limited", "closed", "ignored", "full"]
"""What became of a message; messages.lua says what each means."""
Rule = Literal["no_device", "claim", "grace", "idle", "device"]
"""What decided a user's real status."""
Edit = Literal["contact", "stranger", "hide", "show", "block", "unblock", "blocked", "unblocked"]


class SignedOut(Exception):
    """The token was issued before its user signed out everywhere, or was erased."""


# What commands carry


class Sender(TypedDict, total=False):
    """The connection that sends a message, as the authorizer vouched for it."""

    id: Required[str]
    type: Required[DeviceType]
    device: str
    """Absent: the connection is a device of its own."""
    status: OnlineStatus
    """The status with which it is created where the server lost it."""
    connected_at: Required[int]
    issued_at: Required[int]
    """When its token was issued; 0 where the token does not say."""
    cap: Required[int]
    """When it ends with its token, at the latest; 0: never."""
    active: Required[bool]
    """Whether the message is activity of the person."""
    idle: Required[bool]
    """Whether it is created as idle where the server lost it."""
    polling: Required[bool]


class Change(TypedDict):
    """A choice of status. What is absent stays as it is."""

    scope: Literal["device", "user"]
    status: NotRequired[OnlineStatus]
    until: NotRequired[int]
    custom: NotRequired[str]
    """The custom status as JSON, which is how it is stored; "" clears it."""
    n: NotRequired[int]
    """The number of this update of its connection; an older one is ignored."""


class Applied(TypedDict):
    """The number of a connection's last update that was applied, for each field."""

    status: int
    claim: int
    customStatus: int


# Responses


class Response:
    """What a command answers; a dataclass of the fields that Lua sends."""

    __slots__ = ()
    nested: ClassVar[Mapping[str, Any]] = {}
    """field → what decodes it."""

    @classmethod
    def decode(cls, answer: dict[str, Any]) -> Self:
        """Make one of what came from Lua, which this uses up."""
        for name, decode in cls.nested.items():
            if name in answer:
                answer[name] = decode(answer[name])
        return cls(**answer)


@dataclass(slots=True)
class Done(Response):
    """Nothing but that it happened."""


@dataclass(slots=True)
class View(Response):
    """What a viewer may see of a user. For a viewer who may see nothing, there is no `rev`, and the status is
    offline.
    """

    user_id: str
    status: Status
    custom: str = ""
    """The custom status as JSON."""
    seen: int | None = None
    rev: int | None = None
    device_type: DeviceType | None = None


@dataclass(slots=True)
class DeviceState(Response):
    """One live connection of a user."""

    connection_id: str
    device_id: str
    device_type: DeviceType
    status: OnlineStatus
    connected_at: int
    last_active: int
    n: Applied
    cap: int


@dataclass(slots=True)
class UserState(Response):
    """The real state of a user."""

    status: Status
    invisible: bool
    last_seen_policy: LastSeenPolicy
    custom: str = ""
    claim: OnlineStatus | None = None
    claim_until: int | None = None
    devices: list[DeviceState] = field(default_factory=list)

    nested: ClassVar = {"devices": lambda devices: [DeviceState(**device) for device in devices]}


@dataclass(slots=True)
class Flush(Response):
    """What a viewer receives now: changes of these users, in a frame with this number, on these connections."""

    seq: int
    connections: list[str] = field(default_factory=list)
    users: dict[str, Status] = field(default_factory=dict)
    """user → the status that the viewer knows."""


@dataclass(slots=True)
class OwnUpdate(Response):
    """The user's own connections receive the real state."""

    seq: int
    connections: list[str]
    real: UserState

    nested: ClassVar = {"real": UserState.decode}


@dataclass(slots=True)
class Announcement(Response):
    """The record changed for all who may see it."""

    rev: int
    was: Status
    record: View
    viewers: list[str] = field(default_factory=list)

    nested: ClassVar = {"record": View.decode}


@dataclass(slots=True)
class ViewerNotice(Response):
    """One viewer sees another record since a change of relations."""

    viewer: str
    version: str
    was: Status
    record: View

    nested: ClassVar = {"record": View.decode}


@dataclass(slots=True)
class BlockNotice(Response):
    """The other side of a block or unblock must be written."""

    other: str
    version: str
    blocked: bool
    turn: int


def _notices(notices: list[dict[str, Any]]) -> list[ViewerNotice | BlockNotice]:
    return [BlockNotice.decode(notice) if "other" in notice else ViewerNotice.decode(notice) for notice in notices]


@dataclass(slots=True)
class Outcome(Response):
    """What settling a user asks for (settle.lua)."""

    own: OwnUpdate | None = None
    announcement: Announcement | None = None
    notices: list[ViewerNotice | BlockNotice] = field(default_factory=list)
    lease: int | None = None
    flush: Flush | None = None
    found: list[str] = field(default_factory=list)
    """Kinds of inconsistencies that were found and repaired."""
    close: list[str] = field(default_factory=list)
    """Sockets to close."""
    failed: str = ""
    """Why the user's record cannot be read."""

    nested: ClassVar = {
        "own": OwnUpdate.decode,
        "announcement": Announcement.decode,
        "notices": _notices,
        "flush": Flush.decode,
    }


@dataclass(slots=True)
class MessageOutcome(Outcome):
    """What became of a message, besides."""

    result: Result = "live"
    wait: int = 0
    """Milliseconds after which the next message counts, where too many were sent."""
    feed: int = 0
    """The number of the user's last frame."""
    real: UserState | None = None
    """The user's own state, where a snapshot answers the message."""
    sees: list[str] = field(default_factory=list)
    """The users whom the snapshot is about."""
    resumed: bool = False
    """Nothing changed since the frame that the client named."""
    due_neighbors: list[str] = field(default_factory=list)
    """Users who are due, for this function to settle."""

    nested: ClassVar = {**Outcome.nested, "real": UserState.decode}

    @property
    def changed_nothing(self) -> bool:
        """Whether nothing follows from it, as for nearly every heartbeat: `feed` comes with everything else."""
        return not self.feed and not self.due_neighbors


@dataclass(slots=True)
class Connected(Response):
    """Whether the connection may send."""

    result: Literal["live", "closed"]


@dataclass(slots=True)
class SignOutOutcome(Outcome):
    """The same for a sign-out everywhere."""

    live: int = 0
    """How many sockets were open."""


@dataclass(slots=True)
class BlockOutcome(Outcome):
    """The same for a block."""

    result: Literal["", "full"] = ""
    """"full": the user blocks as many as anybody may; nothing was done."""


@dataclass(slots=True)
class AuditOutcome(Outcome):
    """The same for a check of consistency."""

    contacts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Snapshot(Response):
    """Everything that a user may see, without a connection."""

    feed: int
    resumed: bool
    real: UserState
    sees: list[str] = field(default_factory=list)

    nested: ClassVar = {"real": UserState.decode}


@dataclass(slots=True)
class Inspection(Response):
    """The real state of a user, and why it is so."""

    real: UserState
    rule: Rule
    shown: Status
    """The status that contacts see."""
    rev: int | None = None
    last: int | None = None
    """When the user was last here."""

    nested: ClassVar = {"real": UserState.decode}


@dataclass(slots=True)
class Privacy(Response):
    """What a user hides, and from whom."""

    invisible: bool
    last_seen: LastSeenPolicy
    hide_from: list[str] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Export(Privacy):
    """Everything that the application and the user gave."""

    viewers: list[str] = field(default_factory=list)
    sees: list[str] = field(default_factory=list)
    custom: str = ""
    claim: OnlineStatus | None = None
    claim_until: int | None = None


@dataclass(slots=True)
class Targets(Response):
    """Where to post changes for a viewer now; None: they wait, or nobody is there to receive them."""

    flush: Flush | None = None

    nested: ClassVar = {"flush": Flush.decode}


@dataclass(slots=True)
class Numbers(Response):
    """Numbers for further frames."""

    last: int


@dataclass(slots=True)
class Room(Response):
    """Whether there is room for more contacts."""

    room: bool


@dataclass(slots=True)
class Contacts(Response):
    """Those who are contacts."""

    contacts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Added(Response):
    """How many were new."""

    added: int


@dataclass(slots=True)
class RelatedUsers(Response):
    """Everybody whose keys may name a user, and whether the user's last change has been announced."""

    announced: bool
    users: list[str] = field(default_factory=list)


@dataclass(slots=True)
class DueUsers(Response):
    """The users of a bucket who are due."""

    users: list[str] = field(default_factory=list)
    late: int = 0
    """Milliseconds by which the first of them is late."""
    next: int | None = None
    """When the next one will be due, within the horizon."""
    turn: bool = False
    """Whether the run that asks still has its turn."""
    cursor: str = ""


@dataclass(slots=True)
class BucketHealth(Response):
    """How a bucket is."""

    loaded: bool
    late: int
    found: dict[str, int] = field(default_factory=dict)


# Commands

Response_co = TypeVar("Response_co", bound=Response, covariant=True)


@dataclass(frozen=True, slots=True)
class Command(Generic[Response_co]):
    """A request to the state machine about one user or, with `bucket`, about a whole bucket.

    Attributes:
        name: the command's name in Lua: the class's, in snake case.
        sent: the names of the fields that are sent.
        response: the class of what it answers.
    """

    user: str = ""
    bucket: int | None = None

    name: ClassVar[str]
    response: ClassVar[type[Response]]
    sent: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        """Take the name and the response from the class's own line."""
        cls.name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()
        cls.sent = tuple(cls.__annotations__)
        (cls.response,) = get_args(cls.__orig_bases__[0])  # type: ignore[attr-defined]

    def encode(self) -> dict[str, Any]:
        """The request as it is sent."""
        given = ((name, getattr(self, name)) for name in self.sent)
        return {"user": self.user, "command": self.name, **{name: value for name, value in given if value is not None}}


# Devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect(Command[Connected]):
    """A handshake."""

    connection: Sender


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Command[MessageOutcome]):
    """The connection is still here."""

    connection: Sender
    seq: int | None = None
    status: OnlineStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync(Command[MessageOutcome]):
    """Everything that the user may see. The connection replaces the device's previous one."""

    connection: Sender
    seq: int | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GetPresence(Command[MessageOutcome]):
    """A message that asks about other users."""

    connection: Sender


@dataclass(frozen=True, slots=True, kw_only=True)
class Update(Command[MessageOutcome]):
    """The user chose a status on this connection."""

    connection: Sender
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(Command[Outcome]):
    """A sign-out of one connection."""

    id: str
    known: bool = False
    """Only a connection that is stored for the user."""
    grace: bool = False
    """It ends as a socket does."""
    issued_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect(Command[Outcome]):
    """The socket closed."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone(Command[Done]):
    """Posts found these sockets gone."""

    ids: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignOut(Command[SignOutOutcome]):
    """Connections that opened and tokens that were issued until now end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll(Command[MessageOutcome]):
    """Heartbeat and sync of a polling device in one."""

    connection: Sender
    issued_at: int
    seq: int | None = None
    status: OnlineStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PollUpdate(Command[MessageOutcome]):
    """An update by a polling device."""

    connection: Sender
    change: Change
    issued_at: int


# Statuses and relations


@dataclass(frozen=True, slots=True, kw_only=True)
class SetStatus(Command[Outcome]):
    """A claim or a custom status, without a connection."""

    change: Change
    issued_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRelations(Command[Outcome]):
    """Who may see the user, and from whom the user is hidden."""

    edits: Sequence[tuple[str, Edit] | tuple[str, Edit, int]]
    """(viewer, edit), with a turn for the other side of a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPrivacy(Command[Outcome]):
    """The user's own choices; a list that is given replaces the one before."""

    invisible: bool | None = None
    last_seen: LastSeenPolicy | None = None
    hide_from: Sequence[str] | None = None
    blocks: Sequence[str] | None = None
    issued_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBlock(Command[BlockOutcome]):
    """Block or unblock one user."""

    viewer: str
    blocked: bool
    most: int
    issued_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRoom(Command[Room]):
    """Whether these viewers can become contacts within the limit."""

    viewers: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterContacts(Command[Contacts]):
    """Those of these viewers who are contacts."""

    viewers: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditSees(Command[Added]):
    """The users that this one may see."""

    add: Sequence[str] | None = None
    remove: Sequence[str] | None = None
    audit: bool | None = None
    """Count additions as inconsistencies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetPrivacy(Command[Privacy]):
    """What the user hides, and from whom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportUser(Command[Export]):
    """Everything that the application and the user gave."""


# Reads and deliveries


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadView(Command[View]):
    """What a viewer may see of the user."""

    viewer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSnapshot(Command[Snapshot]):
    """Everything that the user may see, without a connection."""

    seq: int | None = None
    issued_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckToken(Command[Done]):
    """Nothing but that the token is valid."""

    issued_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectUser(Command[Inspection]):
    """The real state of the user."""

    issued_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FindTargets(Command[Targets]):
    """Where to post changes for the user, as a viewer."""

    changes: Mapping[str, Status]
    """user → the status that the viewer knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawNumbers(Command[Numbers]):
    """Numbers for further frames to this viewer."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced(Command[Outcome]):
    """What was leased has been posted."""

    lease: int
    rev: int | None = None
    status: Status | None = None
    notified: Mapping[str, str] | None = None
    """viewer → version, of the notices."""


# Upkeep and erasing


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle(Command[Outcome]):
    """The user is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit(Command[AuditOutcome]):
    """Check the stored state of the user, and give some of the contacts."""

    turn: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FindRelatedUsers(Command[RelatedUsers]):
    """Everybody whose keys may name this user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetUser(Command[Outcome]):
    """Remove `other` from this user's keys."""

    other: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseUser(Command[Outcome]):
    """Remove everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetDue(Command[DueUsers]):
    """Who is due in a bucket, and when the next one will be."""

    horizon: int
    most: int
    run: str | None = None
    begin: bool | None = None
    cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketStatus(Command[BucketHealth]):
    """How a bucket is; with `loaded`, whether its graph is loaded from now on."""

    loaded: bool | None = None
