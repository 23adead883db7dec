"""How the pages are for whoever has no mouse, no sight of colours, a dark room or a small screen."""

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
"""Presses of Tab that lead through a page, at most."""
FOCUSED = """() => {
  const at = document.activeElement;
  if (at === document.body) return null;
  const outline = (element) => parseFloat(getComputedStyle(element).outlineWidth) || 0;
  const words = (element) => {
    const copy = element?.cloneNode(true);
    copy?.querySelectorAll("[aria-hidden=true], select").forEach((hidden) => hidden.remove());
    return copy?.textContent;
  };
  const name = at.ariaLabel || words(at.labels?.[0] ?? at);
  const shown = [at, at.nextElementSibling].some((element) => element && outline(element) > 0);
  return { tag: at.tagName, name: (name ?? "").trim(), shown };
}"""
LEVEL = """(selector) => {
  const [ink, ground] = ((element) => {
    let under = element;
    const opaque = (colour) => !/^rgba\\(.*, 0\\)$/.test(colour);
    while (under.parentElement && !opaque(getComputedStyle(under).backgroundColor)) under = under.parentElement;
    return [getComputedStyle(element).color, getComputedStyle(under).backgroundColor];
  })(document.querySelector(selector)).map((colour) => {
    const [red, green, blue] = colour.match(/[\\d.]+/g).map(Number).map((part) => part / 255)
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
"""Pixels that a finger needs."""
TEXTS = (".contact .name", ".contact .status", ".dim", "#you-status", ".switch small", ".quiet", "button:not(.quiet)")
LEAST_CONTRAST = 4.5
"""Of text on its ground, by WCAG's AA."""
PHONE = {"width": 390, "height": 844}


async def stops(page: Page) -> list[str]:
    """The names of what Tab leads to, one after the other, until it is round; each is seen to have the focus."""
    names = list[str]()
    for _ in range(MOST_STOPS):
        await page.keyboard.press("Tab")
        focused = await page.evaluate(FOCUSED)
        if focused is None:
            return names
        assert focused["shown"], f"nobody sees that this has the focus: {focused}"
        names.append(focused["name"])
    raise AssertionError(f"Tab leads nowhere after {names}")


async def fits(page: Page) -> None:
    """Nothing is wider than the screen."""
    wide = await page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth, innerWidth]"
    )
    assert wide[0] <= wide[1] <= wide[2]


async def test_everything_is_reached_and_done_by_keyboard(deployment: Deployment, new_context: NewContext) -> None:
    """From the picker to a status, a switch, words and a block: Tab, arrows, Space and Enter are enough."""
    page = await (await new_context()).new_page()
    await page.goto(f"{deployment.url}/demo/")
    await expect(page.get_by_role("link", name="Erin")).to_be_visible()
    assert await stops(page) == [
        *("Skip to the content", "Presence", "People", "Operator"),
        *("Alice", "Bob", "Carol", "Dave", "Erin", "Or somebody else", "Sign in"),
    ]
    await page.get_by_role("link", name="Dave").focus()
    await page.keyboard.press("Enter")
    dave = await DemoPage(page, "dave").is_connected()
    await dave.sees("carol", "offline")
    names = await stops(page)
    for name in ("Switch", "Hide from Carol", "Block Carol", "Online", "As they are", "Emoji", "Set", "Clear"):
        assert name in names
    for name in ("Invisible", "Lose the network", "Refuse WebSockets"):
        assert any(found.startswith(name) for found in names)
    for name in ("Open a phone", "Another tab", "Kill the socket", "Expire the token", "Sign out"):
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
    await page.get_by_role("textbox", name="What you are doing").focus()
    await page.keyboard.type("Reading")
    await page.keyboard.press("Enter")
    await expect(page.locator("#you-custom")).to_have_text("Reading")
    block = page.get_by_role("button", name="Block Carol")
    for pressed in ("true", "false"):
        await block.focus()
        await page.keyboard.press("Enter")
        await expect(block).to_have_attribute("aria-pressed", pressed)
        await expect(block).to_be_focused()  # the list is drawn anew without taking it away


