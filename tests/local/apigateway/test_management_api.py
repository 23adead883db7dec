"""`@connections` as AWS's own client sees it: boto3's `apigatewaymanagementapi`, unmodified, on a real port."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from yarl import URL

from local.iam import KeyPair
from tests.support.local_gateway import (
    PATIENCE,
    REGION,
    Event,
    Gateway,
    WarpedLoop,
    identified,
    received_text,
    running_gateway,
    sign,
)

if TYPE_CHECKING:
    from mypy_boto3_apigatewaymanagementapi import ApiGatewayManagementApiClient

UNKNOWN = "Df14mfUXIAMCIy-="


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """A gateway with the service's own routes."""
    async with running_gateway() as running:
        yield running


@contextlib.contextmanager
def aws(
    gateway: Gateway, stage: str = "live", keys: KeyPair | None = None, region: str = REGION
) -> Iterator[ApiGatewayManagementApiClient]:
    """AWS's client, as a function would make it."""
    pair = keys or gateway.keys
    client = boto3.client(
        "apigatewaymanagementapi",
        endpoint_url=f"{gateway.url}/{stage}",
        region_name=region,
        aws_access_key_id=pair.access_key_id,
        aws_secret_access_key=pair.secret_access_key,
        config=Config(retries={"total_max_attempts": 1}),
    )
    with contextlib.closing(client):
        yield client


def post_often(api: ApiGatewayManagementApiClient, connection_id: str, times: int) -> None:
    """Post 128 KB this many times, or until it is refused."""
    for _ in range(times):
        api.post_to_connection(ConnectionId=connection_id, Data=b"x" * 131_072)


async def test_a_post_reaches_the_client_as_one_text_frame(gateway: Gateway) -> None:
    """Posted data arrives unchanged, and the response is an empty 200."""
    async with identified(gateway) as (client, connection_id):
        with aws(gateway) as api:
            answer = await asyncio.to_thread(
                api.post_to_connection, ConnectionId=connection_id, Data='{"ä": 1}'.encode()
            )
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
        assert await received_text(client) == '{"ä": 1}'


async def test_a_connection_can_be_inspected(gateway: Gateway) -> None:
    """GET returns when the client connected and was last active, and its identity."""
    async with identified(gateway, user_agent_header="agent/1") as (_, connection_id):
        with aws(gateway) as api:
            answer = await asyncio.to_thread(api.get_connection, ConnectionId=connection_id)
    connect = gateway.functions.events_of("connect")[0]["requestContext"]
    assert answer["ConnectedAt"].timestamp() * 1000 == pytest.approx(connect["connectedAt"], abs=1)
    assert answer["ConnectedAt"] <= answer["LastActiveAt"] + timedelta(seconds=1)
    assert abs(datetime.now(UTC) - answer["LastActiveAt"]) < timedelta(seconds=10)
    assert answer["Identity"] == {"SourceIp": "127.0.0.1", "UserAgent": "agent/1"}


async def test_a_connection_can_be_closed(gateway: Gateway) -> None:
    """DELETE closes the client's socket with 1000; then it is Gone, and `$disconnect` has AWS's reason."""
    async with identified(gateway) as (client, connection_id):
        with aws(gateway) as api:
            answer = await asyncio.to_thread(api.delete_connection, ConnectionId=connection_id)
            assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
            with pytest.raises(api.exceptions.GoneException):
                await asyncio.to_thread(api.delete_connection, ConnectionId=connection_id)
        async with asyncio.timeout(PATIENCE):
            await client.wait_closed()
        assert client.close_code == 1000
    context = (await gateway.functions.event("disconnect"))["requestContext"]
    assert (context["disconnectStatusCode"], context["disconnectReason"]) == (1000, "Connection Closed Normally")
    assert context["authorizer"]["principalId"] == "alice"


