"""A page whose connection is killed, refused, lost or replaced, and what its contacts see."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import WebSocket, WebSocketRoute, expect

from tests.support.clients import People
from tests.support.demo_page import DemoPage, Enter, NewContext
from tests.support.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")

RECORD_TRANSPORTS = """() => {
  window.transports = {};
  new MutationObserver(() => {
    const [badge] = document.querySelectorAll("#connection");
    const name = [...document.querySelectorAll("#facts dt")].find((dt) => dt.textContent === "Transport");
    const transport = name.nextElementSibling.textContent;
    const seen = (transports[badge.textContent] ??= []);
    if (seen.at(-1) !== transport) seen.push(transport);
  }).observe(document, { subtree: true, childList: true, characterData: true });
}"""
"""Records, for each state in the badge, the transports in the list of facts, at every change of the page."""


async def test_a_killed_socket_comes_back_and_contacts_see_nothing(people: People, enter: Enter) -> None:
    """Alice's socket is cut without a close frame: she gets another one, and Bob's screen does not change."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await bobs.sees(alice, "online")
    before, first = await bobs.statuses(alice), await alices.connection_id()
    await alices.press("Kill the socket")
    await alices.has_moved_from(first)
    await alices.choose("This device", "Busy")  # the new connection works
    await bobs.sees(alice, "busy")
    assert await bobs.statuses(alice) == [*before, "busy"]
    assert "offline" not in (await alices.statuses(bob))[1:]


async def test_a_reload_resumes_without_a_flicker(people: People, enter: Enter) -> None:
    """Alice reloads her page twice: Bob sees no change, and she sees Bob's status immediately."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await bobs.sees(alice, "online")
    before = await bobs.statuses(alice)
    for _ in range(2):
        await alices.page.reload()
        await alices.is_connected()
        await alices.sees(bob, "online")
        assert await alices.statuses(bob) == ["online"]
    await alices.choose("This device", "Busy")
    await bobs.sees(alice, "busy")
    assert await bobs.statuses(alice) == [*before, "busy"]


async def test_where_websockets_are_refused_the_page_polls_until_they_are_not(
    people: People, deployment: Deployment, enter: Enter, new_context: NewContext
) -> None:
    """Behind a proxy without WebSockets, changes travel over HTTP; on another network a WebSocket opens again."""
    alice, bob = await people("alice", "bob")
    context, refuses = await new_context(), True

    async def proxy(socket: WebSocketRoute) -> None:
        if refuses:
            await socket.close(code=1011)
        else:
            socket.connect_to_server()

    await context.route_web_socket(re.compile("/live"), proxy)
    bobs, alices = await asyncio.gather(enter(bob), DemoPage.open(context, f"{deployment.url}/demo/", alice))
    await alices.is_connected("Polling")
    await bobs.sees(alice, "online")
    await alices.choose("This device", "Busy")
    await bobs.sees(alice, "busy")
    await bobs.choose("This device", "Away")
    await alices.sees(bob, "away")
    before, refuses = await bobs.statuses(alice), False
    await context.set_offline(True)
    await context.set_offline(False)
    await alices.is_connected("Live")
    await expect(alices.fact("Transport")).to_have_text("WebSocket")
    await alices.choose("This device", "Away")
    await bobs.sees(alice, "away")
    assert await bobs.statuses(alice) == [*before, "away"]


async def test_blocking_and_unblocking_websockets_causes_no_event(people: People, enter: Enter) -> None:
    """The page's switch moves Alice from a WebSocket to polling and back, and Bob sees no change."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await bobs.sees(alice, "online")
    before = await bobs.statuses(alice)
    await expect(alices.fact("Transport")).to_have_text("WebSocket")
    await alices.page.evaluate(RECORD_TRANSPORTS)
    await alices.switch("Block WebSockets")
    await alices.is_connected("Polling")
    log = alices.page.get_by_role("log", name="Event log")
    await expect(log).to_contain_text("WebSockets are blocked")
    await expect(log).not_to_contain_text("tokenSource")
    await alices.switch("Block WebSockets", on=False)
    await alices.is_connected("Live")
    transports = await alices.page.evaluate("transports")
    assert transports["Polling"] == ["HTTP polling"]
    assert transports["Live"] == ["WebSocket"]
    await alices.choose("This device", "Busy")
    await bobs.sees(alice, "busy")
    assert await bobs.statuses(alice) == [*before, "busy"]


