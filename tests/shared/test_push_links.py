"""The sockets below pushing: kept, lost, closed by the peer, too old, refused, secured."""

from __future__ import annotations

import itertools
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import push
from shared.delivery import Frame
from shared.push import CONNECT_TIMEOUT, IDLE_LIMIT, Pusher
from tests.support.management_server import ManagementServer, Received, write_certificate
from tests.support.pushing import ALICE, BOB, Clock, Counts, Make, frames


def test_the_connection_is_kept_between_calls(server: ManagementServer, pusher: Pusher) -> None:
    """Calls one after the other share one socket."""
    for _ in range(5):
        pusher.post([Frame(ALICE, b"{}")])
    assert len(server.links) == 1


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry would come after any test's budget."""
    monkeypatch.setattr(push, "FIRST_BACKOFF", 60.0)


@pytest.mark.usefixtures("no_retries")
def test_connections_closed_between_calls_are_replaced(server: ManagementServer, pusher: Pusher, meter: Counts) -> None:
    """An endpoint that closed all idle sockets, as after a freeze, costs no frame and not even a retry."""
    pusher.post(frames(64))
    server.close_links()
    assert pusher.post(frames(64)) == set()
    assert len(server.requests) == 128
    assert +meter.counts == {"PostsSent": 128}


def test_a_connection_lost_under_a_post_is_replaced(server: ManagementServer, pusher: Pusher, meter: Counts) -> None:
    """A socket that is closed instead of answered: the post is sent again on another."""
    answers: Iterator[int | None] = itertools.chain([None], itertools.repeat(200))
    server.answer = lambda received: next(answers)
    assert pusher.post([Frame(ALICE, b"1"), Frame(ALICE, b"2")]) == set()
    assert server.posted(ALICE) == [b"1", b"1", b"2"]
    assert len(server.links) == 2
    assert +meter.counts == {"PostsSent": 2}


def test_a_connection_idle_for_too_long_is_not_used_again(
    server: ManagementServer, pusher: Pusher, clock: Clock
) -> None:
    """Just below the limit the socket is used again, just above it a new one is opened."""
    pusher.post([Frame(ALICE, b"{}")])
    for _ in range(3):
        clock.ahead += IDLE_LIMIT - 1
        pusher.post([Frame(ALICE, b"{}")])
    assert len(server.links) == 1
    clock.ahead += IDLE_LIMIT + 1
    pusher.post([Frame(ALICE, b"{}")])
    assert len(server.links) == 2


ENDINGS: dict[str, tuple[list[bytes], int]] = {
    "no body": ([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], 1),
    "a body": ([b"HTTP/1.1 200 OK\r\ncontent-length:12\r\n\r\nHello, world"], 1),
    "pieces": ([b"HTTP/1.1 200\r\nContent-Le", b"ngth: 5\r\n\r", b"\nHel", b"lo"], 1),
    "a farewell": ([b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"], 2),
    "too much": ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nHello"], 2),
    "chunks": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHello\r\n", b"0\r\n\r\n"], 2),
    "no end in sight": ([b"HTTP/1.1 200 OK\r\n\r\nHello"], 2),
}


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize(("answer", "links"), ENDINGS.values(), ids=ENDINGS.keys())
def test_an_answer_is_told_from_the_next_however_it_ends(
    server: ManagementServer, pusher: Pusher, meter: Counts, answer: list[bytes], links: int
) -> None:
    """The status counts once, and the socket is used again exactly when the answer's end is certain."""
    server.answer = lambda received: answer if received.connection_id == ALICE else 410
    assert pusher.post([Frame(ALICE, b"1")]) == set()
    assert pusher.post([Frame(BOB, b"2")]) == {BOB}
    assert +meter.counts == {"PostsSent": 1, "PostsGone": 1}
    assert len(server.links) == links


def test_something_that_speaks_no_http_delivers_nothing(
    server: ManagementServer, make: Make, meter: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that are no HTTP answer are a lost connection: retried within the budget, then counted."""
    server.answer = lambda received: [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"]
    make(server.url, budget=0.3).post([Frame(ALICE, b"{}")])
    assert +meter.counts == {"PostsFailed": 1}
    assert "no HTTP" in caplog.text


def test_an_endpoint_that_is_not_there_fails_everything_quickly(make: Make, meter: Counts) -> None:
    """Nobody listens: a thousand frames are given up in a moment, and nothing is raised."""
    with ManagementServer() as server:
        url = server.url
    started = time.monotonic()
    assert make(url).post(frames(1000)) == set()
    assert time.monotonic() - started < 2.0
    assert +meter.counts == {"PostsFailed": 1000}


def test_an_endpoint_that_never_says_a_word_fails_everything_quickly(make: Make, meter: Counts) -> None:
    """A peer that takes connections and shakes no hands costs the time to connect once, not the whole budget."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as mute:
        started = time.monotonic()
        assert make(f"https://127.0.0.1:{mute.getsockname()[1]}/live").post(frames(1000)) == set()
        assert CONNECT_TIMEOUT <= time.monotonic() - started < 4.0
    assert +meter.counts == {"PostsFailed": 1000}


def test_one_working_connection_is_enough(server: ManagementServer, pusher: Pusher, meter: Counts) -> None:
    """Where no further socket can be opened, all frames go through the one that is open."""
    pusher.post([Frame(ALICE, b"{}")])
    server.refuse_links()
    slow = itertools.chain([0.2], itertools.repeat(0.0))  # until the rest has been refused

    def answer(received: Received) -> int:
        server.stopping.wait(next(slow))
        return 200

    server.answer = answer
    pusher.post(frames(40))
    assert +meter.counts == {"PostsSent": 41}
    assert len(server.links) == 1


def test_an_endpoint_that_comes_back_is_used_again(make: Make, meter: Counts) -> None:
    """What one call found unreachable, the next call tries anew."""
    with ManagementServer() as first:
        pusher = make(first.url)
        pusher.post([Frame(ALICE, b"{}")])
    pusher.post([Frame(ALICE, b"{}")])
    assert +meter.counts == {"PostsSent": 1, "PostsFailed": 1}
    with ManagementServer(port=first.port) as second:
        pusher.post([Frame(ALICE, b"{}")])
        assert second.posted(ALICE) == [b"{}"]
    assert +meter.counts == {"PostsSent": 2, "PostsFailed": 1}


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate that nobody has signed but itself."""
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
    meter: Counts,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the certificate trusted posts arrive, and sockets closed by the peer between calls are replaced."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    pusher = make(secure_server.url)
    pusher.post(frames(64))
    secure_server.close_links()
    pusher.post(frames(64))
    assert len(secure_server.requests) == 128
    assert +meter.counts == {"PostsSent": 128}


def test_an_untrusted_certificate_gets_nothing(
    secure_server: ManagementServer, make: Make, meter: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate that the system does not trust: no request is sent, and the log says why."""
    make(secure_server.url).post(frames(20))
    assert secure_server.requests == []
    assert +meter.counts == {"PostsFailed": 20}
    assert "SSLCertVerificationError" in caplog.text
