"""What contacts see of each other on the demo page."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import expect

from tests.support.clients import People
from tests.support.demo_page import DemoPage, Enter, NewContext

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_user_is_online_immediately_and_offline_after_the_grace(people: People, enter: Enter) -> None:
    """Bob and Carol see Alice connect and disconnect, each as one change, and when she was last seen."""
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
    description = re.compile(f"{alice.capitalize()}: offline, then online, then offline")
    await expect(timeline).to_have_accessible_name(description)


async def test_last_seen_grows_older(people: People, enter: Enter, new_context: NewContext) -> None:
    """Twelve minutes after Alice left, Bob's page shows that; once she hides it, the page only shows offline."""
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
    await alices.switch("Share last seen", on=False)
    await alices.press("Sign out")
    await bobs.sees(alice, "offline", "Offline")


async def test_a_device_status_a_claim_and_a_custom_status_are_seen_until_they_end(
    people: People, enter: Enter
) -> None:
    """Bob sees Alice's device status, claim and custom status; the latter two end on time."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await bobs.sees(alice, "online")
    await alices.choose("This device", "Away")
    await bobs.sees(alice, "away", "Away, in a browser")
    await expect(alices.page.locator("#why")).to_have_text("Why: a device is away.")

    await alices.choose("All my devices", "Busy")
    await bobs.sees(alice, "busy", "Busy, in a browser")
    await (
        alices.page.get_by_role("group", name="All my devices").get_by_label("Duration").select_option("for 10 seconds")
    )
    await expect(alices.page.locator("#you-status")).to_contain_text("Busy until")
    form = alices.page.get_by_role("form", name="Custom status")
    await form.get_by_label("Emoji").fill("🍜")
    await form.get_by_label("Status text").fill("Lunch")
    await form.get_by_label("Duration").select_option("for 10 seconds")
    await form.get_by_role("button", name="Set").click()
    custom = bobs.contact(alice).locator(".custom")
    await expect(custom).to_contain_text("🍜 Lunch, until ")
    assert (await bobs.statuses(alice))[-3:] == ["online", "away", "busy"]
    await bobs.sees(alice, "away")
    await expect(custom).to_have_text("")
    log = bobs.page.get_by_role("log", name="Event log")
    await expect(log).to_contain_text(f"{alice.capitalize()} set a custom status: 🍜 Lunch")
    await expect(log).to_contain_text(f"{alice.capitalize()}'s custom status ended")


async def test_an_invisible_user_is_offline_to_all_and_sees_all(people: People, enter: Enter) -> None:
    """Alice goes offline for Bob at a click, sees him become busy, and comes back at a click."""
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


async def test_hiding_from_a_contact_affects_only_that_contact(people: People, enter: Enter) -> None:
    """Alice hides from Bob: he sees her offline, Carol sees no change, and Alice sees both."""
    alice, bob, carol = await people("alice", "bob", "carol")
    alices, bobs, carols = await asyncio.gather(enter(alice), enter(bob), enter(carol))
    for page in (bobs, carols):
        await page.sees(alice, "online")
    before = await carols.statuses(alice)
    hide = alices.page.get_by_role("button", name=f"Hide from {bob.capitalize()}")
    await hide.click()
    await bobs.sees(alice, "offline")
    await expect(hide).to_have_attribute("aria-pressed", "true")
    note = alices.contact(bob).locator(".privacy")
    await expect(note).to_have_text(f"You appear offline to {bob.capitalize()}")
    await alices.sees(bob, "online")
    await hide.click()
    await bobs.sees(alice, "online")
    await expect(hide).to_have_attribute("aria-pressed", "false")
    await expect(note).to_be_hidden()
    assert await carols.statuses(alice) == before


async def test_a_block_is_in_both_directions_and_only_between_two(people: People, enter: Enter) -> None:
    """Alice blocks Bob: each sees the other offline, and Carol sees both online; after an unblock, all is as before."""
    alice, bob, carol = await people("alice", "bob", "carol")
    alices, bobs, carols = await asyncio.gather(enter(alice), enter(bob), enter(carol))
    for page, other in ((alices, bob), (bobs, alice), (carols, alice), (carols, bob)):
        await page.sees(other, "online")
    before = [await carols.statuses(user) for user in (alice, bob)]
    block = alices.page.get_by_role("button", name=f"Block {bob.capitalize()}")
    await block.click()
    await asyncio.gather(bobs.sees(alice, "offline"), alices.sees(bob, "offline"))
    await expect(block).to_have_attribute("aria-pressed", "true")
    note = alices.contact(bob).locator(".privacy")
    await expect(note).to_have_text("Blocked: you do not see each other")
    await block.click()
    await asyncio.gather(bobs.sees(alice, "online"), alices.sees(bob, "online"))
    await expect(note).to_be_hidden()
    assert [await carols.statuses(user) for user in (alice, bob)] == before


async def test_two_tabs_are_one_device_and_a_phone_is_another(
    people: People, enter: Enter, new_context: NewContext
) -> None:
    """Tabs and devices of Alice open and close, and Bob sees one Alice, online all the time."""
    alice, bob = await people("alice", "bob")
    context = await new_context()
    bobs, first = await asyncio.gather(enter(bob), enter(alice, context))
    await bobs.sees(alice, "online")
    before = await bobs.statuses(alice)
    devices, count = first.page.get_by_role("list", name="My devices"), first.page.locator("#device-count")
    async with context.expect_page() as opened:
        await first.press("Add a tab")
    tab = await opened.value
    await expect(devices.get_by_role("listitem")).to_have_text(["Browser (this one), 2 connectionsOnline"])
    await expect(count).to_have_text("1 device")

    async with context.expect_page() as opened:
        await first.press("Add a phone")
    phone = DemoPage(await opened.value, alice)
    laptop = await enter(alice)  # in another browser
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


async def test_signing_out_has_no_grace_and_signing_in_again_works(people: People, enter: Enter) -> None:
    """A signed-out user is offline immediately, unlike one who closes the page; signing in again is one click."""
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
    await expect(timeline).to_have_accessible_name(re.compile(f"{alice.capitalize()}: online, then unknown"))
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
