"""The template of each mode: its routes, permissions and checks, and a summary that shows a reviewer every change.

After an intended change: `UPDATE_GOLDEN=1 make test ARGS=tests/infra/test_stack.py`, then review the difference.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from cfnlint import ManualArgs, lint

from cost.assumptions import ALARM_METRICS, MEMORY, MONTH
from cost.bill import bill
from cost.workload import Cache, Workload
from infra.functions import NEEDS
from infra.monitoring import INCONSISTENCIES
from infra.rules import findings
from shared.routes import AUTHORIZER, FUNCTIONS, HTTP_ROUTES, WEBSOCKET_ROUTES
from shared.settings import PREFIX, Settings
from tests.infra.template_summary import blocks, difference, render
from tests.support.synthesis import MODES, ROOT, Synthesis, synthesize

GOLDEN = Path(__file__).parent / "golden"
UPDATE = "run `UPDATE_GOLDEN=1 make test ARGS=tests/infra/test_stack.py` and review the difference"
TITLES = {"public": "# The stack with cache=public. tests/infra/template_summary.py says how to read it.\n"} | {
    mode: f"# The stack with cache={mode}: what it has (+) and lacks (-) compared with public.txt.\n"
    for mode in ("vpc", "url")
}
CDKS_OWN = {"W3005"}
"""Findings of cfn-lint in CDK's constructs. These list dependencies that a reference implies, which is harmless."""
LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}
NETWORK = {
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
}
POST, DELETE = (f"execute-api:ManageConnections on {method}" for method in ("POST", "DELETE"))
READ = "secretsmanager:GetSecretValue"
CONNECT = "elasticache:Connect"
ACTIONS: dict[str, dict[str, set[str]]] = {
    "public": {
        "api": {CONNECT, POST, DELETE, READ},
        "authorize": {READ},
        "connect": {CONNECT},
        "disconnect": {CONNECT, POST},
        "heartbeat": {CONNECT, POST, DELETE},
        "query": {CONNECT, POST, DELETE},
        "sweeper": {CONNECT, POST},
        "update": {CONNECT, POST, DELETE},
    },
}
ACTIONS["vpc"] = {name: do | NETWORK if name != "authorize" else do for name, do in ACTIONS["public"].items()}
ACTIONS["url"] = {name: do - {CONNECT} | {READ} for name, do in ACTIONS["public"].items()}


@pytest.mark.parametrize("mode", MODES)
def test_the_template_is_the_reviewed_one(mode: str, syntheses: dict[str, Synthesis]) -> None:
    """A summary of each mode's template is in golden/: all of `public`, and what differs from it in the other modes."""
    public, this = blocks(syntheses["public"].template), blocks(syntheses[mode].template)
    summary = TITLES[mode] + (render(this) if mode == "public" else difference(public, this))
    golden = GOLDEN / f"{mode}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(summary, "utf-8")
    assert summary == golden.read_text("utf-8"), f"a deployment would change; if that is intended, {UPDATE}"


def test_every_change_of_a_template_shows_in_its_summary(synthesis: Synthesis) -> None:
    """Each value is changed in turn, and each property, list element and resource is removed in turn."""
    for part in _parts(synthesis.template):
        before = blocks(part)
        for holder, key in _places(part):
            value = holder[key]
            if not isinstance(value, (dict, list)):
                holder[key] = not value if isinstance(value, bool) else value + (1 if isinstance(value, int) else "~")
                assert blocks(part) != before, f"a change of {key}: {value} does not show"
            if isinstance(holder, dict) and key != "Type" and not key.startswith(("Ref", "Fn::")):
                holder.pop(key)
                assert blocks(part) != before, f"the removal of {key}: {value} does not show"
                holder[key] = value
            elif isinstance(holder, list) and all(isinstance(each, dict) for each in holder):
                del holder[key]
                assert blocks(part) != before, f"the removal of {value} does not show"
                holder.insert(key, value)
            else:
                holder[key] = value


def test_a_summary_shows_a_change_where_a_reviewer_looks_for_it(syntheses: dict[str, Synthesis]) -> None:
    """A wider permission, a dropped condition, more memory, an open route, another cache: a line or two each."""
    before = deepcopy(syntheses["public"].template)
    condition = {"StringEquals": {"aws:SourceAccount": "123456789012"}}
    _statement(before, "FunctionsUpdate", "execute-api")["Condition"] = condition
    after = deepcopy(before)
    del _statement(after, "FunctionsUpdate", "execute-api")["Condition"]
    _statement(after, "FunctionsConnect", "elasticache")["Resource"] = "*"
    _resource(after, "FunctionsApiFunction")["MemorySize"] = 1024
    _resource(after, "HttpApiGETv1graph")["AuthorizationType"] = "NONE"
    after["Resources"]["OtherCache0A1B2C3D"] = after["Resources"].pop(_named(before, "PublicCache"))
    warning = "AWS::ElastiCache::ServerlessCache (another logical id or name is another, empty cache)"
    shown = " ".join(difference(blocks(before), blocks(after)).split())
    for change in (
        "with {Condition: {StringEquals: {aws:SourceAccount: 123456789012}}}",
        "+ allow elasticache:Connect on * ",
        "- MemorySize: 512 + MemorySize: 1024",
        "- AuthorizationType: AWS_IAM + AuthorizationType: NONE",
        f"- {_named(before, 'PublicCache')}: {warning}",
        f"+ OtherCache0A1B2C3D: {warning}",
    ):
        assert change in shown


