"""The operator view: its numbers agree with the metric lines of the functions, and with what happens."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal

import pytest
from playwright.async_api import Locator, Page, expect

from local.elasticache import RedisServer
from tests.support.demo_page import DemoPage, NewContext
from tests.support.deployment import Deployment, of
from tests.support.presence_run import PresenceRun, presence_run

pytestmark = pytest.mark.asyncio(loop_scope="session")

WAIT = 60.0
"""Seconds until a change is on the screen: functions write metrics every five seconds, and only when invoked."""
SHARES = (50, 95, 99)
UNKNOWN = "\N{EN DASH}"
NOTHING = re.compile(f"^(0|{UNKNOWN})$")


class OperatorView:
    """The operator view, and what it must show: the metric lines of a run's log, added up here."""

    def __init__(self, page: Page, service: PresenceRun) -> None:
        self.page, self._log = page, service.directory / ".presence" / "run.log"

    @classmethod
    async def open(cls, new_context: NewContext, service: PresenceRun) -> OperatorView:
        """A browser with the page."""
        page = await (await new_context()).new_page()
        await page.goto(f"{service.run.url}/demo/")
        await page.get_by_role("link", name="Operator").click()
        await expect(page.get_by_role("heading", name="Operator view")).to_be_attached()
        return cls(page, service)

    def tile(self, title: str) -> Locator:
        """The section with this title."""
        heading = self.page.get_by_role("heading", name=title, exact=True)
        return self.page.locator("section").filter(has=heading)

    def number(self, title: str) -> Locator:
        """The large number of a tile."""
        return self.tile(title).locator(".number b")

    async def parts(self, title: str) -> dict[str, str]:
        """The values below the large number, by name."""
        tile = self.tile(title)
        names, values = await tile.locator("dt").all_inner_texts(), await tile.locator("dd").all_inner_texts()
        return dict(zip(names, values, strict=True))

    async def agrees(self) -> None:
        """Wait until the page shows what is in the log, which may grow between two refreshes."""
        async with asyncio.timeout(WAIT):
            while await self._shown() != self.written():
                await self._refresh()

    async def is_nothing(self, *titles: str) -> bool:
        """Whether one of these tiles has no number."""
        return any([NOTHING.match(await self.number(title).inner_text()) for title in titles])

    def written(self) -> dict[str, dict[str, str]]:
        """The lines of the log as the tiles must show them."""
        measured = defaultdict[str, list[float]](list)
        for line in self._log.read_text().splitlines():
            _, _, text = line.partition("\t")
            if not text.startswith('{"_aws"'):
                continue
            line_metrics = json.loads(text)
            for name in [
                metric["Name"] for each in line_metrics["_aws"]["CloudWatchMetrics"] for metric in each["Metrics"]
            ]:
                value = line_metrics[name]
                measured[name] += value if isinstance(value, list) else [value]

        def total(*metrics: str) -> dict[str, str]:
            return {metric.removeprefix("Posts").lower(): f"{sum(measured[metric]):g}" for metric in metrics}

        def times(metric: str) -> dict[str, str]:
            values = sorted(measured[metric])
            return {
                f"p{share}": _ms(values[math.ceil(len(values) * share / 100) - 1]) if values else UNKNOWN
                for share in SHARES
            }

        return {
            "Posts to clients": total("PostsSent", "PostsGone", "PostsThrottled", "PostsFailed"),
            "Changes": total("Connections", "Updates", "Announcements", "Settled"),
            "Push latency": times("PostTime"),
            "Redis latency": times("RedisTime"),
            "Due lateness": times("DueLateness"),
        }

    async def _shown(self) -> dict[str, dict[str, str]]:
        return {title: await self.parts(title) for title in self.written()}

    async def _refresh(self) -> None:
        """Wait until the page has refreshed once more."""
        async with self.page.expect_response("**/v1/health") as answer:
            pass
        await (await answer.value).finished()


def _ms(value: float) -> str:
    """A time as the page shows it; the report has two decimals."""
    if value >= 10_000:
        return f"{float(Decimal(str(value / 1_000)).quantize(Decimal(1), ROUND_HALF_UP)):g} s"
    places = Decimal(1) if value >= 100 else Decimal("0.1")
    return f"{float(Decimal(str(round(value, 2))).quantize(places, ROUND_HALF_UP)):g} ms"


async def test_every_number_agrees_with_the_metric_lines_and_with_what_happens(
    tmp_path_factory: pytest.TempPathFactory, new_context: NewContext, times: dict[str, str]
) -> None:
    """Two users, some changes, rejected tokens and a sweep: the tiles show them and agree with the log."""
    one, other = (tmp_path_factory.mktemp(name) for name in ("one", "other"))
    with RedisServer.start() as redis, presence_run(one, "--redis", redis.url, **times) as service:
        backend = Deployment.started(service, times)
        await backend.ask("PUT", "/v1/graph", {"loaded": True})
        await backend.ask("PUT", of("alice", "contacts"), {"add": ["bob"]})
        view = await OperatorView.open(new_context, service)
        for title in ("Posts to clients", "Push latency", "Due lateness", "Problems"):
            await expect(view.number(title)).to_have_text(NOTHING)

        address = f"{service.run.url}/demo/"
        contexts = [await new_context(), await new_context()]
        alices, bobs = await asyncio.gather(*map(DemoPage.open, contexts, [address] * 2, ["alice", "bob"]))
        await asyncio.gather(alices.sees("bob", "online"), bobs.sees("alice", "online"))
        await expect(view.number("Open connections")).to_have_text("2")
        # Each change and handshake invokes the functions that write the metrics of the ones before it.
        statuses = ["Busy", "Away"]
        async with asyncio.timeout(WAIT):
            while await view.is_nothing("Posts to clients", "Push latency", "Changes", "Problems"):
                await alices.choose("This device", statuses[0])
                await bobs.sees("alice", statuses[0].lower())
                first = await alices.connection_id()
                await alices.press("Expire the token")
                await alices.has_moved_from(first)
                statuses.reverse()
        assert int((await view.parts("Problems"))["tokens rejected"]) > 0
        with presence_run(other, "--redis", redis.url, **times):  # Its sweeper takes over from the other one.
            await expect(view.number("Due lateness")).not_to_have_text(UNKNOWN, timeout=WAIT * 1000)
        await bobs.page.close()
        await expect(view.number("Open connections")).to_have_text("1")
        await view.agrees()
        await expect(view.number("Events")).not_to_have_text(NOTHING)
        rows = view.page.locator("tbody tr")
        assert {"api", "connect", "heartbeat", "sweeper", "update"} <= set(
            await rows.get_by_role("rowheader").all_inner_texts()
        )
        await expect(view.page.get_by_role("status")).to_have_text("Healthy")
        await expect(view.page.locator("#facts")).to_contain_text("loaded")
        await expect(view.page.get_by_role("alert")).to_be_hidden()
    await expect(view.page.get_by_role("alert")).to_contain_text("These numbers are out of date")
    await expect(rows.first).to_be_visible()
