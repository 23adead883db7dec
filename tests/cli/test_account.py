"""What an operator's AWS account tells, and what is said when it does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.account import Account
from cli.errors import UserError
from tests.support.aws import ACCOUNT, Aws


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have an account: it is none of theirs."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """An account that the environment leads to."""
    with Aws() as aws:
        for name, value in aws.environment.items():
            monkeypatch.setenv(name, value)
        yield aws


def test_a_stack_tells_its_state_and_outputs(aws: Aws) -> None:
    """What CloudFormation says of a stack is what is known of it."""
    aws.deploy("Chat", {"HttpUrl": "https://api.example"}).why = "all is well"
    stack = Account().stack("Chat")
    assert (stack.name, stack.status, stack.why) == ("Chat", "CREATE_COMPLETE", "all is well")
    assert stack.outputs == {"HttpUrl": "https://api.example"}


def test_an_account_tells_its_number(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is about to deploy sees where, or in one sentence why it would be nowhere."""
    assert Account().number() == ACCOUNT
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAANOTHER")
    with pytest.raises(UserError, match=r"AWS refuses GetCallerIdentity: .*\(InvalidClientTokenId\)"):
        Account().number()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UserError, match="found no AWS credentials"):
        Account().number()


def test_a_secret_is_read_with_the_operators_permission(aws: Aws) -> None:
    """The stack's secret is a text, for whoever may read it."""
    stack = aws.deploy("Chat", {}, secret="geheim")
    assert Account().secret(stack.outputs["TokenSecretArn"]) == "geheim"
    aws.secrets.clear()
    with pytest.raises(UserError, match=r"AWS refuses GetSecretValue: .*\(AccessDeniedException\)"):
        Account().secret(stack.outputs["TokenSecretArn"])


def test_a_stack_that_is_not_there(aws: Aws) -> None:
    """A wrong name or region is said to be one."""
    aws.deploy("Chat", {})
    with pytest.raises(UserError, match="there is no stack Presence in us-east-1"):
        Account().stack("Presence")
    with pytest.raises(UserError, match="there is no stack Chat in eu-west-3: deploy it, or give another"):
        Account("eu-west-3").stack("Chat")


def test_foreign_keys_are_refused(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's own words tell why it did not answer."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFOREIGN")
    with pytest.raises(UserError, match=r"AWS refuses DescribeStacks: The security token .*InvalidClientTokenId"):
        Account().stack("Presence")


def test_nobody_there(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint where nobody listens, and one that is none, are one line each."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"nothing answers at http://127\.0\.0\.1:1"):
        Account().stack("Presence")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nowhere")
    with pytest.raises(UserError, match="cannot call AWS: Invalid endpoint"):
        Account().stack("Presence")


@pytest.mark.parametrize(
    ("environment", "region"),
    [
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-west-2"}, "eu-west-2"),
    ],
)
def test_the_region_is_found_as_awss_tools_find_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], region: str
) -> None:
    """AWS_REGION comes before AWS_DEFAULT_REGION, and what was typed before both."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Account().region == region
    assert Account("eu-west-9").region == "eu-west-9"


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No region, no credentials, half of them, those that are over, or no such profile: one line, with what to do."""
    with pytest.raises(UserError, match="found no AWS region: give --region, or set AWS_REGION"):
        _ = Account().region
    with pytest.raises(UserError, match="found no AWS credentials: set AWS_PROFILE"):
        Account("eu-west-1").credentials()
    with pytest.raises(UserError, match="found no AWS credentials: set AWS_PROFILE"):
        Account("eu-west-1").stack("Presence")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAHALF")
    with pytest.raises(UserError, match="missing: AWS_SECRET_ACCESS_KEY"):
        Account("eu-west-1").credentials()
    config = tmp_path / "config"
    config.write_text("[profile over]\ncredential_process = false\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    with pytest.raises(UserError, match="cannot call AWS: Error when retrieving credentials"):
        Account("eu-west-1", "over").credentials()
    with pytest.raises(UserError, match="there is no AWS profile nobody"):
        Account("eu-west-1", "nobody").credentials()