def test_cfn_lint_finds_nothing(synthesis: Synthesis) -> None:
    """The findings in CDK's own constructs are the only exception."""
    matches = lint(json.dumps(synthesis.template), config=ManualArgs(regions=["eu-west-1"]))
    assert [str(match) for match in matches if match.rule.id not in CDKS_OWN] == []


def test_each_finding_is_acknowledged_with_a_reason_and_each_reason_is_needed(
    syntheses: dict[str, Synthesis],
) -> None:
    """The findings of the checks are exactly those in infra/rules.py."""
    found = set()
    for synthesis in syntheses.values():
        for plugin in synthesis.report().values():
            assert plugin["violations"] == []
            for violation in plugin["suppressedViolations"]:
                assert violation["reason"]
                found.add((violation["acknowledgedAt"].removeprefix("Presence/"), violation["acknowledgedId"]))
    [api] = (
        name
        for name, properties in syntheses["public"].resources("AWS::ApiGatewayV2::Api").items()
        if properties["ProtocolType"] == "WEBSOCKET"
    )
    assert found == {(path.replace("|", "/"), rule) for path, rule, _ in findings(api)}


def test_the_routes_are_those_of_the_table(synthesis: Synthesis) -> None:
    """Each route in shared/routes.py invokes its function, with the access given there. There are no other routes."""
    functions = _functions(synthesis)
    targets = {
        name: functions[_referred(properties["IntegrationUri"])]
        for name, properties in synthesis.resources("AWS::ApiGatewayV2::Integration").items()
    }
    found = {
        (route["RouteKey"], targets[_referred(route["Target"])], route["AuthorizationType"])
        for route in synthesis.resources("AWS::ApiGatewayV2::Route").values()
    }
    websocket = {(r.key, r.function, "CUSTOM" if r.key == "$connect" else "NONE") for r in WEBSOCKET_ROUTES}
    http = {(f"{r.method} {r.path}", r.function, "AWS_IAM" if r.access == "backend" else "NONE") for r in HTTP_ROUTES}
    assert found == websocket | http
    assert synthesis.resources("AWS::ApiGatewayV2::RouteResponse") == {}


def test_the_authorizer_has_one_identity_source_and_no_cache(synthesis: Synthesis) -> None:
    """API Gateway rejects a result cache for an authorizer of a WebSocket API."""
    [authorizer] = synthesis.resources("AWS::ApiGatewayV2::Authorizer").values()
    assert authorizer["IdentitySource"] == ["route.request.querystring.token"]
    assert "AuthorizerResultTtlInSeconds" not in authorizer
    assert _functions(synthesis)[_referred(authorizer["AuthorizerUri"])] == AUTHORIZER


def test_the_stage_comes_after_every_route_and_throttles_each(synthesis: Synthesis) -> None:
    """A stage deployed before a route lacks that route."""
    routes = synthesis.resources("AWS::ApiGatewayV2::Route").keys()
    stages = [r for r in synthesis.template["Resources"].values() if r["Type"] == "AWS::ApiGatewayV2::Stage"]
    assert routes <= {name for stage in stages for name in stage["DependsOn"]}
    [websocket] = [stage["Properties"] for stage in stages if stage["Properties"]["StageName"] == "live"]
    assert websocket["RouteSettings"].keys() == {route.key for route in WEBSOCKET_ROUTES}
    assert sum(limits["ThrottlingRateLimit"] for limits in websocket["RouteSettings"].values()) < 10_000


def test_the_alarm_about_late_settling_is_created_after_the_schedule(synthesis: Synthesis) -> None:
    """Missing data triggers the alarm, and there is no data before the schedule starts the sweeper."""
    alarms = synthesis.resources("AWS::CloudWatch::Alarm")
    [late] = [name for name, alarm in alarms.items() if alarm.get("MetricName") == "DueLateness"]
    [schedule] = synthesis.resources("AWS::Scheduler::Schedule")
    assert schedule in synthesis.template["Resources"][late]["DependsOn"]


