"""The commands of the state machine (`lua/`): a dataclass for each, with what it takes.

The fields have the same names as in Lua; those that are None are not sent. What the commands answer is in
`responses.py`, and docs/commands.md describes each. Nothing here asks or decides. Times are in ms since the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, NotRequired, Required, TypeVar, get_args

from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from shared.responses import (
    Added,
    AuditOutcome,
    BlockOutcome,
    BucketHealth,
    Connected,
    Contacts,
    DeviceType,
    Done,
    DueUsers,
    Export,
    Inspection,
    LastSeenPolicy,
    MessageOutcome,
    Outcome,
    Privacy,
    PrivacyOutcome,
    Refusal,
    RelatedUsers,
    Response,
    Room,
    SignOutOutcome,
    Snapshot,
    Status,
    Targets,
    Valid,
    View,
    Views,
)
from shared.settings import OnlineStatus

Edit = Literal["contact", "stranger", "hide", "show", "block", "unblock", "blocked", "unblocked"]


class SignedOut(Exception):
    """The token was issued before its user signed out everywhere, or was erased."""


class TooManyCalls(Exception):
    """The user makes too many calls over HTTP; this one was not carried out.

    Attributes:
        retry_after: milliseconds after which the next call counts.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many calls by this user")
        self.retry_after = retry_after


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
    n: int | None = None
    """The number of the update that chose the status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync(Command[MessageOutcome]):
    """Everything that the user may see. With `replaces`, the connection takes over that one and ends it."""

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
class RefuseMessage(Command[Refusal]):
    """A message that violates the protocol."""

    connection: Sender


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
    n: int | None = None
    """As in `Heartbeat`."""


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
class SetPrivacy(Command[PrivacyOutcome]):
    """The user's own choices; a list that is given replaces the one before, in portions."""

    invisible: bool | None = None
    last_seen: LastSeenPolicy | None = None
    hide_from: Sequence[str] | None = None
    blocks: Sequence[str] | None = None
    edits: Sequence[tuple[str, Edit]] | None = None
    """(viewer, edit): what an earlier portion left."""
    most: int
    """How many viewers are edited."""
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
    gap: bool | None = None
    """The user's clients get a snapshot with their next heartbeats."""
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
class ReadViews(Command[Views]):
    """What these viewers may see of the user."""

    viewers: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSnapshot(Command[Snapshot]):
    """Everything that the user may see, without a connection."""

    seq: int | None = None
    issued_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckToken(Command[Valid]):
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
class Announced(Command[Outcome]):
    """What was leased has been posted."""

    lease: str
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
class SetEpoch(Command[Done]):
    """Some node of the store has lost its last seconds: every client must get a snapshot."""

    epoch: int | None = None
    """When it begins, in ms."""
    node: str | None = None
    """The node that serves the bucket from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketStatus(Command[BucketHealth]):
    """How a bucket is; with `loaded`, whether its graph is loaded from now on."""

    loaded: bool | None = None
