"""The app as `make synth` runs it: choices reach the template, and a wrong choice is an error of one line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.synthesis import attempt, synthesize


def test_every_choice_reaches_the_template(tmp_path: Path) -> None:
    """Domains, alarms by email, a JWKS URL, a token in the subprotocol, and settings of the service."""
    synthesis = synthesize(
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
    assert "execute-api" in json.dumps(outputs["CallbackUrl"]), "frames are posted to the name that AWS gave the API"
    assert "TokenSecretArn" not in outputs
    assert synthesis.resources("AWS::SecretsManager::Secret") == {}
    [authorizer] = synthesis.resources("AWS::ApiGatewayV2::Authorizer").values()
    assert authorizer["IdentitySource"] == ["route.request.header.Sec-WebSocket-Protocol"]
    names = {domain["DomainName"] for domain in synthesis.resources("AWS::ApiGatewayV2::DomainName").values()}
    assert names == {"ws.example.com", "api.example.com"}
    assert len(synthesis.resources("AWS::ApiGatewayV2::ApiMapping")) == 2
    for alarm in synthesis.resources("AWS::CloudWatch::Alarm").values():
        assert alarm["AlarmActions"]
        assert len(alarm.get("Metrics", [])) <= 11, "CloudWatch allows at most ten metrics in an expression"
    [policy] = synthesis.resources("AWS::SNS::TopicPolicy").values()
    allowed = [s for s in policy["PolicyDocument"]["Statement"] if s["Effect"] == "Allow"]
    assert [s["Principal"]["Service"] for s in allowed] == ["cloudwatch.amazonaws.com"], (
        "CloudWatch may not publish alarms"
    )
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
    """It writes no traceback and no template."""
    done = attempt(tmp_path / "out", cache="url")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "cdk: cache=url needs redis_url_secret: the ARN of the secret that holds the URL"
    ]
    assert not (tmp_path / "out" / "Presence.template.json").exists()
