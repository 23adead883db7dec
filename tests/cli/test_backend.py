"""Signed calls: the gateway accepts them, useful retries happen, and failures are one line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.errors import UserError
from cli.home import Home, Run
from cli.target import Target
from local.awslambda.invocation import Throttled
from tests.support.local_gateway import REGION, Event, Gateway, crash, running_gateway

DONE = {"statusCode": 204}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """A gateway whose functions a test writes."""
    async with running_gateway() as gateway:
        yield gateway


@pytest.fixture
def home(tmp_path: Path, gateway: Gateway) -> Iterator[Home]:
    """The files that a run with the gateway's key pair leaves for the other commands."""
    home = Home(tmp_path)
    home.credentials.touch(mode=0o600)
    home.credentials.write_text(
        f"[default]\naws_access_key_id = {gateway.keys.access_key_id}\n"
        f"aws_secret_access_key = {gateway.keys.secret_access_key}\n"
    )
    with home.running(Run(url=gateway.url, ws_url=gateway.websocket_url, region=REGION, pid=1)):
        yield home


def problem(status: int, detail: str) -> Event:
    """An error response of the service."""
    return {"statusCode": status, "body": json.dumps({"title": "A title", "detail": detail})}


async def test_a_call_is_signed_for_the_run(gateway: Gateway, home: Home) -> None:
    """Without a URL, the call goes to the run of this directory, signed with its key pair."""
    gateway.functions.answers["api"] = DONE
    async with Target(home, {}).backend() as backend:
        await backend.set_contacts("alice", ["bob"], mutual=False)
    (event,) = gateway.functions.events_of("api")
    assert event["routeKey"] == "PUT /v1/users/{id}/contacts"
    assert json.loads(event["body"]) == {"add": ["bob"], "remove": [], "mutual": False}
    assert event["requestContext"]["authorizer"]["iam"]["accessKey"] == gateway.keys.access_key_id


@pytest.mark.parametrize("user", ["a@b.example", "x:y|z", "~a=b+c-d_e", "tenant:alice"])
async def test_every_user_id_survives_the_path(gateway: Gateway, home: Home, user: str) -> None:
    """Every character of a user id is signed as it is sent, and arrives unchanged."""
    gateway.functions.answers["api"] = DONE
    async with Target(home, {}, url=gateway.url + "/").backend() as backend:
        await backend.set_privacy(user, {"invisible": True})
    assert gateway.functions.events_of("api")[0]["pathParameters"] == {"id": user}


async def test_pages_follow_each_other(gateway: Gateway, home: Home) -> None:
    """The cursor of a page requests the next page; an empty one ends."""

    async def page(event: Event) -> Any:
        last = event.get("queryStringParameters", {}).get("cursor") == "0-17"
        return {"users": [{"userId": "bob" if last else "alice"}], "next": None if last else "0-17"}

    gateway.functions.answers["api"] = page
    async with Target(home, {}).backend() as backend:
        assert await backend.graph_page("") == ([{"userId": "alice"}], "0-17")
        assert await backend.graph_page("0-17") == ([{"userId": "bob"}], "")


@pytest.mark.parametrize("trouble", [Throttled("busy"), problem(503, "Redis cannot be reached")])
async def test_a_temporary_failure_is_retried(gateway: Gateway, home: Home, trouble: Any) -> None:
    """A call is repeated while the service is busy or Redis is unavailable."""
    answers = iter([trouble, trouble, DONE])

    async def answer(_: Event) -> Any:
        this = next(answers)
        if isinstance(this, Exception):
            raise this
        return this

    gateway.functions.answers["api"] = answer
    async with Target(home, {}).backend() as backend:
        await backend.set_graph_loaded()
    assert len(gateway.functions.events_of("api")) == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (problem(409, "alice would have more than 5000 contacts"), "returned 409: alice would have more than 5000"),
        (problem(400, "add: too many"), "returned 400: add: too many"),
        (crash(), "returned 500: Internal Server Error"),
        ({"statusCode": 418}, "returned 418: no reason given"),
        ({"statusCode": 200, "body": "<html>"}, "is not this service: its response is not JSON"),
    ],
)
async def test_a_failure_is_one_line(gateway: Gateway, home: Home, answer: Any, words: str) -> None:
    """The error contains the reason of the service or the gateway, and the call is not repeated."""
    gateway.functions.answers["api"] = answer
    async with Target(home, {}).backend() as backend:
        with pytest.raises(UserError, match=words) as error:
            await backend.health()
    assert "\n" not in str(error.value)
    assert len(gateway.functions.events_of("api")) == 1


async def test_wrong_credentials(gateway: Gateway, home: Home) -> None:
    """The error suggests that the credentials are those of another service."""
    home.credentials.unlink()
    home.key_pair(make=True)
    async with Target(home, {}).backend() as backend:
        with pytest.raises(UserError, match=r"403: Forbidden \(are these the credentials of that service"):
            await backend.set_graph_loaded()
    assert gateway.functions.events == []


async def test_an_unreachable_service(home: Home) -> None:
    """If nothing listens at the port, the error asks whether `presence run` is running."""
    async with Target(home, {}, url="http://127.0.0.1:1").backend() as backend:
        with pytest.raises(UserError, match=r"nothing answers at http://127.0.0.1:1: is `presence run` running\?"):
            await backend.health()


async def test_an_unsigned_call_has_a_status(gateway: Gateway, home: Home) -> None:
    """A call without a signature returns the status of the response."""
    async with Target(home, {}).backend() as backend:
        assert await backend.status_unsigned("GET", "/v1/users/alice/contacts") == 403
    assert gateway.functions.events == []


async def test_a_server_without_http(home: Home) -> None:
    """A port with another protocol, or without TLS, has another error than a closed port."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-nobody\r\n")
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Target(home, {}, url=f"http://{at}").backend() as backend:
            with pytest.raises(UserError, match=f"http://{at} is not this service: it does not speak HTTP"):
                await backend.health()
        async with Target(home, {}, url=f"https://{at}").backend() as backend:
            with pytest.raises(UserError, match=f"https://{at} speaks no TLS that this machine trusts"):
                await backend.health()
