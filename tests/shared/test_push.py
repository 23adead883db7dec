"""Pushing, over real sockets: signatures as the SDK makes them, and what becomes of each answer."""

from __future__ import annotations

import itertools
import threading
import time
from datetime import UTC, datetime
from functools import partial

import boto3
import pytest

from shared.delivery import Frame
from shared.push import LINKS, Pusher, _Pace, _Requests
from shared.settings import SettingsError
from shared.sigv4 import Signer
from tests.support.management_server import ManagementServer, Received
from tests.support.pushing import ALICE, BOB, CAROL, Clock, Counts, Make, frames

# Delivery


def test_every_frame_arrives_once_and_in_the_order_of_its_connection(
    server: ManagementServer, pusher: Pusher, meter: Counts
) -> None:
    """Three hundred frames to seven connections arrive once each, and each connection gets its own in order."""
    given = frames(300, to=7)
    assert pusher.post(given) == set()
    for connection_id in {frame.connection_id for frame in given}:
        assert server.posted(connection_id) == [frame.data for frame in given if frame.connection_id == connection_id]
    assert +meter.counts == {"PostsSent": 300}
    assert [name for name, _ in meter.times] == ["PostTime"]


def test_a_large_frame_arrives_whole(server: ManagementServer, pusher: Pusher) -> None:
    """A frame of 128 KB, the most that API Gateway takes, is one post."""
    data = b"x" * 128 * 1024
    pusher.post([Frame(ALICE, data)])
    assert server.posted(ALICE) == [data]


def test_posts_run_side_by_side_on_sixteen_connections_and_no_more(server: ManagementServer, pusher: Pusher) -> None:
    """Sixteen posts are under way at once, and a hundred more open no further socket."""
    together = threading.Barrier(LINKS)
    first = itertools.count()

    def answer(received: Received) -> int:
        if next(first) < LINKS:
            together.wait(timeout=10)
        return 200

    server.answer = answer
    pusher.post(frames(16 + 100))
    assert len(server.requests) == 116
    assert len(server.links) == LINKS


