"""Fan-out over real sockets: order, limits, retries, hanging clients, the time budget, and what is counted."""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import boto3
import pytest

from shared import push
from shared.delivery import Post
from shared.http_client import CONNECT_TIMEOUT, IDLE_LIMIT
from shared.push import MAX_IN_FLIGHT, Pusher, RateLimiter
from shared.settings import SettingsError
from tests.support.management_server import ManagementServer, Received, write_certificate
from tests.support.pushing import ALICE, BOB, CAROL, Clock, Counts, Make, frames

# Delivery


def test_every_frame_arrives_once_and_in_the_order_of_its_connection(
    server: ManagementServer, pusher: Pusher, metrics: Counts
) -> None:
    """Three hundred frames to seven connections arrive once each, and each connection gets its own in order."""
    given = frames(300, to=7)
    assert pusher.post(given) == set()
    for connection_id in {frame.connection_id for frame in given}:
        assert server.posted(connection_id) == [frame.data for frame in given if frame.connection_id == connection_id]
    assert +metrics.counts == {"PostsSent": 300}
    assert [name for name, _ in metrics.times] == ["PostTime"]


def test_a_large_frame_arrives_whole(server: ManagementServer, pusher: Pusher) -> None:
    """A frame of 128 KB, the most that API Gateway takes, is one post."""
    data = b"x" * 128 * 1024
    pusher.post([Post(ALICE, data)])
    assert server.posted(ALICE) == [data]


def test_sixteen_posts_are_in_flight_and_no_more(server: ManagementServer, pusher: Pusher) -> None:
    """Sixteen posts run concurrently, each on its own socket, and a hundred more open no other socket."""
    together = threading.Barrier(MAX_IN_FLIGHT)
    first = itertools.count()

    def answer(received: Received) -> int:
        if next(first) < MAX_IN_FLIGHT:
            together.wait(timeout=10)
        return 200

    server.answer = answer
    pusher.post(frames(16 + 100))
    assert len(server.requests) == 116
    assert len(server.links) == MAX_IN_FLIGHT


