"""The stack: all resources of the service in an AWS account.

`options.py` lists the options; `shared/routes.py` maps events to functions.
"""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infra import cache, rules
from infra.api import HttpSide, WebSocketSide
from infra.bundle import Bundle
from infra.functions import Functions
from infra.monitoring import Monitoring
from infra.options import Options
from shared.routes import SCHEDULES

MAX_EVENT_AGE = 60
"""Seconds. After that, the next event of the schedule has replaced this one."""


class PresenceStack(cdk.Stack):
    """The service in an AWS account.

    Args:
        scope: the app.
        options: the options of the deployment.
        bundle: the folders that are uploaded to Lambda.
    """

    def __init__(self, scope: Construct, options: Options, bundle: Bundle, **kwargs: Any) -> None:
        super().__init__(
            scope,
            options.stack,
            description="Presence: who is online, on API Gateway WebSockets, Lambda and Valkey",
            **kwargs,
        )
        store = cache.create(self, options)
        computed: dict[str, Any] = dict(store.settings)
        if not (options.settings.jwks_url or options.settings.jwt_secret_arn):
            computed["jwt_secret_arn"] = self._create_token_secret()
        websocket = WebSocketSide(self, "WebSocket", options)
        computed["callback_url"] = websocket.callback_url
        # The key for hashing user ids in logs. It is not in the logs, and lives as long as they do.
        computed["log_key"] = cdk.Fn.select(2, cdk.Fn.split("/", self.stack_id))
        functions = Functions(
            self,
            "Functions",
            options=options,
            bundle=bundle,
            cache=store,
            settings=options.settings.model_copy(update=computed),
            connections=websocket.connections,
        )
        websocket.add_routes(functions.by_name)
        http = HttpSide(self, "Http", options, functions.by_name)
        for schedule in SCHEDULES:
            self._start_every(schedule.every_minutes, functions.by_name[schedule.function])
        monitoring = Monitoring(self, "Monitoring", options, functions.by_name, websocket, http, store)
        # Missing data triggers this alarm, and there is no data before the schedule starts the sweeper.
        monitoring.node.find_child("Late").node.add_dependency(self.node.find_child("Schedule"))
        self._output("WebSocketUrl", websocket.url, "where clients connect")
        self._output("HttpUrl", http.url, "for backends, and for clients without WebSocket")
        self._output("HttpApiArn", http.arn, "the resource on which your backend needs execute-api:Invoke")
        self._output("CallbackUrl", websocket.callback_url, "where the functions post frames")
        self._output("DashboardUrl", monitoring.url, "the dashboard")
        self._output("TokenSource", options.settings.token_source, "where a handshake carries its token")
        self._output("Cache", options.cache, "where the state is")
        for side, name in ((websocket, "WebSocket"), (http, "Http")):
            if side.domain:
                self._output(
                    f"{name}DomainTarget", side.domain.regional_domain_name, "the target of your domain's CNAME"
                )
        rules.acknowledge(self)

    def _create_token_secret(self) -> str:
        """A secret with which the application's backend signs tokens. Returns its ARN."""
        secret = secretsmanager.Secret(
            self,
            "TokenSecret",
            description="Presence: signs tokens (HS256)",
            generate_secret_string=secretsmanager.SecretStringGenerator(password_length=64, exclude_punctuation=True),
        )
        self._output("TokenSecretArn", secret.secret_arn, "the secret with which your backend signs tokens")
        return secret.secret_arn

    def _start_every(self, minutes: int, function: lambda_.Function) -> None:
        """Start a function at a fixed rate. A failed event is not retried, since the next one follows soon."""
        function.configure_async_invoke(retry_attempts=0, max_event_age=cdk.Duration.seconds(MAX_EVENT_AGE))
        parent = Construct(self, "Schedule")
        role = iam.Role(parent, "Role", assumed_by=iam.ServicePrincipal("scheduler.amazonaws.com"))
        role.add_to_policy(iam.PolicyStatement(actions=["lambda:InvokeFunction"], resources=[function.function_arn]))
        scheduler.CfnSchedule(
            parent,
            "Schedule",
            schedule_expression=f"rate({minutes} minute{'s' if minutes > 1 else ''})",
            flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF"),
            target=scheduler.CfnSchedule.TargetProperty(
                arn=function.function_arn,
                role_arn=role.role_arn,
                retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(
                    maximum_retry_attempts=0, maximum_event_age_in_seconds=MAX_EVENT_AGE
                ),
            ),
        ).node.add_dependency(role)

    def _output(self, name: str, value: str, description: str) -> None:
        cdk.CfnOutput(self, name, value=value, description=description)