def test_nothing_to_post_touches_nothing(make: Make, meter: Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    """No frames need no endpoint, no credentials and no metric."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    pusher = make("")
    assert pusher.post([]) == set()
    pusher.close([])
    assert meter.counts == {}
    assert meter.times == []


@pytest.mark.parametrize("url", ["", "api.example.com/live", "wss://api.example.com/live", "https:///live"])
def test_a_callback_url_that_is_none_is_refused_in_one_sentence(make: Make, url: str) -> None:
    """Posting without a usable callback_url names the setting."""
    with pytest.raises(SettingsError, match=r"^callback_url must be the URL"):
        make(url).post(frames(1))


# Signatures: boto3 posts to the same server, and its Authorization header is what ours must be


@pytest.mark.parametrize("token", ["", "IQoJb3JpZ2luX2VjEAMaCXVzLWVhc3QtMSJHMEUCIQ+/=="])
@pytest.mark.parametrize("connection_id", ["PJqB0E1tKRcFAQw=", "L0SM9cOFvHcCIhw=", "A-_-_-b9-_-_-c_=", "a/b+c d=="])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_the_signature_is_the_sdks_byte_for_byte(
    server: ManagementServer, method: str, connection_id: str, token: str
) -> None:
    """Path, signed headers and signature are those of boto3 for the same request at the same moment."""
    environ = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalr+bPx/K7", "AWS_REGION": "us-east-1"}
    sdk = boto3.client(
        "apigatewaymanagementapi",
        region_name="us-east-1",
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=token or None,
        endpoint_url=server.url,
    )
    body = '{"customStatus":{"text":"Grüße","emoji":"🎧"}}'.encode() if method == "POST" else b""
    if method == "POST":
        sdk.post_to_connection(ConnectionId=connection_id, Data=body)
    else:
        sdk.delete_connection(ConnectionId=connection_id)
    sdk.close()
    [theirs] = server.requests

    moment = datetime.strptime(theirs.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    signer = Signer("execute-api", environ | {"AWS_SESSION_TOKEN": token}, moment)
    head, _, ours = _Requests(server.host, "/live", signer).write(method, connection_id, body).partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert line == f"{theirs.method} {theirs.path} HTTP/1.1"
    assert dict(header.split(": ", 1) for header in headers).items() <= theirs.headers.items()
    assert ours == theirs.body


def test_credentials_are_read_at_each_call(
    server: ManagementServer, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotated credentials sign the very next post, and a session token rides along."""
    pusher.post([Frame(ALICE, b"{}")])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDROTATED")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "fresh")
    pusher.post([Frame(ALICE, b"{}")])
    before, after = (received.headers for received in server.requests)
    assert "Credential=AKIDEXAMPLE/" in before["authorization"]
    assert "x-amz-security-token" not in before
    assert "Credential=AKIDROTATED/" in after["authorization"]
    assert after["x-amz-security-token"] == "fresh"


# Answers


def test_gone_names_exactly_the_connections_that_are_gone(
    server: ManagementServer, pusher: Pusher, meter: Counts
) -> None:
    """A 410 ends that connection's frames at once, is not retried, and touches no other connection."""
    server.answer = lambda received: 410 if received.connection_id == BOB else 200
    given = [Frame(connection_id, b'{"n":%d}' % n) for n in (1, 2, 3) for connection_id in (ALICE, BOB, CAROL)]
    assert pusher.post(given) == {BOB}
    assert len(server.posted(BOB)) == 1
    assert len(server.posted(ALICE)) == len(server.posted(CAROL)) == 3
    assert +meter.counts == {"PostsSent": 6, "PostsGone": 1}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_fault_is_retried_until_it_has_passed(
    server: ManagementServer, pusher: Pusher, meter: Counts, status: int
) -> None:
    """Two throttled or failed answers, then success: delivered, and the next frame did not overtake."""
    trouble = itertools.chain([status, status], itertools.repeat(200))
    server.answer = lambda received: next(trouble)
    assert pusher.post([Frame(ALICE, b"1"), Frame(ALICE, b"2")]) == set()
    assert server.posted(ALICE) == [b"1", b"1", b"1", b"2"]
    assert meter.counts["PostsSent"] == 2
    assert meter.counts["PostsThrottled"] == (2 if status == 429 else 0)
    assert meter.counts["PostsFailed"] == 0


def test_retries_wait_longer_each_time(server: ManagementServer, pusher: Pusher) -> None:
    """Each pause before a retry is at least half its nominal length, which doubles from 100 ms."""
    trouble = itertools.chain([429, 429, 429], itertools.repeat(200))
    server.answer = lambda received: next(trouble)
    pusher.post([Frame(ALICE, b"1")])
    pauses = [later.at - earlier.at for earlier, later in itertools.pairwise(server.requests)]
    assert len(pauses) == 3
    assert pauses[0] >= 0.05
    assert pauses[1] >= 0.1
    assert pauses[2] >= 0.2


def test_a_lasting_fault_ends_with_the_budget_and_raises_nothing(
    server: ManagementServer, make: Make, meter: Counts
) -> None:
    """500 for ever: the call ends when its budget does; the rest is counted as failed."""
    server.answer = lambda received: 500 if received.connection_id == BOB else 200
    started = time.monotonic()
    assert make(server.url, budget=0.4).post([Frame(ALICE, b"1"), Frame(BOB, b"1"), Frame(BOB, b"2")]) == set()
    assert 0.4 <= time.monotonic() - started < 1.5
    assert +meter.counts == {"PostsSent": 1, "PostsFailed": 2}


def test_a_call_ends_when_its_caller_has_no_time_left(server: ManagementServer, pusher: Pusher, meter: Counts) -> None:
    """A caller that has less time than the budget gets its answer within that time, for posting and for closing."""
    server.answer = server.hang
    started = time.monotonic()
    pusher.post(frames(1), within=0.2)
    pusher.close([ALICE], within=0.2)
    assert 0.4 <= time.monotonic() - started < 1.5
    assert +meter.counts == {"PostsFailed": 1, "ClosesFailed": 1}


@pytest.mark.parametrize("status", [400, 403, 413])
def test_a_refusal_is_counted_and_not_repeated(
    server: ManagementServer, pusher: Pusher, meter: Counts, status: int
) -> None:
    """A malformed, forbidden or oversized post is asked once; the connection's next frame still goes out."""
    server.answer = lambda received: status if received.body == b"bad" else 200
    assert pusher.post([Frame(ALICE, b"bad"), Frame(ALICE, b"good")]) == set()
    assert server.posted(ALICE) == [b"bad", b"good"]
    assert +meter.counts == {"PostsSent": 1, "PostsFailed": 1}


def test_what_went_wrong_is_logged_once_and_without_ids(
    server: ManagementServer, pusher: Pusher, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning per call says how much failed and with which answers, and names no connection."""
    server.answer = lambda received: 403
    pusher.post([Frame(ALICE, b"1"), Frame(BOB, b"1")])
    assert [record.getMessage() for record in caplog.records] == ["2 POST requests failed: {'403': 2}"]


def test_one_hanging_peer_delays_nobody_else(server: ManagementServer, make: Make, meter: Counts) -> None:
    """A post that is never answered costs its own connection's frames; all others arrive as if it were not there."""

    def answer(received: Received) -> int:
        if received.connection_id == BOB:
            server.hang(received)
        return 200

    server.answer = answer
    started = time.monotonic()
    given = [Frame(BOB, b"1"), Frame(BOB, b"2"), *frames(200)]
    assert make(server.url, budget=1.0).post(given) == set()
    assert time.monotonic() - started < 2.0
    assert len(server.posted(BOB)) == 1
    others = [received.at - started for received in server.requests if received.connection_id != BOB]
    assert len(others) == 200
    assert max(others) < 0.9
    assert +meter.counts == {"PostsSent": 200, "PostsFailed": 2}


def test_a_hanging_post_is_given_up_before_the_budget(server: ManagementServer, pusher: Pusher, meter: Counts) -> None:
    """A single post waits a second for its answer, not the whole budget, and is not repeated."""
    server.answer = server.hang
    started = time.monotonic()
    pusher.post([Frame(ALICE, b"1"), Frame(ALICE, b"2")])
    assert 1.0 <= time.monotonic() - started < 3.0
    assert server.posted(ALICE) == [b"1"]
    assert +meter.counts == {"PostsFailed": 2}


def test_many_hanging_peers_delay_nobody_else(server: ManagementServer, pusher: Pusher, meter: Counts) -> None:
    """Forty posts that are never answered come first: the two hundred behind them arrive within a second."""
    hanging = {f"Hang{number:04}Qw=" for number in range(40)}
    server.answer = lambda received: server.hang(received) if received.connection_id in hanging else 200
    started = time.monotonic()
    pusher.post([*(Frame(connection_id, b"1") for connection_id in hanging), *frames(200)])
    assert time.monotonic() - started < 3.0
    others = [received.at - started for received in server.requests if received.connection_id not in hanging]
    assert len(others) == 200
    assert max(others) < 1.5
    assert +meter.counts == {"PostsSent": 200, "PostsFailed": 40}


def test_whoever_hung_is_served_after_the_others_and_briefly_for_a_minute(
    server: ManagementServer, pusher: Pusher, clock: Clock
) -> None:
    """A peer that hung costs the next calls a quarter of a second, until it answers again or a minute has passed."""
    server.answer = lambda received: server.hang(received) if received.connection_id == BOB else 200

    def seconds() -> float:
        started = time.monotonic()
        pusher.post([Frame(BOB, b"1"), *frames(20)])
        return time.monotonic() - started

    assert seconds() >= 1.0
    assert seconds() < 0.8
    assert server.requests[-1].connection_id == BOB
    clock.ahead = 61
    assert seconds() >= 1.0
    server.answer = lambda _received: 200
    pusher.post([Frame(BOB, b"2")])
    server.answer = lambda received: server.hang(received) if received.connection_id == BOB else 200
    assert seconds() >= 1.0


def test_those_who_hung_have_their_turns_one_after_the_other(server: ManagementServer, pusher: Pusher) -> None:
    """More peers hung than can be tried in a quarter of a second: the next call begins with those that were not."""
    hanging = [Frame(f"Hang{number:04}Qw=", b"1") for number in range(LINKS + 4)]
    server.answer = server.hang
    pusher.post(hanging)
    tried = []
    for _ in range(2):
        before = len(server.requests)
        pusher.post(hanging)
        tried.append({received.connection_id for received in server.requests[before:]})
    assert len(tried[0]) == len(tried[1]) == LINKS
    assert len(tried[0] | tried[1]) == LINKS + 4


def test_an_answer_that_comes_too_late_is_nobodys(server: ManagementServer, make: Make, meter: Counts) -> None:
    """After a call ran out of time, the late answer to it is not taken for the answer to the next call's post."""
    release = threading.Event()

    def answer(received: Received) -> int:
        if received.body == b"slow":
            release.wait(timeout=10)
            return 200
        return 410

    server.answer = answer
    pusher = make(server.url, budget=0.2)
    assert pusher.post([Frame(ALICE, b"slow")]) == set()
    release.set()
    assert pusher.post([Frame(ALICE, b"next")]) == {ALICE}
    assert +meter.counts == {"PostsFailed": 1, "PostsGone": 1}


# Closing connections


def test_close_deletes_each_connection(server: ManagementServer, pusher: Pusher, meter: Counts) -> None:
    """Closing is a DELETE; one that was gone already is closed, and one that is forbidden is counted."""
    server.answer = lambda received: {ALICE: 204, BOB: 410, CAROL: 403}[received.connection_id]
    pusher.close([ALICE, BOB, CAROL])
    assert {(received.method, received.connection_id) for received in server.requests} == {
        ("DELETE", ALICE),
        ("DELETE", BOB),
        ("DELETE", CAROL),
    }
    assert +meter.counts == {"ConnectionsClosed": 2, "ClosesFailed": 1}


def test_an_answer_without_content_keeps_the_connection(server: ManagementServer, pusher: Pusher) -> None:
    """204 has no length and needs none: the socket is used again."""
    pusher.close([ALICE])
    pusher.close([BOB])
    assert len(server.links) == 1


# The pace


def test_the_pace_lets_a_burst_through_and_then_spaces_requests_out() -> None:
    """After a pause ten come at once, then one each 10 ms; the next pause earns the burst again and no more."""
    pace = _Pace(rate=100, burst=10)
    near = partial(pytest.approx, abs=1e-6)
    assert [pace.reserve(50.0) for _ in range(11)] == near([0.0] * 11)
    assert [pace.reserve(50.0) for _ in range(3)] == near([0.01, 0.02, 0.03])
    assert pace.reserve(50.02) == near(0.02)
    assert [pace.reserve(900.0) for _ in range(12)] == near([0.0] * 11 + [0.01])


def test_posts_keep_the_pace(server: ManagementServer, pusher: Pusher) -> None:
    """Sixty posts at 100 per second and a burst of ten take half a second."""
    pusher._pace = _Pace(rate=100, burst=10)
    started = time.monotonic()
    pusher.post(frames(60))
    assert 0.45 <= time.monotonic() - started < 1.5
    assert len(server.requests) == 60
