"""What `Account` reads from AWS, and its errors."""

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
    """Remove the AWS account of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """A fake account that the environment points to."""
    with Aws() as aws:
        for name, value in aws.environment.items():
            monkeypatch.setenv(name, value)
        yield aws


def test_a_stack_has_its_status_and_outputs(aws: Aws) -> None:
    """The stack is what CloudFormation describes."""
    aws.deploy("Chat", {"HttpUrl": "https://api.example"}).why = "all is well"
    stack = Account().stack("Chat")
    assert (stack.name, stack.status, stack.why) == ("Chat", "CREATE_COMPLETE", "all is well")
    assert stack.outputs == {"HttpUrl": "https://api.example"}


def test_the_number_of_the_account(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command prints the account and region, or one line that says why there is none."""
    assert Account().number() == ACCOUNT
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAANOTHER")
    with pytest.raises(UserError, match=r"AWS refuses GetCallerIdentity: .*\(InvalidClientTokenId\)"):
        Account().number()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UserError, match="found no AWS credentials"):
        Account().number()


def test_a_secret_needs_permission(aws: Aws) -> None:
    """A stack's secret is a text, if the operator may read it."""
    stack = aws.deploy("Chat", {}, secret="geheim")
    assert Account().secret(stack.outputs["TokenSecretArn"]) == "geheim"
    aws.secrets.clear()
    with pytest.raises(UserError, match=r"AWS refuses GetSecretValue: .*\(AccessDeniedException\)"):
        Account().secret(stack.outputs["TokenSecretArn"])


def test_a_missing_stack(aws: Aws) -> None:
    """A wrong name or region is one clear error."""
    aws.deploy("Chat", {})
    with pytest.raises(UserError, match="there is no stack Presence in us-east-1"):
        Account().stack("Presence")
    with pytest.raises(UserError, match="there is no stack Chat in eu-west-3: deploy it, or give another"):
        Account("eu-west-3").stack("Chat")


def test_foreign_keys_are_refused(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains AWS's own reason."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFOREIGN")
    with pytest.raises(UserError, match=r"AWS refuses DescribeStacks: The security token .*InvalidClientTokenId"):
        Account().stack("Presence")


def test_an_unreachable_endpoint(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint where nothing listens, and an invalid one, are one line each."""
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
    """An option wins over AWS_REGION, and AWS_REGION over AWS_DEFAULT_REGION."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Account().region == region
    assert Account("eu-west-9").region == "eu-west-9"


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing region or profile, and missing, partial or expired credentials, are one line with advice."""
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
