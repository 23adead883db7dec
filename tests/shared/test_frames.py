"""Frames: how large they are, which hint they give, and what is left out for strangers."""

from __future__ import annotations

import random
from itertools import chain
from typing import cast

import pytest

from shared.frames import (
    MAX_FRAME_BYTES,
    BatchFrame,
    OwnState,
    SnapshotFrame,
    change_frames,
    custom_status,
    encode,
    error_frame,
    event,
    fit,
    own_state,
    record,
    snapshot_frames,
    transition,
)
from shared.responses import DeviceState, Flush, Status, UserState, View
from shared.settings import Settings

SEQ = 1_732_400_000_000
OPENED = 1_732_400_000_000
MINUTE = 60_000


def real(cap: int = 0) -> UserState:
    """A user with one device, whose token ends at `cap`."""
    device = DeviceState(
        "c1=", "d1", "web", "online", OPENED, OPENED, {"status": 0, "claim": 0, "customStatus": 0}, cap
    )
    return UserState("online", invisible=False, last_seen_policy="everyone", devices=[device])


def views(count: int, rng: random.Random) -> list[View]:
    """Views of different sizes."""
    text = "ü" * 140
    return [
        View(f"user{number}", "busy", custom=f'{{"text":"{text[: rng.randint(1, 140)]}","emoji":""}}')
        for number in range(count)
    ]


def test_a_stranger_sees_two_fields() -> None:
    """A stranger's record does not distinguish a hidden user from one who does not exist."""
    assert record(View("alice", "offline", stranger=True)) == {"userId": "alice", "status": "offline"}
    assert record(View("alice", "offline", seen=SEQ)) == {
        "userId": "alice",
        "status": "offline",
        "customStatus": None,
        "deviceType": None,
        "lastSeen": SEQ,
    }


def test_a_custom_status_always_has_three_fields() -> None:
    """A status without an end is stored without one, and shown with null."""
    assert custom_status('{"text":"Lunch","emoji":""}') == {"text": "Lunch", "emoji": "", "until": None}
    assert custom_status("") is None


@pytest.mark.parametrize(
    ("was", "status", "hint"),
    [
        ("offline", "away", "user_online"),
        ("busy", "offline", "user_offline"),
        ("busy", "away", "presence_status"),
        ("offline", "offline", "presence_status"),
    ],
)
def test_a_frame_hints_at_the_transition(was: Status, status: Status, hint: str) -> None:
    """`type` names the transition from what the viewer knew; a change of anything else is a `presence_status`."""
    assert transition(was, status) == hint
    assert event(was, View("alice", status))["type"] == hint


def test_one_change_is_a_frame_and_several_are_a_batch() -> None:
    """A batch has one number for all of its changes, and a single change has its own; no change at all is a batch."""
    changes = [event("offline", View(user, "online")) for user in ("alice", "bob")]
    flush = Flush(prev=5, first=7, last=7)
    assert change_frames(flush, changes[:1]) == [{**changes[0], "seq": 7, "prev": 5}]
    assert change_frames(flush, changes) == [{"type": "presence_batch", "seq": 7, "prev": 5, "events": changes}]
    assert change_frames(flush, []) == [{"type": "presence_batch", "seq": 7, "prev": 5, "events": []}]
    assert "seq" not in changes[0]


def test_batches_fit_into_frames_and_lose_nothing(rng: random.Random) -> None:
    """However many changes there are, no frame is larger than one metered message, and their order stays.

    The numbers that were drawn suffice: each frame follows the one before it, and the last one has the last number.
    """
    changes = [event("online", view) for view in views(500, rng)]
    flush = Flush(prev=SEQ - 9, first=SEQ, last=SEQ + 500 // 30)
    frames = cast("list[BatchFrame]", change_frames(flush, changes))
    assert len(frames) > 1
    assert list(chain.from_iterable(frame["events"] for frame in frames)) == changes
    assert all(len(encode(frame)) <= MAX_FRAME_BYTES for frame in frames)
    numbers = [frame["seq"] for frame in frames]
    assert [frame["prev"] for frame in frames] == [SEQ - 9, *numbers[:-1]]
    assert numbers[0] == SEQ
    assert numbers[-1] == flush.last
    assert numbers == sorted(set(numbers))


def test_a_snapshot_fits_into_frames_and_is_numbered(rng: random.Random) -> None:
    """Each part has the name and its place, the first one has `self`, and together they have every user, in order."""
    own: OwnState = own_state("alice", real(), Settings(), "c1=")
    first: SnapshotFrame = {"type": "presence_snapshot", "id": "m1", "seq": SEQ, "resumed": False, "self": own}
    users = [record(view) for view in views(500, rng)]
    frames = snapshot_frames(first, "n1", users)
    assert len(frames) > 1
    assert [frame["part"] for frame in frames] == list(range(1, len(frames) + 1))
    assert {(frame["snapshot"], frame["parts"], frame["seq"]) for frame in frames} == {("n1", len(frames), SEQ)}
    assert ["self" in frame for frame in frames] == [True] + [False] * (len(frames) - 1)
    assert [user for frame in frames for user in frame["users"]] == users
    assert all(len(encode(frame)) <= MAX_FRAME_BYTES for frame in frames)


def test_a_snapshot_of_nobody_is_one_frame() -> None:
    """The head arrives even where there is no user to list."""
    assert fit([], 100) == [[]]


def test_an_item_that_fits_nowhere_is_a_part_of_its_own() -> None:
    """Nothing is dropped: API Gateway takes four times as much as one metered message."""
    assert fit(["x", "y" * 200, "z"], 100) == [["x"], ["y" * 200], ["z"]]


@pytest.mark.parametrize(
    ("cap", "rotate_at"),
    [
        pytest.param(0, OPENED + 110 * MINUTE, id="before API Gateway's cut"),
        pytest.param(OPENED + 60 * MINUTE, OPENED + 60 * MINUTE - 90_000, id="before the token ends"),
        pytest.param(OPENED + 2 * MINUTE, OPENED + MINUTE - 30_000, id="half of a short token"),
    ],
)
def test_a_client_rotates_in_time(cap: int, rotate_at: int) -> None:
    """`rotateAt` leaves a heartbeat interval and the leeway before the end of the token."""
    assert own_state("alice", real(cap), Settings(), "c1=")["rotateAt"] == rotate_at


def test_an_error_has_only_the_fields_that_are_known() -> None:
    """A field that does not apply is absent, not null; an `id` of "" and a wait of 0 are kept."""
    assert error_frame("too_large", "too large") == {"type": "error", "code": "too_large", "message": "too large"}
    assert error_frame("rate_limited", "slower", id="", retry_after=0) == {
        "type": "error",
        "code": "rate_limited",
        "message": "slower",
        "id": "",
        "retryAfter": 0,
    }
