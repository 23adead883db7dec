"""The demo page as its user sees it, in a real browser.

page = await DemoPage.open(context, f"{url}/demo/", "alice")
await page.sees("bob", "online")                  # waits for it
await page.statuses("bob")                        # ["offline", "online"]: every status that was on the screen
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self
from urllib.parse import urlencode

from playwright.async_api import BrowserContext, Locator, Page, expect

PATIENCE = 30_000
"""Milliseconds that a test waits for something to appear: a busy machine is slow."""
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
        """A new tab with this user's page. Does not wait for the service."""
        page = await context.new_page()
        await page.goto(f"{address}?{urlencode({'me': user} | query)}")
        return cls(page, user)

    def contact(self, user: str) -> Locator:
        """A contact's item in the list."""
        return self.page.locator(f'#contacts > [data-user="{user}"]')

    def fact(self, label: str) -> Locator:
        """What the page shows about the connection under a label."""
        return self.page.locator(f'#facts dt:text-is("{label}") + dd')

    async def is_connected(self, how: str = "Live") -> Self:
        """Wait until the page shows that it is connected, and how."""
        await expect(self.page.locator("#connection")).to_have_text(how)
        return self

    async def sees(self, user: str, status: str, text: str | None = None) -> None:
        """Wait until a contact's dot, and the text beside it if given, show this status."""
        await expect(self.contact(user)).to_have_attribute("data-status", status)
        if text is not None:
            await expect(self.contact(user).locator(".status")).to_have_text(text)

    async def statuses(self, user: str) -> list[str]:
        """Every status of a contact that was on the screen since the page loaded, in order, including `gone`."""
        seen: list[str] = await self.page.evaluate("user => statuses[user] ?? []", user)
        return seen

    async def has_moved_from(self, connection_id: str) -> str:
        """Wait until another connection is live; returns its id."""
        await expect(self.page.locator("body")).not_to_have_attribute("data-connection-id", connection_id)
        await self.is_connected()
        return await self.connection_id()

    async def cut(self, connection_id: str) -> None:
        """Cut a connection, as a network failure does. It may be anyone's."""
        body = {"connectionId": connection_id}
        answer = await self.page.evaluate(
            "async body => (await fetch('/demo/lose', { method: 'POST', body: JSON.stringify(body) })).json()", body
        )
        assert answer == {"lost": True}

    async def connection_id(self) -> str:
        """The id of the connection in use."""
        found: str = await self.page.evaluate("document.body.dataset.connectionId")
        return found

    async def choose(self, group: str, choice: str) -> None:
        """Choose one of the radio buttons of a group."""
        buttons = self.page.get_by_role("group", name=group)
        await buttons.locator("label").filter(has_text=choice).click()
        await expect(buttons.get_by_role("radio", name=choice)).to_be_checked()

    async def switch(self, name: str, on: bool = True) -> None:
        """Turn a switch on or off."""
        await self.page.get_by_role("switch", name=name).set_checked(on)

    async def press(self, name: str) -> None:
        """Click a button."""
        await self.page.get_by_role("button", name=name, exact=True).click()


NewContext = Callable[..., Awaitable[BrowserContext]]
"""Makes a browser context with its own empty storage: `await new_context(color_scheme="dark")`."""
Enter = Callable[..., Awaitable[DemoPage]]
"""Opens a user's page and waits until it is live: `await enter("alice")`, `await enter("alice", context)`."""
