"""What becomes of a page whose connection is killed, refused, lost or moved, and what its contacts see of it."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import WebSocket, WebSocketRoute, expect

from tests.support.clients import People
from tests.support.demo_page import DemoPage, Enter, NewContext
from tests.support.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOTE_WAYS = """() => {
  window.ways = {};
  new MutationObserver(() => {
    const [badge] = document.querySelectorAll("#connection");
    const way = [...document.querySelectorAll("#facts dt")].find((word) => word.textContent === "By way of");
    const seen = (ways[badge.textContent] ??= []);
    if (seen.at(-1) !== way.nextElementSibling.textContent) seen.push(way.nextElementSibling.textContent);
  }).observe(document, { subtree: true, childList: true, characterData: true });
}"""
"""Notes beside each state of the connection which way the facts named, whenever something was drawn."""


async def test_a_killed_socket_comes_back_and_contacts_see_nothing(people: People, enter: Enter) -> None:
    """Alice's socket is cut without a close frame: she has another one, and Bob's screen has not changed."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await bobs.sees(alice, "online")
    before, first = await bobs.statuses(alice), await alices.connection_id()
    await alices.press("Kill the socket")
    await alices.has_moved_from(first)
    await alices.choose("This device", "Busy")  # and it is of use
    await bobs.sees(alice, "busy")
    assert await bobs.statuses(alice) == [*before, "busy"]
    assert "offline" not in (await alices.statuses(bob))[1:]


async def test_a_reload_resumes_without_a_flicker(people: People, enter: Enter) -> None:
    """Alice loads her page anew, twice: Bob sees nothing of it, and she sees Bob as he is."""
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
    """A proxy that knows no WebSockets: changes come and go over HTTP; on another network there is one again."""
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
    await expect(alices.fact("By way of")).to_have_text("WebSocket")
    await alices.choose("This device", "Away")
    await bobs.sees(alice, "away")
    assert await bobs.statuses(alice) == [*before, "away"]


async def test_websockets_that_are_refused_later_and_let_through_again_are_no_event(
    people: People, enter: Enter
) -> None:
    """The page's own switch takes Alice from a WebSocket to polling and back, and Bob sees nothing of it."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await bobs.sees(alice, "online")
    before = await bobs.statuses(alice)
    await expect(alices.fact("By way of")).to_have_text("WebSocket")
    await alices.page.evaluate(NOTE_WAYS)
    await alices.switch("Refuse WebSockets")
    await alices.is_connected("Polling")
    log = alices.page.get_by_role("log", name="What happened")
    await expect(log).to_contain_text("No WebSocket gets through")
    await expect(log).not_to_contain_text("tokenSource")
    await alices.switch("Refuse WebSockets", on=False)
    await alices.is_connected("Live")
    ways = await alices.page.evaluate("ways")
    assert ways["Polling"] == ["HTTP, polled"]
    assert ways["Live"] == ["WebSocket"]
    await alices.choose("This device", "Busy")
    await bobs.sees(alice, "busy")
    assert await bobs.statuses(alice) == [*before, "busy"]


async def test_a_lost_network_greys_the_picture_and_a_found_one_makes_it_right(people: People, enter: Enter) -> None:
    """Alice's network is gone until she is offline for Bob: her picture stays, greyed, and catches up at once."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await asyncio.gather(bobs.sees(alice, "online"), alices.sees(bob, "online"))
    old, who = (
        alices.page.get_by_text("Not connected. What you see here may be old."),
        alices.contact(bob).locator(".who"),
    )
    await expect(old).to_be_hidden()
    await alices.switch("Lose the network")
    await alices.is_connected("Connecting")
    await expect(old).to_be_visible()
    await expect(who).to_have_css("filter", "grayscale(1)")
    await expect(alices.page.locator("#timeline .gap")).to_have_count(1)
    own = alices.page.locator("#you-status")
    await expect(own).to_have_text("Not connected")
    await expect(own.locator("..")).to_have_css("filter", "grayscale(1)")
    await bobs.choose("This device", "Busy")
    await bobs.sees(alice, "offline")
    await alices.sees(bob, "online")
    await alices.switch("Lose the network", on=False)
    await alices.is_connected("Live")
    await expect(old).to_be_hidden()
    await expect(who).to_have_css("filter", "none")
    await expect(own).to_have_text("Online")
    await alices.sees(bob, "busy")
    await bobs.sees(alice, "online")
    assert (await bobs.statuses(alice))[-3:] == ["online", "offline", "online"]
    assert (await alices.statuses(bob))[-2:] == ["online", "busy"]


async def test_a_machine_without_a_network_polls_nothing_and_is_back_with_it(
    people: People, enter: Enter, new_context: NewContext
) -> None:
    """The browser itself is offline when the socket is lost; online again, it has a new one before anybody notices."""
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


async def test_an_expired_token_is_replaced_and_nobody_sees_it(people: People, enter: Enter) -> None:
    """A handshake with a token that has ended is refused; the next one has a new token, before anybody notices."""
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
    log = alices.page.get_by_role("log", name="What happened")
    for words in ("The token has ended", "Moved on to another connection, with a new token"):
        await expect(log).to_contain_text(words)
    await expect(log).not_to_contain_text("Signed out")
    assert await log.get_by_text("Connecting").count() == 1
    assert await bobs.statuses(alice) == before


async def test_tokens_are_renewed_before_they_end(people: People, enter: Enter) -> None:
    """With tokens of 15 seconds the connection moves on before each ends, and neither Alice nor Bob sees a gap."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await bobs.sees(alice, "online")
    before, first = await bobs.statuses(alice), await alices.connection_id()
    await alices.switch("Tokens of 15 seconds")
    second = await alices.has_moved_from(first)
    await alices.has_moved_from(second)
    log = alices.page.get_by_role("log", name="What happened")
    await expect(log).to_contain_text("From now on a token is good for 15 seconds")
    await expect(log).not_to_contain_text("Signed out")
    assert await log.get_by_text("Connecting").count() == 1  # no moment without a connection
    assert await bobs.statuses(alice) == before
