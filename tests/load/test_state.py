"""How a client applies frames, in any order and with duplicates."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from load.state import Change, ClientState

SEQ = 1000


def record(user: str, status: str = "online", rev: int = 1) -> dict[str, Any]:
    """A contact's record, as a viewer sees it."""
    return {
        "userId": user,
        "status": status,
        "customStatus": None,
        "deviceType": None if status == "offline" else "web",
        "lastSeen": None,
        "rev": rev,
    }


def own(**fields: Any) -> dict[str, Any]:
    """The user's own state."""
    return {"userId": "bob", "connectionId": "K=", "status": "online", "devices": [], **fields}


def snapshot(*users: dict[str, Any], seq: int = SEQ, part: int = 1, parts: int = 1, **fields: Any) -> dict[str, Any]:
    """A snapshot, or a part of one."""
    return {
        "type": "presence_snapshot",
        "seq": seq,
        "part": part,
        "parts": parts,
        "resumed": False,
        "self": own(),
        "users": list(users),
        **fields,
    }


def event(user: str, status: str = "online", *, seq: int, rev: int) -> dict[str, Any]:
    """One change in one frame."""
    return {"type": "presence_status", "seq": seq, **record(user, status, rev)}


def batch(*events: dict[str, Any], seq: int) -> dict[str, Any]:
    """Several changes in one frame."""
    return {"type": "presence_batch", "seq": seq, "events": list(events)}


@pytest.fixture
def state() -> ClientState:
    """A state with alice, online with rev 1, and everything up to SEQ."""
    state = ClientState()
    state.receive(snapshot(record("alice")))
    return state


def statuses(state: ClientState) -> dict[str, str]:
    """The status of each user, in short."""
    return {user: record["status"] for user, record in state.users.items()}


def test_a_snapshot_is_the_beginning(state: ClientState) -> None:
    """A snapshot contains the contacts, the user's own state, and the number from which frames count."""
    assert statuses(state) == {"alice": "online"}
    assert state.own == own()
    assert state.seq == SEQ


def test_a_duplicate_frame_changes_nothing(state: ClientState) -> None:
    """A frame that arrives twice changes something once."""
    frame = event("alice", "busy", seq=SEQ + 1, rev=2)
    assert state.receive(frame) == [Change(record("alice"), record("alice", "busy", 2))]
    assert state.receive(frame) == []
    assert state.seq == SEQ + 1


def test_only_the_record_of_a_frame_is_stored(state: ClientState) -> None:
    """The type and number of a frame are not part of a record."""
    state.receive(event("alice", "busy", seq=SEQ + 1, rev=2))
    assert state.users["alice"] == record("alice", "busy", 2)


def test_an_older_rev_changes_nothing(state: ClientState) -> None:
    """The record with the higher rev stays, even if the other one arrives later."""
    state.receive(event("alice", "busy", seq=SEQ + 2, rev=3))
    assert state.receive(event("alice", "away", seq=SEQ + 1, rev=2)) == []
    assert statuses(state) == {"alice": "busy"}


def test_a_gap_is_detected_and_closes(state: ClientState) -> None:
    """A skipped number is a gap until its frame arrives."""
    state.receive(event("alice", "busy", seq=SEQ + 2, rev=3))
    assert (state.has_hole, state.seq) == (True, SEQ)
    state.receive(event("alice", "away", seq=SEQ + 1, rev=2))
    assert (state.has_hole, state.seq) == (False, SEQ + 2)


def test_a_frame_about_the_user_has_a_number_too(state: ClientState) -> None:
    """`presence_self` has a number like every other frame."""
    state.receive({"type": "presence_self", "seq": SEQ + 1, "self": own(status="busy")})
    assert state.own == own(status="busy")
    assert state.seq == SEQ + 1


def test_a_batch_has_one_number(state: ClientState) -> None:
    """Several changes in one frame are reported separately, and count as one number."""
    frame = batch(record("alice", "busy", 2), record("carol", "away", 9), seq=SEQ + 1)
    assert [change.after for change in state.receive(frame)] == [
        record("alice", "busy", 2),
        record("carol", "away", 9),
    ]
    assert state.seq == SEQ + 1


def test_a_snapshot_in_parts_counts_when_it_is_complete() -> None:
    """Until the last part arrives nothing changes, in whatever order the parts come."""
    parts = [snapshot(record(user), part=place, parts=3) for place, user in enumerate(("alice", "carol", "dave"), 1)]
    for order in itertools.permutations(parts):
        state = ClientState()
        assert [len(state.receive(part)) for part in order] == [0, 0, 3]
        assert state.seq == SEQ


def test_a_contact_that_is_not_in_a_snapshot_is_dropped(state: ClientState) -> None:
    """A snapshot replaces everything."""
    assert state.receive(snapshot(record("carol"), seq=SEQ + 1)) == [
        Change(record("alice"), None),
        Change(None, record("carol")),
    ]


def test_a_contact_with_a_later_frame_is_not_dropped(state: ClientState) -> None:
    """A contact that was added after the snapshot was read stays, though the snapshot does not contain it."""
    state.receive(event("carol", seq=SEQ + 2, rev=1))
    state.receive(snapshot(record("alice"), seq=SEQ + 1))
    assert statuses(state) == {"alice": "online", "carol": "online"}
    assert state.seq == SEQ + 2


