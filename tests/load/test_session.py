"""What a client must send, and when. The test moves the clock."""

from __future__ import annotations

import random
from typing import Any

import pytest

from load.session import ANSWER_PATIENCE, SILENCE, Link, Session, Silent
from load.state import State
from tests.support.chance import Earliest
from tests.support.frames import SEQ, event, resumed, snapshot


@pytest.fixture
def session() -> Session:
    """A session that synced at 0 and has its snapshot."""
    session = Session(State(), Earliest(), 0.0)
    session.due(0.0)
    session.receive(snapshot(), 0.0)
    return session


def test_the_first_message_is_sync() -> None:
    """A new client requests everything."""
    assert Session(State(), Earliest(), 0.0).due(0.0) == [{"action": "sync"}]


def test_a_later_connection_resumes_and_replaces() -> None:
    """It sends its last number and the id of the connection that it replaces."""
    before = Session(State(), Earliest(), 0.0)
    before.receive(snapshot(), 0.0)
    sync = Session(before.state, Earliest(), 0.0, "K1=").due(0.0)
    assert sync == [{"action": "sync", "seq": SEQ, "replaces": "K1="}]


def test_heartbeats_follow_the_services_interval(session: Session) -> None:
    """A heartbeat is due `heartbeatEvery` after the last message, and reports no activity."""
    assert session.wake_at == 30
    assert session.due(29.9) == []
    assert session.due(30) == [{"action": "heartbeat", "active": False, "seq": SEQ}]
    assert session.wake_at == 60


def test_a_heartbeat_repeats_the_chosen_status(session: Session) -> None:
    """With the number of its update, so that a service that lost it can apply it again."""
    session.choose("busy", 3)
    beat = {"action": "heartbeat", "active": False, "status": "busy", "n": 3, "seq": SEQ}
    assert session.due(30) == [beat]


def test_a_missing_frame_may_be_two_seconds_late(session: Session) -> None:
    """A late frame has no effect; one that is still missing after two seconds causes one sync."""
    session.receive(event(1500, 1600), 1.0)
    assert session.wake_at == 3.0
    session.receive(event(SEQ, 1500), 1.5)
    assert session.wake_at == 30
    session.receive(event(1700, 1800), 5.0)
    assert session.due(6.9) == []
    assert session.due(7.0) == [{"action": "sync", "seq": 1600}]
    assert session.due(7.1) == []


def test_a_branch_causes_a_sync_at_once(session: Session) -> None:
    """Also while the client waits for the response to another one, whose deadline stays."""
    for now in (1.0, 2.0):
        session.receive(event(SEQ - 1, 1500), now)
        assert session.wake_at == now
        assert session.due(now) == [{"action": "sync", "seq": SEQ}]
        assert session.due(now) == []
    assert session.wake_at == 1.0 + ANSWER_PATIENCE


def test_a_refused_number_is_forgotten(session: Session) -> None:
    """The client syncs without a number, and its state counts as live meanwhile."""
    session.receive({"type": "error", "code": "invalid_message", "field": "seq", "message": "too high"}, 1.0)
    assert session.link == Link("live")
    assert session.due(1.0) == [{"action": "sync"}]
    session.receive(snapshot(7), 1.1)
    assert session.due(31.0) == [{"action": "heartbeat", "active": False, "seq": 7}]


def test_a_number_that_was_not_sent_cannot_be_refused() -> None:
    """If it is refused all the same, the client tries again later and later, as after any error."""
    session = Session(State(), Earliest(), 0.0)
    session.due(0.0)
    session.receive({"type": "error", "code": "invalid_message", "field": "seq", "message": "too high"}, 1.0)
    assert session.link == Link("stale", "too high")


def test_a_part_of_a_snapshot_is_no_response() -> None:
    """The client waits for the other parts, and replaces the connection if they do not arrive."""
    session = Session(State(), Earliest(), 0.0)
    session.due(0.0)
    session.receive(snapshot() | {"parts": 2}, 1.0)
    assert session.link is None
    with pytest.raises(Silent):
        session.due(ANSWER_PATIENCE)


def test_after_long_silence_it_syncs_and_then_gives_up(session: Session) -> None:
    """After two minutes without a frame it syncs; five seconds later the connection counts as silent."""
    for beat in (30, 60, 90):
        session.due(beat)
    assert session.wake_at == SILENCE
    assert [message["action"] for message in session.due(SILENCE)] == ["sync"]
    assert session.wake_at == SILENCE + ANSWER_PATIENCE
    with pytest.raises(Silent):
        session.due(SILENCE + ANSWER_PATIENCE)


def test_a_response_ends_the_wait(session: Session) -> None:
    """A service that responds is not silent."""
    session.due(30)
    session.due(SILENCE)
    session.receive(resumed(), SILENCE + 1)
    assert session.due(SILENCE + ANSWER_PATIENCE) == []


@pytest.mark.parametrize("frame", [{"type": "error", "retryAfter": 1000}, {"message": "Internal server error"}])
def test_an_error_makes_the_state_stale_until_a_snapshot(session: Session, frame: dict[str, Any]) -> None:
    """After an error the client syncs again, later each time, and its state is stale meanwhile."""
    session.receive({**frame, "message": "no"}, 10.0)
    assert session.link == Link("stale", "no")
    again = 10 + frame.get("retryAfter", 0) / 1000
    assert session.wake_at == again
    assert session.due(again) == [{"action": "sync", "seq": SEQ}]
    session.receive(snapshot(), 12.0)
    assert session.link == Link("live")


def test_retries_back_off() -> None:
    """The upper bound of the random wait doubles with each failure, up to thirty seconds."""
    asked: list[float] = []

    class Recorder(random.Random):
        def uniform(self, a: float, b: float) -> float:
            asked.append(b)
            return b

    session = Session(State(), Recorder(), 0.0)
    for _ in range(7):
        session.receive({"message": "Internal server error"}, 0.0)
    assert asked == [1, 2, 4, 8, 16, 30, 30]


def test_it_rotates_in_time() -> None:
    """The time to rotate is computed from the service's clock, and comes early by a random part of a tenth."""
    for seed in range(20):
        session = Session(State(), random.Random(seed), 100.0)
        session.receive(snapshot(life=6600), 100.0)
        assert 100 + 0.9 * 6600 <= session.rotate_at <= 100 + 6600


def test_a_short_token_causes_no_storm() -> None:
    """A connection is used for a second at least."""
    session = Session(State(), Earliest(), 100.0)
    session.receive(snapshot(life=0), 100.0)
    assert session.rotate_at == 101
