"""The demo page as somebody has it before them, in a real browser.

page = await DemoPage.open(context, f"{url}/demo/", "alice")
await page.sees("bob", "online")                  # waits until it does
await page.statuses("bob")                        # ["offline", "online"]: everything that was on the screen
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self
from urllib.parse import urlencode

from playwright.async_api import BrowserContext, Locator, Page, expect

PATIENCE = 30_000
"""Milliseconds that a test waits for something to be seen: on a busy machine all of it is slow."""
expect.set_options(timeout=PATIENCE)
RECORDER = """
  window.statuses = {};
  new MutationObserver(() => {
    const now = Object.fromEntries(Object.keys(statuses).map((user) => [user, "gone"]));
    for (const { dataset } of document.querySelectorAll("#contacts > li")) now[dataset.user] = dataset.status;
    for (const [user, status] of Object.entries(now)) {
      const seen = (statuses[user] ??= []);
      if (seen.at(-1) !== status) seen.push(status);
    }
  }).observe(document, { subtree: true, childList: true, attributeFilter: ["data-status"] });
"""


class DemoPage:
    """The page of one user."""

    def __init__(self, page: Page, user: str) -> None:
        self.page, self.user = page, user

    @classmethod
    async def open(cls, context: BrowserContext, address: str, user: str, **query: str) -> Self:
        """A new tab with this user's page; it is not waited for what the service says."""
        page = await context.new_page()
        await page.goto(f"{address}?{urlencode({'me': user} | query)}")
        return cls(page, user)

    def contact(self, user: str) -> Locator:
        """A contact's item in the list."""
        return self.page.locator(f'#contacts > [data-user="{user}"]')

    def fact(self, word: str) -> Locator:
        """What is said about the connection under a word."""
        return self.page.locator(f'#facts dt:text-is("{word}") + dd')

    async def is_connected(self, how: str = "Live") -> Self:
        """Wait until the page says that it is, and how."""
        await expect(self.page.locator("#connection")).to_have_text(how)
        return self

    async def sees(self, user: str, status: str, words: str | None = None) -> None:
        """Wait until a contact's dot, and perhaps the words beside it, say this."""
        await expect(self.contact(user)).to_have_attribute("data-status", status)
        if words is not None:
            await expect(self.contact(user).locator(".status")).to_have_text(words)

    async def statuses(self, user: str) -> list[str]:
        """Every status of a contact that was on the screen since the page was loaded, in order; `gone` is none."""
        seen: list[str] = await self.page.evaluate("user => statuses[user] ?? []", user)
        return seen

    async def has_moved_from(self, connection_id: str) -> str:
        """Wait until another connection is used and live; gives its id."""
        await expect(self.page.locator("body")).not_to_have_attribute("data-connection-id", connection_id)
        await self.is_connected()
        return await self.connection_id()

    async def cut(self, connection_id: str) -> None:
        """Cut anybody's connection, as a network does."""
        body = {"connectionId": connection_id}
        answer = await self.page.evaluate(
            "async body => (await fetch('/demo/lose', { method: 'POST', body: JSON.stringify(body) })).json()", body
        )
        assert answer == {"lost": True}

    async def connection_id(self) -> str:
        """The connection that is used."""
        found: str = await self.page.evaluate("document.body.dataset.connectionId")
        return found

    async def choose(self, group: str, choice: str) -> None:
        """Choose one of the radio buttons of a group."""
        buttons = self.page.get_by_role("group", name=group)
        await buttons.locator("label").filter(has_text=choice).click()
        await expect(buttons.get_by_role("radio", name=choice)).to_be_checked()

    async def switch(self, name: str, on: bool = True) -> None:
        """Turn a switch."""
        await self.page.get_by_role("switch", name=name).set_checked(on)

    async def press(self, name: str) -> None:
        """Click a button."""
        await self.page.get_by_role("button", name=name, exact=True).click()


NewContext = Callable[..., Awaitable[BrowserContext]]
"""Makes a browser of somebody's own, with an empty storage: `await new_context(color_scheme="dark")`."""
Enter = Callable[..., Awaitable[DemoPage]]
"""Opens a user's page and waits until it is live: `await enter("alice")`, `await enter("alice", context)`."""