def test_an_old_frame_brings_nobody_back(state: ClientState) -> None:
    """A frame from before a snapshot does not restore a contact that the snapshot dropped."""
    state.receive(snapshot(seq=SEQ + 3))
    state.receive(event("alice", "busy", seq=SEQ + 2, rev=2))
    assert statuses(state) == {}


def test_an_old_snapshot_is_ignored(state: ClientState) -> None:
    """A snapshot that frames overtook changes nothing, and numbers never decrease."""
    state.receive(event("carol", seq=SEQ + 1, rev=1))
    assert state.receive(snapshot(record("alice"))) == []
    assert state.seq == SEQ + 1


def test_resuming_keeps_everything(state: ClientState) -> None:
    """`resumed` has no users because nothing was missed."""
    state.reconnected()
    assert state.receive(snapshot(resumed=True)) == []
    assert statuses(state) == {"alice": "online"}


def test_a_snapshot_older_than_its_request_starts_over(state: ClientState) -> None:
    """The service lost its last seconds: numbers and revs continue from the snapshot, on the same connection."""
    state.receive(event("alice", "busy", seq=SEQ + 1, rev=5))
    state.receive(event("carol", seq=SEQ + 2, rev=9))
    state.receive(event("dave", seq=SEQ + 4, rev=3))
    state.receive({"type": "presence_self", "seq": SEQ + 5, "self": own(status="busy")})
    changes = state.receive(snapshot(record("alice", "away", 2), record("carol", rev=9), seq=7), asked=SEQ + 2)
    assert changes == [
        Change(record("alice", "busy", 5), record("alice", "away", 2)),
        Change(record("dave", rev=3), None),
    ]
    assert (state.seq, state.has_hole, state.own) == (7, False, own())
    state.receive({"type": "presence_self", "seq": 8, "self": own(status="away")})
    assert (state.seq, state.own) == (8, own(status="away"))


def test_a_new_connection_is_no_reason_to_go_back(state: ClientState) -> None:
    """A late snapshot for an older request changes nothing, even as the first on a connection."""
    state.receive(event("alice", "busy", seq=SEQ + 1, rev=2))
    state.reconnected()
    assert state.receive(snapshot(record("alice")), asked=SEQ) == []
    assert (state.seq, statuses(state)) == (SEQ + 1, {"alice": "busy"})


def test_a_late_frame_about_the_user_changes_nothing(state: ClientState) -> None:
    """Of two frames about the user, the one with the higher number wins; the same holds for a snapshot and a frame."""
    state.receive({"type": "presence_self", "seq": SEQ + 3, "self": own(status="busy")})
    state.receive({"type": "presence_self", "seq": SEQ + 2, "self": own(status="away")})
    assert state.own == own(status="busy")
    state.receive(snapshot(record("alice"), seq=SEQ + 1))
    assert state.own == own(status="busy")
    state.receive(snapshot(record("alice"), seq=SEQ + 4) | {"self": own(status="offline")})
    state.receive({"type": "presence_self", "seq": SEQ + 1, "self": own(status="away")})
    assert state.own == own(status="offline")


def test_a_record_without_rev_is_not_a_contact(state: ClientState) -> None:
    """It is not added, and a contact that becomes a stranger is dropped."""
    stranger = {"userId": "eve", "status": "offline"}
    assert state.receive({"type": "user_offline", "seq": SEQ + 1, **stranger}) == []
    assert state.receive(snapshot(record("alice"), stranger, seq=SEQ + 2)) == []
    former = {"userId": "alice", "status": "offline"}
    assert state.receive(snapshot(former, seq=SEQ + 3)) == [Change(record("alice"), None)]


def test_parts_of_two_snapshots_are_kept_apart() -> None:
    """Two snapshots with the same number for different requests are assembled separately."""
    state = ClientState()
    assert state.receive(snapshot(record("alice"), part=1, parts=2, id="s1")) == []
    assert state.receive(snapshot(record("carol"), part=2, parts=2, id="s2")) == []
    assert len(state.receive(snapshot(record("carol"), part=2, parts=2, id="s1"))) == 2


def test_a_part_of_a_cut_connection_is_forgotten(state: ClientState) -> None:
    """Parts from two connections do not make a snapshot."""
    state.receive(snapshot(record("carol"), seq=SEQ + 1, part=1, parts=2))
    state.reconnected()
    assert state.receive(snapshot(record("dave"), seq=SEQ + 1, part=2, parts=2)) == []


def test_other_frames_change_nothing(state: ClientState) -> None:
    """Errors, responses, API Gateway's messages and unknown types change nothing."""
    for frame in ({"type": "error", "code": "unavailable"}, {"message": "Internal server error"}, {"type": "new"}):
        assert state.receive(frame) == []


def test_order_and_repetition_do_not_matter(rng: random.Random) -> None:
    """Any reordering and duplication of frames gives the same state as the frames in order."""
    for _ in range(200):
        frames = [
            event(rng.choice("abc"), rng.choice(("busy", "away", "offline")), seq=SEQ + n, rev=n) for n in range(1, 9)
        ]
        straight, shuffled = ClientState(), ClientState()
        for state in (straight, shuffled):
            state.receive(snapshot())
        for frame in frames:
            straight.receive(frame)
        for frame in rng.sample([*frames, *rng.sample(frames, 4)], 12):
            shuffled.receive(frame)
        assert (shuffled.users, shuffled.seq, shuffled.has_hole) == (straight.users, SEQ + 8, False)
