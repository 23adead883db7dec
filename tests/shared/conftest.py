"""For the tests of pushing: an endpoint on loopback and pushers that post to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.push import Pusher
from shared.settings import Settings
from tests.support.management_server import ManagementServer
from tests.support.pushing import Clock, Counts, Make


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that Lambda sets; the certificates are the system's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)


@pytest.fixture
def server() -> Iterator[ManagementServer]:
    """The endpoint, in plain HTTP."""
    with ManagementServer() as server:
        yield server


@pytest.fixture
def metrics() -> Counts:
    """The metrics of a test's pushers."""
    return Counts()


@pytest.fixture
def clock() -> Clock:
    """The clock by which pushers measure how long a connection was idle."""
    return Clock()


@pytest.fixture
def make(credentials: None, metrics: Counts, clock: Clock) -> Iterator[Make]:
    """Creates pushers, and closes their sockets in the end."""
    made: list[Pusher] = []

    def make(url: str, budget: float = 5.0) -> Pusher:
        made.append(Pusher(Settings(callback_url=url, push_budget=budget), metrics, clock))
        return made[-1]

    yield make
    for pusher in made:
        pusher.shutdown()


@pytest.fixture
def pusher(make: Make, server: ManagementServer) -> Pusher:
    """A pusher that posts to `server`."""
    return make(server.url)