@pytest.mark.parametrize("mode", MODES)
def test_each_function_may_do_what_it_needs_and_nothing_else(mode: str, syntheses: dict[str, Synthesis]) -> None:
    """Each function has a role of its own with exactly the actions in the table, and no unexplained wildcard."""
    synthesis = syntheses[mode]
    roles = {}
    for function in synthesis.resources("AWS::Lambda::Function").values():
        roles[_referred(function["Role"])] = function["Handler"].split(".")[1]
    assert len(roles) == len(FUNCTIONS)
    allowed: dict[str, set[str]] = {name: set() for name in FUNCTIONS}
    for policy in synthesis.resources("AWS::IAM::Policy").values():
        [role] = policy["Roles"]
        if _referred(role) not in roles:
            continue  # the role of the schedule
        for statement in policy["PolicyDocument"]["Statement"]:
            actions = {statement["Action"]} if isinstance(statement["Action"], str) else set(statement["Action"])
            resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
            for resource in map(json.dumps, resources):
                where = next((f" on {m}" for m in ("POST", "DELETE") if f"/live/{m}/@connections/*" in resource), "")
                allowed[roles[_referred(role)]] |= {action + where for action in actions}
                assert "*" not in resource or where or actions == NETWORK, f"an unexplained wildcard: {resource}"
            assert not any("*" in action for action in actions)
    assert allowed == {name: actions | LOGS for name, actions in ACTIONS[mode].items()}


