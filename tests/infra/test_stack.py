"""The template: its routes, its permissions, its checks, and that nothing in it changes unseen.

After a change that is meant: `UPDATE_GOLDEN=1 make test ARGS=tests/infra`, and read the difference.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from cfnlint import ManualArgs, lint

from infra.functions import NEEDS
from infra.monitoring import INCONSISTENCIES
from infra.rules import objections
from shared.routes import AUTHORIZER, FUNCTIONS, HTTP_ROUTES, WEBSOCKET_ROUTES
from shared.settings import PREFIX, Settings
from tests.support.synthesis import MODES, ROOT, Synthesis, attempt, synthesise

GOLDEN = Path(__file__).parent / "golden"
CDKS_OWN = {"W3005"}
"""What cfn-lint says of CDK's constructs: they name dependencies that a reference makes anyway, which harms nobody."""
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
def test_the_template_is_the_one_that_was_read(mode: str, syntheses: dict[str, Synthesis]) -> None:
    """Each mode's template, with the hashes of assets masked, is the one in golden/."""
    golden = GOLDEN / f"{mode}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(syntheses[mode].masked())
    assert syntheses[mode].masked() == golden.read_text()


def test_cfn_lint_has_nothing_to_say(synthesis: Synthesis) -> None:
    """In each mode, but for what CDK's own constructs write."""
    matches = lint(json.dumps(synthesis.template), config=ManualArgs(regions=["eu-west-1"]))
    assert [str(match) for match in matches if match.rule.id not in CDKS_OWN] == []


def test_each_objection_is_acknowledged_with_a_reason_and_each_reason_is_needed(
    syntheses: dict[str, Synthesis],
) -> None:
    """The checks found nothing that is not in infra/rules.py, and everything that is."""
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
    assert found == {(path.replace("|", "/"), rule) for path, rule, _ in objections(api)}


def test_the_routes_are_those_of_the_table(synthesis: Synthesis) -> None:
    """Each route of shared/routes.py wakes its function, with the access that the table gives; there is no other."""
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
    """API Gateway refuses a cache for a WebSocket's authorizer, and takes exactly one source."""
    [authorizer] = synthesis.resources("AWS::ApiGatewayV2::Authorizer").values()
    assert authorizer["IdentitySource"] == ["route.request.querystring.token"]
    assert "AuthorizerResultTtlInSeconds" not in authorizer
    assert _functions(synthesis)[_referred(authorizer["AuthorizerUri"])] == AUTHORIZER


def test_the_stage_comes_after_every_route_and_throttles_each(synthesis: Synthesis) -> None:
    """A stage that is deployed before a route does not have it."""
    routes = synthesis.resources("AWS::ApiGatewayV2::Route").keys()
    stages = [r for r in synthesis.template["Resources"].values() if r["Type"] == "AWS::ApiGatewayV2::Stage"]
    assert routes <= {name for stage in stages for name in stage["DependsOn"]}
    [websocket] = [stage["Properties"] for stage in stages if stage["Properties"]["StageName"] == "live"]
    assert websocket["RouteSettings"].keys() == {route.key for route in WEBSOCKET_ROUTES}
    assert sum(limits["ThrottlingRateLimit"] for limits in websocket["RouteSettings"].values()) < 10_000


@pytest.mark.parametrize("mode", MODES)
def test_each_function_may_do_what_it_needs_and_nothing_else(mode: str, syntheses: dict[str, Synthesis]) -> None:
    """The table of actions holds for every function, each with a role of its own; a wildcard names what it is for."""
    synthesis = syntheses[mode]
    roles = {}
    for function in synthesis.resources("AWS::Lambda::Function").values():
        roles[_referred(function["Role"])] = function["Handler"].split(".")[1]
    assert len(roles) == len(FUNCTIONS)
    allowed: dict[str, set[str]] = {name: set() for name in FUNCTIONS}
    for policy in synthesis.resources("AWS::IAM::Policy").values():
        [role] = policy["Roles"]
        if _referred(role) not in roles:
            continue  # the schedule's
        for statement in policy["PolicyDocument"]["Statement"]:
            actions = {statement["Action"]} if isinstance(statement["Action"], str) else set(statement["Action"])
            resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
            for resource in map(json.dumps, resources):
                where = next((f" on {m}" for m in ("POST", "DELETE") if f"/live/{m}/@connections/*" in resource), "")
                allowed[roles[_referred(role)]] |= {action + where for action in actions}
                assert "*" not in resource or where or actions == NETWORK, f"a wildcard without a reason: {resource}"
            assert not any("*" in action for action in actions)
    assert allowed == {name: actions | LOGS for name, actions in ACTIONS[mode].items()}


