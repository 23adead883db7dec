"""Failures while users are connected: of Redis, functions, messages and sockets. On this machine only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Self

import boto3
import pytest

from local.elasticache import RedisServer
from tests.support.clients import Client, Join, NodeSocket, People, PythonSocket
from tests.support.deployment import SHORT_TIMES, Deployment, of
from tests.support.malformed import malformed, slip
from tests.support.presence_run import PresenceRun, await_gone, presence_run

if TYPE_CHECKING:
    from mypy_boto3_apigatewaymanagementapi import ApiGatewayManagementApiClient

ENVIRONMENT = SHORT_TIMES | {
    "PRESENCE_ANNOUNCE_LEASE": "1",
    "PRESENCE_PUSH_BUDGET": "0.9",
    # The sweeper is killed with all other functions, and the schedule takes a minute to start the next. Until then
    # heartbeats settle the due users of their own bucket: with a single bucket, all users.
    "PRESENCE_BUCKETS": "1",
    # Rate limits would hide other errors.
    "PRESENCE_RATE_LIMIT": "1000",
    "PRESENCE_RATE_BURST": "1000",
}
CLIENTS = (NodeSocket, PythonSocket, NodeSocket)


class Redis:
    """A Redis that a test can stop, and start again on the same port with nothing in it."""

    def __init__(self) -> None:
        self._server = RedisServer.start()
        self.url = self._server.url

    def stop(self) -> None:
        self._server.stop()

    def start_empty(self) -> None:
        self._server = RedisServer.start(self._server.port)


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    """The run's store. The tests start it, so that all children of the run are functions."""
    redis = Redis()
    try:
        yield redis
    finally:
        redis.stop()


@pytest.fixture(scope="module")
def service(redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PresenceRun]:
    """The run, with functions in their own processes."""
    with presence_run(tmp_path_factory.mktemp("run"), "--redis", redis.url, **ENVIRONMENT) as service:
        yield service


@pytest.fixture(scope="module")
def deployment(service: PresenceRun) -> Deployment:
    """The run, as clients and the backend see it. Its graph is marked as loaded, and is empty."""
    deployment = Deployment.started(service, ENVIRONMENT)
    asyncio.run(deployment.ask("PUT", "/v1/graph", {"loaded": True}))
    return deployment


async def gathering(people: People, join: Join) -> list[Client]:
    """Three users in three clients, all online, who see each other."""
    users = await people("alice", "bob", "carol")
    clients = [await join(user, via) for user, via in zip(users, CLIENTS, strict=True)]
    await all_see(clients, dict.fromkeys(users, "online"))
    return clients


async def all_see(clients: list[Client], statuses: dict[str, str]) -> None:
    """Wait until each client sees these statuses, of all users but its own."""
    for client in clients:
        await client.sees({user: status for user, status in statuses.items() if user != client.user})


# Redis


class Queries:
    """A client that queries other users in a loop while it is entered (`async with`)."""

    def __init__(self, client: Client, users: list[str]) -> None:
        self.answers: list[str] = []
        """The result of each query: a status, or the code of an error."""
        self._client, self._users = client, [user for user in users if user != client.user]
        self._task = asyncio.create_task(self._ask())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def settles_on(self, answer: str) -> None:
        """Wait until five new queries have had this result."""
        before = len(self.answers)
        await self._client.until(lambda: self.answers[before:].count(answer) >= 5)

    async def _ask(self) -> None:
        while True:
            await self._client.send("get_presence", userIds=self._users)
            await self._client.until(lambda: bool(self._client.waiting("presence") or self._client.waiting("error")))
            if self._client.waiting("error"):
                self.answers.append((await self._client.answer("error"))["code"])
            else:
                users = (await self._client.answer("presence"))["users"]
                self.answers += {record["status"] for record in users}


async def test_a_redis_that_goes_and_comes_back_empty(
    deployment: Deployment, service: PresenceRun, redis: Redis, people: People, join: Join
) -> None:
    """Redis ends under load: each message gets `unavailable`, and no function ends. Redis comes back empty: nobody sees
    anybody until contacts are loaded and the graph is marked as loaded. Then heartbeats restore what contacts see,
    including chosen statuses, once the clients that got `unavailable` have sent them again.
    """
    clients = await gathering(people, join)
    alice, bob, carol = clients
    users = [client.user for client in clients]
    truth = {alice.user: "busy", bob.user: "online", carol.user: "online"}
    await alice.send("presence_update", status="busy")
    await all_see(clients, truth)
    workers = service.children()
    async with contextlib.AsyncExitStack() as stack:
        load = [await stack.enter_async_context(Queries(client, users)) for client in clients]
        for queries in load:
            await queries.settles_on("online")
        await asyncio.to_thread(redis.stop)
        for queries in load:
            await queries.settles_on("unavailable")
        assert (await deployment.call("GET", "/v1/health", signed=False))[0] == 503
        await asyncio.to_thread(redis.start_empty)
        for queries in load:
            queries.answers.clear()
        for queries in load:
            await queries.settles_on("offline")
        for user in users:
            await deployment.ask("PUT", of(user, "contacts"), {"add": [other for other in users if other != user]})
        for queries in load:
            await queries.settles_on("offline")
            assert set(queries.answers) <= {"offline", "unavailable"}
    for client in clients:
        assert (await client.sync())["users"] == []
    await alice.send("presence_update", status="busy")
    await deployment.ask("PUT", "/v1/graph", {"loaded": True})
    await all_see(clients, truth)
    assert (await deployment.call("GET", "/v1/health", signed=False))[0] == 200
    assert workers <= service.children()
    assert not any(client.waiting("gateway") for client in clients)


