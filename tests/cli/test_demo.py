"""The demo page's server: which files it gives, who may call it, and what its calls do to the service behind it."""

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
class Answer:
    """What the server said."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, if it is JSON."""
        return json.loads(self.body)


def call(url: str, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
    """Send a request with its target exactly as it is written, which clients of URLs would tidy up."""
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=PATIENCE)
    try:
        connection.request(method, target, body, {"Host": host} | headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def ask(url: str, path: str, told: Any) -> Answer:
    """A call as the page makes it."""
    return call(url, "POST", path, json.dumps(told).encode(), **{"Content-Type": "application/json", "Origin": url})


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PresenceRun]:
    """A run with a Redis of its own."""
    with presence_run(tmp_path_factory.mktemp("run"), **SHORT_TIMES) as running:
        yield running


@pytest.fixture(scope="module")
def url(service: PresenceRun) -> str:
    """Where it is."""
    return service.run.url


# Files


def test_the_address_that_a_run_names_leads_to_the_page(url: str) -> None:
    """`/` and `/demo` lead on to `/demo/`, which is the page."""
    for path in ("/", "/demo"):
        answer = call(url, "GET", path)
        assert (answer.status, answer.headers["Location"]) == (302, "/demo/")
        answer = call(url, "GET", f"{path}?me=a%20b&type=mobile")
        assert (answer.status, answer.headers["Location"]) == (302, "/demo/?me=a%20b&type=mobile")
    assert call(url, "GET", "/demo/").body == (CLIENT / "demo/index.html").read_bytes()


def test_every_file_of_the_client_comes_as_what_it_is(url: str) -> None:
    """Modules, styles, pages and pictures, with the type that a browser insists on."""
    files = [file for file in (*CLIENT.glob("*.js"), *CLIENT.glob("demo/*")) if file.suffix in CONTENT_TYPES]
    assert len(files) > 15
    for file in files:
        answer = call(url, "GET", f"/{file.relative_to(CLIENT)}")
        assert (answer.status, answer.body) == (200, file.read_bytes())
        assert answer.headers["Content-Type"] == f"{CONTENT_TYPES[file.suffix]}; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert call(url, "HEAD", f"/{file.relative_to(CLIENT)}").status == 200


def test_a_page_may_load_nothing_from_elsewhere_and_stand_in_no_other_page(url: str) -> None:
    """What could be smuggled into a page has nowhere to go."""
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
    """Whatever leads out of the client's folder, or was never meant for a browser, is not found."""
    answer = call(url, "GET", target)
    assert answer.status == 404
    assert b"[project]" not in answer.body
    assert b"root:" not in answer.body


def test_files_are_only_read(url: str) -> None:
    """Other methods find no such call."""
    for method in ("PUT", "POST", "DELETE"):
        assert call(url, method, "/demo/demo.js", b"{}", Origin=url).status == 404


# Who may call


@pytest.mark.parametrize("path", ["/demo/token", "/demo/contacts", "/demo/lose"])
@pytest.mark.parametrize("origin", [None, "null", "http://elsewhere.example", "http://127.0.0.1:1"])
def test_only_the_page_itself_may_call(url: str, path: str, origin: str | None) -> None:
    """A page from elsewhere that is open in the same browser cannot be anybody."""
    headers = {} if origin is None else {"Origin": origin}
    told = json.dumps({"user": "alice", "ttl": 60, "connectionId": "c"}).encode()
    answer = call(url, "POST", path, told, **headers)
    assert answer.status == 403
    assert b"eyJ" not in answer.body


def test_a_name_that_leads_to_this_machine_is_not_enough(url: str) -> None:
    """Else a page under such a name would be of the same origin: neither tokens nor metrics are for it."""
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
def test_what_a_call_does_not_take_is_refused_in_words(url: str, path: str, body: bytes) -> None:
    """Bad input is the caller's fault, and never the run's."""
    answer = call(url, "POST", path, body, Origin=url)
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/problem+json; charset=utf-8")
    assert answer.json["title"] == "Bad Request"


# Calls


def test_a_token_is_one_that_the_service_takes_and_ends_when_it_was_to(service: PresenceRun, url: str) -> None:
    """With the ttl that was asked for, an hour at most, and an end in the past where one below 0 is asked for."""
    for ttl, good_for in ((15, 15), (10**9, LONGEST_TOKEN), (-60, -60)):
        told = ask(url, "/demo/token", {"user": "alice", "ttl": ttl}).json
        assert told["tokenSource"] == "query"
        claims = jwt.decode(told["token"], service.run.jwt_secret, ["HS256"], options={"verify_exp": False})
        assert claims["sub"] == "alice"
        assert abs(claims["exp"] - claims["iat"] - good_for) <= LEEWAY
        me = call(url, "GET", "/v1/me", Authorization=f"Bearer {told['token']}")
        assert me.status == (200 if ttl > 0 else 401)


async def test_the_five_people_see_each_other_once_and_what_is_changed_then_stays(service: PresenceRun) -> None:
    """Pages that are opened at the same time introduce them once; a contact that is removed then stays removed."""
    deployment, url = Deployment.started(service, SHORT_TIMES), service.run.url

    async def contacts() -> dict[str, set[str]]:
        """Whom each of them sees."""
        return {user: set((await deployment.ask("GET", of(user, "contacts")))["sees"]) for user in PEOPLE}

    answers = await asyncio.gather(*(asyncio.to_thread(ask, url, "/demo/contacts", {}) for _ in range(5)))
    assert [answer.json for answer in answers] == [{"made": True, "graph": "loaded"}] * 5
    assert await contacts() == {user: set(PEOPLE) - {user} for user in PEOPLE}
    await deployment.ask("PUT", of("alice", "contacts"), {"remove": ["bob"]})
    assert ask(url, "/demo/contacts", {}).json["made"]
    assert "bob" not in (await contacts())["alice"]


async def test_a_connection_that_is_lost_ends_without_a_word(service: PresenceRun) -> None:
    """The client sees an abnormal end; a connection that is not there is not lost."""
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


async def test_metrics_tell_what_happened(service: PresenceRun) -> None:
    """A handshake is an event of three functions, and a connection that is open is counted as one."""
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


async def test_in_a_redis_that_was_given_nobodys_contacts_are_touched(tmp_path: Path) -> None:
    """The page says so, and asks nothing of a graph that is somebody's."""
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
