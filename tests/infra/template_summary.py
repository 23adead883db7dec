"""A CloudFormation template in the form that a reviewer reads.

One block per resource: its logical id, then its properties. Left out are the hashes of assets and `DependsOn`, which
orders the creation of resources. These rules keep the text short:

- The block `TYPE: all N` holds what more than half of the resources of a type share. A resource then lists only what
  differs, and `without NAME` for what it lacks.
- IAM statements, environments, metrics, route limits and dashboards have short forms. What does not fit its short form
  exactly is written in full.
- Values are written as `template_text.py` describes.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, zip_longest
from typing import Any, NamedTuple

from tests.infra.template_text import is_function, listed, shortened, text

WIDTH = 120

COSTLY = {
    "AWS::ApiGatewayV2::Api": "another logical id is another API with another URL, and closes every socket",
    "AWS::ApiGatewayV2::Stage": "another logical id or name closes every socket",
    "AWS::DynamoDB::Table": "another logical id is another, empty table",
    "AWS::ElastiCache::ServerlessCache": "another logical id or name is another, empty cache",
    "AWS::SecretsManager::Secret": "another logical id is another secret, and ends every token",
}
"""The types of which a replacement loses data, connections or tokens. They stand first."""

ALWAYS_SHOWN = {"allow", "AuthorizationType", "Handler", "MemorySize", "RouteKey", "Threshold", "Timeout"}
"""What each resource states itself, even where most others of its type state the same."""


class Fact(NamedTuple):
    """One property."""

    name: str
    value: str
    alone: bool = False
    """Whether it stands in a line of its own."""

    def __str__(self) -> str:
        statement = self.name.endswith(("allow", "deny"))
        return f"{self.name} {self.value}" if statement else f"{self.name}: {self.value}"


Blocks = dict[str, list[Fact]]
"""The facts of each block, by its heading."""


def blocks(template: Mapping[str, Any]) -> Blocks:
    """The whole template as blocks of facts."""
    template = shortened(template)
    by_type: dict[str, dict[str, Any]] = {}
    for name, resource in template["Resources"].items():
        by_type.setdefault(resource["Type"], {})[name] = resource
    found: Blocks = {}
    for kind in sorted(by_type, key=lambda kind: (kind not in COSTLY, kind)):
        facts = {name: list(_facts(name, resource)) for name, resource in sorted(by_type[kind].items())}
        title = f"{kind} ({COSTLY[kind]})" if kind in COSTLY else kind
        common = _common(list(facts.values()))
        if len(facts) > 1:
            found[f"{title}: all {len(facts)}"] = common
        for logical_id, own in facts.items():
            names = {fact.name for fact in own}
            lacking = [Fact("without", fact.name) for fact in common if fact.name not in names]
            found[logical_id if len(facts) > 1 else f"{logical_id}: {title}"] = [*_minus(own, common), *lacking]
    for section in sorted(template.keys() - {"Resources"}):
        content = template[section] if isinstance(template[section], Mapping) else {"text": template[section]}
        found[f"Template's {section}"] = [Fact(name, text(value), alone=True) for name, value in content.items()]
    return found


def render(found: Blocks) -> str:
    """The blocks as text. Neighbors without facts of their own share lines."""
    lines: list[str] = []
    for empty, group in groupby(found.items(), key=lambda block: not block[1]):
        if empty:
            lines += _wrapped(", ".join(heading for heading, _ in group), "")
        else:
            lines += [line for heading, facts in group for line in _lines(heading, facts)]
    return "".join(f"{line}\n" for line in lines)


def difference(base: Blocks, other: Blocks) -> str:
    """What `other` has (`+`) and lacks (`-`) compared with `base`; of a block that it lacks, the heading alone."""
    found: Blocks = {f"- {heading}": [] for heading in base if heading not in other}
    for heading, facts in other.items():
        if heading not in base:
            found[f"+ {heading}"] = facts
            continue
        changes = [("-", fact) for fact in _minus(base[heading], facts)]
        changes += [("+", fact) for fact in _minus(facts, base[heading])]
        if changes:
            found[heading] = [Fact(f"{sign} {fact.name}", fact.value, alone=True) for sign, fact in changes]
    return render(found)


def _lines(heading: str, facts: Sequence[Fact]) -> Iterator[str]:
    """The heading and short facts, as many to a line as fit; then each long fact on a line of its own."""
    line, separator, indent = heading, "  ", ""
    for fact in sorted(facts, key=_has_own_line):
        if _has_own_line(fact) or len(indent + line + separator + str(fact)) > WIDTH:
            yield from _wrapped(line, indent)
            line, indent = str(fact), "  "
        else:
            line += separator + str(fact)
        separator = "; "
    yield from _wrapped(line, indent)


def _has_own_line(fact: Fact) -> bool:
    return fact.alone or len(str(fact)) > WIDTH / 2


def _wrapped(line: str, indent: str) -> list[str]:
    return textwrap.wrap(
        line,
        WIDTH,
        initial_indent=indent,
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _common(resources: Sequence[Iterable[Fact]]) -> list[Fact]:
    """The facts that more than half of the resources of a type share; none if there is only one resource."""
    if len(resources) < 2:
        return []
    counts = Counter(fact for facts in resources for fact in facts)
    return [fact for fact, count in counts.items() if count > len(resources) / 2 and fact.name not in ALWAYS_SHOWN]


def _minus(facts: Iterable[Fact], others: Iterable[Fact]) -> list[Fact]:
    left = Counter(facts) - Counter(others)
    return [fact for fact in facts if left[fact]]


# Facts of one resource


def _facts(logical_id: str, resource: Mapping[str, Any]) -> Iterator[Fact]:
    for name, value in resource.get("Properties", {}).items():
        if (name, value) != ("PolicyName", logical_id):
            yield from _flat(name, value)
    for name in sorted(resource.keys() - {"DependsOn", "Properties", "Type"}):
        yield from _flat(name, resource[name])


def _flat(name: str, value: Any) -> Iterator[Fact]:
    if short := SHORT_FORMS.get(name):
        yield from short(name, value)
    elif isinstance(value, Mapping) and value and not is_function(value):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield Fact(name, text(value))


def _statements(name: str, value: Any) -> Iterator[Fact]:
    """IAM: one fact for each statement."""
    for statement in value:
        effect, actions, resources, *_ = [*map(statement.get, ("Effect", "Action", "Resource"))]
        rest = {key: each for key, each in statement.items() if key not in ("Effect", "Action", "Resource")}
        if effect in ("Allow", "Deny") and actions:
            on = f" on {listed(resources)}" if "Resource" in statement else ""
            yield Fact(effect.lower(), f"{listed(actions)}{on}" + (f" with {text(rest)}" if rest else ""), alone=True)
        else:
            yield Fact(name, text(statement), alone=True)


def _environment(_name: str, value: Any) -> Iterator[Fact]:
    for key, each in value.items():
        yield Fact(f"env {key}", text(each), alone=True)


def _metrics(name: str, value: Any) -> Iterator[Fact]:
    """What an expression is, and what it uses."""
    for each in value:
        stat = each.get("MetricStat", {})
        metric = stat.get("Metric", {})
        if (
            each.keys() == {"Id", "MetricStat", "ReturnData"}
            and stat.keys() == {"Metric", "Period", "Stat"}
            and metric.keys() == {"Dimensions", "MetricName", "Namespace"}
            and each["ReturnData"] is False
        ):
            what = [metric["Namespace"], metric["MetricName"], metric["Dimensions"], stat["Stat"], stat["Period"]]
            yield Fact(text(each["Id"]), " ".join(map(text, what)))
        else:
            yield Fact(name, text(each))


def _limits(_name: str, value: Any) -> Iterator[Fact]:
    for key, each in value.items():
        if each.keys() == {"ThrottlingBurstLimit", "ThrottlingRateLimit"}:
            limit = f"{text(each['ThrottlingRateLimit'])} a second, burst {text(each['ThrottlingBurstLimit'])}"
        else:
            limit = text(each)
        yield Fact(f"limit of {key}", limit)


def _dashboard(name: str, value: Any) -> Iterator[Fact]:
    """One fact for each widget."""
    whole = text(value)
    try:
        body = json.loads(whole)
        widgets = body.pop("widgets")
    except (ValueError, KeyError, AttributeError):
        yield Fact(name, whole)
        return
    yield Fact(name, text(body))
    for widget in widgets:
        yield Fact("widget", _widget(widget), alone=True)


def _widget(widget: Mapping[str, Any]) -> str:
    """A graph as `title, WIDTHxHEIGHT at X,Y: metrics`; each metric without what it shares with the one before."""
    given = dict(widget.get("properties", {}))
    title, metrics = given.pop("title", None), given.pop("metrics", None)
    ordinary = {"view": "timeSeries", "region": "{Region}", "yAxis": {}}
    if given != ordinary or not metrics or widget.keys() != {"type", "width", "height", "x", "y", "properties"}:
        return text(widget)
    before: Sequence[str] = []
    graphs = []
    for metric in metrics:
        parts = [*map(text, metric)]
        graphs.append(" ".join(part for part, same in zip_longest(parts, before[: len(parts)]) if part != same))
        before = parts
    where = f"{widget['width']}x{widget['height']} at {widget['x']},{widget['y']}"
    return f"{widget['type']} “{title}”, {where}: {'; '.join(graphs)}"


SHORT_FORMS: Mapping[str, Callable[[str, Any], Iterator[Fact]]] = {
    "AssumeRolePolicyDocument.Statement": _statements,
    "DashboardBody": _dashboard,
    "Environment.Variables": _environment,
    "Metrics": _metrics,
    "PolicyDocument.Statement": _statements,
    "RouteSettings": _limits,
}
