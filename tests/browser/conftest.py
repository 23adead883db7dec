"""A real browser and a real service: one Chromium, one `presence run` per file, and new users for each test."""

from __future__ import annotations

import random
import string
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, async_playwright

from tests.support import chromium
from tests.support.clients import People
from tests.support.demo_page import PATIENCE, RECORDER, DemoPage, Enter, NewContext
from tests.support.deployment import Deployment, of
from tests.support.presence_run import PresenceRun, presence_run

TIMES = {
    "PRESENCE_HEARTBEAT_INTERVAL": "1",
    "PRESENCE_DEVICE_TTL": "7",
    "PRESENCE_GRACE": "4",
    "PRESENCE_PUSH_BUDGET": "2",
    "PRESENCE_ANNOUNCE_LEASE": "3",
}
"""Settings for tests that wait only seconds, but leave a page on a busy machine enough time."""


def pytest_collection_modifyitems() -> None:
    """Fail before the first test if there is no browser."""
    if chromium.find() is None:
        raise pytest.UsageError(chromium.MISSING)


@pytest.fixture
def times() -> dict[str, str]:
    """Settings for a test that starts its own run."""
    return TIMES


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PresenceRun]:
    """The run that serves the pages. The tests of a module share it; each has its own users."""
    with presence_run(tmp_path_factory.mktemp("run"), **TIMES) as service:
        yield service


@pytest.fixture(scope="module")
def deployment(service: PresenceRun) -> Deployment:
    """The same run, for calls as the application's backend."""
    return Deployment.started(service, TIMES)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for all tests."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium.find(), args=list(chromium.ARGUMENTS))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def new_context(browser: Browser) -> AsyncIterator[NewContext]:
    """Creates browser contexts with empty storage. An uncaught error of a page fails the test."""
    contexts, errors = list[BrowserContext](), list[str]()

    async def make(**options: object) -> BrowserContext:
        context = await browser.new_context(**options)  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE)
        context.on("weberror", lambda error: errors.append(str(error.error)))
        await context.add_init_script(RECORDER)
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        await context.close()
    assert errors == []


@pytest_asyncio.fixture(loop_scope="session")
async def enter(deployment: Deployment, new_context: NewContext) -> Enter:
    """Opens a user's page and waits until it is live. Without `context`, in a new browser context."""

    async def open_page(user: str, context: BrowserContext | None = None, **query: str) -> DemoPage:
        page = await DemoPage.open(context or await new_context(), f"{deployment.url}/demo/", user, **query)
        return await page.is_connected()

    return open_page


@pytest.fixture
def people(deployment: Deployment) -> People:
    """Creates users who are mutual contacts."""

    async def make(*names: str) -> list[str]:
        mark = "".join(random.SystemRandom().choices(string.ascii_lowercase, k=6))
        users = [f"{name}{mark}" for name in names]
        for place, user in enumerate(users[:-1]):
            await deployment.ask("PUT", of(user, "contacts"), {"add": users[place + 1 :]})
        return users

    return make