def test_the_schedule_may_start_the_sweeper_only(synthesis: Synthesis) -> None:
    """Each minute, without a second attempt on either side."""
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


def test_each_function_is_told_settings_that_load(synthesis: Synthesis) -> None:
    """`Settings.from_env` reads its environment, which leads to no secret that its role may not read."""
    for function in synthesis.resources("AWS::Lambda::Function").values():
        name = function["Handler"].split(".")[1]
        environment = {key: _rendered(value) for key, value in function["Environment"]["Variables"].items()}
        settings = Settings.from_env(environment)
        assert environment["POWERTOOLS_SERVICE_NAME"] == "Presence"
        assert bool(settings.jwt_secret_arn) == NEEDS[name].tokens
        assert bool(settings.redis_iam_user or settings.redis_url_arn) == NEEDS[name].state
        assert bool(settings.callback_url) == (NEEDS[name].posts or NEEDS[name].closes)
        assert not {key for key in environment if key.startswith(PREFIX)} & {"PRESENCE_JWT_SECRET"}


def test_nothing_is_lost_by_surprise(syntheses: dict[str, Synthesis]) -> None:
    """A cache that is deleted leaves a last snapshot, and has one of each of the last seven days."""
    for mode in ("public", "vpc"):
        [cache] = syntheses[mode].resources("AWS::ElastiCache::ServerlessCache").values()
        assert cache["SnapshotRetentionLimit"] == 7
        assert "final" in json.dumps(cache["FinalSnapshotName"])
        assert f"presence-{mode}-" in json.dumps(cache["ServerlessCacheName"]), "what cannot change is in the name"


def test_what_is_watched_is_what_is_counted(synthesis: Synthesis) -> None:
    """Each metric of ours in an alarm or on the dashboard is one that the code counts or times, under that name."""
    text = json.dumps(synthesis.template).replace('\\\\\\"', '"').replace('\\"', '"')
    watched = set(re.findall(r'"Presence","(\w+)"', text))
    for alarm in synthesis.resources("AWS::CloudWatch::Alarm").values():
        metrics = [metric["MetricStat"]["Metric"] for metric in alarm.get("Metrics", []) if "MetricStat" in metric]
        watched |= {metric["MetricName"] for metric in [*metrics, alarm] if metric.get("Namespace") == "Presence"}
    source = "".join(path.read_text() for folder in ("shared", "functions") for path in (ROOT / folder).rglob("*.py"))
    counted = set(re.findall(r'(?:count|time)\(\s*"(\w+)"', source))
    counted |= {f"Inconsistencies{kind[0].upper()}{kind[1:]}" for kind in INCONSISTENCIES}
    assert "InconsistenciesUnseen" in watched
    assert "DueLateness" in watched
    assert "PostsSent" in watched
    assert watched <= counted


def test_a_cache_that_begins_with_a_snapshot_is_another(tmp_path: Path, syntheses: dict[str, Synthesis]) -> None:
    """What a cache begins with cannot be changed in place, nor can a name be taken twice: so the name is another."""
    snapshot = "arn:aws:elasticache:eu-west-1:123456789012:serverlesscachesnapshot:one"
    [cache] = synthesise(tmp_path, restore_snapshot=snapshot).resources("AWS::ElastiCache::ServerlessCache").values()
    [before] = syntheses["public"].resources("AWS::ElastiCache::ServerlessCache").values()
    assert cache["SnapshotArnsToRestore"] == [snapshot]
    assert cache["ServerlessCacheName"] != before["ServerlessCacheName"]


