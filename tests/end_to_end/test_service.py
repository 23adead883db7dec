"""The whole service as its users see it, through clients that we did not write; runs against any deployment.

Tests read each change of a contact in order, so the next one proves that nothing else came in between. A frame's `type`
is a hint, and is checked only where nothing else happens at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import pytest

from shared.routes import HTTP_ROUTES
from tests.support.clients import PATIENCE, Client, Frame, HandshakeRefused, Join, NodeSocket, People, PythonSocket
from tests.support.deployment import Deployment, of

SCHEDULE = 65.0
"""Seconds until the first sweeper starts to settle silent connections, on a newly deployed service."""


async def offline(viewer: Client, user: str, silence: float) -> Frame:
    """The change by which a viewer learns, after this many seconds of silence, that a user is offline."""
    began = time.monotonic()
    change = await viewer.change(user, silence + SCHEDULE + PATIENCE)
    assert (
        time.monotonic() - began > silence - 0.1
    )  # Not earlier: a change from before `began` would arrive immediately.
    assert (change["type"], change["status"], change["deviceType"]) == ("user_offline", "offline", None)
    return change


def record(change: Frame) -> Frame:
    """The record in a change."""
    return {name: value for name, value in change.items() if name != "type"}


def strangers(*users: str) -> list[Frame]:
    """What a viewer gets about users who are not contacts."""
    return [{"userId": user, "status": "offline"} for user in users]


# Statuses


async def test_what_a_user_does_reaches_every_contact_once(people: People, join: Join) -> None:
    """Three users in three clients: online, busy, a custom status, away, online and gone, one frame each."""
    alice, bob, carol = await people("alice", "bob", "carol")
    viewers = [await join(bob, NodeSocket), await join(carol, PythonSocket)]
    client = await join(alice, NodeSocket, deviceId="laptop", deviceType="desktop")
    tea = {"text": "Tea", "emoji": "🍵"}
    updates: list[tuple[dict[str, Any], str, Any]] = [
        ({"status": "busy"}, "busy", None),
        ({"customStatus": tea}, "busy", {**tea, "until": None}),
        ({"status": "away"}, "away", {**tea, "until": None}),
        ({"customStatus": None}, "away", None),
        ({"status": "online"}, "online", None),
    ]
    came = [await viewer.change(alice) for viewer in viewers]
    assert {(change["type"], change["status"], change["deviceType"]) for change in came} == {
        ("user_online", "online", "desktop")
    }
    for n, (update, status, custom) in enumerate(updates, 1):
        await client.send("presence_update", **update, n=n)
        for viewer in viewers:
            change = await viewer.change(alice)
            assert (change["status"], change["customStatus"], change["lastSeen"]) == (status, custom, None)
        await client.applied(n)
        assert (client.own["status"], client.own["customStatus"]) == (status, custom)
    left = time.time()
    await client.send("leave")
    for viewer in viewers:
        change = await viewer.change(alice)
        assert change["status"] == "offline"
        assert change["lastSeen"] == pytest.approx(left * 1000, abs=PATIENCE * 1000)
    assert await client.until_closed() in (1000, 1005)


async def test_an_idle_device_is_away(people: People, join: Join) -> None:
    """A device that connects idle makes its user away, and the first activity makes the user online."""
    alice, bob = await people("alice", "bob")
    viewer = await join(bob)
    client = await join(alice, NodeSocket, idle=True)
    came = await viewer.change(alice)
    assert (came["type"], came["status"]) == ("user_online", "away")
    await client.send("heartbeat", active=True)
    change = await viewer.change(alice)
    assert change["status"] == "online"


# Who sees whom


async def test_only_contacts_see_anything(deployment: Deployment, people: People, join: Join) -> None:
    """A signed request adds contacts with immediate effect and removes them with one offline; strangers see nothing."""
    [alice], [bob] = await people("alice"), await people("bob")
    viewer, client = await join(bob, NodeSocket), await join(alice)
    nobody = f"nobody-{alice}"
    assert await viewer.query(alice, nobody) == strangers(alice, nobody)
    await deployment.ask("PUT", of(alice, "contacts"), {"add": [bob], "mutual": False})
    assert await deployment.ask("GET", of(alice, "contacts")) == {"viewers": [bob], "sees": []}
    came = await viewer.change(alice)
    assert (came["type"], came["status"]) == ("user_online", "online")
    assert await viewer.query(nobody, alice) == [*strangers(nobody), record(came)]
    assert (await viewer.sync())["users"] == [record(came)]
    assert await client.query(bob) == strangers(bob)
    await deployment.ask("PUT", of(alice, "contacts"), {"remove": [bob]})
    change = await viewer.change(alice)
    assert (change["type"], change["status"]) == ("user_offline", "offline")
    assert (await viewer.sync())["users"] == []
    assert await viewer.query(alice) == [record(change)]
    await client.send("presence_update", status="busy")
    await client.until(lambda: client.own["status"] == "busy")
    assert await viewer.query(alice) == [record(change)]
    assert viewer.unread(alice) == []


async def test_a_block_is_an_ordinary_offline_for_both_sides(
    deployment: Deployment, people: People, join: Join
) -> None:
    """Both users are offline for each other on every surface, and for no other user, until the block ends."""
    alice, bob, carol = await people("alice", "bob", "carol")
    other = await join(carol)
    blocked, blocker = await join(bob, NodeSocket), await join(alice)
    assert (await blocked.change(alice))["type"] == "user_online"
    await blocker.until(lambda: bob in blocker.records)
    await deployment.ask("PUT", of(alice, "privacy"), {"blocks": [bob]})
    change = await blocked.change(alice)
    assert (change["type"], change["status"], change["deviceType"]) == ("user_offline", "offline", None)
    assert (await blocker.change(bob))["type"] == "user_offline"
    await blocker.send("presence_update", status="busy", customStatus={"text": "free of bob"})
    assert [(await other.change(alice))["status"] for _ in range(2)] == ["online", "busy"]
    assert [seen["status"] for seen in await blocked.query(alice, carol)] == ["offline", "online"]
    [seen] = [seen for seen in (await blocked.sync())["users"] if seen["userId"] == alice]
    assert (seen["status"], seen["customStatus"]) == ("offline", None)
    assert blocked.unread(alice) == []
    await deployment.ask("PUT", of(alice, "privacy"), {"blocks": []})
    back = await blocked.change(alice)
    assert (back["type"], back["status"], back["customStatus"]["text"]) == ("user_online", "busy", "free of bob")
    assert (await blocker.change(bob))["type"] == "user_online"


# The backend


async def test_sign_out_everywhere_closes_and_refuses(deployment: Deployment, people: People, join: Join) -> None:
    """Signing out everywhere closes every connection, is announced without a grace, and refuses earlier tokens."""
    alice, bob = await people("alice", "bob")
    viewer = await join(bob)
    token = deployment.identity_provider.token(alice)
    clients = [await join(alice, via, deviceId=via.__name__) for via in (NodeSocket, PythonSocket)]
    assert (await viewer.change(alice))["type"] == "user_online"
    assert await deployment.ask("POST", of(alice, "disconnect")) == {"closed": 2}
    assert {await client.until_closed() for client in clients} <= {1000, 1005}
    change = await viewer.change(alice)
    assert change["status"] == "offline"
    assert await refusal(deployment, alice, token) == 403
    async with asyncio.timeout(PATIENCE):
        while True:  # Tokens have whole seconds: one from the second of the sign-out counts as issued before it.
            with contextlib.suppress(HandshakeRefused):
                await join(alice)
                break
    assert (await viewer.change(alice))["type"] == "user_online"


async def test_the_backend_sees_the_real_state(deployment: Deployment, people: People, join: Join) -> None:
    """A signed request gets the real status, also of an invisible user, and the reason for it."""
    [alice] = await people("alice")
    await join(alice, NodeSocket, deviceId="laptop")
    await deployment.ask("PUT", of(alice, "privacy"), {"invisible": True})
    state = await deployment.ask("GET", of(alice, "presence"))
    assert (state["status"], state["invisible"], state["devices"][0]["deviceId"]) == ("online", True, "laptop")
    assert state["why"] == "invisible: contacts see offline"


async def test_health_is_open(deployment: Deployment) -> None:
    """Anyone can see that the service is healthy and that its graph is loaded; before that, nobody sees anybody."""
    status, health = await deployment.call("GET", "/v1/health", signed=False)
    assert (status, health["graph"]) == (200, "loaded")


@pytest.mark.parametrize(
    ("method", "path"), [(route.method, route.path) for route in HTTP_ROUTES if route.access == "backend"]
)
async def test_the_backends_calls_need_a_signature(deployment: Deployment, method: str, path: str) -> None:
    """Requests to the backend's routes without a signature are refused."""
    status, _ = await deployment.call(method, path.replace("{id}", "alice"), signed=False)
    assert status == 403