@pytest.mark.parametrize("operation", ["post_to_connection", "get_connection", "delete_connection"])
async def test_an_unknown_connection_is_gone(gateway: Gateway, operation: str) -> None:
    """It is a GoneException, with the empty message of AWS's empty body."""
    data = {"Data": b"x"} if operation == "post_to_connection" else {}
    with aws(gateway) as api, pytest.raises(api.exceptions.GoneException) as gone:
        await asyncio.to_thread(getattr(api, operation), ConnectionId=UNKNOWN, **data)
    assert gone.value.response["Error"] == {"Code": "GoneException", "Message": ""}


async def test_a_client_that_left_is_gone(gateway: Gateway) -> None:
    """A post to it is a GoneException."""
    async with identified(gateway) as (_, connection_id):
        pass
    await gateway.functions.event("disconnect")
    with aws(gateway) as api, pytest.raises(api.exceptions.GoneException):
        await asyncio.to_thread(api.post_to_connection, ConnectionId=connection_id, Data=b"x")


async def test_a_connection_does_not_exist_during_its_connect(gateway: Gateway) -> None:
    """As in AWS, `$connect` cannot post to its own connection."""
    outcomes: list[str] = []

    async def post_to_itself(event: Event) -> Event:
        with aws(gateway) as api:
            try:
                await asyncio.to_thread(
                    api.post_to_connection, ConnectionId=event["requestContext"]["connectionId"], Data=b"x"
                )
            except api.exceptions.GoneException:
                outcomes.append("gone")
        return {"statusCode": 200}

    gateway.functions.answers["connect"] = post_to_itself
    async with identified(gateway):
        assert outcomes == ["gone"]


async def test_a_lost_connection_is_gone(gateway: Gateway) -> None:
    """A post to a connection that vanished is Gone."""
    async with identified(gateway) as (_, connection_id):
        gateway.websocket_api.lose(connection_id)
        with aws(gateway) as api, pytest.raises(api.exceptions.GoneException):
            await asyncio.to_thread(api.post_to_connection, ConnectionId=connection_id, Data=b"x")


async def test_more_than_128_kb_is_too_large(gateway: Gateway) -> None:
    """128 KB can be posted, one byte more is a PayloadTooLargeException, and so are more than the server reads."""
    async with identified(gateway) as (client, connection_id):
        with aws(gateway) as api:
            await asyncio.to_thread(api.post_to_connection, ConnectionId=connection_id, Data=b"x" * 131_072)
            for size in (131_073, 10 * 1024 * 1024 + 1):
                with pytest.raises(api.exceptions.PayloadTooLargeException):
                    await asyncio.to_thread(api.post_to_connection, ConnectionId=connection_id, Data=b"x" * size)
        assert len(await received_text(client)) == 131_072


async def test_posts_can_be_throttled(gateway: Gateway) -> None:
    """With the switch on, posts are a LimitExceededException; the other calls are not."""
    gateway.faults.throttle_posts = 1.0
    async with identified(gateway) as (_, connection_id):
        with aws(gateway) as api:
            with pytest.raises(api.exceptions.LimitExceededException):
                await asyncio.to_thread(api.post_to_connection, ConnectionId=connection_id, Data=b"x")
            await asyncio.to_thread(api.get_connection, ConnectionId=connection_id)


async def test_a_client_that_does_not_read_is_throttled(gateway: Gateway) -> None:
    """When a client's buffers are full, a post to it is a LimitExceededException, and others are not concerned."""
    async with identified(gateway) as (other, other_id), identified(gateway) as (client, connection_id):
        client.transport.pause_reading()
        with aws(gateway) as api:
            posts_until_full = partial(post_often, api, connection_id, 200)  # 25 MB: more than two sockets hold
            with pytest.raises(api.exceptions.LimitExceededException):
                await asyncio.to_thread(posts_until_full)
            await asyncio.to_thread(api.post_to_connection, ConnectionId=other_id, Data=b"unconcerned")
        assert await received_text(other) == "unconcerned"
        client.transport.abort()


