"""What the service sends to clients: the types of frames, and pure functions that make them.

docs/protocol.md describes each. Nothing here asks the store or sends; what clients send is in `messages.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypeVar, cast

from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from shared.connection import TOKEN_LEEWAY
from shared.responses import Applied, DeviceType, Flush, LastSeenPolicy, OwnUpdate, Rule, Status, UserState, View
from shared.settings import OnlineStatus, Settings

MAX_FRAME_BYTES = 32 * 1024
"""The size of one metered WebSocket message (Amazon API Gateway pricing); a larger frame is billed as several."""


class ShownCustomStatus(TypedDict):
    """A custom status as everybody sees it who may."""

    text: str
    emoji: str
    until: int | None


class Record(TypedDict):
    """What a contact may see of a user. For strangers, and for users who do not exist: only `userId` and `status`."""

    userId: str
    status: Status
    customStatus: NotRequired[ShownCustomStatus | None]
    deviceType: NotRequired[DeviceType | None]
    lastSeen: NotRequired[int | None]


class Claim(TypedDict):
    """A status that overrides every device's, until a time or until it is cleared."""

    status: OnlineStatus
    until: int | None


class Device(TypedDict):
    """One of the user's own connections, as the user may see it."""

    connectionId: str
    deviceId: str
    deviceType: DeviceType
    status: OnlineStatus
    connectedAt: int
    lastActive: int


class RealState(TypedDict):
    """A user's own real state. It is never sent to anybody else but the application's backend."""

    userId: str
    status: Status
    customStatus: ShownCustomStatus | None
    claim: Claim | None
    invisible: bool
    lastSeenPolicy: LastSeenPolicy
    devices: list[Device]


class OwnState(RealState):
    """The same for one of the user's own connections."""

    connectionId: str
    n: Applied
    heartbeatEvery: int
    rotateAt: int


Transition = Literal["user_online", "user_offline", "presence_status"]


class PresenceFrame(Record):
    """A contact changed. `type` is a hint about the transition; the record decides."""

    type: Transition
    seq: NotRequired[int]
    prev: NotRequired[int]


class BatchFrame(TypedDict):
    """Several changes for one viewer under one `seq`; none, where what had changed may no longer be seen."""

    type: Literal["presence_batch"]
    seq: int
    prev: int
    events: list[PresenceFrame]


class SelfFrame(TypedDict):
    """The user's own real state changed, perhaps on another device."""

    type: Literal["presence_self"]
    seq: int
    prev: int
    self: OwnState


class SnapshotFrame(TypedDict):
    """Everything that the viewer may see, in `parts` frames with the same `snapshot`; it replaces what the client had.
    Where nothing changed, `resumed` is true, and there is only `seq` and `self`.
    """

    type: Literal["presence_snapshot"]
    id: NotRequired[str]
    snapshot: NotRequired[str]
    seq: int
    resumed: bool
    part: NotRequired[int]
    parts: NotRequired[int]
    self: NotRequired[OwnState]
    """In the first part."""
    users: NotRequired[list[Record]]


class QueryFrame(TypedDict):
    """The answer to `get_presence`, in `parts` frames."""

    type: Literal["presence"]
    id: NotRequired[str]
    part: int
    parts: int
    users: list[Record]


class ExplainedState(RealState):
    """A user's real state, and why it is so."""

    lastSeen: int | None
    visibleStatus: Status
    """What contacts see when no other rule hides the user from them."""
    rule: Rule
    """What decided the real status."""
    why: str


class InspectedUser(ExplainedState):
    """The same for the application's backend."""

    rev: int | None


class Me(ExplainedState):
    """The same for the user, with what the user hides."""

    hideFrom: list[str]
    blocks: list[str]


class ContactsSnapshot(TypedDict):
    """Everything that a user may see. If nothing changed, `resumed` is true and there is no `users`."""

    seq: int
    resumed: bool
    self: RealState
    users: NotRequired[list[Record]]


ErrorCode = Literal[
    "invalid_message", "unknown_action", "rate_limited", "too_large", "too_many_connections", "unavailable"
]


class ErrorFrame(TypedDict):
    """What was wrong with which field."""

    type: Literal["error"]
    code: ErrorCode
    message: str
    field: NotRequired[str]
    id: NotRequired[str]
    retryAfter: NotRequired[int]


Frame = PresenceFrame | BatchFrame | SelfFrame | SnapshotFrame | QueryFrame | ErrorFrame


Item = TypeVar("Item")


