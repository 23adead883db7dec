"""The service under test, from end to end, and clients of it.

By default the tests start a `presence run`. With `--url` and `--ws-url` they use that service instead: tests that
need this machine are skipped, and environment variables give the rest (`PRESENCE_JWT_SECRET` and other settings
that differ from the defaults, AWS credentials):

    PRESENCE_JWT_SECRET=... pytest tests/end_to_end --url https://HOST --ws-url wss://HOST/STAGE
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.clients import Client, Join, NodeSocket, People, PythonSocket
from tests.support.deployment import SHORT_TIMES, Deployment, of
from tests.support.presence_run import presence_run

ONLY_HERE = {"test_faults.py", "test_openapi.py", "test_subprotocol.py"}
"""Files whose tests start, stop and damage a service of their own."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options with the addresses of a deployed service."""
    group = parser.getgroup("presence", "the service that tests/end_to_end is about")
    group.addoption("--url", metavar="URL", help="its HTTP side; default: a `presence run` is started")
    group.addoption("--ws-url", metavar="URL", help="its WebSocket side, without a query")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip what needs this machine if the service is elsewhere."""
    return True if config.getoption("url", None) and collection_path.name in ONLY_HERE else None


@pytest.fixture(scope="session")
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The service. Tests share it; each has its own users."""
    url, ws_url = (request.config.getoption(name, None) for name in ("url", "ws_url"))
    if bool(url) != bool(ws_url):
        raise pytest.UsageError("give --url and --ws-url, or neither")
    if url and ws_url:
        yield Deployment.given(url, ws_url)
        return
    with presence_run(tmp_path_factory.mktemp("run"), **SHORT_TIMES) as service:
        yield Deployment.started(service, SHORT_TIMES)


@pytest.fixture
async def people(deployment: Deployment) -> AsyncIterator[People]:
    """Makes new users who see each other; afterwards they are removed from each other's contacts."""
    mark, made = secrets.token_hex(4), list[str]()

    async def make(*names: str) -> list[str]:
        users = [f"{name}-{mark}" for name in names]
        for place, user in enumerate(users[:-1]):
            await deployment.ask("PUT", of(user, "contacts"), {"add": users[place + 1 :]})
        made.extend(users)
        return users

    yield make
    for user in made[:-1]:
        await deployment.ask("PUT", of(user, "contacts"), {"remove": [other for other in made if other != user]})


@pytest.fixture
async def join(deployment: Deployment) -> AsyncIterator[Join]:
    """Connects a user, by `ws` or by `websockets`, up to the first snapshot; the client is ended after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(
            user: str, via: type[NodeSocket | PythonSocket] = PythonSocket, *, idle: bool = False, **query: str
        ) -> Client:
            url, subprotocols = deployment.handshake(user, **query, **({"active": "false"} if idle else {}))
            client = Client(user, await via.open(url, subprotocols), active=not idle)
            stack.push_async_callback(client.end)
            await client.sync()
            return client

        yield connect