# Handshakes and messages


async def refusal(deployment: Deployment, user: str, token: str | None = None, **query: str) -> int:
    """The status with which a handshake is refused."""
    with pytest.raises(HandshakeRefused) as refused:
        await NodeSocket.open(*deployment.handshake(user, token, **query))
    return refused.value.status


async def test_only_a_good_token_opens_a_connection(deployment: Deployment) -> None:
    """No token: 401. One with another signature, or an expired one: 403, without a reason."""
    good = deployment.identity_provider.token("alice")
    assert await refusal(deployment, "alice", token="") == 401
    assert await refusal(deployment, "alice", token=good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB")) == 403
    assert await refusal(deployment, "alice", token=deployment.identity_provider.token("alice", -60)) == 403


@pytest.mark.parametrize("query", [{"v": "1"}, {"deviceId": "my phone"}, {"status": "offline"}], ids=str)
async def test_an_invalid_handshake_opens_no_connection(deployment: Deployment, query: dict[str, str]) -> None:
    """Another version, a malformed device and a status that cannot be chosen: 400."""
    assert await refusal(deployment, "alice", **query) == 400


WRONG: list[tuple[str, str, str | None]] = [
    ("hello", "invalid_message", None),
    ('{"action":"heart', "invalid_message", None),
    ("[1,2]", "invalid_message", None),
    ("[" * 2000 + "]" * 2000, "invalid_message", None),
    ('{"id":"m"}', "invalid_message", "action"),
    ('{"action":"dance","id":"m"}', "unknown_action", "action"),
    ('{"action":"heartbeat","active":"yes","id":"m"}', "invalid_message", "active"),
    ('{"action":"sync","seq":1e999,"id":"m"}', "invalid_message", "seq"),
    ('{"action":"presence_update","status":"offline","id":"m"}', "invalid_message", "status"),
    ('{"action":"presence_update","status":"busy","until":1,"id":"m"}', "invalid_message", "until"),
    (
        '{"action":"presence_update","customStatus":{"text":"a\\u0000"},"id":"m"}',
        "invalid_message",
        "customStatus.text",
    ),
    ('{"action":"get_presence","userIds":[],"id":"m"}', "invalid_message", "userIds"),
    (json.dumps({"action": "get_presence", "userIds": ["x" * 100] * 60}), "too_large", None),
]


@pytest.mark.parametrize("via", [NodeSocket, PythonSocket])
async def test_a_malformed_message_gets_one_clear_error(people: People, join: Join, via: Any) -> None:
    """Each gets one error that names the field; the connection stays open, and nothing is written."""
    alice, bob = await people("alice", "bob")
    viewer = await join(bob)
    client = await join(alice, via)
    assert (await viewer.change(alice))["type"] == "user_online"
    for text, code, field in WRONG:
        await client.send_text(text)
        error = await client.answer("error")
        assert (error["code"], error.get("field")) == (code, field), text
        assert error.get("id") == ("m" if '"id":"m"' in text else None), text
        assert error["message"]
    await client.send("presence_update", status="busy")
    assert (await viewer.change(alice))["status"] == "busy"
    await client.query(bob)
    assert sum(frame.get("type") == "error" for frame in client.frames) == len(WRONG)


async def test_the_gateways_own_routes_are_no_actions(people: People, join: Join) -> None:
    """A message cannot invoke the functions of `$connect` and `$disconnect`: these are not actions of a client."""
    [alice] = await people("alice")
    client = await join(alice)
    for action in ("$connect", "$disconnect"):
        await client.send(action)
        error = await client.answer("error")
        assert (error["code"], error["field"]) == ("unknown_action", "action")
    assert [seen["status"] for seen in await client.query(alice)] == ["online"]


async def test_too_many_messages_are_refused_with_the_time_to_wait(people: People, join: Join) -> None:
    """A connection over its rate limit gets an error with a time to wait, and stays open."""
    [alice] = await people("alice")
    client = await join(alice)
    for number in range(60):
        await client.send("get_presence", userIds=[alice], id=str(number))
    error = await client.answer("error")
    assert (error["code"], error["retryAfter"] > 0) == ("rate_limited", True)
    await asyncio.wait_for(client.answer("presence"), PATIENCE)


# Ends. They come last: on a newly deployed service the first sweeper starts after a minute.


async def test_a_claim_overrides_all_devices_until_it_ends(people: People, join: Join) -> None:
    """A user-wide status ends by itself, and the statuses of the devices apply again."""
    alice, bob = await people("alice", "bob")
    viewer = await join(bob)
    client = await join(alice, NodeSocket)
    assert (await viewer.change(alice))["status"] == "online"
    until = round(time.time() * 1000) + 2500
    await client.send("presence_update", status="busy", scope="user", until=until)
    assert (await viewer.change(alice))["status"] == "busy"
    assert [seen["status"] for seen in await viewer.query(alice)] == ["busy"]
    assert (await viewer.change(alice, SCHEDULE + PATIENCE))["status"] == "online"
    assert time.time() * 1000 >= until


async def test_a_closed_page_is_offline_after_the_grace(deployment: Deployment, people: People, join: Join) -> None:
    """The user of a closed socket is offline after the grace, and not before."""
    alice, bob = await people("alice", "bob")
    viewer, client = await join(bob, NodeSocket), await join(alice)
    assert (await viewer.change(alice))["type"] == "user_online"
    await client.close()
    await offline(viewer, alice, deployment.settings.grace)


async def test_a_killed_client_is_offline_after_the_grace(deployment: Deployment, people: People, join: Join) -> None:
    """A killed client sends no farewell; its system closes the socket, and that counts."""
    alice, bob = await people("alice", "bob")
    viewer, client = await join(bob), await join(alice, NodeSocket)
    assert (await viewer.change(alice))["type"] == "user_online"
    await client.kill()
    await offline(viewer, alice, deployment.settings.grace)


async def test_a_client_that_was_cut_off_is_offline_at_its_ttl(
    deployment: Deployment, people: People, join: Join
) -> None:
    """An open socket that accepts posts proves nothing: without heartbeats its user is offline once,
    at the TTL with no added grace, last seen at the last heartbeat.
    """
    alice, bob = await people("alice", "bob")
    viewer, client = await join(bob), await join(alice, NodeSocket)
    assert (await viewer.change(alice))["type"] == "user_online"
    await client.cut_off()
    last = time.time()
    await viewer.send("presence_update", status="busy")  # posted to the frozen client, where it seems to arrive
    change = await viewer.change(alice, deployment.settings.device_ttl + SCHEDULE + PATIENCE)
    assert (change["type"], change["status"]) == ("user_offline", "offline")
    assert change["lastSeen"] <= last * 1000
    assert time.time() * 1000 >= change["lastSeen"] + deployment.settings.device_ttl * 1000


# Devices


async def grace_has_passed(deployment: Deployment, viewer: Client, witness: Client) -> None:
    """Wait until the grace of earlier closes has passed: another user closes after them and is offline."""
    assert (await viewer.change(witness.user))["type"] == "user_online"
    await witness.close()
    await offline(viewer, witness.user, deployment.settings.grace)


async def test_a_second_device_comes_and_goes_without_an_event(
    deployment: Deployment, people: People, join: Join
) -> None:
    """Contacts see one user: a second device that opens, and the first one that closes, change nothing for them."""
    alice, bob, carol = await people("alice", "bob", "carol")
    viewer, witness = await join(bob, NodeSocket), await join(carol)
    laptop = await join(alice, NodeSocket, deviceId="laptop")
    assert (await viewer.change(alice))["type"] == "user_online"
    phone = await join(alice, PythonSocket, deviceId="phone", deviceType="mobile")
    assert len(phone.own["devices"]) == 2
    await laptop.close()
    await grace_has_passed(deployment, viewer, witness)
    assert viewer.unread(alice) == []
    await phone.send("presence_update", status="busy")
    change = await viewer.change(alice)
    assert (change["status"], change["deviceType"]) == ("busy", "mobile")


async def test_a_reload_within_the_grace_is_no_event(deployment: Deployment, people: People, join: Join) -> None:
    """A page that is left and comes back within the grace keeps its status, and its contacts see nothing."""
    alice, bob, carol = await people("alice", "bob", "carol")
    viewer, witness = await join(bob, NodeSocket), await join(carol)
    page = await join(alice, deviceId="browser")
    assert (await viewer.change(alice))["type"] == "user_online"
    await page.send("presence_update", status="busy")
    assert (await viewer.change(alice))["status"] == "busy"
    await page.close()
    page = await join(alice, deviceId="browser")
    assert page.own["status"] == "busy"
    await grace_has_passed(deployment, viewer, witness)
    assert viewer.unread(alice) == []
    await page.send("presence_update", status="online")
    assert (await viewer.change(alice))["status"] == "online"