def test_every_choice_reaches_the_template(tmp_path: Path) -> None:
    """Domains, alarms by mail, a JWKS URL, a token in the subprotocol, and settings of the service."""
    synthesis = synthesise(
        tmp_path,
        stack="Chat-Presence",
        websocket_domain="ws.example.com",
        http_domain="api.example.com",
        certificate="arn:aws:acm:eu-west-1:123456789012:certificate/0",
        alarm_email="on-call@example.com",
        token_source="subprotocol",
        jwks_url="https://id.example.com/jwks.json",
        jwt_issuer="https://id.example.com",
        jwt_audience="chat",
        cors_origins="https://chat.example.com",
        heartbeat_interval="60",
        device_ttl="150",
        log_days="7",
        architecture="x86_64",
    )
    outputs = {name: output["Value"] for name, output in synthesis.template["Outputs"].items()}
    assert outputs["WebSocketUrl"] == "wss://ws.example.com"
    assert outputs["HttpUrl"] == "https://api.example.com"
    assert "execute-api" in json.dumps(outputs["CallbackUrl"]), "posts go to the API's own name"
    assert "TokenSecretArn" not in outputs
    assert synthesis.resources("AWS::SecretsManager::Secret") == {}
    [authorizer] = synthesis.resources("AWS::ApiGatewayV2::Authorizer").values()
    assert authorizer["IdentitySource"] == ["route.request.header.Sec-WebSocket-Protocol"]
    names = {domain["DomainName"] for domain in synthesis.resources("AWS::ApiGatewayV2::DomainName").values()}
    assert names == {"ws.example.com", "api.example.com"}
    assert len(synthesis.resources("AWS::ApiGatewayV2::ApiMapping")) == 2
    for alarm in synthesis.resources("AWS::CloudWatch::Alarm").values():
        assert alarm["AlarmActions"]
        assert len(alarm.get("Metrics", [])) <= 11, "CloudWatch takes at most ten metrics in an expression"
    [policy] = synthesis.resources("AWS::SNS::TopicPolicy").values()
    allowed = [s for s in policy["PolicyDocument"]["Statement"] if s["Effect"] == "Allow"]
    assert [s["Principal"]["Service"] for s in allowed] == ["cloudwatch.amazonaws.com"], "or no alarm reaches anybody"
    [subscription] = synthesis.resources("AWS::SNS::Subscription").values()
    assert subscription["Endpoint"] == "on-call@example.com"
    for group in synthesis.resources("AWS::Logs::LogGroup").values():
        assert group["RetentionInDays"] == 7
    for function in synthesis.resources("AWS::Lambda::Function").values():
        assert function["Architectures"] == ["x86_64"]
        assert function["Environment"]["Variables"]["PRESENCE_HEARTBEAT_INTERVAL"] == "60.0"
    [http] = [api for api in synthesis.resources("AWS::ApiGatewayV2::Api").values() if api["ProtocolType"] == "HTTP"]
    assert http["CorsConfiguration"]["AllowOrigins"] == ["https://chat.example.com"]


def test_a_wrong_choice_ends_the_synthesis_with_one_line(tmp_path: Path) -> None:
    """No traceback, and nothing half-written."""
    done = attempt(tmp_path / "out", cache="url")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "cdk: cache=url needs redis_url_secret: the ARN of the secret that holds the URL"
    ]
    assert not (tmp_path / "out" / "Presence.template.json").exists()


def _functions(synthesis: Synthesis) -> dict[str, str]:
    """The name of each function, by its logical id."""
    return {
        name: function["Handler"].split(".")[1]
        for name, function in synthesis.resources("AWS::Lambda::Function").items()
    }


def _referred(value: Any) -> str:
    """The one resource that a value refers to; what belongs to all of AWS does not count."""
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
    """A value as CloudFormation would make a text of it, with every reference a word."""
    if isinstance(value, str):
        return value
    [(function, argument)] = value.items()
    if function == "Fn::Join":
        separator, parts = argument
        return str(separator).join(map(_rendered, parts))
    return "word"
