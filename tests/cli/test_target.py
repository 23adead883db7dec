"""The options of a command choose the URLs, the signer and the tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from cli.errors import UserError
from cli.home import Home, Run
from cli.target import Target
from tests.support.aws import Aws

SECRET = "a secret of the tests, which is long enough"
OUTPUTS = {
    "HttpUrl": "https://a1b2.execute-api.eu-west-3.amazonaws.com",
    "WebSocketUrl": "wss://c3d4.execute-api.eu-west-3.amazonaws.com/live",
    "TokenSource": "subprotocol",
}


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """A fake account that the environment points to, without anything of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with Aws() as aws:
        for name, value in aws.environment.items():
            monkeypatch.setenv(name, value)
        yield aws


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A folder with a key pair and no run."""
    home = Home(tmp_path)
    home.key_pair(make=True)
    return home


def target(home: Home, environ: dict[str, str] | None = None, **typed: Any) -> Target:
    """A target for some options, in an environment with these settings."""
    return Target(home, environ or {}, **typed)


async def signing(wanted: Target) -> tuple[str, str]:
    """Access key and region of the backend's calls."""
    async with wanted.backend() as backend:
        return str(backend._signer.credentials.access_key), vars(backend._signer)["_region_name"]


# Where


def test_the_default_is_the_run_of_this_directory(home: Home) -> None:
    """The run that is found here, else the default URL of a run."""
    assert (target(home).url, target(home).ws_url) == ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/live")
    about = Run(url="http://127.0.0.1:9", ws_url="ws://127.0.0.1:9/live", region="us-east-1", pid=1)
    with home.running(about):
        assert (target(home).url, target(home).ws_url) == (about.url, about.ws_url)


def test_a_url_on_this_machine_has_its_websockets_at_the_same_port(home: Home) -> None:
    """A run serves both APIs on one port; a deployment does not, so --ws-url is needed."""
    assert target(home, url="http://localhost:7/").ws_url == "ws://localhost:7/live"
    with pytest.raises(UserError, match="give --ws-url too"):
        _ = target(home, url="https://api.example").ws_url


def test_a_stack_has_its_urls(home: Home, aws: Aws) -> None:
    """The stack's outputs name the URLs; options win over them."""
    aws.deploy("Chat", OUTPUTS)
    stack = target(home, stack="Chat")
    assert (stack.url, stack.ws_url, stack.token_source) == (*list(OUTPUTS.values())[:2], "subprotocol")
    typed = target(home, stack="Chat", url="https://api.example/presence/", ws_url="wss://ws.example")
    assert (typed.url, typed.ws_url) == ("https://api.example/presence", "wss://ws.example")


def test_another_stack_is_not_a_presence_stack(home: Home, aws: Aws) -> None:
    """A stack without the outputs is refused."""
    aws.deploy("Shop", {"ShopUrl": "https://shop.example"})
    for name in ("url", "ws_url", "token_source"):
        with pytest.raises(UserError, match="Shop is not a presence stack: it has no output "):
            getattr(target(home, stack="Shop"), name)


@pytest.mark.parametrize(
    "url",
    [
        *("127.0.0.1:8080", "localhost", "ftp://127.0.0.1", "http://", "http://[::1", "http://a:99999", "http://a:0"),
        *("http://a b", "http://me@a", "http://a?b", "http://a#b", ""),
    ],
)
def test_an_invalid_url_is_refused(home: Home, url: str) -> None:
    """A URL without a scheme, which is a frequent mistake, and any other invalid one."""
    if url:
        with pytest.raises(UserError, match="is not the URL of an HTTP API"):
            target(home, url=url)
    with pytest.raises(UserError, match="is not the URL of a WebSocket API"):
        target(home, ws_url=url.replace("http", "ws") or "x")


def test_a_stack_needs_a_name(home: Home) -> None:
    """An empty name, as from an unset variable, does not mean the run of this directory."""
    with pytest.raises(UserError, match="--stack needs a name"):
        target(home, stack="")


