"""A bootstrapped account and the stack in it, deployed once for all tests of this folder."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from botocore.credentials import Credentials

from cli.identity_provider import IdentityProvider
from local.elasticache import RedisServer
from local.iam import KeyPair
from shared.settings import PREFIX, Settings
from tests.support import ministack_differences
from tests.support.cdk import Cdk
from tests.support.deployment import SHORT_TIMES, Deployment
from tests.support.ministack import ACCOUNT, REGION, MiniStack

TIMES = SHORT_TIMES | {"PRESENCE_DEVICE_TTL": "10", "PRESENCE_GRACE": "3"}
"""Short settings, yet long enough that a slow function start on a busy machine makes no user offline."""
ARCHITECTURES = {"x86_64": "x86_64", "AMD64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Operator:
    """The person who deploys: an IAM user with all permissions."""

    aws: MiniStack
    keys: KeyPair
    context: tuple[str, ...]
    """The options of this deployment, as arguments of the CDK's command line."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment that points AWS's tools at the account."""
        return self.aws.environment(self.keys)

    def cdk(self, *arguments: str | Path) -> str:
        """Run the CDK's command line."""
        return Cdk(self.environment)(*arguments)

    def synthesize(self, into: Path) -> Path:
        """Write the template and its assets, adapted to the emulator."""
        self.cdk("synth", "--quiet", "--output", into, *self.context)
        ministack_differences.fit(into, self.aws.url)
        return into

    def deploy(self, assembly: Path) -> str:
        """Deploy a synthesized assembly and return CDK's output."""
        return self.cdk("deploy", "--app", assembly, "--require-approval", "never", "--progress", "events")

    def destroy(self, assembly: Path) -> str:
        """Destroy the stack."""
        return self.cdk("destroy", "--app", assembly, "--force", "Presence")

    def outputs(self) -> dict[str, str]:
        """The outputs of the stack."""
        [stack] = self.aws.client("cloudformation", self.keys).describe_stacks(StackName="Presence")["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    def inventory(self) -> set[tuple[str, str]]:
        """Every resource in the account of the kinds that a stack may contain: kind and name."""
        listed = (
            ("cloudformation", "describe_stacks", "Stacks", "StackName"),
            ("lambda", "list_functions", "Functions", "FunctionName"),
            ("lambda", "list_layers", "Layers", "LayerName"),
            ("apigatewayv2", "get_apis", "Items", "ApiId"),
            ("iam", "list_roles", "Roles", "RoleName"),
            ("iam", "list_users", "Users", "UserName"),
            ("logs", "describe_log_groups", "logGroups", "logGroupName"),
            ("cloudwatch", "describe_alarms", "MetricAlarms", "AlarmName"),
            ("cloudwatch", "list_dashboards", "DashboardEntries", "DashboardName"),
            ("scheduler", "list_schedules", "Schedules", "Name"),
            ("secretsmanager", "list_secrets", "SecretList", "Name"),
            ("sns", "list_topics", "Topics", "TopicArn"),
            ("s3", "list_buckets", "Buckets", "Name"),
        )
        return {
            (f"{service} {key}", str(item[name]))
            for service, call, key, name in listed
            for item in getattr(self.aws.client(service, self.keys), call)()[key]
        }


@pytest.fixture(scope="module")
def state() -> Iterator[redis.Redis]:
    """A real Redis server for the deployed functions."""
    with RedisServer.start() as server, redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def operator(state: redis.Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The operator of a bootstrapped account that has the Redis URL in a secret."""
    directory = tmp_path_factory.mktemp("ministack")
    with MiniStack.start(directory) as aws:
        keys = aws.user("operator", {"Effect": "Allow", "Action": "*", "Resource": "*"})
        Cdk(aws.environment(keys), directory)("bootstrap", f"aws://{ACCOUNT}/{REGION}")
        ministack_differences.let_in_plain_http(aws.client("s3", aws.root))
        port = state.connection_pool.connection_kwargs["port"]
        secret = aws.client("secretsmanager", keys).create_secret(
            Name="redis-url", SecretString=f"redis://127.0.0.1:{port}/0"
        )
        options = {
            "cache": "url",
            "redis_url_secret": secret["ARN"],
            "architecture": ARCHITECTURES[platform.machine()],
            "python": aws.python_version(),
            **{name.removeprefix(PREFIX).lower(): value for name, value in TIMES.items()},
        }
        yield Operator(aws, keys, tuple(part for name in options for part in ("-c", f"{name}={options[name]}")))


@pytest.fixture(scope="module")
def before(operator: Operator) -> set[tuple[str, str]]:
    """The contents of the account before the stack is deployed."""
    return operator.inventory()


@pytest.fixture(scope="module")
def assembly(operator: Operator, before: set[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deployed assembly."""
    assembly = operator.synthesize(tmp_path_factory.mktemp("assembly") / "first")
    operator.deploy(assembly)
    return assembly


@pytest.fixture(scope="module")
def backend(operator: Operator, assembly: Path) -> KeyPair:
    """The application's backend: an IAM user who may only call the HTTP API."""
    api = operator.outputs()["HttpUrl"].rpartition("/")[2]
    apis = f"arn:aws:execute-api:{REGION}:{ACCOUNT}:{api}/*"
    return operator.aws.user("backend", {"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": apis})


@pytest.fixture(scope="module")
def token_secret(operator: Operator, assembly: Path) -> str:
    """The secret with which the application signs its users' tokens."""
    secrets = operator.aws.client("secretsmanager", operator.keys)
    secret: str = secrets.get_secret_value(SecretId=operator.outputs()["TokenSecretArn"])["SecretString"]
    return secret


@pytest.fixture(scope="module")
def deployment(operator: Operator, backend: KeyPair, token_secret: str) -> Deployment:
    """The deployed service as its users and the application's backend see it. Its graph is loaded and empty."""
    outputs = operator.outputs()
    deployment = Deployment(
        outputs["HttpUrl"],
        outputs["WebSocketUrl"],
        Settings.from_env(TIMES),
        IdentityProvider(token_secret, "query"),
        Credentials(backend.access_key_id, backend.secret_access_key),
        REGION,
    )
    asyncio.run(deployment.ask("PUT", "/v1/graph", {"loaded": True}))
    return deployment
