"""What contacts see of each other on the demo page, at once and without being asked."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import expect

from tests.support.clients import People
from tests.support.demo_page import DemoPage, Enter, NewContext

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_who_comes_is_online_at_once_and_who_goes_is_offline_after_the_grace(
    people: People, enter: Enter
) -> None:
    """Bob and Carol see Alice come and go, each as one change, and are told in words when she was last there."""
    alice, bob, carol = await people("alice", "bob", "carol")
    bobs, carols = await asyncio.gather(enter(bob), enter(carol))
    await bobs.sees(alice, "offline", "Offline")
    alices = await enter(alice)
    await bobs.sees(alice, "online", "Online, in a browser")
    await carols.sees(alice, "online")
    await alices.page.close()
    for page in (bobs, carols):
        await page.sees(alice, "offline", "Last seen just now")
        assert await page.statuses(alice) == ["offline", "online", "offline"]
    timeline = bobs.page.get_by_role("img", name="Statuses of the last three minutes")
    said = re.compile(f"{alice.capitalize()}: offline, then online, then offline")
    await expect(timeline).to_have_accessible_name(said)


async def test_last_seen_is_told_in_words_that_grow_old(people: People, enter: Enter, new_context: NewContext) -> None:
    """Twelve minutes after Alice left, Bob's page says so; once she hides it, it says offline and no more."""
    alice, bob = await people("alice", "bob")
    context = await new_context()
    await context.clock.install()
    alices, bobs = await enter(alice), await enter(bob, context)
    await bobs.sees(alice, "online")
    await alices.page.close()
    await bobs.sees(alice, "offline", "Last seen just now")
    await bobs.page.clock.set_system_time(datetime.now(UTC) + timedelta(minutes=12.5))
    await bobs.sees(alice, "offline", "Last seen 12 minutes ago")
    alices = await enter(alice)
    await bobs.sees(alice, "online")
    await alices.switch("Show when I was last here", on=False)
    await alices.press("Sign out")
    await bobs.sees(alice, "offline", "Offline")


async def test_busy_on_a_device_for_all_devices_and_in_ones_own_words_each_to_its_end(
    people: People, enter: Enter
) -> None:
    """A device's status, a claim and a custom status are seen at once; the latter two end by themselves, in time."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await bobs.sees(alice, "online")
    await alices.choose("This device", "Away")
    await bobs.sees(alice, "away", "Away, in a browser")
    await expect(alices.page.locator("#why")).to_have_text("Why: a device says away.")

    await alices.choose("All my devices", "Busy")
    await bobs.sees(alice, "busy", "Busy, in a browser")
    await alices.page.get_by_role("group", name="All my devices").get_by_label("until").select_option("in 10 seconds")
    await expect(alices.page.locator("#you-status")).to_contain_text("Busy until")
    words = alices.page.get_by_role("form", name="In your own words")
    await words.get_by_label("Emoji").fill("🍜")
    await words.get_by_label("What you are doing").fill("Lunch")
    await words.get_by_label("until").select_option("in 10 seconds")
    await words.get_by_role("button", name="Set").click()
    said = bobs.contact(alice).locator(".custom")
    await expect(said).to_contain_text("🍜 Lunch, until ")
    assert (await bobs.statuses(alice))[-3:] == ["online", "away", "busy"]
    await bobs.sees(alice, "away")
    await expect(said).to_have_text("")
    log = bobs.page.get_by_role("log", name="What happened")
    await expect(log).to_contain_text(f"{alice.capitalize()} says: 🍜 Lunch")
    await expect(log).to_contain_text(f"{alice.capitalize()} says nothing")


async def test_whoever_is_invisible_is_offline_to_all_and_sees_all(people: People, enter: Enter) -> None:
    """Alice vanishes from Bob's screen and comes back to it at a click, and sees him become busy meanwhile."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await bobs.sees(alice, "online")
    await alices.switch("Invisible")
    await bobs.sees(alice, "offline")
    await expect(alices.page.locator("#you-status")).to_have_text("Online, but invisible")
    await expect(alices.page.locator("#why")).to_have_text("Why: invisible, contacts see offline.")
    await bobs.choose("This device", "Busy")
    await alices.sees(bob, "busy")
    await alices.switch("Invisible", on=False)
    await bobs.sees(alice, "online")


