"""How a client applies frames, in any order and with duplicates."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from load.state import HOLE_PATIENCE, Change, Frame, State, Step, changes, next_tick, receive, tick

VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "vectors.json").read_text("utf-8"))["vectors"]
SEQ = 1000


def frame_of(arrival: dict[str, Any], place: int) -> Frame:
    """The frame of an arrival in docs/vectors.json, which says what the kinds are."""
    (kind,) = arrival.keys() - {"t"}
    fields = arrival[kind]
    match kind:
        case "frame" if "self" in fields:
            return {"type": "presence_self", **fields}
        case "frame":
            return {"type": "presence_batch", "events": fields.get("records", []), **fields}
        case "snapshot" | "part":
            whole = {"snapshot": f"whole {place}", "part": 1, "parts": 1}
            return {"type": "presence_snapshot", "resumed": False, **whole, **fields}
        case "resumed":
            return {"type": "presence_snapshot", "resumed": True, **fields}
        case "answer":
            return {"type": "presence", "part": 1, "parts": 1, **fields}
        case "refused":
            return {"type": "error", "code": "invalid_message", "field": "seq", "message": "is too high"}
    raise AssertionError(f"an arrival of an unknown kind: {arrival}")


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_every_published_sequence_ends_in_its_picture(vector: dict[str, Any]) -> None:
    """docs/vectors.json says what each client shows, reports and sends after the same arrivals."""
    state, actions, events = State(), [], []
    for place, arrival in enumerate(vector["arrivals"]):
        now = arrival["t"]
        step = tick(state, now) if "tick" in arrival else receive(state, frame_of(arrival, place), now)
        if step.sync:
            actions.append({"t": now, "do": "sync", "seq": step.state.seq})
        for before, after in changes(state, step.state):
            user, status = (before or after or {})["userId"], after["status"] if after else None
            events.append({"t": now, "userId": user, "status": status})
        state = step.state
    expected = {**vector["expect"]}
    if "changes" in expected:
        assert sorted(map(str, events)) == sorted(map(str, expected.pop("changes")))
    picture = {"seq": state.seq, "users": statuses(state), "actions": actions, "self": (state.own or {}).get("status")}
    assert {name: picture[name] for name in expected} == expected


def record(user: str, status: str = "online") -> dict[str, Any]:
    """A contact's record, as a viewer sees it."""
    return {
        "userId": user,
        "status": status,
        "customStatus": None,
        "deviceType": None if status == "offline" else "web",
        "lastSeen": None,
    }


def own(**fields: Any) -> dict[str, Any]:
    """The user's own state."""
    return {"userId": "bob", "connectionId": "K=", "status": "online", "devices": [], **fields}


def snapshot(
    *users: dict[str, Any], seq: int = SEQ, name: str = "first", part: int = 1, parts: int = 1, **of_self: Any
) -> Frame:
    """A snapshot, or a part of one. `self` is in the first part."""
    return {
        "type": "presence_snapshot",
        "snapshot": name,
        "seq": seq,
        "resumed": False,
        "part": part,
        "parts": parts,
        **({"self": own(**of_self)} if part == 1 else {}),
        "users": list(users),
    }


def resumed(seq: int = SEQ, **of_self: Any) -> Frame:
    """The response to a client that missed nothing."""
    return {"type": "presence_snapshot", "seq": seq, "resumed": True, "self": own(**of_self)}


def event(prev: int, seq: int, user: str = "alice", status: str = "busy") -> Frame:
    """One change in one frame."""
    return {"type": "presence_status", "seq": seq, "prev": prev, **record(user, status)}


def batch(prev: int, seq: int, *events: dict[str, Any]) -> Frame:
    """Several changes in one frame."""
    return {"type": "presence_batch", "seq": seq, "prev": prev, "events": list(events)}


def own_event(prev: int, seq: int, **of_self: Any) -> Frame:
    """A change of the user's own state."""
    return {"type": "presence_self", "seq": seq, "prev": prev, "self": own(**of_self)}


def run(state: State, *frames: Frame, now: int = 0) -> Step:
    """The step after the last of some frames that arrive at the same time."""
    step = Step(state)
    for frame in frames:
        step = receive(step.state, frame, now)
    return step


def after(state: State, *frames: Frame, now: int = 0) -> State:
    """The state after some frames, none of which makes the client send `sync`."""
    for frame in frames:
        state, sync = receive(state, frame, now)
        assert not sync
    return state


@pytest.fixture
def state() -> State:
    """A state with alice, who is online, and everything up to SEQ."""
    return after(State(), snapshot(record("alice")))


def statuses(state: State) -> dict[str, str]:
    """The status of each user, in short."""
    return {user: record["status"] for user, record in state.users.items()}


