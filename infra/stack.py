"""The stack: everything that the service needs in an AWS account, put together.

What may be chosen is in `options.py`; which event wakes which function in `shared/routes.py`.
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

MOST_EVENT_AGE = 60
"""Seconds. An event of the schedule that is older has been overtaken by the next."""


class PresenceStack(cdk.Stack):
    """The service in an AWS account.

    Args:
        scope: the app.
        options: the deployment's choices.
        bundle: what is uploaded to Lambda.
    """

    def __init__(self, scope: Construct, options: Options, bundle: Bundle, **kwargs: Any) -> None:
        super().__init__(
            scope,
            options.stack,
            description="Presence: who is online, on API Gateway WebSockets, Lambda and Valkey",
            **kwargs,
        )
        store = cache.make(self, options)
        given: dict[str, Any] = dict(store.settings)
        if not (options.settings.jwks_url or options.settings.jwt_secret_arn):
            given["jwt_secret_arn"] = self._make_token_secret()
        websocket = WebSocketSide(self, "WebSocket", options)
        given["callback_url"] = websocket.callback_url
        # Keys the hash of user ids in logs. Who reads nothing but logs cannot read it, and it lives as long as they do.
        given["log_key"] = cdk.Fn.select(2, cdk.Fn.split("/", self.stack_id))
        functions = Functions(
            self,
            "Functions",
            options=options,
            bundle=bundle,
            cache=store,
            settings=options.settings.model_copy(update=given),
            connections=websocket.connections,
        )
        websocket.add_routes(functions.by_name)
        http = HttpSide(self, "Http", options, functions.by_name)
        for schedule in SCHEDULES:
            self._start_each(schedule.every_minutes, functions.by_name[schedule.function])
        monitoring = Monitoring(self, "Monitoring", options, functions.by_name, websocket, http, store)
        # It rings when nobody sweeps, and nobody does before the schedule is there.
        monitoring.node.find_child("Late").node.add_dependency(self.node.find_child("Schedule"))
        self._say("WebSocketUrl", websocket.url, "where clients connect")
        self._say("HttpUrl", http.url, "where backends, and clients without WebSocket, call")
        self._say("HttpApiArn", http.arn, "what a policy of your backend allows execute-api:Invoke on")
        self._say("CallbackUrl", websocket.callback_url, "where the functions post frames to")
        self._say("DashboardUrl", monitoring.url, "what goes on")
        self._say("TokenSource", options.settings.token_source, "where a handshake carries its token")
        self._say("Cache", options.cache, "where the state is")
        for side, name in ((websocket, "WebSocket"), (http, "Http")):
            if side.domain:
                self._say(f"{name}DomainTarget", side.domain.regional_domain_name, "what a CNAME of your domain names")
        rules.acknowledge(self)

    def _make_token_secret(self) -> str:
        """A secret that the application's backend signs tokens with."""
        secret = secretsmanager.Secret(
            self,
            "TokenSecret",
            description="Presence: signs tokens (HS256)",
            generate_secret_string=secretsmanager.SecretStringGenerator(password_length=64, exclude_punctuation=True),
        )
        self._say("TokenSecretArn", secret.secret_arn, "the secret that your backend signs tokens with")
        return secret.secret_arn

    def _start_each(self, minutes: int, function: lambda_.Function) -> None:
        """Start a function at a fixed rate, once each time: an event that failed is not worth trying again."""
        function.configure_async_invoke(retry_attempts=0, max_event_age=cdk.Duration.seconds(MOST_EVENT_AGE))
        room = Construct(self, "Schedule")
        role = iam.Role(room, "Role", assumed_by=iam.ServicePrincipal("scheduler.amazonaws.com"))
        role.add_to_policy(iam.PolicyStatement(actions=["lambda:InvokeFunction"], resources=[function.function_arn]))
        scheduler.CfnSchedule(
            room,
            "Schedule",
            schedule_expression=f"rate({minutes} minute{'s' if minutes > 1 else ''})",
            flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF"),
            target=scheduler.CfnSchedule.TargetProperty(
                arn=function.function_arn,
                role_arn=role.role_arn,
                retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(
                    maximum_retry_attempts=0, maximum_event_age_in_seconds=MOST_EVENT_AGE
                ),
            ),
        ).node.add_dependency(role)

    def _say(self, name: str, value: str, description: str) -> None:
        cdk.CfnOutput(self, name, value=value, description=description)
