"""The pages with a keyboard, for a screen reader, in light and dark, and on a small screen."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

import pytest
from playwright.async_api import Page, expect

from tests.support.clients import People
from tests.support.demo_page import DemoPage, Enter, NewContext
from tests.support.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONTROLS = "a[href], button, input, select"
MOST_STOPS = 80
"""The most presses of Tab that lead through a page."""
FOCUSED = """() => {
  const at = document.activeElement;
  if (at === document.body) return null;
  const outline = (element) => parseFloat(getComputedStyle(element).outlineWidth) || 0;
  const text = (element) => {
    const copy = element?.cloneNode(true);
    copy?.querySelectorAll("[aria-hidden=true], select").forEach((hidden) => hidden.remove());
    return copy?.textContent;
  };
  const name = at.ariaLabel || text(at.labels?.[0] ?? at);
  const shown = [at, at.nextElementSibling].some((element) => element && outline(element) > 0);
  return { tag: at.tagName, name: (name ?? "").trim(), shown };
}"""
LEVEL = """(selector) => {
  const [ink, ground] = ((element) => {
    let under = element;
    const opaque = (color) => !/^rgba\\(.*, 0\\)$/.test(color);
    while (under.parentElement && !opaque(getComputedStyle(under).backgroundColor)) under = under.parentElement;
    return [getComputedStyle(element).color, getComputedStyle(under).backgroundColor];
  })(document.querySelector(selector)).map((color) => {
    const [red, green, blue] = color.match(/[\\d.]+/g).map(Number).map((part) => part / 255)
      .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  });
  return { ground, contrast: (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05) };
}"""
TOO_SMALL = """([controls, least]) => [...document.querySelectorAll(controls)]
  .filter((control) => control.checkVisibility() && !control.matches(".skip"))
  .map((control) => (control.matches("[type=radio], [type=checkbox]") ? control.closest("label") : control))
  .filter((target) => target.getBoundingClientRect().height < least)
  .map((target) => target.outerHTML)"""
LEAST_TARGET = 44
"""Pixels of a touch target."""
TEXTS = (".contact .name", ".contact .status", ".dim", "#you-status", ".switch small", ".quiet", "button:not(.quiet)")
LEAST_CONTRAST = 4.5
"""Of text on its background, by WCAG AA."""
PHONE = {"width": 390, "height": 844}


async def stops(page: Page) -> list[str]:
    """The names of what Tab focuses, in order, once around; each must show that it has the focus."""
    names = list[str]()
    for _ in range(MOST_STOPS):
        await page.keyboard.press("Tab")
        focused = await page.evaluate(FOCUSED)
        if focused is None:
            return names
        assert focused["shown"], f"no visible focus: {focused}"
        names.append(focused["name"])
    raise AssertionError(f"Tab never leaves the page:  {names}")


async def fits(page: Page) -> None:
    """Nothing is wider than the screen."""
    wide = await page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth, innerWidth]"
    )
    assert wide[0] <= wide[1] <= wide[2]


async def test_everything_works_by_keyboard(deployment: Deployment, new_context: NewContext) -> None:
    """Signing in, a status, a switch, a custom status and a block need only Tab, arrows, Space and Enter."""
    page = await (await new_context()).new_page()
    await page.goto(f"{deployment.url}/demo/")
    await expect(page.get_by_role("link", name="Erin")).to_be_visible()
    assert await stops(page) == [
        *("Skip to the content", "Presence", "People", "Operator"),
        *("Alice", "Bob", "Carol", "Dave", "Erin", "Or another user ID", "Sign in"),
    ]
    await page.get_by_role("link", name="Dave").focus()
    await page.keyboard.press("Enter")
    dave = await DemoPage(page, "dave").is_connected()
    await dave.sees("carol", "offline")
    names = await stops(page)
    for name in ("Switch user", "Hide from Carol", "Block Carol", "Online", "Automatic", "Emoji", "Set", "Clear"):
        assert name in names
    for name in ("Invisible", "Disconnect the network", "Block WebSockets"):
        assert any(found.startswith(name) for found in names)
    for name in ("Add a phone", "Add a tab", "Kill the socket", "Expire the token", "Sign out"):
        assert name in names

    await page.get_by_role("group", name="This device").get_by_role("radio", name="Online").focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#you-status")).to_have_text("Busy")
    await page.get_by_role("switch", name="Invisible").focus()
    await page.keyboard.press("Space")
    await expect(page.locator("#you-status")).to_have_text("Busy, but invisible")
    await page.get_by_role("switch", name="Invisible").focus()
    await page.keyboard.press("Space")
    await expect(page.locator("#you-status")).to_have_text("Busy")
    await page.get_by_role("textbox", name="Status text").focus()
    await page.keyboard.type("Reading")
    await page.keyboard.press("Enter")
    await expect(page.locator("#you-custom")).to_have_text("Reading")
    block = page.get_by_role("button", name="Block Carol")
    for pressed in ("true", "false"):
        await block.focus()
        await page.keyboard.press("Enter")
        await expect(block).to_have_attribute("aria-pressed", pressed)
        await expect(block).to_be_focused()  # redrawing the list keeps the focus


async def test_every_control_and_region_has_a_name_and_a_role(people: People, enter: Enter) -> None:
    """A screen reader can announce each control, who is online, and the event log."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await alices.sees(bob, "online")
    page = alices.page
    await expect(page.get_by_role("heading", level=1)).to_have_text(f"Presence of {alice.capitalize()}")
    for name in ("Contacts", "Last three minutes", "Event log", "Connection", "Break something"):
        await expect(page.get_by_role("region", name=name, exact=True)).to_be_visible()
    for name in ("This device", "All my devices"):
        await expect(page.get_by_role("group", name=name).get_by_role("radio")).to_have_count(3)
    await expect(page.get_by_role("switch")).to_have_count(5)
    await expect(page.get_by_role("status")).to_have_text("Live")
    image = page.get_by_role("img", name=f"{bob.capitalize()}: offline, then online").or_(
        page.get_by_role("img", name=f"{bob.capitalize()}: online")
    )
    await expect(image).to_be_visible()
    await bobs.choose("This device", "Busy")
    log = page.get_by_role("log", name="Event log")
    await expect(log).to_have_attribute("aria-live", "polite")
    await expect(log).to_contain_text(f"{bob.capitalize()} is busy, in a browser")
    for control in await page.locator(CONTROLS).all():
        if await control.is_visible():
            name = (await control.aria_snapshot()).splitlines()[0]
            assert '"' in name, f"a control without a name: {name}"


