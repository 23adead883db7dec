"""What a client must send, and when. The test moves the clock."""

from __future__ import annotations

import random
from typing import Any

import pytest

from load.session import ANSWER_PATIENCE, HOLE_PATIENCE, SILENCE, Link, Session, Silent
from load.state import ClientState
from tests.support.chance import Earliest
from tests.support.frames import SEQ, event, snapshot


@pytest.fixture
def session() -> Session:
    """A session that synced at 0 and has its snapshot."""
    session = Session(ClientState(), Earliest(), 0.0)
    session.due(0.0)
    session.receive(snapshot(), 0.0)
    return session


def test_the_first_message_is_sync() -> None:
    """A new client requests everything."""
    assert Session(ClientState(), Earliest(), 0.0).due(0.0) == [{"action": "sync", "id": "sync-1"}]


def test_a_later_connection_resumes_and_replaces() -> None:
    """It sends its last number and the id of the connection that it replaces."""
    state = ClientState()
    state.receive(snapshot())
    sync = Session(state, Earliest(), 0.0, "K1=").due(0.0)
    assert sync == [{"action": "sync", "id": "sync-1", "seq": SEQ, "replaces": "K1="}]


@pytest.mark.parametrize("answers", ["sync-3", "heartbeat-2"])
def test_a_service_that_lost_its_last_seconds_wins(answers: str) -> None:
    """A snapshot that is older than its request starts over, also on an open connection."""
    state = ClientState()
    session = Session(state, Earliest(), 0.0)
    session.due(0.0)
    session.receive(snapshot(id="sync-1"), 0.0)
    session.due(30.0)
    session.receive(event(SEQ + 2), 31.0)
    session.due(33.0)
    session.receive(snapshot(SEQ - 5, id="somebody's"), 33.0)
    assert (state.seq, state.users["alice"]["rev"]) == (SEQ, 2)
    session.receive(snapshot(SEQ - 5, id=answers), 34.0)
    assert (state.seq, state.users["alice"]["rev"]) == (SEQ - 5, 1)


def test_heartbeats_follow_the_services_interval(session: Session) -> None:
    """A heartbeat is due `heartbeatEvery` after the last message, and reports no activity."""
    assert session.wake_at == 30
    assert session.due(29.9) == []
    assert session.due(30) == [{"action": "heartbeat", "id": "heartbeat-2", "active": False, "seq": SEQ}]
    assert session.wake_at == 60


def test_a_missing_frame_may_be_two_seconds_late(session: Session) -> None:
    """A late frame has no effect; one that is still missing after two seconds causes one sync."""
    session.receive(event(SEQ + 2), 1.0)
    assert session.wake_at == 1.0 + HOLE_PATIENCE
    session.receive(event(SEQ + 1), 1.5)
    assert session.wake_at == 30
    session.receive(event(SEQ + 4), 5.0)
    assert session.due(5.0 + HOLE_PATIENCE) == [{"action": "sync", "id": "sync-2", "seq": SEQ + 2}]
    assert session.due(5.1 + HOLE_PATIENCE) == []


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
    session.receive(snapshot(), SILENCE + 1)
    assert session.due(SILENCE + ANSWER_PATIENCE) == []


@pytest.mark.parametrize("frame", [{"type": "error", "retryAfter": 1000}, {"message": "Internal server error"}])
def test_an_error_makes_the_state_stale_until_a_snapshot(session: Session, frame: dict[str, Any]) -> None:
    """After an error the client syncs again, later each time, and its state is stale meanwhile."""
    session.receive({**frame, "message": "no"}, 10.0)
    assert session.link == Link("stale", "no")
    again = 10 + frame.get("retryAfter", 0) / 1000
    assert session.wake_at == again
    assert session.due(again) == [{"action": "sync", "id": "sync-2", "seq": SEQ}]
    session.receive(snapshot(), 12.0)
    assert session.link == Link("live")


def test_retries_back_off() -> None:
    """The upper bound of the random wait doubles with each failure, up to thirty seconds."""
    asked: list[float] = []

    class Recorder(random.Random):
        def uniform(self, a: float, b: float) -> float:
            asked.append(b)
            return b

    session = Session(ClientState(), Recorder(), 0.0)
    for _ in range(7):
        session.receive({"message": "Internal server error"}, 0.0)
    assert asked == [1, 2, 4, 8, 16, 30, 30]


def test_it_rotates_in_time() -> None:
    """The time to rotate is computed from the service's clock, and comes early by a random part of a tenth."""
    for seed in range(20):
        session = Session(ClientState(), random.Random(seed), 100.0)
        session.receive(snapshot(life=6600), 100.0)
        assert 100 + 0.9 * 6600 <= session.rotate_at <= 100 + 6600


def test_a_short_token_causes_no_storm() -> None:
    """A connection is used for a second at least."""
    session = Session(ClientState(), Earliest(), 100.0)
    session.receive(snapshot(life=0), 100.0)
    assert session.rotate_at == 101