async def test_posts_can_be_lost(gateway: Gateway) -> None:
    """A share of posts returns 200 and never arrives; the same seed loses the same posts."""
    gateway.faults.rng.seed(1)
    gateway.faults.drop_posts = 0.5
    async with identified(gateway) as (client, connection_id):
        with aws(gateway) as api:
            for number in range(20):
                await asyncio.to_thread(api.post_to_connection, ConnectionId=connection_id, Data=str(number).encode())
            gateway.faults.drop_posts = 0.0
            await asyncio.to_thread(api.post_to_connection, ConnectionId=connection_id, Data=b"end")
        arrived = []
        while (frame := await received_text(client)) != "end":
            arrived.append(frame)
    assert 0 < len(arrived) < 20


def test_posts_to_a_connection_can_hang() -> None:
    """A post to a vanished peer hangs for 29 s, and delays no other post."""

    async def hanging(clock: WarpedLoop) -> None:
        async with running_gateway() as gateway, identified(gateway, ping_interval=None) as (client, connection_id):
            url = f"{gateway.url}/live/@connections/{quote(connection_id, safe='')}"
            other = f"{gateway.url}/live/@connections/{quote(UNKNOWN, safe='')}"
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout()) as session:
                gateway.faults.hang_posts_to.add(connection_id)
                post = asyncio.create_task(status(session, "POST", url, gateway.signed("POST", url, b"x"), b"x"))
                assert await status(session, "GET", other, gateway.signed("GET", other)) == 410
                clock.warp(28)
                assert await status(session, "GET", other, gateway.signed("GET", other)) == 410
                assert not post.done()
                clock.warp(1.1)
                assert await post == 200
            assert await received_text(client) == "x"

    WarpedLoop.run(hanging)


async def status(
    session: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str], body: bytes = b""
) -> int:
    """The status of one request, its URL sent as it is written."""
    async with session.request(method, URL(url, encoded=True), headers=headers, data=body or None) as response:
        await response.read()
        return response.status


async def test_posts_to_one_connection_keep_their_order(gateway: Gateway) -> None:
    """Posts that follow each other arrive in that order, whatever connection they come on."""
    async with identified(gateway) as (client, connection_id):
        url = f"{gateway.url}/live/@connections/{quote(connection_id, safe='')}"
        async with aiohttp.ClientSession() as one, aiohttp.ClientSession() as two:
            for number in range(50):
                body = str(number).encode()
                session = (one, two)[number % 2]
                assert await status(session, "POST", url, gateway.signed("POST", url, body), body) == 200
        assert [await received_text(client) for _ in range(50)] == [str(number) for number in range(50)]


@pytest.mark.parametrize(
    "path", ["/live/@connections/{}", "/live/%40connections/{}", "/live/@connections/{}?x=1"], ids=["@", "%40", "query"]
)
async def test_the_path_may_be_written_in_several_ways(gateway: Gateway, path: str) -> None:
    """`@` and `%40` are the same, and so are `=` and `%3D`, each signed as it is sent."""
    async with identified(gateway) as (client, connection_id), aiohttp.ClientSession() as session:
        for written in (quote(connection_id, safe=""), connection_id):
            url = gateway.url + path.format(written)
            assert await status(session, "POST", url, gateway.signed("POST", url, b"x"), b"x") == 200
            assert await received_text(client) == "x"


@pytest.mark.parametrize("connection_id", ["short=", "no-padding-at-all", "Df14mfUXIAMC/y-=", "Df14mfUXIAMCIy-=x", "ä"])
async def test_a_malformed_id_is_a_bad_request(gateway: Gateway, connection_id: str) -> None:
    """What cannot be a connection id is a BadRequestException."""
    with aws(gateway) as api, pytest.raises(ClientError) as refused:
        await asyncio.to_thread(api.post_to_connection, ConnectionId=connection_id, Data=b"x")
    assert refused.value.response["Error"] == {
        "Code": "BadRequestException",
        "Message": f"Invalid connectionId: {connection_id}",
    }
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


