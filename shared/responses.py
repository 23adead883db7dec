"""What the state machine (`lua/`) answers: a dataclass for each response.

The fields have the same names as in Lua. Lua leaves empty lists and maps out, and a field that is missing gets its
default here, so that nothing above the store meets either. What the commands take is in `commands.py`. Times are in
ms since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from shared.settings import OnlineStatus

Status = Literal["online", "busy", "away", "offline"]
DeviceType = Literal["web", "mobile", "desktop"]
LastSeenPolicy = Literal["everyone", "nobody"]
Result = Literal["live", "limited", "closed", "ignored", "full"]
"""The result of a message; messages.lua explains each."""
Rule = Literal["no_device", "claim", "grace", "idle", "device"]
"""What decided a user's real status."""


class Applied(TypedDict):
    """The number of a connection's last update that was applied, for each field."""

    status: int
    claim: int
    customStatus: int


class Unreadable(Exception):
    """A record cannot be read, and the command that failed was about nobody else."""


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

    @classmethod
    def of_failed(cls, user: str, reason: str) -> Self | None:  # noqa: ARG003 - subclasses use them
        """What stands for the response where the user's record cannot be read, so that others' responses are used.

        None: the caller needs the response itself.
        """
        return None


@dataclass(slots=True)
class Done(Response):
    """Nothing but that it happened, unless the record could not be read."""

    @classmethod
    def of_failed(cls, user: str, reason: str) -> Self:  # noqa: ARG003
        """Nothing."""
        return cls()


@dataclass(slots=True)
class Valid(Response):
    """Nothing but that the token is valid."""


@dataclass(slots=True)
class View(Response):
    """What a viewer may see of a user."""

    user_id: str
    status: Status
    stranger: bool = False
    """The viewer may see nothing; the status is offline."""
    custom: str = ""
    """The custom status as JSON."""
    seen: int | None = None
    device_type: DeviceType | None = None

    @classmethod
    def of_failed(cls, user: str, reason: str) -> Self:  # noqa: ARG003
        """What a stranger sees."""
        return cls(user, "offline", stranger=True)


@dataclass(slots=True)
class Views(Response):
    """What some viewers may see of a user."""

    shared: View
    """What a contact sees from whom nothing is hidden."""
    others: dict[str, View] = field(default_factory=dict)
    """viewer → view, for those who see something else."""

    nested: ClassVar = {
        "shared": View.decode,
        "others": lambda others: {viewer: View.decode(view) for viewer, view in others.items()},
    }

    @classmethod
    def of_failed(cls, user: str, reason: str) -> Self:
        """What strangers see."""
        return cls(View.of_failed(user, reason))

    def of(self, viewer: str) -> View:
        """What one of them may see."""
        return self.others.get(viewer, self.shared)


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
    """What a viewer receives now: changes of these users, on these connections, in frames with these numbers."""

    prev: int
    """The number before the first."""
    first: int
    last: int
    connections: list[str] = field(default_factory=list)
    users: dict[str, Status] = field(default_factory=dict)
    """user → the status that the viewer knows."""


@dataclass(slots=True)
class OwnUpdate(Response):
    """The user's own connections receive the real state, in a frame with this number."""

    prev: int
    """The number before it."""
    seq: int
    connections: list[str]
    real: UserState

    nested: ClassVar = {"real": UserState.decode}


@dataclass(slots=True)
class Announcement(Response):
    """The record changed for all who may see it."""

    rev: int
    was: Status
    status: Status
    viewers: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ViewerNotice(Response):
    """One viewer sees another record since a change of relations."""

    viewer: str
    version: str
    was: Status


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
    lease: str = ""
    flush: Flush | None = None
    found: list[str] = field(default_factory=list)
    """Kinds of inconsistencies that were found and repaired."""
    close: list[str] = field(default_factory=list)
    """Sockets to close."""
    failed: str = ""
    """Why the user's record cannot be read."""

    nested: ClassVar = {
        "own": OwnUpdate.decode,
        "announcement": lambda announcement: Announcement(**announcement),
        "notices": _notices,
        "flush": Flush.decode,
    }

    @classmethod
    def of_failed(cls, user: str, reason: str) -> Self | None:  # noqa: ARG003
        """Only that it failed."""
        return cls(failed=reason)


@dataclass(slots=True)
class MessageOutcome(Outcome):
    """What became of a message, besides."""

    result: Result = "live"
    wait: int = 0
    """Milliseconds after which the next message counts, where too many were sent."""
    feed: int = 0
    """The number of the user's last frame."""
    snapshot: str = ""
    """The name of the snapshot, which no other one has."""
    real: UserState | None = None
    """The user's own state, where a snapshot answers the message."""
    sees: list[str] = field(default_factory=list)
    """The users whom the snapshot is about."""
    resumed: bool = False
    """Nothing changed since the frame that the client named."""
    due_neighbors: list[str] = field(default_factory=list)
    """Users who are due, for this function to settle."""

    nested: ClassVar = {**Outcome.nested, "real": UserState.decode}

    @classmethod
    def of_failed(cls, user: str, reason: str) -> None:  # noqa: ARG003
        """Its sender must not believe that the message arrived."""
        return

    @property
    def changed_nothing(self) -> bool:
        """Whether nothing follows from it, as for nearly every heartbeat: `feed` comes with everything else."""
        return not self.feed and not self.due_neighbors


@dataclass(slots=True)
class Refusal(Response):
    """Whether the error of a refused message is posted: only if the result is "live", or a `rate_limited` if it is
    "limited".
    """

    result: Result
    wait: int


@dataclass(slots=True)
class Connected(Response):
    """Whether the connection may send; "full": the user has too many sockets."""

    result: Literal["live", "closed", "full"]


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
class PrivacyOutcome(Outcome):
    """The same for a change of privacy."""

    left: list[tuple[str, Any]] = field(default_factory=list)
    """(viewer, edit): what is still to be done."""


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
    snapshot: str = ""
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

    @classmethod
    def of_failed(cls, user: str, reason: str) -> Self:  # noqa: ARG003
        """Nobody."""
        return cls()


@dataclass(slots=True)
class Room(Response):
    """Whether there is room for more contacts."""

    room: bool

    @classmethod
    def of_failed(cls, user: str, reason: str) -> Self:  # noqa: ARG003
        """The edit itself fails, for this user alone."""
        return cls(room=True)


@dataclass(slots=True)
class Contacts(Response):
    """Those who are contacts."""

    contacts: list[str] = field(default_factory=list)

    @classmethod
    def of_failed(cls, user: str, reason: str) -> Self:  # noqa: ARG003
        """Nobody."""
        return cls()


@dataclass(slots=True)
class Added(Response):
    """How many were new."""

    added: int

    @classmethod
    def of_failed(cls, user: str, reason: str) -> Self:  # noqa: ARG003
        """None."""
        return cls(added=0)


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
    node: str = ""
    """The node that serves the bucket, by its `run_id`; "" where the service does not show it."""
    known_node: str = ""
    """The same at the last look; "" before the first one."""
    looked: int | None = None
    """When the sweeper last looked, in ms; only where the service does not show its nodes."""
    epoch: int | None = None
    """When the bucket's epoch began."""


@dataclass(slots=True)
class BucketHealth(Response):
    """How a bucket is."""

    loaded: bool
    late: int
    found: dict[str, int] = field(default_factory=dict)
