"""The cost model: what it counts is what a run of the real functions counts, and the bill is what AWS meters of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest

from cost import model as cost
from cost.model import Counts, Price, Workload
from local.elasticache import RedisServer
from shared.settings import GATEWAY_IDLE_CUT, Settings
from tests.support.counted_hour import Counted, Socket, World, play

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "infra" / "golden"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A real server."""
    with RedisServer.start() as server:
        yield server


def people(here: World, count: int) -> list[str]:
    """Users who are all contacts of each other, and live in buckets of their own, as most of few would."""
    found: dict[int, str] = {}
    for number in range(1000):
        found.setdefault(here.sandbox.store.bucket_of(f"user{number}"), f"user{number}")
    users = [found[bucket] for bucket in sorted(found)][:count]
    for user in users:
        here.sandbox.service.set_contacts(user, [other for other in users if other != user])
    return users


def check(counted: Counted, counts: Sequence[Counts], contacts: int, *, settling: float = 0.0) -> None:
    """Hold what was counted against the sum of what the model says.

    How often users are settled may differ by a share of `settling`; how often the sweeper looks by three percent, for
    the model has people become due at random.
    """
    assert counted.messages.total() == pytest.approx(sum(part.messages("socket") for part in counts))
    assert counted.posts.total() == pytest.approx(sum(part.posts for part in counts))
    invocations = added(part.invocations("socket") for part in counts)
    assert counted.invocations == pytest.approx({name: times for name, times in invocations.items() if times})
    assert counted.scripts_in_redis == counted.calls.total(), "Redis has run what the store has sent, and nothing else"
    tolerance = {"settling": settling, "looks": 0.03}
    for reason, expected in added(part.round_trips for part in counts).items():
        assert counted.round_trips[reason] == pytest.approx(expected, rel=tolerance.get(reason, 1e-9)), reason
    for reason, expected in added(part.calls(contacts) for part in counts).items():
        assert counted.calls[reason] == pytest.approx(expected, rel=tolerance.get(reason, 1e-9)), reason
    assert counted.round_trips.keys() <= {*counts[0].round_trips, "check"}