# Who signs


async def test_calls_to_a_run_are_signed_with_its_key_pair(home: Home) -> None:
    """On this machine the folder's key pair signs, for the region of its run."""
    own = home.key_pair().access_key_id
    assert await signing(target(home, url="http://127.0.0.1:9")) == (own, "us-east-1")
    with home.running(Run(url="http://127.0.0.1:9", ws_url="", region="eu-north-1", pid=1)):
        assert await signing(target(home)) == (own, "eu-north-1")


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://a1b2.execute-api.eu-west-3.amazonaws.com", "eu-west-3"),
        ("https://a1b2.execute-api.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("https://a1b2.execute-api.us-west-2.api.aws", "us-west-2"),
        ("https://presence.example", "us-east-1"),
    ],
)
async def test_other_calls_are_signed_with_aws_credentials(home: Home, aws: Aws, url: str, region: str) -> None:
    """API Gateway's host names contain their region; for a custom domain, the environment names it."""
    assert await signing(target(home, url=url)) == (aws.keys.access_key_id, region)


async def test_a_given_region_is_for_a_custom_domain(home: Home) -> None:
    """`--region` wins over the environment, but not over the region in a host name."""
    assert (await signing(target(home, url="https://presence.example", region="eu-west-9")))[1] == "eu-west-9"
    host = "https://a1b2.execute-api.eu-west-3.amazonaws.com"
    assert (await signing(target(home, url=host, region="eu-west-9")))[1] == "eu-west-3"


async def test_a_stack_on_this_machine_needs_aws_credentials(home: Home, aws: Aws) -> None:
    """Calls to a stack are signed with AWS credentials, even if an emulator runs it on this machine."""
    aws.deploy("Chat", {**OUTPUTS, "HttpUrl": "http://127.0.0.1:9"})
    assert await signing(target(home, stack="Chat")) == (aws.keys.access_key_id, "us-east-1")


# Whose tokens


def test_a_stacks_own_secret_makes_its_tokens(home: Home, aws: Aws) -> None:
    """The secret comes from Secrets Manager; issuer and audience come from the environment."""
    aws.deploy("Chat", OUTPUTS, secret=SECRET)
    provider = target(home, {"PRESENCE_JWT_AUDIENCE": "chat"}, stack="Chat").identity_provider()
    assert provider.token_source == "subprotocol"
    claims = jwt.decode(provider.token("alice"), SECRET, ["HS256"], audience="chat")
    assert claims["sub"] == "alice"


def test_a_stack_may_use_a_shared_secret(home: Home, aws: Aws) -> None:
    """Without a secret of its own, the environment's is used; without either, no tokens can be made."""
    aws.deploy("Chat", OUTPUTS)
    made = target(home, {"PRESENCE_JWT_SECRET": SECRET}, stack="Chat").identity_provider().token("alice")
    assert jwt.decode(made, SECRET, ["HS256"])["sub"] == "alice"
    with pytest.raises(UserError, match="Chat accepts only tokens of your identity provider: give one with --token"):
        target(home, stack="Chat").tokens()


def test_a_given_token_is_the_only_one(home: Home) -> None:
    """The run defines where it is sent, if the target is the run; else the environment does."""
    given = jwt.encode({"sub": "alice"}, SECRET, "HS256")
    about = Run("http://127.0.0.1:9", "ws://127.0.0.1:9/live", "us-east-1", 1, token_source="subprotocol")
    with home.running(about):
        tokens = target(home, {"PRESENCE_TOKEN": given}).tokens(given)
        assert (tokens.token("alice"), tokens.token_source) == (given, "subprotocol")
        assert target(home, url="http://127.0.0.1:8").tokens(given).token_source == "query"
    elsewhere = target(home, {"PRESENCE_TOKEN_SOURCE": "subprotocol"}, ws_url="wss://ws.example")
    assert elsewhere.tokens(given).token_source == "subprotocol"