async def test_every_control_and_region_has_a_name_and_a_role(people: People, enter: Enter) -> None:
    """Whoever listens to the page hears what each control is for, who is online, and what has happened."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice), enter(bob))
    await alices.sees(bob, "online")
    page = alices.page
    await expect(page.get_by_role("heading", level=1)).to_have_text(f"Presence of {alice.capitalize()}")
    for name in ("Contacts", "The last three minutes", "What happened", "This connection", "Break something"):
        await expect(page.get_by_role("region", name=name, exact=True)).to_be_visible()
    for name in ("This device", "All my devices"):
        await expect(page.get_by_role("group", name=name).get_by_role("radio")).to_have_count(3)
    await expect(page.get_by_role("switch")).to_have_count(5)
    await expect(page.get_by_role("status")).to_have_text("Live")
    picture = page.get_by_role("img", name=f"{bob.capitalize()}: offline, then online").or_(
        page.get_by_role("img", name=f"{bob.capitalize()}: online")
    )
    await expect(picture).to_be_visible()
    await bobs.choose("This device", "Busy")
    log = page.get_by_role("log", name="What happened")
    await expect(log).to_have_attribute("aria-live", "polite")
    await expect(log).to_contain_text(f"{bob.capitalize()} is busy, in a browser")
    for control in await page.locator(CONTROLS).all():
        if await control.is_visible():
            told = (await control.aria_snapshot()).splitlines()[0]
            assert '"' in told, f"a control without a name: {told}"


async def test_whoever_cannot_be_anybody_is_asked_again(deployment: Deployment, new_context: NewContext) -> None:
    """An address with what is no user id: the picker says so, keeps the markup in it as text, and leads on."""
    page = await (await new_context()).new_page()
    for wrong in ("a b", "<b>alice</b>", "a" * 129):
        await page.goto(f"{deployment.url}/?{urlencode({'me': wrong})}")
        await expect(page.get_by_role("alert")).to_contain_text(f'"{wrong}" is no user id')
        await expect(page.get_by_role("region", name="Contacts")).to_be_hidden()
    await page.get_by_role("link", name="Erin").click()
    await DemoPage(page, "erin").is_connected()


async def test_whoever_knows_nobody_is_told_how_to_know_somebody(people: People, enter: Enter) -> None:
    """A newcomer's page names the command that gives them a contact."""
    (newcomer,) = await people("newcomer")
    page = (await enter(newcomer)).page
    await expect(page.locator("#nobody")).to_contain_text(f"presence contacts add {newcomer} alice")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_in_the_light_and_in_the_dark_everything_can_be_read(
    scheme: str, people: People, enter: Enter, new_context: NewContext
) -> None:
    """The page follows the system: its ground is light or dark, and every text stands out from it."""
    alice, bob = await people("alice", "bob")
    alices, bobs = await asyncio.gather(enter(alice, await new_context(color_scheme=scheme)), enter(bob))
    await alices.sees(bob, "online")
    for status in ("Away", "Busy"):
        await bobs.choose("This device", status)
        await alices.sees(bob, status.lower())
        for selector in TEXTS:
            told = await alices.page.evaluate(LEVEL, selector)
            assert told["contrast"] >= LEAST_CONTRAST, f"{selector} of {status}"
            if "button" not in selector:
                assert (told["ground"] > 0.5) == (scheme == "light")


async def test_on_a_phone_oneself_is_next_to_the_contacts_and_a_finger_hits_everything(
    people: People, enter: Enter, new_context: NewContext
) -> None:
    """At 390 pixels one's own card comes second, and whatever can be operated is 44 pixels high."""
    alice, bob = await people("alice", "bob")
    alices = await enter(alice, await new_context(viewport=PHONE, has_touch=True))
    await alices.sees(bob, "offline")
    await expect(alices.page.locator("#timeline svg")).to_be_visible()
    cards = [alices.page.locator(f".{card}.card") for card in ("contacts", "you", "timeline", "log", "facts")]
    tops = [(box or {"y": 0})["y"] for box in [await card.bounding_box() for card in cards]]
    assert tops == sorted(set(tops))
    small = await alices.page.evaluate(TOO_SMALL, [CONTROLS, LEAST_TARGET])
    assert small == []


async def test_on_a_phone_nothing_has_to_be_scrolled_sideways(
    deployment: Deployment, people: People, enter: Enter, new_context: NewContext
) -> None:
    """At 390 pixels picker, page and operator's view fit, with a name and words that are long."""
    context = await new_context(viewport=PHONE, has_touch=True, device_scale_factor=2)
    alice, bob = await people("alice", "bobwithanamethatislongerthananyscreenofaphoneiswide")
    picker = await context.new_page()
    await picker.goto(f"{deployment.url}/demo/")
    await expect(picker.get_by_role("link", name="Erin")).to_be_visible()
    await fits(picker)
    alices, bobs = await asyncio.gather(enter(alice, context), enter(bob))
    await bobs.page.get_by_label("What you are doing").fill("Donaudampfschifffahrtsgesellschaft" * 4)
    await bobs.press("Set")
    await expect(alices.contact(bob).locator(".custom")).to_contain_text("Donau")
    await expect(alices.page.locator("#timeline svg")).to_be_visible()
    await fits(alices.page)
    await alices.page.get_by_role("switch", name="Lose the network").tap()
    await expect(alices.page.get_by_text("What you see here may be old")).to_be_visible()
    await fits(alices.page)
    operator = await context.new_page()
    await operator.goto(f"{deployment.url}/demo/operator.html")
    await expect(operator.get_by_role("rowheader", name="connect", exact=True)).to_be_visible()
    await fits(operator)