async def test_a_lost_network_grays_the_page_out_and_a_restored_one_updates_it(people: People, enter: Enter) -> None:
    """Alice is disconnected until Bob sees her offline: her page stays, grayed out, and catches up when she returns."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await asyncio.gather(bobs.sees(alice, "online"), alices.sees(bob, "online"))
    stale = alices.page.get_by_text("Not connected. Statuses may be out of date.")
    who = alices.contact(bob).locator(".who")
    await expect(stale).to_be_hidden()
    await alices.switch("Disconnect the network")
    await alices.is_connected("Connecting")
    await expect(stale).to_be_visible()
    await expect(who).to_have_css("filter", "grayscale(1)")
    await expect(alices.page.locator("#timeline .gap")).to_have_count(1)
    own = alices.page.locator("#you-status")
    await expect(own).to_have_text("Not connected")
    await expect(own.locator("..")).to_have_css("filter", "grayscale(1)")
    await bobs.choose("This device", "Busy")
    await bobs.sees(alice, "offline")
    await alices.sees(bob, "online")
    await alices.switch("Disconnect the network", on=False)
    await alices.is_connected("Live")
    await expect(stale).to_be_hidden()
    await expect(who).to_have_css("filter", "none")
    await expect(own).to_have_text("Online")
    await alices.sees(bob, "busy")
    await bobs.sees(alice, "online")
    assert (await bobs.statuses(alice))[-3:] == ["online", "offline", "online"]
    assert (await alices.statuses(bob))[-2:] == ["online", "busy"]


async def test_a_page_reconnects_when_the_network_returns(
    people: People, enter: Enter, new_context: NewContext
) -> None:
    """The browser is offline when its socket is lost; online again, it gets a new one and Bob sees no change."""
    alice, bob = await people("alice", "bob")
    context = await new_context()
    alices, bobs = await asyncio.gather(enter(alice, context), enter(bob))
    await bobs.sees(alice, "online")
    before, first = await bobs.statuses(alice), await alices.connection_id()
    await context.set_offline(True)
    await bobs.cut(first)
    await alices.is_connected("Connecting")
    await context.set_offline(False)
    await alices.has_moved_from(first)
    assert await bobs.statuses(alice) == before


async def test_an_expired_token_is_replaced_without_an_event(people: People, enter: Enter) -> None:
    """A handshake with an expired token is refused; the next one has a new token, and Bob sees no change."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await bobs.sees(alice, "online")
    before, first = await bobs.statuses(alice), await alices.connection_id()
    sockets, refusals = list[WebSocket](), list[str]()

    def refused(error: str) -> None:
        refusals.append(error)

    def opened(socket: WebSocket) -> None:
        sockets.append(socket)
        socket.on("socketerror", refused)

    alices.page.on("websocket", opened)
    await alices.press("Expire the token")
    await alices.has_moved_from(first)
    assert len(sockets) == 2
    assert ["403" in error for error in refusals] == [True]
    assert sockets[0].url != sockets[1].url
    log = alices.page.get_by_role("log", name="Event log")
    for text in ("The token expired", "Moved to a new connection"):
        await expect(log).to_contain_text(text)
    await expect(log).not_to_contain_text("Signed out")
    assert await log.get_by_text("Connecting").count() == 1
    assert await bobs.statuses(alice) == before


async def test_tokens_are_renewed_before_they_expire(people: People, enter: Enter) -> None:
    """With 15-second tokens the connection is replaced before each expires, and neither Alice nor Bob sees a gap."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await bobs.sees(alice, "online")
    before, first = await bobs.statuses(alice), await alices.connection_id()
    await alices.switch("15-second tokens")
    second = await alices.has_moved_from(first)
    await alices.has_moved_from(second)
    log = alices.page.get_by_role("log", name="Event log")
    await expect(log).to_contain_text("New tokens are valid for 15 seconds")
    await expect(log).not_to_contain_text("Signed out")
    assert await log.get_by_text("Connecting").count() == 1  # never disconnected
    assert await bobs.statuses(alice) == before
