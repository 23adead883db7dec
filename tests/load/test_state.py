"""What a client makes of frames: whatever their order, and however often they come."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from load.state import Change, ClientState

SEQ = 1000


def record(user: str, status: str = "online", rev: int = 1) -> dict[str, Any]:
    """What a contact may see of a user."""
    return {
        "userId": user,
        "status": status,
        "customStatus": None,
        "deviceType": None if status == "offline" else "web",
        "lastSeen": None,
        "rev": rev,
    }


def own(**fields: Any) -> dict[str, Any]:
    """What one sees of oneself."""
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
    """One that knows alice, online with rev 1, and everything up to SEQ."""
    state = ClientState()
    state.receive(snapshot(record("alice")))
    return state


def statuses(state: ClientState) -> dict[str, str]:
    """What is known of each user, in short."""
    return {user: record["status"] for user, record in state.users.items()}


def test_a_snapshot_is_the_beginning(state: ClientState) -> None:
    """A snapshot says who there is, how one is oneself, and where numbers go on."""
    assert statuses(state) == {"alice": "online"}
    assert state.own == own()
    assert state.seq == SEQ


def test_a_change_is_told_once(state: ClientState) -> None:
    """A frame that comes twice changes something once."""
    frame = event("alice", "busy", seq=SEQ + 1, rev=2)
    assert state.receive(frame) == [Change(record("alice"), record("alice", "busy", 2))]
    assert state.receive(frame) == []
    assert state.seq == SEQ + 1


def test_what_is_kept_of_a_frame_is_its_record(state: ClientState) -> None:
    """Type and number of a frame are not part of what is known about a user."""
    state.receive(event("alice", "busy", seq=SEQ + 1, rev=2))
    assert state.users["alice"] == record("alice", "busy", 2)


def test_an_older_rev_changes_nothing(state: ClientState) -> None:
    """The record with the higher rev stays, though the other one comes later."""
    state.receive(event("alice", "busy", seq=SEQ + 2, rev=3))
    assert state.receive(event("alice", "away", seq=SEQ + 1, rev=2)) == []
    assert statuses(state) == {"alice": "busy"}


def test_a_hole_is_seen_and_closes(state: ClientState) -> None:
    """A number that was left out is a hole until its frame has come."""
    state.receive(event("alice", "busy", seq=SEQ + 2, rev=3))
    assert (state.has_hole, state.seq) == (True, SEQ)
    state.receive(event("alice", "away", seq=SEQ + 1, rev=2))
    assert (state.has_hole, state.seq) == (False, SEQ + 2)


def test_a_frame_about_oneself_counts_too(state: ClientState) -> None:
    """`presence_self` has a number like every other frame."""
    state.receive({"type": "presence_self", "seq": SEQ + 1, "self": own(status="busy")})
    assert state.own == own(status="busy")
    assert state.seq == SEQ + 1


def test_a_batch_has_one_number(state: ClientState) -> None:
    """Several changes in one frame are told one by one, and counted once."""
    frame = batch(record("alice", "busy", 2), record("carol", "away", 9), seq=SEQ + 1)
    assert [change.after for change in state.receive(frame)] == [
        record("alice", "busy", 2),
        record("carol", "away", 9),
    ]
    assert state.seq == SEQ + 1


def test_a_snapshot_in_parts_counts_when_it_is_whole() -> None:
    """Until the last part of a snapshot has come it says nothing, in whatever order its parts come."""
    parts = [snapshot(record(user), part=place, parts=3) for place, user in enumerate(("alice", "carol", "dave"), 1)]
    for order in itertools.permutations(parts):
        state = ClientState()
        assert [len(state.receive(part)) for part in order] == [0, 0, 3]
        assert state.seq == SEQ


def test_who_is_absent_from_a_snapshot_is_dropped(state: ClientState) -> None:
    """A snapshot replaces everything: a contact that is not in it is none any more."""
    assert state.receive(snapshot(record("carol"), seq=SEQ + 1)) == [
        Change(record("alice"), None),
        Change(None, record("carol")),
    ]


def test_who_had_a_later_frame_is_not_dropped(state: ClientState) -> None:
    """A contact that became one after the snapshot was read stays, though it is absent from it."""
    state.receive(event("carol", seq=SEQ + 2, rev=1))
    state.receive(snapshot(record("alice"), seq=SEQ + 1))
    assert statuses(state) == {"alice": "online", "carol": "online"}
    assert state.seq == SEQ + 2


def test_an_old_frame_brings_nobody_back(state: ClientState) -> None:
    """A frame from before the snapshot that dropped a contact does not bring the contact back."""
    state.receive(snapshot(seq=SEQ + 3))
    state.receive(event("alice", "busy", seq=SEQ + 2, rev=2))
    assert statuses(state) == {}


def test_an_old_snapshot_is_ignored(state: ClientState) -> None:
    """A snapshot that was overtaken by frames says nothing new, and numbers never move back."""
    state.receive(event("carol", seq=SEQ + 1, rev=1))
    assert state.receive(snapshot(record("alice"))) == []
    assert state.seq == SEQ + 1


def test_resuming_keeps_everything(state: ClientState) -> None:
    """`resumed` has no users because nothing was missed."""
    state.reconnected()
    assert state.receive(snapshot(resumed=True)) == []
    assert statuses(state) == {"alice": "online"}


def test_an_answer_that_is_behind_its_question_begins_anew(state: ClientState) -> None:
    """The service lost its last seconds: numbers and revs go on from its answer, at once and on the same connection."""
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
    """A late snapshot that answers an older question says nothing, also as the first on a connection."""
    state.receive(event("alice", "busy", seq=SEQ + 1, rev=2))
    state.reconnected()
    assert state.receive(snapshot(record("alice")), asked=SEQ) == []
    assert (state.seq, statuses(state)) == (SEQ + 1, {"alice": "busy"})


def test_a_late_frame_about_oneself_changes_nothing(state: ClientState) -> None:
    """Of two frames about oneself the one with the higher number holds, and of a snapshot and a frame too."""
    state.receive({"type": "presence_self", "seq": SEQ + 3, "self": own(status="busy")})
    state.receive({"type": "presence_self", "seq": SEQ + 2, "self": own(status="away")})
    assert state.own == own(status="busy")
    state.receive(snapshot(record("alice"), seq=SEQ + 1))
    assert state.own == own(status="busy")
    state.receive(snapshot(record("alice"), seq=SEQ + 4) | {"self": own(status="offline")})
    state.receive({"type": "presence_self", "seq": SEQ + 1, "self": own(status="away")})
    assert state.own == own(status="offline")


def test_a_stranger_has_no_rev_and_is_nobody(state: ClientState) -> None:
    """A record without one is a stranger's: it does not come in, and a contact that became a stranger goes."""
    stranger = {"userId": "eve", "status": "offline"}
    assert state.receive({"type": "user_offline", "seq": SEQ + 1, **stranger}) == []
    assert state.receive(snapshot(record("alice"), stranger, seq=SEQ + 2)) == []
    former = {"userId": "alice", "status": "offline"}
    assert state.receive(snapshot(former, seq=SEQ + 3)) == [Change(record("alice"), None)]


