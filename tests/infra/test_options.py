"""The options of a deployment, and the error for each wrong choice."""

from __future__ import annotations

import pytest

from infra.options import Options, OptionsError
from tests.support.synthesis import SECRET

CERTIFICATE = "arn:aws:acm:eu-west-1:123456789012:certificate/0"
SNAPSHOT = "arn:aws:elasticache:eu-west-1:123456789012:serverlesscachesnapshot:one"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:alarms"


def test_no_option_is_required() -> None:
    """Without any context, the stack has a public cache and a token secret of its own."""
    assert Options.of({}) == Options()
    assert Options().cache == "public"


def test_text_from_the_command_line_is_converted() -> None:
    """Numbers and lists arrive as text."""
    options = Options.of(
        {
            "log_days": "7",
            "heartbeat_interval": "60",
            "device_ttl": "150",
            "cors_origins": "https://a.example, https://b.example",
        }
    )
    assert options.log_days == 7
    assert options.settings.heartbeat_interval == 60
    assert options.settings.cors_origins == ("https://a.example", "https://b.example")


def test_cdks_own_context_is_ignored() -> None:
    """CDK's feature flags and lookups are in the same context, but are not options."""
    theirs = {"@aws-cdk/core:x": True, "aws:cdk:enable-path-metadata": True, "cli-telemetry": False}
    assert Options.of(theirs) == Options()


@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        ({"heartbeat_intervall": "30"}, "heartbeat_intervall is not an option; did you mean heartbeat_interval?"),
        ({"nonsense": "1"}, "nonsense is not an option"),
        ({"callback_url": "https://example.com"}, "callback_url is not an option"),
        ({"jwt_secret": "readable in a template"}, "jwt_secret is not an option; did you mean jwt_secret_arn?"),
        ({"cache": "memcached"}, "cache: Input should be 'public', 'vpc' or 'url'"),
        ({"cache": "url"}, "cache=url needs redis_url_secret: the ARN of the secret that holds the URL"),
        ({"redis_url_secret": SECRET}, "redis_url_secret needs cache=url, but this is cache=public"),
        (
            {"cache": "url", "redis_url_secret": SECRET, "restore_snapshot": SNAPSHOT},
            "restore_snapshot needs a cache of the stack: cache=public or cache=vpc",
        ),
        (
            {"redis_cluster": "true"},
            "redis_cluster needs cache=url: a serverless cache looks like one node to its clients",
        ),
        ({"http_domain": "p.example.com"}, "a domain needs certificate: the ARN of a certificate in this region"),
        (
            {"http_domain": "p.example.com", "websocket_domain": "p.example.com", "certificate": CERTIFICATE},
            "the two domains must differ: API Gateway cannot map an HTTP and a WebSocket API to the same domain",
        ),
        ({"alarm_email": "nobody"}, "alarm_email: must be an email address"),
        ({"alarm_topic": "nobody"}, "alarm_topic: must be an ARN, like arn:aws:SERVICE:REGION:ACCOUNT:…"),
        ({"jwt_secret_arn": "secret"}, "must be an ARN, like arn:aws:SERVICE:REGION:ACCOUNT:…"),
        ({"certificate": CERTIFICATE}, "certificate needs a domain: websocket_domain or http_domain"),
        ({"alarm_email": "a@example.com", "alarm_topic": TOPIC}, "give alarm_email or alarm_topic, not both"),
        ({"log_days": "13"}, "log_days: Input should be 1, 7, 30, 90 or 365"),
        ({"stack": "my_stack"}, "stack: String should match pattern '^[A-Za-z][A-Za-z0-9-]{0,63}$'"),
        (
            {"heartbeat_interval": "60"},
            (
                "device_ttl (75 s) must be at least 2.5 heartbeat intervals (150 s), "
                "or one lost heartbeat would end a device"
            ),
        ),
        (
            {"jwks_url": "https://example.com/jwks"},
            (
                "jwks_url needs jwt_issuer and jwt_audience: "
                "without them a token made for another application would be accepted"
            ),
        ),
    ],
)
def test_a_wrong_choice_fails_with_a_sentence_that_names_the_option(context: dict[str, str], sentence: str) -> None:
    """It fails before anything is built."""
    with pytest.raises(OptionsError) as refused:
        Options.of(context)
    assert str(refused.value) == sentence
