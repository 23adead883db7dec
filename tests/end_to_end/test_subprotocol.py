"""Tokens as a WebSocket subprotocol, as browsers send them, on a separate run: a service takes tokens one way only."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from tests.support.clients import HandshakeRefused, Join, NodeSocket, People, PythonSocket
from tests.support.deployment import SHORT_TIMES, Deployment
from tests.support.presence_run import presence_run


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A run whose functions are threads, which starts sooner. How functions run does not matter here."""
    environment = SHORT_TIMES | {"PRESENCE_TOKEN_SOURCE": "subprotocol"}
    with presence_run(tmp_path_factory.mktemp("run"), "--in-process", **environment) as service:
        yield Deployment.started(service, environment)


@pytest.mark.parametrize("via", [NodeSocket, PythonSocket])
async def test_a_token_may_come_as_a_subprotocol(
    people: People, join: Join, via: type[NodeSocket | PythonSocket]
) -> None:
    """The service takes the token from the subprotocols, and responds with its own subprotocol."""
    alice, bob = await people("alice", "bob")
    viewer, client = await join(bob, via), await join(alice, via)
    assert [viewer.socket.subprotocol, client.socket.subprotocol] == ["presence.v2", "presence.v2"]
    assert (await viewer.change(alice))["status"] == "online"


async def test_a_token_is_read_from_one_place(deployment: Deployment) -> None:
    """A token in the query is not accepted here, nor is a bad one as a subprotocol."""
    token = deployment.identity_provider.token("alice")
    for query, subprotocols, status in (
        ({"token": token}, [], 401),
        ({"token": token}, ["presence.v2"], 403),
        ({}, ["presence.v2", token[:-4]], 403),
    ):
        with pytest.raises(HandshakeRefused) as refused:
            await NodeSocket.open(f"{deployment.ws_url}?{urlencode(query)}", subprotocols)
        assert refused.value.status == status