def test_a_snapshot_is_the_beginning(state: State) -> None:
    """A snapshot contains the contacts, the user's own state, and the number from which frames count."""
    assert statuses(state) == {"alice": "online"}
    assert (state.own, state.seq) == (own(), SEQ)


def test_a_duplicate_frame_changes_nothing(state: State) -> None:
    """A frame that arrives twice changes something once."""
    frame = event(SEQ, 1500)
    later = after(state, frame)
    assert changes(state, later) == [Change(record("alice"), record("alice", "busy"))]
    assert after(later, frame) is later


def test_only_the_record_of_a_frame_is_stored(state: State) -> None:
    """The type and the numbers of a frame are not part of a record."""
    assert after(state, event(SEQ, 1500)).users["alice"] == record("alice", "busy")


def test_a_state_is_never_changed_in_place(state: State) -> None:
    """Whoever holds a state sees what it was."""
    after(state, event(SEQ, 1500), event(1700, 1800), snapshot(seq=1900, name="second", parts=2))
    assert state == after(State(), snapshot(record("alice")))


def test_an_equal_record_is_no_change(state: State) -> None:
    """It raises no event in a frame or a snapshot, but a snapshot from before that frame does not replace it."""
    later = after(state, event(SEQ, 1500, "alice", "online"))
    assert changes(state, later) == []
    assert statuses(after(later, snapshot(seq=1400, name="second"))) == {"alice": "online"}
    again = after(later, snapshot(record("alice"), seq=1600, name="third"))
    assert changes(later, again) == []


def test_a_batch_has_one_number(state: State) -> None:
    """Several changes in one frame are reported separately, and count as one number."""
    later = after(state, batch(SEQ, 1500, record("alice", "busy"), record("carol", "away")))
    assert changes(state, later) == [
        Change(record("alice"), record("alice", "busy")),
        Change(None, record("carol", "away")),
    ]
    assert later.seq == 1500


def test_an_empty_batch_moves_the_number(state: State) -> None:
    """It is a number whose records vanished before it was sent."""
    later = after(state, batch(SEQ, 1500))
    assert (later.users, later.seq) == (state.users, 1500)
    assert after(later, event(1500, 1600)).seq == 1600


def test_a_frame_about_the_user_is_applied_in_order(state: State) -> None:
    """`presence_self` has numbers like every other frame."""
    ahead = after(state, own_event(1500, 1600, status="away"))
    assert ahead.own == own()
    assert after(ahead, own_event(SEQ, 1500, status="busy")).own == own(status="away")


def test_of_self_the_later_number_stays(state: State) -> None:
    """A snapshot or a `resumed` replaces `self`, unless a later frame has set it."""
    later = after(state, own_event(SEQ, 1500, status="busy"))
    for old in (snapshot(seq=1400, name="second"), resumed(1400)):
        assert after(later, old).own == own(status="busy")
    for new in (snapshot(seq=1500, name="second", status="away"), resumed(1500, status="away")):
        assert after(later, new).own == own(status="away")


def test_resuming_keeps_everything(state: State) -> None:
    """`resumed` has no users because nothing was missed: it sets `self` only, whatever is kept or collected."""
    busy = after(state, event(1500, 1600), snapshot(seq=1700, name="second", parts=2))
    later = after(busy, resumed(SEQ, status="away"))
    assert later.own == own(status="away")
    assert (later.seq, later.users, later.kept, later.hole_since, later.parts) == (
        (busy.seq, busy.users, busy.kept, busy.hole_since, busy.parts)
    )


def test_a_missing_frame_may_be_two_seconds_late(state: State) -> None:
    """After that, what was kept is dropped, and the client syncs once."""
    assert next_tick(state) is None
    ahead = after(state, event(1500, 1600), now=10)
    ahead = after(ahead, event(1700, 1800), now=900)
    assert next_tick(ahead) == 10 + HOLE_PATIENCE
    assert tick(ahead, 9 + HOLE_PATIENCE) == Step(ahead)
    given_up, sync = tick(ahead, 10 + HOLE_PATIENCE)
    assert sync
    assert given_up == state
    assert next_tick(given_up) is None


def test_the_next_hole_has_its_own_time(state: State) -> None:
    """Whenever the numbers move on and a frame is still missing, the client waits for two seconds again."""
    ahead = after(state, event(1500, 1600), event(1700, 1800), now=10)
    partly = after(ahead, event(SEQ, 1200), now=500)
    assert next_tick(partly) == 500 + HOLE_PATIENCE
    closed = after(partly, event(1200, 1500), now=1900)
    assert (closed.seq, next_tick(closed)) == (1600, 1900 + HOLE_PATIENCE)
    assert next_tick(after(closed, event(1600, 1700), now=2000)) is None
    old = after(partly, snapshot(seq=1100, name="second"), now=700)
    assert next_tick(old) == 500 + HOLE_PATIENCE
    skipped = after(ahead, snapshot(seq=1650, name="second"), now=800)
    assert next_tick(skipped) == 800 + HOLE_PATIENCE


