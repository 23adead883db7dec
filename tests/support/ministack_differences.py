"""Where MiniStack differs from AWS, as far as tests must allow for it: one table, and how each row is handled.

A row that no longer applies makes a test fail; then remove the row. As a plugin of pytest
(`-p tests.support.ministack_differences`) it marks the end-to-end tests that cannot pass.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from infra.bundle import LOCK


class Differs(Enum):
    """All differences that tests allow for."""

    PLAIN_HTTP = "It is reached over HTTP; what CDK's bootstrap makes refuses uploads that are not encrypted."
    ADDRESSES = "The addresses of APIs lead to AWS; its own are paths: /_aws/execute-api/API/STAGE."
    METRIC_MATH = "It refuses an alarm over an expression."
    REF_OF_SECRET = "`Ref` of a secret is its name and not its ARN; `Fn::GetAtt` of `Id` is the ARN in both."
    OPERATING_SYSTEM = "It runs functions on this machine as it is; elsewhere than on Linux they need other wheels."
    STATUS_OF_CONNECT = "With whatever status $connect refuses a handshake, the client gets 403."
    OWN_ROUTES = "A message whose action is the name of one of the gateway's own routes wakes that route."


EXPRESSIONS = {"Presence/Monitoring/Errors", "Presence/Monitoring/PostsFail", "Presence/Monitoring/Throttles"}
"""The alarms that METRIC_MATH affects: they watch the first metric of their expression instead."""

FORGIVEN = {
    "test_an_invalid_handshake_opens_no_connection": Differs.STATUS_OF_CONNECT,
    "test_the_gateways_own_routes_are_no_actions": Differs.OWN_ROUTES,
}
"""End-to-end tests that fail there, each for one reason."""
NOT_RUN = {Differs.OWN_ROUTES}
"""Such a test would wait for a response until it times out; `tests/deployment` detects a missing one sooner."""


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark the tests that cannot pass as expected failures; if one passes, it counts as a failure."""
    names = {item: item.name.partition("[")[0] for item in items}
    missing = FORGIVEN.keys() - set(names.values())
    if missing:
        raise pytest.UsageError(f"there is no test {', '.join(sorted(missing))} to forgive")
    for item, name in names.items():
        if differs := FORGIVEN.get(name):
            item.add_marker(pytest.mark.xfail(reason=differs.value, strict=True, run=differs not in NOT_RUN))


def let_in_plain_http(s3: Any) -> None:
    """Remove the policy with which the bootstrap's bucket refuses uploads; `s3` is a client that it cannot refuse."""
    [bucket] = s3.list_buckets()["Buckets"]
    [statement] = json.loads(s3.get_bucket_policy(Bucket=bucket["Name"])["Policy"])["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    s3.delete_bucket_policy(Bucket=bucket["Name"])


def fit(assembly: Path, url: str) -> None:
    """Change CDK's output so that MiniStack at `url` accepts it, after checking that it has the expected form."""
    path = assembly / "Presence.template.json"
    template = json.loads(path.read_text())
    _give_addresses(template, url)
    _watch_one_metric(template)
    path.write_text(json.dumps(_name_secrets(template, _of_type(template, "AWS::SecretsManager::Secret").keys())))
    if sys.platform != "linux":
        _replace_wheels(assembly)


def metrics_of_expressions(template: Any) -> dict[str, Any]:
    """The alarms over an expression: their logical ids and properties."""
    alarms = _of_type(template, "AWS::CloudWatch::Alarm")
    return {name: alarm["Properties"] for name, alarm in alarms.items() if "Metrics" in alarm["Properties"]}


def _give_addresses(template: Any, url: str) -> None:
    [websocket], [http] = (
        [n for n, api in _of_type(template, "AWS::ApiGatewayV2::Api").items() if api["Properties"]["ProtocolType"] == p]
        for p in ("WEBSOCKET", "HTTP")
    )
    host = [{"Ref": websocket}, ".execute-api.", {"Ref": "AWS::Region"}, ".", {"Ref": "AWS::URLSuffix"}, "/live"]
    callback = {"Fn::Join": ["", [f"{url}/_aws/execute-api/", {"Ref": websocket}, "/live"]]}
    outputs = template["Outputs"]
    assert outputs["CallbackUrl"]["Value"] == {"Fn::Join": ["", ["https://", *host]]}
    assert outputs["WebSocketUrl"]["Value"] == {"Fn::Join": ["", ["wss://", *host]]}
    assert outputs["HttpUrl"]["Value"] == {"Fn::GetAtt": [http, "ApiEndpoint"]}
    for function in _of_type(template, "AWS::Lambda::Function").values():
        variables = function["Properties"]["Environment"]["Variables"]
        if "PRESENCE_CALLBACK_URL" in variables:
            assert variables["PRESENCE_CALLBACK_URL"] == outputs["CallbackUrl"]["Value"]
            variables["PRESENCE_CALLBACK_URL"] = callback
    outputs["CallbackUrl"]["Value"] = callback
    ws_url = "ws" + url.removeprefix("http")
    outputs["WebSocketUrl"]["Value"] = {"Fn::Join": ["", [f"{ws_url}/_aws/execute-api/", {"Ref": websocket}, "/live"]]}
    outputs["HttpUrl"]["Value"] = {"Fn::Join": ["", [f"{url}/_aws/execute-api/", {"Ref": http}]]}


def _watch_one_metric(template: Any) -> None:
    alarms = metrics_of_expressions(template)
    paths = {template["Resources"][name]["Metadata"]["aws:cdk:path"].removesuffix("/Resource") for name in alarms}
    assert paths == EXPRESSIONS, "the alarms over expressions differ from the table"
    for alarm in alarms.values():
        [first, *_] = [metric["MetricStat"] for metric in alarm.pop("Metrics") if "MetricStat" in metric]
        alarm |= {**first["Metric"], "Period": first["Period"], "Statistic": first["Stat"]}


def _name_secrets(part: Any, secrets: Any) -> Any:
    match part:
        case {"Ref": name} if name in secrets:
            return {"Fn::GetAtt": [name, "Id"]}
        case dict():
            return {key: _name_secrets(value, secrets) for key, value in part.items()}
        case list():
            return [_name_secrets(value, secrets) for value in part]
    return part


def _replace_wheels(assembly: Path) -> None:
    [layer] = [path for path in assembly.glob("asset.*/python") if path.is_dir()]
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--reinstall"),
            *("--only-binary", ":all:", "--target", layer, "--requirement", LOCK),
        ],
        check=True,
    )


def _of_type(template: Any, kind: str) -> dict[str, Any]:
    return {name: resource for name, resource in template["Resources"].items() if resource["Type"] == kind}