def test_parts_of_two_answers_do_not_make_one() -> None:
    """Two snapshots with the same number that answer different questions are put together apart."""
    state = ClientState()
    assert state.receive(snapshot(record("alice"), part=1, parts=2, id="s1")) == []
    assert state.receive(snapshot(record("carol"), part=2, parts=2, id="s2")) == []
    assert len(state.receive(snapshot(record("carol"), part=2, parts=2, id="s1"))) == 2


def test_a_part_of_a_cut_connection_is_forgotten(state: ClientState) -> None:
    """Parts of a snapshot that came on two connections do not make one."""
    state.receive(snapshot(record("carol"), seq=SEQ + 1, part=1, parts=2))
    state.reconnected()
    assert state.receive(snapshot(record("dave"), seq=SEQ + 1, part=2, parts=2)) == []


def test_frames_of_other_types_say_nothing(state: ClientState) -> None:
    """Errors, answers, what API Gateway says and what does not exist yet change nothing."""
    for frame in ({"type": "error", "code": "unavailable"}, {"message": "Internal server error"}, {"type": "new"}):
        assert state.receive(frame) == []


def test_order_and_repetition_do_not_matter(rng: random.Random) -> None:
    """Any reordering and duplication of frames leaves the state as the frames in order leave it."""
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