def encode(value: object) -> bytes:
    """JSON as it is sent."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def custom_status(stored: str) -> ShownCustomStatus | None:
    """A custom status, from the text in which it is stored."""
    if not stored:
        return None
    try:
        given = json.loads(stored)
        return {"text": given["text"], "emoji": given["emoji"], "until": given.get("until")}
    except (ValueError, TypeError, KeyError):  # one record that cannot be read must not end a frame about others
        return None


def claim(status: OnlineStatus | None, until: int | None) -> Claim | None:
    """A claim, where there is one."""
    return {"status": status, "until": until} if status else None


def record(view: View) -> Record:
    """A view as the protocol has it."""
    if view.stranger:
        return {"userId": view.user_id, "status": view.status}
    return {
        "userId": view.user_id,
        "status": view.status,
        "customStatus": custom_status(view.custom),
        "deviceType": view.device_type,
        "lastSeen": view.seen,
    }


def transition(was: Status, status: Status) -> Transition:
    """The hint that goes with a change from one visible status to another."""
    if (was == "offline") == (status == "offline"):
        return "presence_status"
    return "user_offline" if status == "offline" else "user_online"


def event(was: Status, view: View) -> PresenceFrame:
    """A change of a contact, without its number."""
    return cast("PresenceFrame", {"type": transition(was, view.status), **record(view)})


def fit(items: Sequence[Item], room: int) -> list[list[Item]]:
    """Split a list so that each part, as JSON, fits into `room` bytes; there is at least one part."""
    parts: list[list[Item]] = [[]]
    left = room
    for item in items:
        size = len(encode(item)) + 1
        if size > left and parts[-1]:
            parts.append([])
            left = room
        parts[-1].append(item)
        left -= size
    return parts


def real_state(user_id: str, real: UserState) -> RealState:
    """The user's own real state, for no connection in particular."""
    return {
        "userId": user_id,
        "status": real.status,
        "customStatus": custom_status(real.custom),
        "claim": claim(real.claim, real.claim_until),
        "invisible": real.invisible,
        "lastSeenPolicy": real.last_seen_policy,
        "devices": [
            {
                "connectionId": device.connection_id,
                "deviceId": device.device_id,
                "deviceType": device.device_type,
                "status": device.status,
                "connectedAt": device.connected_at,
                "lastActive": device.last_active,
            }
            for device in real.devices
        ],
    }


def own_state(user_id: str, real: UserState, settings: Settings, connection_id: str) -> OwnState:
    """The user's own real state, for one of the user's live connections.

    `rotateAt` is when the client should open its next socket: before API Gateway's hard cut, and before the token ends.
    """
    own = next(device for device in real.devices if device.connection_id == connection_id)
    rotate = own.connected_at + round(settings.rotate_after * 1000)
    if own.cap:
        renew = own.cap - round((TOKEN_LEEWAY + settings.heartbeat_interval) * 1000)
        half_way = (own.connected_at + own.cap) // 2  # for tokens that live shorter than a heartbeat interval
        rotate = min(rotate, max(renew, half_way - TOKEN_LEEWAY * 500))
    return {
        **real_state(user_id, real),
        "connectionId": connection_id,
        "n": own.n,
        "heartbeatEvery": round(settings.heartbeat_interval * 1000),
        "rotateAt": rotate,
    }


def self_frame(user_id: str, update: OwnUpdate, settings: Settings, connection_id: str) -> SelfFrame:
    """The user's own state changed: the frame for one of the user's connections."""
    return {
        "type": "presence_self",
        "seq": update.seq,
        "prev": update.prev,
        "self": own_state(user_id, update.real, settings, connection_id),
    }


def change_frames(flush: Flush, events: Sequence[PresenceFrame]) -> list[PresenceFrame | BatchFrame]:
    """Changes for a viewer in as few frames as hold them, at least one; the last one has the last number drawn."""
    room = MAX_FRAME_BYTES - len(b'{"type":"presence_batch","seq":10000000000000,"prev":10000000000000,"events":[]}')
    parts = fit(events, room)
    numbers = [*range(flush.first, flush.first + len(parts) - 1), flush.last]
    return [
        _change_frame(seq, prev, part) for seq, prev, part in zip(numbers, [flush.prev, *numbers], parts, strict=False)
    ]


def _change_frame(seq: int, prev: int, events: Sequence[PresenceFrame]) -> PresenceFrame | BatchFrame:
    if len(events) == 1:
        return cast("PresenceFrame", {**events[0], "seq": seq, "prev": prev})
    return {"type": "presence_batch", "seq": seq, "prev": prev, "events": list(events)}


def snapshot_frames(first: SnapshotFrame, name: str, users: Sequence[Record]) -> list[SnapshotFrame]:
    """A snapshot in frames that fit; it is valid when all its parts have arrived.

    Args:
        first: what the first part has besides the users. Its `seq` was read before the records were.
        name: a name that no other snapshot has; every part carries it.
        users: the records.
    """
    if first["resumed"]:
        return [first]
    room = MAX_FRAME_BYTES - len(encode(first)) - len(encode({"snapshot": name, "part": 1000, "parts": 1000})) - 12
    parts = fit(users, room)
    others = cast("SnapshotFrame", {key: value for key, value in first.items() if key != "self"})
    return [
        {**(first if place == 1 else others), "snapshot": name, "part": place, "parts": len(parts), "users": part}
        for place, part in enumerate(parts, 1)
    ]


def query_frames(users: Sequence[Record], message_id: str | None) -> list[QueryFrame]:
    """The answer to `get_presence`, in frames that fit."""
    head: dict[str, Any] = {"type": "presence"} if message_id is None else {"type": "presence", "id": message_id}
    parts = fit(users, MAX_FRAME_BYTES - len(encode(head)) - len(b',"part":100,"parts":100,"users":[]'))
    return [
        cast("QueryFrame", {**head, "part": place, "parts": len(parts), "users": part})
        for place, part in enumerate(parts, 1)
    ]


def error_frame(
    code: ErrorCode, message: str, *, field: str | None = None, id: str | None = None, retry_after: int | None = None
) -> ErrorFrame:
    """What was wrong with a message; `retry_after` in ms."""
    given: dict[str, Any] = {"field": field or None, "id": id, "retryAfter": retry_after}
    frame: ErrorFrame = {"type": "error", "code": code, "message": message}
    return {**frame, **{name: value for name, value in given.items() if value is not None}}  # type: ignore[typeddict-item]