async def test_who_is_hidden_from_sees_offline_and_nobody_else_does(people: People, enter: Enter) -> None:
    """Alice hides from Bob: he sees her go, Carol sees nothing of it, and Alice sees both."""
    alice, bob, carol = await people("alice", "bob", "carol")
    alices, bobs, carols = await asyncio.gather(enter(alice), enter(bob), enter(carol))
    for page in (bobs, carols):
        await page.sees(alice, "online")
    before = await carols.statuses(alice)
    hide = alices.page.get_by_role("button", name=f"Hide from {bob.capitalize()}")
    await hide.click()
    await bobs.sees(alice, "offline")
    await expect(hide).to_have_attribute("aria-pressed", "true")
    kept = alices.contact(bob).locator(".kept")
    await expect(kept).to_have_text(f"You are hidden from {bob.capitalize()}")
    await alices.sees(bob, "online")
    await hide.click()
    await bobs.sees(alice, "online")
    await expect(hide).to_have_attribute("aria-pressed", "false")
    await expect(kept).to_be_hidden()
    assert await carols.statuses(alice) == before


async def test_a_block_is_in_both_directions_and_only_between_two(people: People, enter: Enter) -> None:
    """Alice blocks Bob: each sees the other go offline, and Carol sees both; unblocked, they see each other again."""
    alice, bob, carol = await people("alice", "bob", "carol")
    alices, bobs, carols = await asyncio.gather(enter(alice), enter(bob), enter(carol))
    for page, other in ((alices, bob), (bobs, alice), (carols, alice), (carols, bob)):
        await page.sees(other, "online")
    before = [await carols.statuses(user) for user in (alice, bob)]
    block = alices.page.get_by_role("button", name=f"Block {bob.capitalize()}")
    await block.click()
    await asyncio.gather(bobs.sees(alice, "offline"), alices.sees(bob, "offline"))
    await expect(block).to_have_attribute("aria-pressed", "true")
    kept = alices.contact(bob).locator(".kept")
    await expect(kept).to_have_text("Blocked: neither of you sees the other")
    await block.click()
    await asyncio.gather(bobs.sees(alice, "online"), alices.sees(bob, "online"))
    await expect(kept).to_be_hidden()
    assert [await carols.statuses(user) for user in (alice, bob)] == before


async def test_two_tabs_are_one_device_and_a_phone_is_another(
    people: People, enter: Enter, new_context: NewContext
) -> None:
    """Tabs and devices of Alice come and go, and Bob sees one Alice, online all the while."""
    alice, bob = await people("alice", "bob")
    context = await new_context()
    bobs, first = await asyncio.gather(enter(bob), enter(alice, context))
    await bobs.sees(alice, "online")
    before = await bobs.statuses(alice)
    devices, count = first.page.get_by_role("list", name="My devices"), first.page.locator("#device-count")
    async with context.expect_page() as opened:
        await first.press("Another tab")
    tab = await opened.value
    await expect(devices.get_by_role("listitem")).to_have_text(["Browser (this one), 2 connectionsOnline"])
    await expect(count).to_have_text("1 device")

    async with context.expect_page() as opened:
        await first.press("Open a phone")
    phone = DemoPage(await opened.value, alice)
    laptop = await enter(alice)  # in a browser of its own
    await expect(devices.get_by_role("listitem")).to_have_count(3)
    await expect(count).to_have_text("3 devices")
    await expect(devices).to_contain_text("Phone")
    for page in (tab, laptop.page, first.page):
        await page.close()
    await expect(phone.page.locator("#device-count")).to_have_text("1 device")
    assert await bobs.statuses(alice) == before
    await phone.choose("This device", "Busy")
    await bobs.sees(alice, "busy", "Busy, on a phone")
    await phone.page.close()
    await bobs.sees(alice, "offline")


async def test_who_signs_out_is_offline_at_once_and_may_come_back(people: People, enter: Enter) -> None:
    """Signing out has no grace, which a closed page has; signing in again is one click."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await bobs.sees(alice, "online")
    await alices.press("Sign out")
    await bobs.sees(alice, "offline")
    await alices.is_connected("Signed out")
    you, own = alices.page.locator(".you"), alices.page.locator("#you-status")
    await expect(own).to_have_text("Signed out")
    await expect(you).to_have_attribute("data-status", "offline")
    await expect(alices.page.locator("#why")).to_be_hidden()
    await expect(alices.page.get_by_role("list", name="My devices")).to_have_text("Browser (this one)Signed out")
    timeline = alices.page.get_by_role("img", name="Statuses of the last three minutes")
    await expect(timeline).to_have_accessible_name(re.compile(f"{alice.capitalize()}: online, then not known"))
    acting = [
        alices.page.get_by_role("group", name="This device").get_by_role("radio", name="Busy"),
        alices.page.get_by_role("switch", name="Invisible"),
        *(alices.page.get_by_role("button", name=name) for name in ("Set", "Kill the socket", "Block")),
    ]
    for control in acting:
        await expect(control).to_be_disabled()
    await alices.press("Sign in again")
    await alices.is_connected()
    await bobs.sees(alice, "online")
    await expect(own).to_have_text("Online")
    for control in acting:
        await expect(control).to_be_enabled()