def test_before_the_first_snapshot_no_hole_is_timed() -> None:
    """Only a snapshot says where numbers start; frames beyond it wait for two seconds from then on."""
    ahead = after(State(), event(1700, 1800), event(SEQ, 1500), now=0)
    assert next_tick(ahead) is None
    assert tick(ahead, 10 * HOLE_PATIENCE) == Step(ahead)
    state = after(ahead, snapshot(seq=SEQ), now=9000)
    assert (state.seq, next_tick(state)) == (1500, 9000 + HOLE_PATIENCE)


def test_a_branch_causes_a_sync(state: State) -> None:
    """A frame whose `prev` this client has passed comes from a store that lost something, also among kept frames."""
    later = after(state, event(SEQ, 1500))
    assert run(later, event(1200, 1900)) == Step(later, sync=True)
    step = run(state, event(1200, 1900), event(SEQ, 1500))
    assert (step.sync, step.state) == (True, later)


def test_a_snapshot_in_parts_counts_when_it_is_complete() -> None:
    """Until the last part arrives nothing is shown, in whatever order the parts come, and however often."""
    parts = [snapshot(record(user), part=place, parts=3) for place, user in enumerate(("alice", "carol", "dave"), 1)]
    for order in itertools.permutations(parts):
        seen, state = [], State()
        for part in (order[0], *order):
            state = after(state, part)
            seen.append(len(state.users))
        assert seen == [0, 0, 0, 3]
        assert (state.seq, state.own, state.parts) == (SEQ, own(), {})


def test_parts_of_two_snapshots_are_kept_apart(state: State) -> None:
    """Their names tell them apart, also with one number; one that a later snapshot overtook is forgotten."""
    old, same = (
        [snapshot(record("carol"), seq=seq, name=name, part=part, parts=2) for part in (1, 2)]
        for seq, name in ((1500, "old"), (1600, "same"))
    )
    collecting = after(state, old[0], same[0])
    assert collecting.users == state.users
    later = after(collecting, snapshot(record("dave"), seq=1600, name="whole"))
    assert set(later.parts) == {"same"}
    assert statuses(after(later, same[1])) == {"carol": "online"}
    assert after(later, *old).users == later.users


def test_an_unknown_seq_makes_the_client_forget_its_numbers(state: State) -> None:
    """It keeps what it shows, syncs without a number, and takes the snapshot whatever its number is."""
    busy = after(state, event(SEQ, 1500), own_event(1500, 1600), event(1700, 1800), event(1700, 1900, "carol"))
    error = {"type": "error", "code": "invalid_message", "field": "seq", "message": "is above the present number"}
    forgotten, sync = receive(busy, error, 0)
    assert sync
    assert forgotten.seq is None
    assert (forgotten.users, forgotten.own) == (busy.users, busy.own)
    assert receive(forgotten, error, 0) == Step(forgotten), "it would ask again for ever"
    begun = after(forgotten, event(7, 9, "carol"), snapshot(record("alice"), seq=7, name="second", status="away"))
    assert (begun.seq, statuses(begun)) == (9, {"alice": "online", "carol": "busy"})
    assert begun.own == own(status="away")


def test_other_frames_change_nothing(state: State) -> None:
    """Errors, answers to queries, API Gateway's messages and unknown types change nothing."""
    answer = {"type": "presence", "part": 1, "parts": 1, "users": [record("alice", "away"), record("eve")]}
    errors = [{"type": "error", "code": "unavailable"}, {"type": "error", "field": "status"}]
    frames: list[Frame] = [answer, *errors, {"message": "Internal server error"}, {"type": "new"}]
    for frame in frames:
        assert receive(state, frame, 0) == Step(state)


def test_changes_name_who_is_gone(state: State) -> None:
    """A contact that is not in a snapshot is removed."""
    later = after(state, snapshot(record("carol"), seq=1500, name="second"))
    assert changes(state, later) == [Change(record("alice"), None), Change(None, record("carol"))]


def test_order_and_repetition_do_not_matter(rng: random.Random) -> None:
    """Any reordering and duplication of frames gives the same state as the frames in order."""
    for _ in range(200):
        numbers = [SEQ, *sorted(rng.sample(range(SEQ + 1, SEQ + 100), 8))]
        frames = [
            event(prev, seq, rng.choice("abc"), rng.choice(("busy", "away", "offline")))
            for prev, seq in itertools.pairwise(numbers)
        ]
        orders: list[Sequence[Frame]] = [frames, rng.sample([*frames, *rng.sample(frames, 4)], 12)]
        straight, shuffled = (after(State(), snapshot(), *order) for order in orders)
        assert shuffled == straight
        assert straight.seq == numbers[-1]
