"""The demo page's server: its files, who may call it, and what its calls do."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from cli.demo import CLIENT, CONTENT_TYPES, LONGEST_TOKEN, PEOPLE
from local.elasticache import RedisServer
from tests.support.deployment import SHORT_TIMES, Deployment, of
from tests.support.presence_run import PATIENCE, PresenceRun, presence_run

LEEWAY = 5
"""Seconds that a call may take, in what is said about times."""


@dataclass(frozen=True)
class Response:
    """A response of the server."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, if it is JSON."""
        return json.loads(self.body)


def call(url: str, method: str, target: str, body: bytes | None = None, **headers: str) -> Response:
    """Send a request whose target is sent exactly as written; URL libraries would normalize it."""
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=PATIENCE)
    try:
        connection.request(method, target, body, {"Host": host} | headers)
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())
    finally:
        connection.close()


def ask(url: str, path: str, told: Any) -> Response:
    """A call as the page makes it."""
    return call(url, "POST", path, json.dumps(told).encode(), **{"Content-Type": "application/json", "Origin": url})


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PresenceRun]:
    """A run with a Redis of its own."""
    with presence_run(tmp_path_factory.mktemp("run"), **SHORT_TIMES) as running:
        yield running


@pytest.fixture(scope="module")
def url(service: PresenceRun) -> str:
    """The run's URL."""
    return service.run.url


# Files


def test_the_address_of_a_run_redirects_to_the_page(url: str) -> None:
    """`/` and `/demo` redirect to `/demo/`, which is the page."""
    for path in ("/", "/demo"):
        answer = call(url, "GET", path)
        assert (answer.status, answer.headers["Location"]) == (302, "/demo/")
        answer = call(url, "GET", f"{path}?me=a%20b&type=mobile")
        assert (answer.status, answer.headers["Location"]) == (302, "/demo/?me=a%20b&type=mobile")
    assert call(url, "GET", "/demo/").body == (CLIENT / "demo/index.html").read_bytes()


def test_every_file_has_its_content_type(url: str) -> None:
    """Modules, styles, pages and images have the types that browsers require."""
    files = [file for file in (*CLIENT.glob("*.js"), *CLIENT.glob("demo/*")) if file.suffix in CONTENT_TYPES]
    assert len(files) > 15
    for file in files:
        answer = call(url, "GET", f"/{file.relative_to(CLIENT)}")
        assert (answer.status, answer.body) == (200, file.read_bytes())
        assert answer.headers["Content-Type"] == f"{CONTENT_TYPES[file.suffix]}; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert call(url, "HEAD", f"/{file.relative_to(CLIENT)}").status == 200