def added(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of several counts, name by name."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


class Client:
    """One device that stays connected, and beats each thirty seconds from its first connection on."""

    def __init__(self, here: World, user: str, device: str) -> None:
        self._here, self._user, self._device = here, user, device
        self.socket: Socket | None = None

    async def open(self) -> None:
        """Connect for the first time, or come back on a new connection before the old one ends."""
        self.socket = await self._here.open(self._user, self._device, self.socket)

    async def say(self, message: dict[str, Any], function: str) -> None:
        """Send a message, through the connection of this moment."""
        assert self.socket
        await self._here.say(self.socket, message, function)

    async def beat(self) -> None:
        """A heartbeat of a client that has missed nothing."""
        await self.say({"action": "heartbeat"}, "heartbeat")

    async def close(self) -> None:
        """Leave, as a page that is closed."""
        assert self.socket
        await self._here.close(self.socket)
        self.socket = None


def stays(here: World, client: Client, after: float, seconds: float) -> None:
    """Let a client come in the half minute before a scenario's hours, and beat until they are over.

    It comes where its last beat before them would have been, so that its deadlines are those of somebody long here.
    """
    here.at(after, client.open)
    for number in range(1, round(seconds / 30) + 1):
        here.at(after + 30 * number, client.beat)


def test_a_quiet_half_hour(server: RedisServer) -> None:
    """Heartbeats, and what they put off: deadlines come, users are settled, and the sweeper looks for them."""

    async def scenario(here: World) -> Counted:
        for place, user in enumerate(people(here, 6)):
            stays(here, Client(here, user, "laptop"), 1.25 + 2.5 * place, 1800)
        await here.live(30)
        here.begin()
        return await here.live(1800)

    counted = play(server.url, scenario)
    quiet = Workload(users=6, contacts=5, changes_per_hour=0, connection_minutes=inf)
    check(counted, [cost.count(quiet, 0.5)], 5)


def test_nobody_there(server: RedisServer) -> None:
    """An idle stack wakes the sweeper, which looks once a second, and nobody else."""

    async def scenario(here: World) -> Counted:
        await here.live(60)
        here.begin()
        return await here.live(300)

    counted = play(server.url, scenario)
    check(counted, [cost.count(Workload(users=0), 5 / 60)], 50)
    assert counted.metrics == set(cost.IDLE_METRICS)


def test_changes_and_rotated_connections(server: RedisServer) -> None:
    """Four users with two devices each change twelve times an hour; connections last a quarter of one."""
    hours = 0.5

    async def scenario(here: World) -> Counted:
        users = people(here, 4)
        for place, user in enumerate(users):
            clients = [Client(here, user, device) for device in ("laptop", "phone")]
            for turn, client in enumerate(clients):
                stays(here, client, 1.25 + 2.5 * place + 0.5 * turn, 3600 * hours)
                for quarter in (1, 2):
                    here.at(30 + 900 * quarter - 300 + 20 * place + 5 * turn, client.open)
            for number in range(6):
                change = {"action": "presence_update", "status": ("busy", "online")[number % 2], "scope": "user"}
                here.at(30 + 300 * number + 40 * place + 7, partial(clients[0].say, change, "update"))
        await here.live(30)
        here.begin()
        return await here.live(3600 * hours)

    counted = play(server.url, scenario)
    lively = Workload(users=4, contacts=3, devices=2, changes_per_hour=12, connection_minutes=15)
    # What is said meanwhile puts deadlines off, so fewer are settled for their own sake.
    check(counted, [cost.count(lively, hours)], 3, settling=0.15)
    assert counted.metrics <= set(cost.BUSY_METRICS)


def test_sessions(server: RedisServer) -> None:
    """A user comes with two devices, stays ten minutes, changes once and goes, twice; three contacts are told."""
    hours, sessions = 0.5, 2

    async def scenario(here: World) -> Counted:
        alice, *contacts = people(here, 4)
        for place, user in enumerate(contacts):
            for turn, device in enumerate(("laptop", "phone")):
                stays(here, Client(here, user, device), 1.25 + 2.5 * place + 0.5 * turn, 3600 * hours)
        for session in range(sessions):
            start = 30 + 100.4 + 800 * session
            for turn, device in enumerate(("laptop", "phone")):
                client = Client(here, alice, device)
                here.at(start + 0.1 * turn, client.open)
                for number in range(20):
                    here.at(start + 15.2 + turn + 30 * number, client.beat)
                if turn:
                    busy = {"action": "presence_update", "status": ("busy", "away")[session % 2], "scope": "user"}
                    here.at(start + 300, partial(client.say, busy, "update"))
                here.at(start + 600 + 0.1 * turn, client.close)
        await here.live(30)
        here.begin()
        return await here.live(3600 * hours)

    counted = play(server.url, scenario)
    watching = Workload(users=3, contacts=3, devices=2, changes_per_hour=0, connection_minutes=inf)
    coming = Workload(
        users=1,
        contacts=3,
        devices=2,
        hours_online=24 * sessions * (10 / 60) / hours,
        sessions_per_day=24 * sessions / hours,
        changes_per_hour=6,
    )
    parts = [cost.count(watching, hours), replace(cost.count(coming, hours), looks=0, sweeps=0)]
    check(counted, parts, 3, settling=0.05)  # a session is not as long as a whole number of deadlines
    assert counted.metrics <= set(cost.BUSY_METRICS)


# The bill


def test_prices_go_in_steps() -> None:
    """A month's first billion messages cost more than those beyond."""
    price = Price("messages", "API Gateway", [(1e9, 1.0), (inf, 0.8)], per=1e6)
    assert [price.of(amount) for amount in (0, 2.5e6, 1e9, 3e9)] == pytest.approx([0, 2.5, 1000, 2600])


@pytest.mark.parametrize("cache", ["public", "vpc", "url"])
def test_an_idle_stack_holds_what_the_bill_lists(cache: cost.Cache) -> None:
    """Memory, alarms, dashboard, secret, schedule and NAT gateway are those of the template."""
    resources = json.loads((GOLDEN / f"{cache}.json").read_text("utf-8"))["Resources"].values()
    by_type: dict[str, list[dict[str, Any]]] = {}
    for resource in resources:
        by_type.setdefault(resource["Type"], []).append(resource.get("Properties", {}))
    memory = {
        each["Description"].removeprefix("Presence: functions/"): each["MemorySize"]
        for each in by_type["AWS::Lambda::Function"]
    }
    assert memory == cost.MEMORY
    watched = [
        1 if "MetricName" in alarm else sum("MetricStat" in metric for metric in alarm["Metrics"])
        for alarm in by_type["AWS::CloudWatch::Alarm"]
    ]
    assert sum(watched) == cost.ALARM_METRICS[cache]
    names = {item.name: item.amount for item in cost.bill(Workload(users=0, cache=cache))}
    assert names["dashboard"] == len(by_type["AWS::CloudWatch::Dashboard"])
    assert names["token secret"] == len(by_type["AWS::SecretsManager::Secret"])
    assert ("NAT gateway" in names) == ("AWS::EC2::NatGateway" in by_type)
    assert ("cache: what is stored" in names) == ("AWS::ElastiCache::ServerlessCache" in by_type)
    [schedule] = by_type["AWS::Scheduler::Schedule"]
    assert schedule["ScheduleExpression"] == "rate(1 minute)"
    assert names["schedule"] == pytest.approx(60 * cost.MONTH)
    assert Settings().buckets == cost.BUCKETS


def test_a_longer_interval_is_cheaper_and_notices_later() -> None:
    """Half the heartbeats are half of their messages, and a device is given up after twice the time."""
    often, seldom = Workload(heartbeat_interval=30), Workload(heartbeat_interval=60)
    assert seldom.device_ttl == 2 * often.device_ttl == Settings(heartbeat_interval=60, device_ttl=150).device_ttl
    assert cost.count(seldom).beats == pytest.approx(cost.count(often).beats / 2)
    assert cost.total(seldom) < cost.total(often)


def test_heartbeats_that_go_another_way_leave_the_sockets_open() -> None:
    """No message is billed for them, but each socket says something before API Gateway closes it as silent."""
    socket, http, url = (cost.use(Workload(beats=way)) for way in ("socket", "http_api", "function_url"))
    assert http.messages == url.messages < socket.messages
    assert http.messages - cost.use(Workload(beats="http_api", heartbeat_interval=60)).messages == pytest.approx(0)
    assert cost.KEEP_ALIVE < GATEWAY_IDLE_CUT
    assert (http.http_requests, url.http_requests) == (cost.count(Workload()).beats, 0)
    assert url.invocations["heartbeat"] > socket.invocations["heartbeat"]


def test_larger_snapshots_are_more_frames() -> None:
    """What does not fit into one frame of 32 KB comes in several, each a message of its own."""
    few, many = (cost.count(Workload(sessions_per_day=1, contacts=contacts)) for contacts in (50, 500))
    assert many.snapshots == 3 * few.snapshots == 3 * few.arrivals


@pytest.mark.parametrize("page", cost.PAGES, ids=lambda page: page.name)
def test_pages_say_what_the_model_says(page: Path) -> None:
    """The tables in the documents are those that `python -m cost --markdown` writes."""
    text = page.read_text("utf-8")
    assert "<!-- table: " in text
    assert cost.filled(text) == text, "say: python -m cost --markdown"


def test_the_page_of_costs_has_all_tables_and_sources() -> None:
    """Each table is shown, and each price page is named."""
    text = (cost.DOCS / "cost.md").read_text("utf-8")
    assert set(re.findall(r"<!-- table: (\w+) -->", text)) == set(cost.tables())
    for service, address in cost.SOURCES.items():
        assert f"[{service}]({address})" in text


def test_the_readme_says_what_an_idle_stack_costs() -> None:
    """The README's figure is the model's."""
    [told] = re.findall(r"idle stack costs about \$(\d+) a month", (ROOT / "README.md").read_text("utf-8"))
    assert int(told) == round(cost.total(Workload(users=0)))
