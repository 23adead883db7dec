"""Takes the screenshots of the demo page and the operator view for the docs: `make pictures`. Takes two minutes.

Before them, five users connect, change their statuses and leave, and a small load creates metrics.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Browser, Page, ViewportSize, async_playwright

from tests.support import chromium
from tests.support.demo_page import DemoPage
from tests.support.presence_run import PresenceRun, presence_run

FOLDER = Path(__file__).parents[2] / "docs" / "images"
DESK, PHONE = ViewportSize(width=1200, height=860), ViewportSize(width=390, height=844)
PAUSE = 12.0
"""Seconds between two changes, so that they are apart on the timeline."""
LOAD = ("load", "--users", "40", "--contacts", "8", "--rate", "10", "--duration", "30s")
MOST_BYTES = 150_000


async def main() -> None:
    """Take all screenshots."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium.find(), args=list(chromium.ARGUMENTS))
        with tempfile.TemporaryDirectory() as folder, presence_run(Path(folder)) as service:
            alices, _ = await asyncio.gather(_act(browser, service), _load(service))
            await _screenshot(alices.page, "people")
            await alices.page.goto(f"{service.run.url}/demo/operator.html")
            await alices.page.get_by_role("rowheader", name="update").wait_for()
            await _screenshot(alices.page, "operator")
        await browser.close()


async def _act(browser: Browser, service: PresenceRun) -> DemoPage:
    """Act out a few changes; gives Alice's page."""

    async def enter(user: str, **query: str) -> DemoPage:
        context = await browser.new_context(viewport=DESK, reduced_motion="reduce")
        page = await DemoPage.open(context, f"{service.run.url}/demo/", user, **query)
        return await page.is_connected()

    alices = await enter("alice")
    dave = await enter("dave", device="desk", type="desktop")
    erin = await enter("erin")
    await asyncio.sleep(PAUSE)
    bob, carol = await enter("bob"), await enter("carol", device="phone", type="mobile")
    await asyncio.sleep(PAUSE)
    await erin.press("Sign out")
    await dave.choose("This device", "Away")
    await asyncio.sleep(PAUSE)
    await bob.choose("All my devices", "Busy")
    await asyncio.sleep(PAUSE)
    await alices.press("Kill the socket")
    await carol.choose("This device", "Away")
    await asyncio.sleep(PAUSE)
    await _set_custom_status(bob, "🎧", "Writing the release notes", "for 30 minutes")
    await dave.choose("This device", "Online")
    await asyncio.sleep(PAUSE)
    await _set_custom_status(carol, "🍜", "Lunch", "until I change it")
    await alices.choose("This device", "Busy")
    await asyncio.sleep(PAUSE)
    await alices.choose("This device", "Online")
    await enter("alice", device="phone", type="mobile")
    await asyncio.sleep(PAUSE)
    return alices


async def _load(service: PresenceRun) -> None:
    """Simulated clients who are no contacts of Alice."""
    await asyncio.sleep(4 * PAUSE)
    done = await asyncio.to_thread(service.command, *LOAD)
    assert done.returncode == 0, done.stderr


async def _set_custom_status(page: DemoPage, emoji: str, text: str, duration: str) -> None:
    form = page.page.get_by_role("form", name="Custom status")
    await form.get_by_label("Emoji").fill(emoji)
    await form.get_by_label("Status text").fill(text)
    await form.get_by_label("Duration").select_option(duration)
    await form.get_by_role("button", name="Set").click()


async def _screenshot(page: Page, name: str) -> None:
    """In light, in dark, and at phone width."""
    for look, scheme, size in (("light", "light", DESK), ("dark", "dark", DESK), ("phone", "light", PHONE)):
        await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        await page.set_viewport_size(size)
        await page.evaluate("scrollTo(0, 0)")
        await asyncio.sleep(1.5)  # the timeline is drawn once a second
        file = FOLDER / f"{name}-{look}.png"
        await page.screenshot(path=file, animations="disabled")
        assert file.stat().st_size < MOST_BYTES, f"{file} is too large for the docs"


if __name__ == "__main__":
    if chromium.find() is None:
        sys.exit(chromium.MISSING)
    asyncio.run(main())
