"""What a deployment may choose, and what it is told when it chooses wrongly."""

from __future__ import annotations

import pytest

from infra.options import Options, OptionsError
from tests.support.synthesis import SECRET

CERTIFICATE = "arn:aws:acm:eu-west-1:123456789012:certificate/0"
SNAPSHOT = "arn:aws:elasticache:eu-west-1:123456789012:serverlesscachesnapshot:one"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:alarms"


def test_nothing_need_be_chosen() -> None:
    """Without any context there is a stack that works: a public cache and a token secret of its own."""
    assert Options.of({}) == Options()
    assert Options().cache == "public"


def test_the_command_line_gives_text() -> None:
    """Numbers, lists and words come as text, and become what they are."""
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


def test_what_cdk_puts_there_is_its_own_business() -> None:
    """CDK's feature flags and lookups are in the same context, and are no options."""
    theirs = {"@aws-cdk/core:x": True, "aws:cdk:enable-path-metadata": True, "cli-telemetry": False}
    assert Options.of(theirs) == Options()


@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        ({"heartbeat_intervall": "30"}, "heartbeat_intervall is not an option; is it heartbeat_interval?"),
        ({"nonsense": "1"}, "nonsense is not an option"),
        ({"callback_url": "https://example.com"}, "callback_url is not an option"),
        ({"jwt_secret": "readable in a template"}, "jwt_secret is not an option; is it jwt_secret_arn?"),
        ({"cache": "memcached"}, "cache: Input should be 'public', 'vpc' or 'url'"),
        ({"cache": "url"}, "cache=url needs redis_url_secret: the ARN of the secret that holds the URL"),
        ({"redis_url_secret": SECRET}, "redis_url_secret belongs to cache=url, and this is cache=public"),
        (
            {"cache": "url", "redis_url_secret": SECRET, "restore_snapshot": SNAPSHOT},
            "restore_snapshot belongs to a cache that the stack makes: cache=public or cache=vpc",
        ),
        (
            {"redis_cluster": "true"},
            "redis_cluster belongs to cache=url: a serverless cache is one node to its clients",
        ),
        ({"http_domain": "p.example.com"}, "a domain needs certificate: the ARN of a certificate of this region"),
        (
            {"http_domain": "p.example.com", "websocket_domain": "p.example.com", "certificate": CERTIFICATE},
            "the two domains must differ: API Gateway does not put an HTTP and a WebSocket API under one name",
        ),
        ({"alarm_email": "nobody"}, "alarm_email: must be a mail address"),
        ({"alarm_topic": "nobody"}, "alarm_topic: must be an ARN, like arn:aws:SERVICE:REGION:ACCOUNT:…"),
        ({"jwt_secret_arn": "secret"}, "must be an ARN, like arn:aws:SERVICE:REGION:ACCOUNT:…"),
        ({"certificate": CERTIFICATE}, "certificate belongs to a domain: websocket_domain or http_domain"),
        ({"alarm_email": "a@example.com", "alarm_topic": TOPIC}, "give alarm_email or alarm_topic, not both"),
        ({"log_days": "13"}, "log_days: Input should be 1, 7, 30, 90 or 365"),
        ({"stack": "my_stack"}, "stack: String should match pattern '^[A-Za-z][A-Za-z0-9-]{0,63}$'"),
        (
            {"heartbeat_interval": "60"},
            "device_ttl (75 s) must be at least 2.5 heartbeat intervals (150 s), or one lost beat would end a device",
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
def test_a_wrong_choice_is_refused_with_a_sentence_that_names_it(context: dict[str, str], sentence: str) -> None:
    """One sentence, with the option's name, before anything is built."""
    with pytest.raises(OptionsError) as refused:
        Options.of(context)
    assert str(refused.value) == sentence
