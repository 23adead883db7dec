"""The demo page on special runs: connections that last seconds, and a Redis that the run did not start."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from playwright.async_api import expect

from local.elasticache import RedisServer
from tests.support.demo_page import DemoPage, NewContext
from tests.support.deployment import Deployment
from tests.support.presence_run import presence_run

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_connection_is_rotated_without_an_event(
    tmp_path: Path, new_context: NewContext, times: dict[str, str]
) -> None:
    """Connections that rotate after four seconds instead of two hours: twice each, without a gap."""
    with presence_run(tmp_path, **times, PRESENCE_ROTATE_AFTER="4") as service:
        address = f"{service.run.url}/demo/"
        pages = [await DemoPage.open(await new_context(), address, user) for user in ("alice", "bob")]
        alices, bobs = pages
        await asyncio.gather(alices.sees("bob", "online"), bobs.sees("alice", "online"))
        before = [await alices.statuses("bob"), await bobs.statuses("alice")]
        firsts = [await page.connection_id() for page in pages]
        for page, first in zip(pages, firsts, strict=True):
            second = await page.has_moved_from(first)
            await page.has_moved_from(second)
        assert [await alices.statuses("bob"), await bobs.statuses("alice")] == before
        for page in pages:
            log = page.page.get_by_role("log", name="Event log")
            assert (await log.get_by_text("Connecting").count(), await log.get_by_text("Live").count()) == (1, 1)
        await alices.choose("This device", "Busy")
        await bobs.sees("alice", "busy")


async def test_with_an_external_redis_the_page_adds_no_contacts(
    tmp_path: Path, new_context: NewContext, times: dict[str, str]
) -> None:
    """`presence run --redis`: the page shows that no contacts are loaded; once they are, it works as usual."""
    pairs = tmp_path / "pairs"
    pairs.write_text("alice,bob\n")
    with RedisServer.start() as redis, presence_run(tmp_path, "--redis", redis.url, **times) as service:
        address = f"{service.run.url}/demo/"
        alices = await DemoPage.open(await new_context(), address, "alice")
        await expect(alices.page.get_by_role("alert")).to_contain_text("Nobody sees anybody yet")
        await alices.is_connected()
        await expect(alices.page.locator("#no-contacts")).to_contain_text("presence contacts add")
        loaded = await asyncio.to_thread(service.command, "contacts", "load", str(pairs))
        assert loaded.returncode == 0, loaded.stderr
        bobs = await DemoPage.open(await new_context(), address, "bob")
        await asyncio.gather(alices.sees("bob", "online"), bobs.sees("alice", "online"))
        await expect(alices.page.locator("#contacts > li")).to_have_count(1)
        await bobs.page.close()
        await alices.sees("bob", "offline", "Last seen just now")


async def test_while_redis_does_not_respond_the_page_keeps_its_contacts(
    tmp_path: Path, new_context: NewContext, times: dict[str, str]
) -> None:
    """Redis does not respond for a while: the page keeps its contacts, grayed out, and updates them afterwards."""
    with RedisServer.start() as redis, presence_run(tmp_path, "--redis", redis.url, **times) as service:
        deployment = Deployment.started(service, times)
        await deployment.ask("PUT", "/v1/users/alice/contacts", {"add": ["bob"]})
        await deployment.ask("PUT", "/v1/graph", {"loaded": True})
        alices, bobs = [
            await DemoPage.open(await new_context(), f"{service.run.url}/demo/", user) for user in ("alice", "bob")
        ]
        await asyncio.gather(alices.sees("bob", "online"), bobs.sees("alice", "online"))
        who, stale = alices.contact("bob").locator(".who"), alices.page.locator("#stale")
        os.kill(redis.pid, signal.SIGSTOP)
        await alices.is_connected("Service unavailable")
        await expect(stale).to_have_text("Service unavailable. Statuses may be out of date.")
        await expect(who).to_have_css("filter", "grayscale(1)")
        await expect(alices.page.locator("#you-status")).to_have_text("Unknown")
        await alices.sees("bob", "online")
        os.kill(redis.pid, signal.SIGCONT)
        await alices.is_connected("Live")
        await expect(stale).to_be_hidden()
        await bobs.choose("This device", "Busy")
        await alices.sees("bob", "busy")
