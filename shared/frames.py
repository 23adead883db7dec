"""What the state machine knows, as the protocol says it: pure functions from answers to frames, as bytes.

The types of the frames are in `messages.py`. Nothing here asks or sends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from shared.messages import MAX_FRAME_BYTES, Record
from shared.settings import Settings

Answer = dict[str, Any]
"""What the state machine says to one request; an empty list in it may come out of Lua as a map."""

TOKEN_LEEWAY = 60
"""Seconds for which a connection may outlive its token."""


def as_list(value: Any) -> list[Any]:
    """A list out of Lua, where an empty one may be a map or nothing."""
    return value if isinstance(value, list) else []


def as_map(value: Any) -> dict[str, Any]:
    """A map out of Lua, where there may be nothing."""
    return value if isinstance(value, dict) else {}


def encode(value: Any) -> bytes:
    """JSON as it goes over the wire."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def custom_status(kept: str | None) -> dict[str, Any] | None:
    """A custom status, out of the text in which it is kept."""
    return {"until": None, **json.loads(kept)} if kept else None


def claim(state: Answer) -> dict[str, Any] | None:
    """The claim in a user's real state."""
    return {"status": state["claim"], "until": state.get("claimUntil")} if state.get("claim") else None


def record(view: Answer) -> Record:
    """A view as the protocol has it."""
    if "rev" not in view:
        return {"userId": view["userId"], "status": view["status"]}
    return cast(
        "Record",
        {
            "userId": view["userId"],
            "status": view["status"],
            "customStatus": custom_status(view.get("custom")),
            "deviceType": view.get("deviceType"),
            "lastSeen": view.get("seen"),
            "rev": view["rev"],
        },
    )


def transition(was: str, status: str) -> str:
    """The hint that goes with a change from one visible status to another."""
    if (was == "offline") == (status == "offline"):
        return "presence_status"
    return "user_offline" if status == "offline" else "user_online"


def fit(items: Sequence[Any], room: int) -> list[list[Any]]:
    """Split a list so that each part, as JSON, fits into `room` bytes; one part at least."""
    parts: list[list[Any]] = [[]]
    left = room
    for item in items:
        size = len(encode(item)) + 1
        if size > left and parts[-1]:
            parts.append([])
            left = room
        parts[-1].append(item)
        left -= size
    return parts


def own_state(user_id: str, state: Answer, settings: Settings, connection_id: str = "") -> dict[str, Any]:
    """One's own real state, as one of one's connections sees it."""
    devices = as_list(state["devices"])
    speaking = next((device for device in devices if device["connectionId"] == connection_id), None)
    own: dict[str, Any] = {
        "userId": user_id,
        "status": state["status"],
        "customStatus": custom_status(state["custom"]),
        "claim": claim(state),
        "invisible": state["invisible"],
        "lastSeenPolicy": state["lastSeenPolicy"],
        "devices": [
            {name: value for name, value in device.items() if name not in ("n", "cap", "polling")} for device in devices
        ],
    }
    if speaking:
        rotate = speaking["connectedAt"] + round(settings.rotate_after * 1000)
        if speaking["cap"]:
            renew = speaking["cap"] - round((TOKEN_LEEWAY + settings.heartbeat_interval) * 1000)
            half_way = (speaking["connectedAt"] + speaking["cap"]) // 2  # for tokens shorter than a heartbeat
            rotate = min(rotate, max(renew, half_way - TOKEN_LEEWAY * 500))
        own |= {
            "connectionId": connection_id,
            "n": speaking["n"],
            "heartbeatEvery": round(settings.heartbeat_interval * 1000),
            "rotateAt": rotate,
        }
    return own


def self_frame(user_id: str, own: Answer, settings: Settings, connection_id: str) -> bytes:
    """One's own state changed: for one of one's own connections."""
    state = own_state(user_id, own["self"], settings, connection_id)
    return encode({"type": "presence_self", "seq": own["seq"], "self": state})


def events_of(changes: Mapping[str, str], views: Mapping[str, Answer]) -> list[dict[str, Any]]:
    """The events of a viewer: user → the status that the viewer knew, and what it may see now."""
    return [
        {"type": transition(was, views[user]["status"]), **record(views[user])}
        for user, was in changes.items()
        # A stranger by now has no `rev`, and a client could not tell how new its news are.
        if "rev" in views[user]
    ]


def batches(events: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Events in as few frames as hold them; each frame needs a number of its own."""
    return fit(events, MAX_FRAME_BYTES - len(b'{"type":"presence_batch","seq":10000000000000,"events":[]}'))


def change_frame(seq: int, events: Sequence[dict[str, Any]]) -> bytes:
    """A frame that tells a viewer of one change, or of several."""
    if len(events) == 1:
        return encode({"type": events[0]["type"], "seq": seq, **events[0]})
    return encode({"type": "presence_batch", "seq": seq, "events": events})


def snapshot_frames(head: Mapping[str, Any], users: Sequence[Record]) -> list[bytes]:
    """A snapshot in frames that fit; it is valid when all its parts have come."""
    room = MAX_FRAME_BYTES - len(encode(head)) - len(b',"part":1000,"parts":1000,"users":[]')
    parts = fit(users, room)
    return [encode({**head, "part": place, "parts": len(parts), "users": part}) for place, part in enumerate(parts, 1)]
