"""The Lambda functions: one for each folder in `functions/`, each with a role that allows only what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.bundle import Bundle
from infra.cache import Cache, may_read
from infra.options import Options
from shared.routes import FUNCTIONS, HTTP_ROUTES
from shared.settings import PREFIX, Settings


@dataclass(frozen=True, slots=True)
class Needs:
    """What a function needs.

    Memory is in MB. Lambda gives CPU in proportion, so functions that post to many connections get more. Timeouts are
    in seconds; API Gateway waits at most 29 for a function behind a WebSocket API and 30 behind an HTTP API.
    """

    memory: int = 256
    timeout: int = 25
    state: bool = True
    """Whether it reads and writes the state in Redis."""
    posts: bool = True
    """Whether it posts frames to connections."""
    closes: bool = True
    """Whether it closes connections: signed out, replaced or dead ones."""
    tokens: bool = False
    """Whether it verifies tokens, and so reads the secret that signs them."""


NEEDS: Mapping[str, Needs] = {
    "api": Needs(memory=512, tokens=any(route.access == "user" for route in HTTP_ROUTES)),
    "authorize": Needs(timeout=5, state=False, posts=False, closes=False, tokens=True),
    "connect": Needs(timeout=5, posts=False, closes=False),
    "disconnect": Needs(closes=False),
    "heartbeat": Needs(),
    "query": Needs(memory=512),
    # A run ends when the next one takes over, or after 150 s.
    "sweeper": Needs(timeout=180, closes=False),
    "update": Needs(memory=512),
}

_ARCHITECTURES = {"arm64": lambda_.Architecture.ARM_64, "x86_64": lambda_.Architecture.X86_64}
_RETENTION = {
    1: logs.RetentionDays.ONE_DAY,
    7: logs.RetentionDays.ONE_WEEK,
    30: logs.RetentionDays.ONE_MONTH,
    90: logs.RetentionDays.THREE_MONTHS,
    365: logs.RetentionDays.ONE_YEAR,
}
_TOKENS = ("jwt_secret_arn", "jwks_url", "jwt_issuer", "jwt_audience")


class Functions(Construct):
    """All functions, by name in `by_name`.

    Args:
        scope: the stack.
        id: its construct id.
        options: the deployment's choices.
        bundle: what is uploaded.
        cache: the cache that the functions use.
        settings: all settings of the service.
        connections: the ARN of the WebSocket stage, `arn:…:API/STAGE`.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        options: Options,
        bundle: Bundle,
        cache: Cache,
        settings: Settings,
        connections: str,
    ) -> None:
        super().__init__(scope, id)
        self._cache, self._settings, self._connections = cache, settings, connections
        runtime = lambda_.Runtime(f"python{options.python}", lambda_.RuntimeFamily.PYTHON)
        architecture = _ARCHITECTURES[options.architecture]
        code = lambda_.Code.from_asset(str(bundle.code))
        layer = lambda_.LayerVersion(
            self,
            "Dependencies",
            code=lambda_.Code.from_asset(str(bundle.layer)),
            compatible_runtimes=[runtime],
            compatible_architectures=[architecture],
            description="What the functions import: requirements/lambda.txt",
        )
        self.by_name: dict[str, lambda_.Function] = {}
        for name in FUNCTIONS:
            needs, parent = NEEDS[name], Construct(self, name.capitalize())
            log_group = logs.LogGroup(
                parent, "Logs", retention=_RETENTION[options.log_days], removal_policy=cdk.RemovalPolicy.DESTROY
            )
            self.by_name[name] = lambda_.Function(
                parent,
                "Function",
                description=f"Presence: functions/{name}",
                runtime=runtime,
                architecture=architecture,
                code=code,
                layers=[layer],
                handler=f"functions.{name}.handler.handler",
                memory_size=needs.memory,
                timeout=cdk.Duration.seconds(needs.timeout),
                environment={**self._environment(needs), "POWERTOOLS_SERVICE_NAME": options.stack},
                role=self._role(parent, needs, log_group),
                log_group=log_group,
                logging_format=lambda_.LoggingFormat.JSON,
                # Lambda's own three log lines per event would cost more than the event.
                system_log_level_v2=lambda_.SystemLogLevel.WARN,
                **(cache.placement if needs.state else {}),
            )

    def _environment(self, needs: Needs) -> dict[str, str]:
        """The settings of a function, without those that name a resource its role may not use."""
        env = self._settings.to_env()
        hidden = {
            *(() if needs.tokens else _TOKENS),
            *(() if needs.state else self._cache.settings),
            *(() if needs.posts or needs.closes else ["callback_url"]),
        }
        return {name: value for name, value in env.items() if name.removeprefix(PREFIX).lower() not in hidden}

    def _role(self, parent: Construct, needs: Needs, log_group: logs.LogGroup) -> iam.Role:
        role = iam.Role(parent, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log_group.grant_write(role)
        if needs.state:
            for statement in self._cache.access:
                role.add_to_policy(statement)
        if needs.tokens and self._settings.jwt_secret_arn:
            role.add_to_policy(may_read(self._settings.jwt_secret_arn))
        methods = (["POST"] if needs.posts else []) + (["DELETE"] if needs.closes else [])
        if methods:
            role.add_to_policy(
                iam.PolicyStatement(
                    actions=["execute-api:ManageConnections"],
                    resources=[f"{self._connections}/{method}/@connections/*" for method in methods],
                )
            )
        return role