def test_the_schedule_may_start_the_sweeper_only(synthesis: Synthesis) -> None:
    """It starts it once a minute. Neither the scheduler nor Lambda retries."""
    [schedule] = synthesis.resources("AWS::Scheduler::Schedule").values()
    functions = _functions(synthesis)
    assert schedule["ScheduleExpression"] == "rate(1 minute)"
    assert functions[_referred(schedule["Target"]["Arn"])] == "sweeper"
    assert schedule["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 0
    [invoke] = synthesis.resources("AWS::Lambda::EventInvokeConfig").values()
    assert (functions[_referred(invoke["FunctionName"])], invoke["MaximumRetryAttempts"]) == ("sweeper", 0)
    [policy] = [
        policy
        for policy in synthesis.resources("AWS::IAM::Policy").values()
        if _referred(policy["Roles"][0]) == _referred(schedule["Target"]["RoleArn"])
    ]
    [statement] = policy["PolicyDocument"]["Statement"]
    assert statement["Action"] == "lambda:InvokeFunction"
    assert functions[_referred(statement["Resource"])] == "sweeper"


def test_each_function_gets_settings_that_load(synthesis: Synthesis) -> None:
    """`Settings.from_env` accepts its environment, which names no secret that its role may not read."""
    for function in synthesis.resources("AWS::Lambda::Function").values():
        name = function["Handler"].split(".")[1]
        environment = {key: _rendered(value) for key, value in function["Environment"]["Variables"].items()}
        settings = Settings.from_env(environment)
        assert environment["POWERTOOLS_SERVICE_NAME"] == "Presence"
        assert bool(settings.jwt_secret_arn) == NEEDS[name].tokens
        assert bool(settings.redis_iam_user or settings.redis_url_arn) == NEEDS[name].state
        assert bool(settings.callback_url) == (NEEDS[name].posts or NEEDS[name].closes)
        assert not {key for key in environment if key.startswith(PREFIX)} & {"PRESENCE_JWT_SECRET"}


def test_a_deleted_cache_leaves_a_snapshot(syntheses: dict[str, Synthesis]) -> None:
    """A deleted cache leaves a final snapshot, and daily snapshots are kept for seven days."""
    for mode in ("public", "vpc"):
        [cache] = syntheses[mode].resources("AWS::ElastiCache::ServerlessCache").values()
        assert cache["SnapshotRetentionLimit"] == 7
        assert "final" in json.dumps(cache["FinalSnapshotName"])
        assert f"presence-{mode}-" in json.dumps(cache["ServerlessCacheName"]), (
            "the name contains what CloudFormation cannot change in place"
        )


@pytest.mark.parametrize("cache", ["public", "vpc", "url"])
def test_an_idle_stack_contains_what_the_bill_lists(cache: Cache, syntheses: dict[str, Synthesis]) -> None:
    """The cost model and the template agree on memory, alarms, dashboard, secret, schedule and NAT gateway."""
    synthesis = syntheses[cache]
    functions = synthesis.resources("AWS::Lambda::Function").values()
    assert {each["Handler"].split(".")[1]: each["MemorySize"] for each in functions} == MEMORY
    metrics = [
        1 if "MetricName" in alarm else sum("MetricStat" in metric for metric in alarm["Metrics"])
        for alarm in synthesis.resources("AWS::CloudWatch::Alarm").values()
    ]
    assert sum(metrics) == ALARM_METRICS[cache]
    items = {item.name: item.amount for item in bill(Workload(users=0, cache=cache))}
    assert items["dashboard"] == len(synthesis.resources("AWS::CloudWatch::Dashboard"))
    assert items["token secret"] == len(synthesis.resources("AWS::SecretsManager::Secret"))
    assert ("NAT gateway" in items) == bool(synthesis.resources("AWS::EC2::NatGateway"))
    assert ("cache: storage" in items) == bool(synthesis.resources("AWS::ElastiCache::ServerlessCache"))
    assert items["schedule"] == pytest.approx(60 * MONTH), "a start each minute, as the schedule's test checks"


def test_every_watched_metric_is_emitted(synthesis: Synthesis) -> None:
    """The code counts or times each metric of the namespace `Presence` that an alarm or the dashboard uses."""
    text = json.dumps(synthesis.template).replace('\\\\\\"', '"').replace('\\"', '"')
    watched = set(re.findall(r'"Presence","(\w+)"', text))
    for alarm in synthesis.resources("AWS::CloudWatch::Alarm").values():
        metrics = [metric["MetricStat"]["Metric"] for metric in alarm.get("Metrics", []) if "MetricStat" in metric]
        watched |= {metric["MetricName"] for metric in [*metrics, alarm] if metric.get("Namespace") == "Presence"}
    source = "".join(path.read_text() for folder in ("shared", "functions") for path in (ROOT / folder).rglob("*.py"))
    emitted = set(re.findall(r'(?:count|time)\(\s*"(\w+)"', source))
    emitted |= {f"Inconsistencies{kind[0].upper()}{kind[1:]}" for kind in INCONSISTENCIES}
    assert "InconsistenciesUnseen" in watched
    assert "DueLateness" in watched
    assert "PostsSent" in watched
    assert watched <= emitted


def test_a_cache_restored_from_a_snapshot_has_another_name(tmp_path: Path, syntheses: dict[str, Synthesis]) -> None:
    """CloudFormation replaces the cache for another snapshot, and two caches cannot have the same name."""
    snapshot = "arn:aws:elasticache:eu-west-1:123456789012:serverlesscachesnapshot:one"
    [cache] = synthesize(tmp_path, restore_snapshot=snapshot).resources("AWS::ElastiCache::ServerlessCache").values()
    [before] = syntheses["public"].resources("AWS::ElastiCache::ServerlessCache").values()
    assert cache["SnapshotArnsToRestore"] == [snapshot]
    assert cache["ServerlessCacheName"] != before["ServerlessCacheName"]


def _functions(synthesis: Synthesis) -> dict[str, str]:
    """The folder of each function, by logical id."""
    return {
        name: function["Handler"].split(".")[1]
        for name, function in synthesis.resources("AWS::Lambda::Function").items()
    }


def _referred(value: Any) -> str:
    """The one resource that a value refers to; pseudo parameters such as `AWS::Region` do not count."""
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key, inner in node.items():
                if key == "Ref" and not inner.startswith("AWS::"):
                    found.append(inner)
                elif key == "Fn::GetAtt":
                    found.append(inner[0])
                else:
                    walk(inner)
        elif isinstance(node, list):
            for inner in node:
                walk(inner)

    walk(value)
    [name] = found
    return name


def _rendered(value: Any) -> str:
    """A value as text, as CloudFormation would render it, with `word` for every reference."""
    if isinstance(value, str):
        return value
    [(function, argument)] = value.items()
    if function == "Fn::Join":
        separator, parts = argument
        return str(separator).join(map(_rendered, parts))
    return "word"


def _parts(template: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The resources of each type alone, and each other section alone: small templates, which are fast to summarize."""
    by_type: dict[str, dict[str, Any]] = {}
    for name, resource in template["Resources"].items():
        kept = {key: deepcopy(value) for key, value in resource.items() if key != "DependsOn"}
        by_type.setdefault(resource["Type"], {})[name] = kept
    yield from ({"Resources": resources} for resources in by_type.values())
    yield from (deepcopy({"Resources": {}, name: template[name]}) for name in template.keys() - {"Resources"})


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Each value below a node, as its container and its key there."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        if key != "Resources":
            yield node, key
        if isinstance(node[key], (dict, list)):
            yield from _places(node[key])


def _named(template: dict[str, Any], stem: str) -> str:
    """The logical id that this stem and a hash make."""
    [found] = [str(name) for name in template["Resources"] if re.fullmatch(stem + "[0-9A-F]{8}", name)]
    return found


def _resource(template: dict[str, Any], stem: str) -> Any:
    return template["Resources"][_named(template, stem)]["Properties"]


def _statement(template: dict[str, Any], function: str, service: str) -> Any:
    """The statement that lets a function use a service."""
    document = _resource(template, f"{function}RoleDefaultPolicy")["PolicyDocument"]
    [found] = [statement for statement in document["Statement"] if service in json.dumps(statement["Action"])]
    return found
