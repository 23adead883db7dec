"""The shipped client under a virtual clock: commands alone make anything happen, and all of it is reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest

from tests.support.shipped_clients import (
    Action,
    ClientCrashed,
    Closed,
    Emitted,
    Opening,
    Requested,
    Sent,
    Settled,
    ShippedClients,
)

Kind = TypeVar("Kind", bound=Action)
NOW = 1_764_000_000_000
SECRET = "of-the-tests-and-long-enough-for-hs256"
SELF = {
    "userId": "alice",
    "connectionId": "C1=",
    "status": "online",
    "devices": [],
    "n": {},
    "heartbeatEvery": 30_000,
}


@pytest.fixture(scope="module")
def process() -> Iterator[ShippedClients]:
    """One process for all tests of this module."""
    with ShippedClients() as clients:
        yield clients


@pytest.fixture
def clients(process: ShippedClients) -> ShippedClients:
    """The process without clients."""
    process.reset(NOW)
    return process


def _create(clients: ShippedClients, name: str, **options: Any) -> None:
    clients.create(name, user="alice", secret=SECRET, url="wss://host/live", **options)


def _open(clients: ShippedClients, name: str, **options: Any) -> tuple[int, str]:
    """Create and open a client; returns its socket and the id of its `sync`."""
    _create(clients, name, **options)
    socket = _one(Opening, clients.call(name, "open")).socket
    message = json.loads(_one(Sent, clients.opened(socket)).data)
    assert message["action"] == "sync"
    return socket, message["id"]


def _snapshot(request: str | None = None, *, seq: int = NOW) -> str:
    bob = {"userId": "bob", "status": "online", "customStatus": None, "deviceType": "web", "lastSeen": None}
    parts = {"snapshot": "a", "part": 1, "parts": 1}
    frame = {"type": "presence_snapshot", "seq": seq, "resumed": False, **parts, "self": SELF, "users": [bob]}
    return json.dumps(frame | ({"id": request} if request else {}))


def _one(kind: type[Kind], actions: list[Action]) -> Kind:
    (found,) = (action for action in actions if isinstance(action, kind))
    return found


def test_a_socket_leads_to_the_caller(clients: ShippedClients) -> None:
    """The handshake, messages, frames and events of a client pass through the commands, and its picture follows."""
    _create(clients, "laptop")
    opening = _one(Opening, clients.call("laptop", "open"))
    query = parse_qs(urlsplit(opening.url).query)
    assert (query["v"], query["deviceId"], opening.at) == (["2"], ["laptop"], NOW)
    claims = jwt.decode(query["token"][0], SECRET, algorithms=["HS256"], options={"verify_exp": False})
    assert (claims["sub"], claims["exp"]) == ("alice", NOW // 1_000 + 3_600)
    sync = json.loads(_one(Sent, clients.opened(opening.socket)).data)
    actions = clients.deliver(opening.socket, _snapshot(sync["id"]))
    assert [action.event for action in actions if isinstance(action, Emitted)] == ["change", "self", "connection"]
    picture = clients.picture("laptop")
    assert (picture.users["bob"]["status"], picture.self, picture.seq) == ("online", SELF, NOW)
    assert (picture.connection, picture.stale) == ("online", False)
    assert _one(Closed, clients.call("laptop", "close")).socket == opening.socket
    assert clients.next_timer is None


def test_time_moves_only_by_advance(clients: ShippedClients) -> None:
    """Timers fire in order, at their own times, and the next one is known."""
    socket, sync = _open(clients, "laptop")
    clients.deliver(socket, _snapshot(sync))
    beats: list[Sent] = []
    while len(beats) < 3:
        assert clients.next_timer is not None
        beats += [action for action in clients.advance(clients.next_timer) if isinstance(action, Sent)]
    assert [json.loads(beat.data)["action"] for beat in beats] == ["heartbeat"] * 3
    for before, after in zip([NOW, *(beat.at for beat in beats)], beats, strict=False):
        assert 27_000 <= after.at - before <= 33_001
    sent = [action for action in clients.advance(beats[-1].at + 120_000) if isinstance(action, Sent)]
    assert [beat.at for beat in sent] == sorted({beat.at for beat in sent})


def test_the_same_seed_gives_the_same_times(clients: ShippedClients) -> None:
    """A history can be repeated, and two seeds differ."""

    def times(seed: int) -> list[int]:
        clients.reset(NOW)
        socket, sync = _open(clients, "laptop", seed=seed)
        clients.deliver(socket, _snapshot(sync))
        return [action.at for action in clients.advance(NOW + 100_000) if isinstance(action, Sent)]

    assert times(7) == times(7) != times(8)


def test_http_calls_lead_to_the_caller(clients: ShippedClients) -> None:
    """A client whose handshakes are refused polls; its calls are answered or fail."""
    _create(clients, "phone", httpUrl="https://host")
    actions = clients.call("phone", "open")
    for _ in range(2):
        clients.lose(_one(Opening, actions).socket)
        actions = clients.advance(clients.next_timer or NOW)
    poll = _one(Requested, clients.lose(_one(Opening, actions).socket))
    assert (poll.method, poll.url, json.loads(poll.body or "")["deviceId"]) == (
        "POST",
        "https://host/v1/me/heartbeat",
        "phone",
    )
    clients.respond(poll.request, 200, _snapshot())
    assert clients.picture("phone").connection == "polling"
    again = _one(Requested, clients.page("phone", "pagehide"))
    assert again.url == "https://host/v1/me/leave"
    events = [action for action in clients.fail(again.request) if isinstance(action, Emitted)]
    assert [error.detail["code"] for error in events if error.event == "error"] == ["unavailable"]
    call = _one(Requested, clients.call("phone", "me"))
    problem = {"title": "Too Many Requests", "status": 429, "detail": "too many"}
    settled = _one(Settled, clients.respond(call.request, 429, json.dumps(problem), {"Retry-After": "2"}))
    assert settled.error is not None
    assert (settled.error["code"], settled.error["retryAfter"]) == ("rate_limited", 2_000)


def test_several_clients_share_the_clock(clients: ShippedClients) -> None:
    """What happens to one does not concern the others; a dropped one does nothing more."""
    (laptop, sync), (phone, other) = _open(clients, "laptop", seed=1), _open(clients, "phone", seed=2)
    clients.deliver(laptop, _snapshot(sync))
    clients.deliver(phone, _snapshot(other))
    lost = clients.lose(laptop, 1001)
    assert [(action.client, action.detail["state"]) for action in lost if isinstance(action, Emitted)] == [
        ("laptop", "connecting")
    ]
    clients.drop("laptop")
    later = clients.advance(NOW + 60_000)
    assert {action.client for action in later} == {"phone"}
    assert clients.deliver(laptop, _snapshot()) == []


def test_a_crash_is_an_error_with_the_report_of_node() -> None:
    """A frame that is not JSON is a fault of the service: the client does not hide it."""
    with ShippedClients() as clients:
        clients.reset(NOW)
        socket, _ = _open(clients, "laptop")
        with pytest.raises(ClientCrashed, match="SyntaxError"):
            clients.deliver(socket, "not JSON")
