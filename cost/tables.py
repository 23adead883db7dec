"""The tables of docs/cost.md and docs/deploy.md, between their markers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from pathlib import Path

from cost.assumptions import ALARM_METRICS, BUCKETS, IDLE_METRICS, MONTH, Assumptions
from cost.bill import bill, total
from cost.counts import count
from cost.prices import US_EAST_1, Price, Prices
from cost.usage import use
from cost.workload import Workload

DOCS = Path(__file__).parent.parent / "docs"
PAGES = (DOCS / "cost.md", DOCS / "deploy.md")
"""The pages that hold tables, between markers."""


@dataclass(frozen=True, slots=True)
class Lever:
    """A change to the service, or to how it is used, that changes the cost."""

    name: str
    settings: Mapping[str, object]
    exists: str
    """How to apply it today; empty where it is not implemented."""


LEVERS = (
    Lever("default: heartbeats every 30 s through the socket", {}, "the default"),
    Lever("heartbeats every 60 s", {"heartbeat_interval": 60.0}, "a setting"),
    Lever("heartbeats every 120 s", {"heartbeat_interval": 120.0}, "a setting"),
    Lever("heartbeats every 300 s", {"heartbeat_interval": 300.0}, "a setting"),
    Lever("heartbeats over the HTTP API", {"beats": "http_api"}, ""),
    Lever("heartbeats over a function URL", {"beats": "function_url"}, ""),
    Lever("a function URL, every 120 s", {"beats": "function_url", "heartbeat_interval": 120.0}, ""),
    Lever("changes within 10 s in one frame", {"batch_window": 10.0}, ""),
    Lever("changes within 60 s in one frame", {"batch_window": 60.0}, ""),
    Lever("a fifth of the online contacts is notified", {"notified_share": 0.2}, ""),
    Lever("heartbeat function with 128 MB", {"heartbeat_memory": 128}, "`infra/functions.py`"),
    Lever("heartbeat function with 512 MB", {"heartbeat_memory": 512}, "`infra/functions.py`"),
)
SIZES = (10_000, 1_000_000)


def with_lever(workload: Workload, lever: Lever) -> Workload:
    """The same workload with a lever applied."""
    return replace(workload, **lever.settings)  # type: ignore[arg-type] # a lever names fields of `Workload`


CASES: Mapping[str, Workload] = {
    "always online, as are all contacts": Workload(),
    "always online, heartbeats every 120 s": Workload(heartbeat_interval=120),
    "always online, 500 contacts each": Workload(contacts=500),
    "eight hours a day in two sessions, two devices, a third of the contacts online": Workload(
        hours_online=8, sessions_per_day=2, devices=2, online_share=1 / 3
    ),
    "two hours a day in ten sessions, a tenth of the contacts online": Workload(
        hours_online=2, sessions_per_day=10, online_share=0.1
    ),
}
"""Workloads whose monthly cost the documents show."""


def money(usd: float) -> str:
    """Dollars as a bill shows them: with cents below a hundred."""
    return f"{usd:,.2f}" if usd < 100 else f"{usd:,.0f}"


def amount(value: float) -> str:
    """A readable number, like 1,234 or 1.20 billion."""
    for name, size in (("billion", 1e9), ("million", 1e6)):
        if value >= size:
            return f"{value / size:,.2f} {name}".replace(".00 ", " ")
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def tables() -> dict[str, str]:
    """The tables of the documents, by the names in their markers."""
    default = Workload()
    return {
        "prices": _markdown(("what", "$", "page"), _price_rows(US_EAST_1)),
        "idle": _markdown(("", "$"), _idle_rows()),
        "bill": _markdown(("", "units", "of what", "$"), bill_rows(default)),
        "events": _markdown(("", "a month"), _event_rows(default)),
        "cases": _markdown(("", *(f"{size:,} users" for size in (1_000, *SIZES))), _case_rows()),
        "levers": _markdown(("", "dead after", *(f"{size:,} users" for size in SIZES), "today"), _lever_rows()),
        "rates": _markdown(("on average, each second", *(f"{size:,} users" for size in SIZES), "limit"), _rate_rows()),
        "ecpus": _markdown(("an ECPU is", *(f"{size:,} users" for size in SIZES)), _ecpu_rows()),
    }


def _price_rows(prices: Prices) -> Iterable[Sequence[str]]:
    for name in (each.name for each in fields(prices) if each.name != "looked_up"):
        price: Price = getattr(prices, name)
        parts = []
        for limit, usd in price.steps:
            shown = f"{usd:.2f}" if usd == round(usd, 2) else f"{usd:.10f}".rstrip("0")
            until = f"up to {amount(limit)}" if limit != inf else "beyond"
            parts.append(f"{shown} {until}" if len(price.steps) > 1 else shown)
        yield f"{'a million ' if price.per == 1e6 else ''}{price.unit}", ", ".join(parts), price.service


def _idle_rows() -> Iterable[Sequence[str]]:
    items = {item.name: item.usd for item in bill(Workload(users=0))}
    groups = {
        "cache: the minimum of 100 MB, and the sweeper's commands": "cache:",
        "sweeper, which always runs (256 MB, arm64)": "sweeper",
        f"alarms on {ALARM_METRICS['public']} metrics, a dashboard, {len(IDLE_METRICS)} custom metrics": (
            "alarms|dashboard|custom metrics"
        ),
        "the secret": "token secret",
        "invocations, logs and the schedule": "invocations|logs|schedule",
    }
    for name, pattern in groups.items():
        yield name, f"{sum(usd for line, usd in items.items() if re.match(pattern, line)):.2f}"
    yield "**sum**", f"**{sum(items.values()):.2f}**"
    vpc = total(Workload(users=0, cache="vpc")) - total(Workload(users=0))
    yield "with `cache=vpc`: a NAT gateway and its address", f"+ {vpc:.2f}"


def bill_rows(workload: Workload) -> Iterable[Sequence[str]]:
    """The bill as rows: name, units, unit, dollars; the sum is last."""
    items = bill(workload)
    for item in items:
        yield item.name, amount(item.amount), item.unit, money(item.usd)
    yield "**sum**", "", "", f"**{money(sum(item.usd for item in items))}**"


def _event_rows(workload: Workload) -> Iterable[Sequence[str]]:
    c, u = count(workload), use(workload)
    calls = c.calls(workload.contacts)
    yield "messages from clients", amount(c.messages(workload.beats))
    yield "frames to clients", amount(c.posts)
    for name, times in sorted(c.invocations(workload.beats).items(), key=lambda entry: -entry[1]):
        yield f"invocations of `{name}`", amount(times)
    yield "round trips to Redis", amount(sum(c.round_trips.values()))
    yield "script calls in them", amount(sum(calls.values()))
    for name, ecpus in sorted(u.ecpus.items(), key=lambda entry: -entry[1]):
        yield f"ECPUs of {name}", amount(ecpus)


def _case_rows() -> Iterable[Sequence[str]]:
    for name, workload in CASES.items():
        yield name, *(money(total(replace(workload, users=size))) for size in (1_000, *SIZES))


def _lever_rows() -> Iterable[Sequence[str]]:
    plain = [total(Workload(users=size)) for size in SIZES]
    for lever in LEVERS:
        costs = []
        for size, before in zip(SIZES, plain, strict=True):
            cost = total(with_lever(Workload(users=size), lever))
            change = round(100 * (cost / before - 1))
            costs.append(money(cost) + (f" ({f'{change:+d}' if change else '±0'} %)" if lever.settings else ""))
        yield lever.name, f"{with_lever(Workload(), lever).device_ttl:g} s", *costs, lever.exists or "not implemented"


def _rate_rows() -> Iterable[Sequence[str]]:
    uses, seconds = [use(Workload(users=size)) for size in SIZES], 3600 * MONTH
    messages = [amount(each.messages / seconds) for each in uses]
    yield "messages and posts of the account", *messages, "10,000; less in newer regions; AWS raises it on request"
    ecpus = [amount(sum(each.ecpus.values()) / seconds / BUCKETS) for each in uses]
    yield (
        f"ECPUs of one of {BUCKETS} buckets, each in one slot",
        *ecpus,
        "30,000; if you need more, choose more buckets before there is data",
    )


def _ecpu_rows() -> Iterable[Sequence[str]]:
    counts = {size: count(Workload(users=size)) for size in SIZES}
    ecpus, contacts = US_EAST_1.ecpus, Workload().contacts
    cheapest = [money(ecpus.of(sum(c.calls(contacts).values()))) for c in counts.values()]
    yield "a script call, whatever it does and transfers", *cheapest
    assumed = [money(ecpus.of(sum(use(Workload(users=size)).ecpus.values()))) for size in SIZES]
    yield f"{Assumptions.us_of_an_ecpu:g} µs in a script, as the model assumes", *assumed


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def filled(text: str) -> str:
    """A page whose tables, between their markers, are up to date.

    Raises:
        KeyError: there is no table of that name.
    """
    made = tables()
    marked = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return marked.sub(lambda found: f"{found[1]}\n{made[found[2]]}\n\n{found[3]}", text)
