"""The HTTP client over real sockets: connections reused, lost, closed by the peer, too old, refused, secured."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shared.http_client import CONNECT_TIMEOUT, IDLE_LIMIT, RESPONSE_TIMEOUT, ConnectError, HttpClient
from tests.support.management_server import ManagementServer, write_certificate
from tests.support.pushing import Clock


@pytest.fixture
async def client(server: ManagementServer, clock: Clock) -> AsyncIterator[HttpClient]:
    """A client of `server`."""
    client = HttpClient(urlsplit(server.url), clock=clock)
    yield client
    await client.close()


async def post(client: HttpClient, name: str = "a", body: bytes = b"{}") -> int:
    """Post a body; returns the status."""
    return await client.request("POST", f"/live/@connections/{name}", {}, body)


# Requests


async def test_a_request_arrives_as_given(server: ManagementServer, client: HttpClient) -> None:
    """Method, path, headers and body arrive unchanged, with the host and the length of the body."""
    headers = {"x-amz-date": "20261124T120000Z", "authorization": "AWS4-HMAC-SHA256 Credential=A"}
    assert await client.request("DELETE", "/live/@connections/a%3D", headers, b"\x00\r\n\r\n") == 204
    [received] = server.requests
    assert (received.method, received.path, received.body) == ("DELETE", "/live/@connections/a%3D", b"\x00\r\n\r\n")
    assert received.headers == {**headers, "host": server.host, "content-length": "5"}


@pytest.mark.parametrize("status", [200, 204, 410, 429, 503])
async def test_the_status_is_returned(server: ManagementServer, client: HttpClient, status: int) -> None:
    """Whatever it is: an error status is a response like any other."""
    server.answer = lambda received: status
    assert await post(client) == status


# Connections


async def test_a_connection_is_reused(server: ManagementServer, client: HttpClient) -> None:
    """Requests one after the other share one socket."""
    for _ in range(5):
        await post(client)
    assert len(server.links) == 1


async def test_requests_in_flight_have_a_connection_each(server: ManagementServer, client: HttpClient) -> None:
    """Eight concurrent requests open eight sockets, and the next eight use the same ones."""
    together = threading.Barrier(8)

    def answer(_received: object) -> int:
        together.wait(timeout=10)
        return 200

    server.answer = answer
    for _ in range(2):
        assert await asyncio.gather(*(post(client) for _ in range(8))) == [200] * 8
        assert len(server.links) == 8


async def test_a_connection_idle_for_too_long_is_not_reused(
    server: ManagementServer, client: HttpClient, clock: Clock
) -> None:
    """Just below the limit the socket is used again; just above it a new one is opened."""
    await post(client)
    for _ in range(3):
        clock.ahead += IDLE_LIMIT - 1
        await post(client)
    assert len(server.links) == 1
    clock.ahead += IDLE_LIMIT + 1
    await post(client)
    assert len(server.links) == 2


async def test_a_connection_closed_by_the_peer_is_not_reused(server: ManagementServer, client: HttpClient) -> None:
    """After `notice_closed` the next request goes through a new socket, without an error."""
    await post(client)
    server.close_links()
    await client.notice_closed()
    assert await post(client) == 200
    assert len(server.links) == 2


async def test_the_client_knows_whether_it_has_connections(server: ManagementServer, client: HttpClient) -> None:
    """None before the first request, one during and after it, none after a loss."""
    seen = [client.has_connections]

    def answer(_received: object) -> int:
        seen.append(client.has_connections)
        return 200

    server.answer = answer
    await post(client)
    seen.append(client.has_connections)
    server.answer = lambda received: None
    with pytest.raises(ConnectionError):
        await post(client)
    seen.append(client.has_connections)
    assert seen == [False, True, True, False]


# The end of a response

ENDINGS: dict[str, tuple[list[bytes], int]] = {
    "no body": ([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], 1),
    "a body": ([b"HTTP/1.1 200 OK\r\ncontent-length:12\r\n\r\nHello, world"], 1),
    "pieces": ([b"HTTP/1.1 200\r\nContent-Le", b"ngth: 5\r\n\r", b"\nHel", b"lo"], 1),
    "204 without a length": ([b"HTTP/1.1 204 No Content\r\n\r\n"], 1),
    "connection: close": ([b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"], 2),
    "too much": ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nHello"], 2),
    "chunks": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHello\r\n", b"0\r\n\r\n"], 2),
    "no length": ([b"HTTP/1.1 200 OK\r\n\r\nHello"], 2),
}


@pytest.mark.parametrize(("response", "sockets"), ENDINGS.values(), ids=ENDINGS.keys())
async def test_a_response_is_never_mixed_up_with_the_next(
    server: ManagementServer, client: HttpClient, response: list[bytes], sockets: int
) -> None:
    """The socket is reused exactly when the end of the response is certain."""
    server.answer = lambda received: response if received.connection_id == "a" else 410
    assert await post(client, "a") // 100 == 2
    assert await post(client, "b") == 410
    assert len(server.links) == sockets


async def test_a_response_that_is_not_http_is_a_lost_connection(server: ManagementServer, client: HttpClient) -> None:
    """Such a socket is not reused."""
    server.answer = lambda received: [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"]
    with pytest.raises(ConnectionError, match="no HTTP"):
        await post(client)
    server.answer = lambda received: 200
    assert await post(client) == 200
    assert len(server.links) == 2


async def test_a_connection_closed_instead_of_a_response_is_an_error(
    server: ManagementServer, client: HttpClient
) -> None:
    """The request may have been processed, so this is no `ConnectError`."""
    server.answer = lambda received: None
    with pytest.raises(ConnectionError) as raised:
        await post(client)
    assert not isinstance(raised.value, ConnectError)


async def test_a_response_that_takes_too_long_is_a_timeout(server: ManagementServer, client: HttpClient) -> None:
    """The late response is not taken for the response to the next request."""
    release = threading.Event()

    def answer(_received: object) -> int:
        release.wait(timeout=10)
        return 200

    server.answer = answer
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await post(client)
    assert RESPONSE_TIMEOUT <= time.monotonic() - started < 3.0
    server.answer = lambda received: 410
    release.set()
    assert await post(client) == 410
    assert len(server.links) == 2


async def test_a_canceled_request_gives_up_its_connection(server: ManagementServer, client: HttpClient) -> None:
    """The same for a request whose caller stopped waiting."""
    release = threading.Event()

    def answer(_received: object) -> int:
        release.wait(timeout=10)
        return 200

    server.answer = answer
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(post(client), 0.2)
    server.answer = lambda received: 410
    release.set()
    assert await post(client) == 410
    assert len(server.links) == 2


# Connecting


async def test_an_endpoint_that_does_not_listen_refuses_the_connection() -> None:
    """The error is a `ConnectError`: nothing was sent."""
    with ManagementServer() as server:
        endpoint = urlsplit(server.url)
    client = HttpClient(endpoint)
    with pytest.raises(ConnectError, match="no connection: "):
        await post(client)
    assert not client.has_connections
    await client.close()


async def test_a_handshake_that_never_ends_is_a_connect_error() -> None:
    """TCP and TLS together have `CONNECT_TIMEOUT`."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as mute:
        client = HttpClient(urlsplit(f"https://127.0.0.1:{mute.getsockname()[1]}"))
        started = time.monotonic()
        with pytest.raises(ConnectError, match="TimeoutError"):
            await post(client)
        assert CONNECT_TIMEOUT <= time.monotonic() - started < 4.0
        await client.close()


# TLS


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


async def test_a_certificate_in_the_given_file_is_trusted(secure_server: ManagementServer, certificate: Path) -> None:
    """Requests arrive over one socket, and one that the peer closed meanwhile is replaced."""
    client = HttpClient(urlsplit(secure_server.url), str(certificate))
    assert [await post(client), await post(client)] == [200, 200]
    assert len(secure_server.links) == 1
    secure_server.close_links()
    await client.notice_closed()
    assert await post(client) == 200
    assert len(secure_server.links) == 2
    await client.close()


async def test_an_untrusted_certificate_gets_no_request(secure_server: ManagementServer) -> None:
    """The system does not trust it, and the error names the reason."""
    client = HttpClient(urlsplit(secure_server.url))
    with pytest.raises(ConnectError, match="SSLCertVerificationError"):
        await post(client)
    assert secure_server.requests == []
    await client.close()


def test_a_certificate_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    """When the client is made, not at each request."""
    with pytest.raises(FileNotFoundError):
        HttpClient(urlsplit("https://localhost"), str(tmp_path / "missing.pem"))