def test_a_page_loads_only_its_own_files_and_cannot_be_framed(url: str) -> None:
    """Injected content cannot load or send anything."""
    policy = call(url, "GET", "/demo/").headers["Content-Security-Policy"]
    told = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (told["default-src"], told["script-src"], told["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert told["connect-src"] == f"'self' ws://{url.removeprefix('http://')}"


@pytest.mark.parametrize(
    "target",
    [
        "/demo/../demo.py",
        "/demo/../../local/demo.py",
        "/demo/..%2f..%2flocal%2fdemo.py",
        "/demo/%2e%2e/%2e%2e/pyproject.toml",
        "/demo/..%5c..%5cpyproject.toml",
        "/demo//etc/passwd",
        "/demo/%00",
        "/../pyproject.toml",
        "/package.json",
        "/presence.d.ts",
        "/README.md",
        "/demo/nothing.js",
        "/demo/demo.js/",
        "/demo/DEMO.JS",
        "/demo/token",
        "/demo/lose",
    ],
)
def test_nothing_else_is_a_file(url: str, target: str) -> None:
    """Paths out of the client's folder, and files that are not for browsers, are not found."""
    answer = call(url, "GET", target)
    assert answer.status == 404
    assert b"[project]" not in answer.body
    assert b"root:" not in answer.body


def test_files_are_only_read(url: str) -> None:
    """Other methods are not found."""
    for method in ("PUT", "POST", "DELETE"):
        assert call(url, method, "/demo/demo.js", b"{}", Origin=url).status == 404


# Who may call


@pytest.mark.parametrize("path", ["/demo/token", "/demo/contacts", "/demo/lose"])
@pytest.mark.parametrize("origin", [None, "null", "http://elsewhere.example", "http://127.0.0.1:1"])
def test_only_the_page_itself_may_call(url: str, path: str, origin: str | None) -> None:
    """A foreign page in the same browser cannot become a user."""
    headers = {} if origin is None else {"Origin": origin}
    told = json.dumps({"user": "alice", "ttl": 60, "connectionId": "c"}).encode()
    answer = call(url, "POST", path, told, **headers)
    assert answer.status == 403
    assert b"eyJ" not in answer.body


def test_the_host_must_be_the_runs(url: str) -> None:
    """A foreign page whose name resolves to this machine gets neither tokens nor metrics."""
    told = json.dumps({"user": "alice", "ttl": 60}).encode()
    name = "elsewhere.example:" + url.rpartition(":")[2]
    answer = call(url, "POST", "/demo/token", told, Host=name, Origin=f"http://{name}")
    assert answer.status == 403
    assert url in answer.json["detail"]
    assert call(url, "GET", "/demo/metrics", Host=name).status == 403


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/demo/token", b"{"),
        ("/demo/token", b"\xff"),
        ("/demo/token", b"[]"),
        ("/demo/token", b"{}"),
        ("/demo/token", b'{"user": "alice", "ttl": "long"}'),
        ("/demo/token", b'{"user": "alice", "ttl": null}'),
        ("/demo/lose", b"{}"),
        ("/demo/lose", b'{"connectionId": []}'),
        ("/demo/lose", b"7"),
    ],
)
def test_bad_input_is_refused(url: str, path: str, body: bytes) -> None:
    """Bad input is a client error with a reason."""
    answer = call(url, "POST", path, body, Origin=url)
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/problem+json; charset=utf-8")
    assert answer.json["title"] == "Bad Request"


# Calls


def test_a_token_is_valid_as_long_as_requested(service: PresenceRun, url: str) -> None:
    """At most an hour; a negative ttl makes an expired token."""
    for ttl, good_for in ((15, 15), (10**9, LONGEST_TOKEN), (-60, -60)):
        told = ask(url, "/demo/token", {"user": "alice", "ttl": ttl}).json
        assert told["tokenSource"] == "query"
        claims = jwt.decode(told["token"], service.run.jwt_secret, ["HS256"], options={"verify_exp": False})
        assert claims["sub"] == "alice"
        assert abs(claims["exp"] - claims["iat"] - good_for) <= LEEWAY
        me = call(url, "GET", "/v1/me", Authorization=f"Bearer {told['token']}")
        assert me.status == (200 if ttl > 0 else 401)


async def test_the_demo_users_become_contacts_only_once(service: PresenceRun) -> None:
    """Pages that open together connect them once; a contact that is removed later stays removed."""
    deployment, url = Deployment.started(service, SHORT_TIMES), service.run.url

    async def contacts() -> dict[str, set[str]]:
        """The users whom each of them sees."""
        return {user: set((await deployment.ask("GET", of(user, "contacts")))["sees"]) for user in PEOPLE}

    answers = await asyncio.gather(*(asyncio.to_thread(ask, url, "/demo/contacts", {}) for _ in range(5)))
    assert [answer.json for answer in answers] == [{"made": True, "graph": "loaded"}] * 5
    assert await contacts() == {user: set(PEOPLE) - {user} for user in PEOPLE}
    await deployment.ask("PUT", of("alice", "contacts"), {"remove": ["bob"]})
    assert ask(url, "/demo/contacts", {}).json["made"]
    assert "bob" not in (await contacts())["alice"]


async def test_a_lost_connection_ends_without_a_close_frame(service: PresenceRun) -> None:
    """The client sees an abnormal end; an unknown connection is not lost."""
    deployment, url = Deployment.started(service, SHORT_TIMES), service.run.url
    address, _ = deployment.handshake("zoe", deviceId="d")
    async with asyncio.timeout(PATIENCE), connect(address) as client:
        await client.send('{"action":"sync"}')
        connection_id = json.loads(await client.recv())["self"]["connectionId"]
        answer = await asyncio.to_thread(ask, url, "/demo/lose", {"connectionId": connection_id})
        assert answer.json == {"lost": True}
        with pytest.raises(ConnectionClosedError) as ended:
            [_ async for _ in client]
        assert ended.value.rcvd is None
    answer = await asyncio.to_thread(ask, url, "/demo/lose", {"connectionId": connection_id})
    assert answer.json == {"lost": False}


async def test_metrics_show_what_happened(service: PresenceRun) -> None:
    """A handshake invokes three functions, and an open connection is counted."""
    deployment, url = Deployment.started(service, SHORT_TIMES), service.run.url
    address, _ = deployment.handshake("yan", deviceId="d")
    async with asyncio.timeout(PATIENCE), connect(address) as client:
        await client.send('{"action":"sync"}')
        await client.recv()
        while True:
            report = (await asyncio.to_thread(call, url, "GET", "/demo/metrics")).json
            if report["gauges"]["OpenConnections"][-1]:
                break
    assert report["gauges"]["OpenConnections"][-1] == 1
    for function in ("authorize", "connect", "query"):
        assert sum(report["functions"][function]["counts"]["Invocations"]) >= 1
        assert report["functions"][function]["durations"]["Duration"]["all"]["p50"] > 0


# Another Redis, and other people's tokens


async def test_contacts_in_a_given_redis_are_not_touched(tmp_path: Path) -> None:
    """The page shows that, and changes nothing in a graph that it does not own."""
    redis = RedisServer.start()
    try:
        with presence_run(tmp_path, "--redis", redis.url, **SHORT_TIMES) as service:
            answer = ask(service.run.url, "/demo/contacts", {})
            assert answer.json == {"made": False, "graph": "not_loaded"}
            deployment = Deployment.started(service, SHORT_TIMES)
            for user in PEOPLE:
                assert await deployment.ask("GET", of(user, "contacts")) == {"viewers": [], "sees": []}
            assert ask(service.run.url, "/demo/token", {"user": "alice", "ttl": 60}).status == 200
    finally:
        redis.stop()