async def test_an_invalid_user_id_leads_back_to_the_picker(deployment: Deployment, new_context: NewContext) -> None:
    """For an invalid user id in the address, the picker shows an error, with markup as text, and still works."""
    page = await (await new_context()).new_page()
    for wrong in ("a b", "<b>alice</b>", "a" * 129):
        await page.goto(f"{deployment.url}/?{urlencode({'me': wrong})}")
        await expect(page.get_by_role("alert")).to_contain_text(f'"{wrong}" is not a valid user ID')
        await expect(page.get_by_role("region", name="Contacts")).to_be_hidden()
    await page.get_by_role("link", name="Erin").click()
    await DemoPage(page, "erin").is_connected()


async def test_a_user_without_contacts_sees_how_to_add_one(people: People, enter: Enter) -> None:
    """The page of a user without contacts shows the command that adds one."""
    (newcomer,) = await people("newcomer")
    page = (await enter(newcomer)).page
    await expect(page.locator("#no-contacts")).to_contain_text(f"presence contacts add {newcomer} alice")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_all_text_is_readable_in_light_and_dark(
    scheme: str, people: People, enter: Enter, new_context: NewContext
) -> None:
    """The page follows the system's color scheme, and every text has enough contrast."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice, await new_context(color_scheme=scheme)), enter(bob))
    await alices.sees(bob, "online")
    for status in ("Away", "Busy"):
        await bobs.choose("This device", status)
        await alices.sees(bob, status.lower())
        for selector in TEXTS:
            level = await alices.page.evaluate(LEVEL, selector)
            assert level["contrast"] >= LEAST_CONTRAST, f"{selector} of {status}"
            if "button" not in selector:
                assert (level["ground"] > 0.5) == (scheme == "light")


async def test_on_a_phone_the_own_card_follows_the_contacts_and_touch_targets_are_large(
    people: People, enter: Enter, new_context: NewContext
) -> None:
    """At 390 pixels the user's own card comes second, and every control is at least 44 pixels high."""
    alice, bob = await people("alice", "bob")
    alices = await enter(alice, await new_context(viewport=PHONE, has_touch=True))
    await alices.sees(bob, "offline")
    await expect(alices.page.locator("#timeline svg")).to_be_visible()
    cards = [alices.page.locator(f".{card}.card") for card in ("contacts", "you", "timeline", "log", "facts")]
    tops = [(box or {"y": 0})["y"] for box in [await card.bounding_box() for card in cards]]
    assert tops == sorted(set(tops))
    small = await alices.page.evaluate(TOO_SMALL, [CONTROLS, LEAST_TARGET])
    assert small == []


async def test_on_a_phone_nothing_scrolls_sideways(
    deployment: Deployment, people: People, enter: Enter, new_context: NewContext
) -> None:
    """At 390 pixels picker, page and operator view fit, even with a long name and a long custom status."""
    context = await new_context(viewport=PHONE, has_touch=True, device_scale_factor=2)
    alice, bob = await people("alice", "bobwithanamethatislongerthananyscreenofaphoneiswide")
    picker = await context.new_page()
    await picker.goto(f"{deployment.url}/demo/")
    await expect(picker.get_by_role("link", name="Erin")).to_be_visible()
    await fits(picker)
    alices, bobs = await asyncio.gather(enter(alice, context), enter(bob))
    await bobs.page.get_by_label("Status text").fill("Donaudampfschifffahrtsgesellschaft" * 4)
    await bobs.press("Set")
    await expect(alices.contact(bob).locator(".custom")).to_contain_text("Donau")
    await expect(alices.page.locator("#timeline svg")).to_be_visible()
    await fits(alices.page)
    await alices.page.get_by_role("switch", name="Disconnect the network").tap()
    await expect(alices.page.get_by_text("Statuses may be out of date")).to_be_visible()
    await fits(alices.page)
    operator = await context.new_page()
    await operator.goto(f"{deployment.url}/demo/operator.html")
    await expect(operator.get_by_role("rowheader", name="connect", exact=True)).to_be_visible()
    await fits(operator)