# Functions


async def test_functions_that_are_killed_during_updates(
    deployment: Deployment, service: PresenceRun, people: People, join: Join
) -> None:
    """All functions are killed while they work, again and again: in the end every viewer is right."""
    clients = await gathering(people, join)
    alice, bob, carol = clients
    for n in range(1, 61):
        await alice.send(
            "presence_update", status=("busy", "away", "online")[n % 3], customStatus={"text": str(n)}, n=n
        )
        if n % 20 == 0:
            killed = service.children()
            for worker in killed:
                os.kill(worker, signal.SIGKILL)
            assert await asyncio.to_thread(await_gone, killed) == set()
    while 99 not in alice.own["n"].values():
        # The gateway responds to a message whose function died; the client sends it again if it still applies.
        before = len(alice.frames)
        await alice.send("presence_update", status="busy", customStatus={"text": "at last"}, n=99)
        await alice.until_more_than(before)
    alice.chosen = {"status": "busy", "n": 99}
    await all_see(clients, {alice.user: "busy", bob.user: "online", carol.user: "online"})

    def is_right(viewer: Client) -> bool:
        text: str = viewer.records[alice.user]["customStatus"]["text"]
        return text == "at last"

    for viewer in (bob, carol):  # the status alone proves little: many earlier updates set busy too
        await viewer.until(partial(is_right, viewer))
    assert (await deployment.call("GET", "/v1/health", signed=False))[0] == 200


# Messages


async def test_a_thousand_malformed_messages_crash_nothing(
    deployment: Deployment, service: PresenceRun, people: People, join: Join, rng: random.Random
) -> None:
    """Each gets exactly one error, each typo at most one; no connection ends and no state is lost."""
    clients = await gathering(people, join)
    workers = service.children()

    async def babble(client: Client, rng: random.Random) -> None:
        for _ in range(27):
            for _ in range(10):
                await client.send_text(malformed(rng))
            for _ in range(10):
                error = await client.answer("error")
                assert error["code"] in ("invalid_message", "unknown_action", "too_large")
                assert error["message"]
        await client.query(client.user)
        assert client.waiting("error") == 0
        for _ in range(70):
            await client.send_text(slip(rng))
        await client.query(client.user)
        assert client.waiting("error") <= 70

    await asyncio.gather(*(babble(client, random.Random(rng.random())) for client in clients))
    assert sum(frame.get("type") == "error" for client in clients for frame in client.frames) >= 3 * 270
    assert not any(client.waiting("gateway") for client in clients)
    assert workers <= service.children()
    assert (await deployment.call("GET", "/v1/health", signed=False))[0] == 200


# Sockets


@pytest.fixture
def management_api(deployment: Deployment) -> Iterator[ApiGatewayManagementApiClient]:
    """AWS's own client, as a function would create it."""
    client = boto3.client(
        "apigatewaymanagementapi",
        endpoint_url="http" + deployment.ws_url.removeprefix("ws"),
        region_name=deployment.region,
        aws_access_key_id=deployment.credentials.access_key,
        aws_secret_access_key=deployment.credentials.secret_key,
    )
    with contextlib.closing(client):
        yield client


async def test_aws_own_client_reaches_a_connection(
    people: People, join: Join, management_api: ApiGatewayManagementApiClient
) -> None:
    """boto3 posts to a live connection, reads it and closes it; then it is Gone, and its user offline."""
    alice, bob = await people("alice", "bob")
    viewer, client = await join(bob), await join(alice, NodeSocket)
    connection = client.own["connectionId"]
    assert (await viewer.change(alice))["type"] == "user_online"
    await asyncio.to_thread(management_api.post_to_connection, ConnectionId=connection, Data=b'{"type":"hello"}')
    assert await client.answer("hello") == {"type": "hello"}
    about = await asyncio.to_thread(management_api.get_connection, ConnectionId=connection)
    assert about["Identity"]["SourceIp"] == "127.0.0.1"
    await asyncio.to_thread(management_api.delete_connection, ConnectionId=connection)
    assert await client.until_closed() == 1000
    with pytest.raises(management_api.exceptions.GoneException):
        await asyncio.to_thread(management_api.post_to_connection, ConnectionId=connection, Data=b"{}")
    assert (await viewer.change(alice))["type"] == "user_offline"