def test_no_frames_need_nothing(make: Make, metrics: Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without frames no endpoint and no credentials are needed, and nothing is counted."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    pusher = make("")
    assert pusher.post([]) == set()
    pusher.close([])
    assert metrics.counts == {}
    assert metrics.times == []


@pytest.mark.parametrize("url", ["", "api.example.com/live", "wss://api.example.com/live", "https:///live"])
def test_an_unusable_callback_url_is_an_error_in_one_sentence(make: Make, url: str) -> None:
    """The error names the setting."""
    with pytest.raises(SettingsError, match=r"^callback_url must be the URL"):
        make(url).post(frames(1))


# Requests


@pytest.mark.parametrize("connection_id", ["PJqB0E1tKRcFAQw=", "L0SM9cOFvHcCIhw=", "A-_-_-b9-_-_-c_=", "a/b+c d=="])
def test_a_request_has_the_sdks_method_path_and_body(
    server: ManagementServer, pusher: Pusher, connection_id: str
) -> None:
    """boto3 sends the same for the same connection, whether it posts or closes."""
    sdk = boto3.client("apigatewaymanagementapi", region_name="eu-central-1", endpoint_url=server.url)
    sdk.post_to_connection(ConnectionId=connection_id, Data=b"{}")
    sdk.delete_connection(ConnectionId=connection_id)
    sdk.close()
    pusher.post([Post(connection_id, b"{}")])
    pusher.close([connection_id])
    sent = [(received.method, received.path, received.body) for received in server.requests]
    assert sent[:2] == sent[2:]


def test_credentials_are_read_at_each_call(
    server: ManagementServer, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotated credentials sign the next post, and a session token is sent with it."""
    pusher.post([Post(ALICE, b"{}")])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDROTATED")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "fresh")
    pusher.post([Post(ALICE, b"{}")])
    before, after = (received.headers for received in server.requests)
    assert "Credential=AKIDEXAMPLE/" in before["authorization"]
    assert "x-amz-security-token" not in before
    assert "Credential=AKIDROTATED/" in after["authorization"]
    assert after["x-amz-security-token"] == "fresh"


# Responses


def test_gone_names_exactly_the_connections_that_are_gone(
    server: ManagementServer, pusher: Pusher, metrics: Counts
) -> None:
    """After a 410 no other frame of that connection is sent, and no other connection is affected."""
    server.answer = lambda received: 410 if received.connection_id == BOB else 200
    given = [Post(connection_id, b'{"n":%d}' % n) for n in (1, 2, 3) for connection_id in (ALICE, BOB, CAROL)]
    assert pusher.post(given) == {BOB}
    assert len(server.posted(BOB)) == 1
    assert len(server.posted(ALICE)) == len(server.posted(CAROL)) == 3
    assert +metrics.counts == {"PostsSent": 6, "PostsGone": 1}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_temporary_error_is_retried_until_it_has_passed(
    server: ManagementServer, pusher: Pusher, metrics: Counts, status: int
) -> None:
    """Two throttled or failed responses, then success: the frame is delivered, and the next one follows it."""
    trouble = itertools.chain([status, status], itertools.repeat(200))
    server.answer = lambda received: next(trouble)
    assert pusher.post([Post(ALICE, b"1"), Post(ALICE, b"2")]) == set()
    assert server.posted(ALICE) == [b"1", b"1", b"1", b"2"]
    assert metrics.counts["PostsSent"] == 2
    assert metrics.counts["PostsThrottled"] == (2 if status == 429 else 0)
    assert metrics.counts["PostsFailed"] == 0


def test_retries_wait_longer_each_time(server: ManagementServer, pusher: Pusher) -> None:
    """The pause before a retry is at least half its nominal length, which doubles from 100 ms."""
    trouble = itertools.chain([429, 429, 429], itertools.repeat(200))
    server.answer = lambda received: next(trouble)
    pusher.post([Post(ALICE, b"1")])
    pauses = [later.at - earlier.at for earlier, later in itertools.pairwise(server.requests)]
    assert len(pauses) == 3
    assert pauses[0] >= 0.05
    assert pauses[1] >= 0.1
    assert pauses[2] >= 0.2


def test_a_lasting_error_ends_with_the_budget_and_raises_nothing(
    server: ManagementServer, make: Make, metrics: Counts
) -> None:
    """A connection that always gets 500: the call ends when its budget does, and its frames count as failed."""
    server.answer = lambda received: 500 if received.connection_id == BOB else 200
    started = time.monotonic()
    assert make(server.url, budget=0.4).post([Post(ALICE, b"1"), Post(BOB, b"1"), Post(BOB, b"2")]) == set()
    assert 0.4 <= time.monotonic() - started < 1.5
    assert +metrics.counts == {"PostsSent": 1, "PostsFailed": 2}


def test_a_call_ends_when_its_caller_has_no_time_left(
    server: ManagementServer, pusher: Pusher, metrics: Counts
) -> None:
    """A caller that has less time than the budget waits no longer than that, for posting and for closing."""
    server.answer = server.hang
    started = time.monotonic()
    pusher.post(frames(1), within=0.2)
    pusher.close([ALICE], within=0.2)
    assert 0.4 <= time.monotonic() - started < 1.5
    assert +metrics.counts == {"PostsFailed": 1, "ClosesFailed": 1}


@pytest.mark.parametrize("status", [400, 403, 413])
def test_a_refusal_is_counted_and_not_repeated(
    server: ManagementServer, pusher: Pusher, metrics: Counts, status: int
) -> None:
    """A malformed, forbidden or oversized post is sent once; the connection's next frame is still sent."""
    server.answer = lambda received: status if received.body == b"bad" else 200
    assert pusher.post([Post(ALICE, b"bad"), Post(ALICE, b"good")]) == set()
    assert server.posted(ALICE) == [b"bad", b"good"]
    assert +metrics.counts == {"PostsSent": 1, "PostsFailed": 1}


def test_failures_are_logged_once_and_without_ids(
    server: ManagementServer, pusher: Pusher, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning per call gives the number of failures and their statuses, and names no connection."""
    server.answer = lambda received: 403
    pusher.post([Post(ALICE, b"1"), Post(BOB, b"1")])
    assert [record.getMessage() for record in caplog.records] == ["2 POST requests failed: {'403': 2}"]


def test_one_hanging_client_delays_no_other(server: ManagementServer, make: Make, metrics: Counts) -> None:
    """A post without a response costs the frames of its own connection; all others arrive as usual."""

    def answer(received: Received) -> int:
        if received.connection_id == BOB:
            server.hang(received)
        return 200

    server.answer = answer
    started = time.monotonic()
    given = [Post(BOB, b"1"), Post(BOB, b"2"), *frames(200)]
    assert make(server.url, budget=1.0).post(given) == set()
    assert time.monotonic() - started < 2.0
    assert len(server.posted(BOB)) == 1
    others = [received.at - started for received in server.requests if received.connection_id != BOB]
    assert len(others) == 200
    assert max(others) < 0.9
    assert +metrics.counts == {"PostsSent": 200, "PostsFailed": 2}


def test_a_hanging_post_is_given_up_before_the_budget(
    server: ManagementServer, pusher: Pusher, metrics: Counts
) -> None:
    """A single post waits a second for its response, not the whole budget, and is not repeated."""
    server.answer = server.hang
    started = time.monotonic()
    pusher.post([Post(ALICE, b"1"), Post(ALICE, b"2")])
    assert 1.0 <= time.monotonic() - started < 3.0
    assert server.posted(ALICE) == [b"1"]
    assert +metrics.counts == {"PostsFailed": 2}


def test_many_hanging_clients_delay_no_other(server: ManagementServer, pusher: Pusher, metrics: Counts) -> None:
    """Forty posts without a response come first: the two hundred behind them arrive within 1.5 seconds."""
    hanging = {f"Hang{number:04}Qw=" for number in range(40)}
    server.answer = lambda received: server.hang(received) if received.connection_id in hanging else 200
    started = time.monotonic()
    pusher.post([*(Post(connection_id, b"1") for connection_id in hanging), *frames(200)])
    assert time.monotonic() - started < 3.0
    others = [received.at - started for received in server.requests if received.connection_id not in hanging]
    assert len(others) == 200
    assert max(others) < 1.5
    assert +metrics.counts == {"PostsSent": 200, "PostsFailed": 40}


def test_for_a_minute_a_client_that_hung_comes_last_and_has_little_time(
    server: ManagementServer, pusher: Pusher, clock: Clock
) -> None:
    """A client that hung costs the next calls a quarter of a second, until it responds or a minute has passed."""
    server.answer = lambda received: server.hang(received) if received.connection_id == BOB else 200

    def seconds() -> float:
        started = time.monotonic()
        pusher.post([Post(BOB, b"1"), *frames(20)])
        return time.monotonic() - started

    assert seconds() >= 1.0
    assert seconds() < 0.8
    assert server.requests[-1].connection_id == BOB
    clock.ahead = 61
    assert seconds() >= 1.0
    server.answer = lambda _received: 200
    pusher.post([Post(BOB, b"2")])
    server.answer = lambda received: server.hang(received) if received.connection_id == BOB else 200
    assert seconds() >= 1.0


def test_clients_that_hung_take_turns(server: ManagementServer, pusher: Pusher) -> None:
    """If more clients hung than a quarter of a second allows, the next call starts with those not yet tried."""
    hanging = [Post(f"Hang{number:04}Qw=", b"1") for number in range(MAX_IN_FLIGHT + 4)]
    server.answer = server.hang
    pusher.post(hanging)
    tried = []
    for _ in range(2):
        before = len(server.requests)
        pusher.post(hanging)
        tried.append({received.connection_id for received in server.requests[before:]})
    assert len(tried[0]) == len(tried[1]) == MAX_IN_FLIGHT
    assert len(tried[0] | tried[1]) == MAX_IN_FLIGHT + 4


def test_a_late_response_is_ignored(server: ManagementServer, make: Make, metrics: Counts) -> None:
    """The late response to a post that was given up is not taken for the response to the next call's post."""
    release = threading.Event()

    def answer(received: Received) -> int:
        if received.body == b"slow":
            release.wait(timeout=10)
            return 200
        return 410

    server.answer = answer
    pusher = make(server.url, budget=0.2)
    assert pusher.post([Post(ALICE, b"slow")]) == set()
    release.set()
    assert pusher.post([Post(ALICE, b"next")]) == {ALICE}
    assert +metrics.counts == {"PostsFailed": 1, "PostsGone": 1}


# Closing connections


def test_close_deletes_each_connection(server: ManagementServer, pusher: Pusher, metrics: Counts) -> None:
    """Closing is a DELETE. A connection that was gone already counts as closed, a forbidden one as failed."""
    server.answer = lambda received: {ALICE: 204, BOB: 410, CAROL: 403}[received.connection_id]
    pusher.close([ALICE, BOB, CAROL])
    assert {(received.method, received.connection_id) for received in server.requests} == {
        ("DELETE", ALICE),
        ("DELETE", BOB),
        ("DELETE", CAROL),
    }
    assert +metrics.counts == {"ConnectionsClosed": 2, "ClosesFailed": 1}


# HTTP connections


def test_calls_share_an_http_connection_until_it_was_idle_for_too_long(
    server: ManagementServer, pusher: Pusher, clock: Clock
) -> None:
    """By the pusher's clock; what else becomes of HTTP connections is in `test_http_client.py`."""
    for _ in range(5):
        pusher.post([Post(ALICE, b"{}")])
    assert len(server.links) == 1
    clock.ahead += IDLE_LIMIT + 1
    pusher.post([Post(ALICE, b"{}")])
    assert len(server.links) == 2


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come after the end of any test's budget."""
    monkeypatch.setattr(push, "FIRST_BACKOFF", 60.0)


@pytest.mark.usefixtures("no_retries")
def test_connections_closed_between_calls_are_replaced(
    server: ManagementServer, pusher: Pusher, metrics: Counts
) -> None:
    """If the endpoint closed all idle sockets, as after a freeze, no frame is lost and none is retried."""
    pusher.post(frames(64))
    server.close_links()
    assert pusher.post(frames(64)) == set()
    assert len(server.requests) == 128
    assert +metrics.counts == {"PostsSent": 128}


def test_a_connection_lost_under_a_post_is_replaced(server: ManagementServer, pusher: Pusher, metrics: Counts) -> None:
    """If the endpoint closes the socket instead of responding, the post is sent again on another."""
    answers: Iterator[int | None] = itertools.chain([None], itertools.repeat(200))
    server.answer = lambda received: next(answers)
    assert pusher.post([Post(ALICE, b"1"), Post(ALICE, b"2")]) == set()
    assert server.posted(ALICE) == [b"1", b"1", b"2"]
    assert len(server.links) == 2
    assert +metrics.counts == {"PostsSent": 2}


def test_an_endpoint_that_does_not_speak_http_delivers_nothing(
    server: ManagementServer, make: Make, metrics: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    """Its response counts as a lost connection: retried within the budget, then counted."""
    server.answer = lambda received: [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"]
    make(server.url, budget=0.3).post([Post(ALICE, b"{}")])
    assert +metrics.counts == {"PostsFailed": 1}
    assert "no HTTP" in caplog.text


def test_an_endpoint_that_is_not_there_fails_everything_quickly(make: Make, metrics: Counts) -> None:
    """No process listens: a thousand frames are given up within two seconds, and nothing is raised."""
    with ManagementServer() as server:
        url = server.url
    started = time.monotonic()
    assert make(url).post(frames(1000)) == set()
    assert time.monotonic() - started < 2.0
    assert +metrics.counts == {"PostsFailed": 1000}


def test_an_endpoint_that_never_responds_fails_everything_quickly(make: Make, metrics: Counts) -> None:
    """An endpoint that accepts connections but no TLS handshake costs the connect timeout once, not the budget."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as mute:
        started = time.monotonic()
        assert make(f"https://127.0.0.1:{mute.getsockname()[1]}/live").post(frames(1000)) == set()
        assert CONNECT_TIMEOUT <= time.monotonic() - started < 4.0
    assert +metrics.counts == {"PostsFailed": 1000}


def test_one_working_connection_is_enough(server: ManagementServer, pusher: Pusher, metrics: Counts) -> None:
    """When no other socket can be opened, all frames go through the one that is open."""
    pusher.post([Post(ALICE, b"{}")])
    server.refuse_links()
    slow = itertools.chain([0.2], itertools.repeat(0.0))  # until the rest has been refused

    def answer(received: Received) -> int:
        server.stopping.wait(next(slow))
        return 200

    server.answer = answer
    pusher.post(frames(40))
    assert +metrics.counts == {"PostsSent": 41}
    assert len(server.links) == 1


def test_an_endpoint_that_comes_back_is_used_again(make: Make, metrics: Counts) -> None:
    """If one call finds the endpoint unreachable, the next call tries it again."""
    with ManagementServer() as first:
        pusher = make(first.url)
        pusher.post([Post(ALICE, b"{}")])
    pusher.post([Post(ALICE, b"{}")])
    assert +metrics.counts == {"PostsSent": 1, "PostsFailed": 1}
    with ManagementServer(port=first.port) as second:
        pusher.post([Post(ALICE, b"{}")])
        assert second.posted(ALICE) == [b"{}"]
    assert +metrics.counts == {"PostsSent": 2, "PostsFailed": 1}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key with a self-signed certificate."""
    return write_certificate(tmp_path_factory.mktemp("tls") / "localhost.pem")


@pytest.fixture
def secure_server(certificate: Path) -> Iterator[ManagementServer]:
    """The endpoint, behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ManagementServer(tls=context) as server:
        yield server


@pytest.mark.usefixtures("no_retries")
def test_posts_through_tls(
    secure_server: ManagementServer,
    make: Make,
    metrics: Counts,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `AWS_CA_BUNDLE` posts arrive, and sockets that the endpoint closed between calls are replaced."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    pusher = make(secure_server.url)
    pusher.post(frames(64))
    secure_server.close_links()
    pusher.post(frames(64))
    assert len(secure_server.requests) == 128
    assert +metrics.counts == {"PostsSent": 128}


def test_an_untrusted_certificate_gets_nothing(
    secure_server: ManagementServer, make: Make, metrics: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    """No request is sent, the frames count as failed, and the log gives the reason."""
    make(secure_server.url).post(frames(20))
    assert secure_server.requests == []
    assert +metrics.counts == {"PostsFailed": 20}
    assert "SSLCertVerificationError" in caplog.text


# The rate limit


def test_the_rate_limit_allows_a_burst_and_then_spaces_requests_out() -> None:
    """After a pause ten start together, then one every 10 ms; the next pause earns the burst again and no more."""
    limit = RateLimiter(rate=100, burst=10)
    near = partial(pytest.approx, abs=1e-6)
    assert [limit.reserve(50.0) for _ in range(11)] == near([0.0] * 11)
    assert [limit.reserve(50.0) for _ in range(3)] == near([0.01, 0.02, 0.03])
    assert limit.reserve(50.02) == near(0.02)
    assert [limit.reserve(900.0) for _ in range(12)] == near([0.0] * 11 + [0.01])


def test_posts_keep_to_the_rate_limit(server: ManagementServer, pusher: Pusher) -> None:
    """Sixty posts at 100 per second and a burst of ten take half a second."""
    pusher._rate_limit = RateLimiter(rate=100, burst=10)
    started = time.monotonic()
    pusher.post(frames(60))
    assert 0.45 <= time.monotonic() - started < 1.5
    assert len(server.requests) == 60