@pytest.mark.parametrize("stage", ["test", "", "live/more"])
async def test_another_stage_is_forbidden(gateway: Gateway, stage: str) -> None:
    """An endpoint with a wrong stage is a ForbiddenException, for every caller."""
    with aws(gateway, stage=stage) as api, pytest.raises(api.exceptions.ForbiddenException):
        await asyncio.to_thread(api.post_to_connection, ConnectionId=UNKNOWN, Data=b"x")


async def test_another_key_pair_is_refused(gateway: Gateway) -> None:
    """Credentials that are not the gateway's are 403, and so is the right access key with a wrong secret."""
    for keys, code in (
        (KeyPair.create(), "UnrecognizedClientException"),
        (KeyPair(gateway.keys.access_key_id, "wrong"), "InvalidSignatureException"),
    ):
        with aws(gateway, keys=keys) as api, pytest.raises(ClientError) as refused:
            await asyncio.to_thread(api.post_to_connection, ConnectionId=UNKNOWN, Data=b"x")
        assert refused.value.response["Error"]["Code"] == code
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


async def test_another_region_is_refused(gateway: Gateway) -> None:
    """A client configured for another region is 403."""
    with aws(gateway, region="us-east-1") as api, pytest.raises(ClientError, match="valid region"):
        await asyncio.to_thread(api.post_to_connection, ConnectionId=UNKNOWN, Data=b"x")


async def test_an_unsigned_call_is_refused(gateway: Gateway) -> None:
    """Without a signature it is 403, and nothing is posted."""
    async with identified(gateway) as (client, connection_id), aiohttp.ClientSession() as session:
        url = f"{gateway.url}/live/@connections/{connection_id}"
        async with session.post(url, data=b"unsigned") as response:
            assert response.status == 403
            assert response.headers["x-amzn-ErrorType"] == "MissingAuthenticationTokenException"
            assert await response.json() == {"message": "Missing Authentication Token"}
        assert await status(session, "POST", url, gateway.signed("POST", url, b"x"), b"x") == 200
        assert await received_text(client) == "x"


async def test_what_was_signed_is_what_counts(gateway: Gateway) -> None:
    """A body changed after signing is refused, and so is an id encoded otherwise than it was signed."""
    async with identified(gateway) as (_, connection_id), aiohttp.ClientSession() as session:
        encoded = f"{gateway.url}/live/@connections/{quote(connection_id, safe='')}"
        plain = f"{gateway.url}/live/@connections/{connection_id}"
        assert await status(session, "POST", encoded, gateway.signed("POST", encoded, b"x"), b"y") == 403
        assert await status(session, "POST", encoded, gateway.signed("POST", plain, b"x"), b"x") == 403
        assert await status(session, "POST", plain, gateway.signed("POST", encoded, b"x"), b"x") == 403


async def test_a_session_token_may_be_part_of_the_signature(gateway: Gateway) -> None:
    """Credentials of a function in AWS carry a session token; a signature that covers one is accepted."""
    url = f"{gateway.url}/live/@connections/{quote(UNKNOWN, safe='')}"
    async with aiohttp.ClientSession() as session:
        headers = sign(gateway.keys, "POST", url, b"x", token="session")
        assert await status(session, "POST", url, headers, b"x") == 410


async def test_gone_has_no_body_and_the_type_in_a_header(gateway: Gateway) -> None:
    """A 410 is recognized by its status or by `x-amzn-ErrorType`; it has no body."""
    url = f"{gateway.url}/live/@connections/{quote(UNKNOWN, safe='')}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(URL(url, encoded=True), headers=gateway.signed("POST", url, b"x"), data=b"x") as response,
    ):
        assert response.status == 410
        assert response.headers["x-amzn-ErrorType"] == "GoneException"
        assert await response.read() == b""


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_other_methods_do_not_exist(gateway: Gateway, method: str) -> None:
    """There are three operations; any other method gets API Gateway's response for an unknown route."""
    url = f"{gateway.url}/live/@connections/{quote(UNKNOWN, safe='')}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, URL(url, encoded=True), headers=gateway.signed(method, url)) as response,
    ):
        assert response.status == 403
        assert json.loads(await response.text()) == {"message": "Missing Authentication Token"}
