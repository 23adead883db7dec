"""The WebSocket API and the HTTP API, built from `shared.routes`.

Construct ids never change: CloudFormation would replace an API that has another id, which closes every socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import aws_cdk as cdk
from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_apigatewayv2_authorizers as authorizers
from aws_cdk import aws_apigatewayv2_integrations as integrations
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.options import Options
from shared.routes import AUTHORIZER, HTTP_ROUTES, WEBSOCKET_ROUTES

STAGE = "live"

RATES: Mapping[str, tuple[int, int]] = {
    "$connect": (500, 500),
    "$disconnect": (1000, 2000),
    "heartbeat": (4000, 4000),
    "presence_update": (500, 1000),
    "sync": (500, 1000),
    "get_presence": (500, 500),
    "leave": (500, 1000),
    "$default": (50, 50),
}
"""Steady rate (requests per second) and burst (requests) of each route.

In most regions, all messages from clients and all posts to them share an account quota of 10,000 requests a second
(Amazon API Gateway quotas). No route may use all of it. `$default`, which receives only invalid messages, gets the
least. `$connect` has the rate of the account's quota for new connections, 500 a second."""
HTTP_RATE = (1000, 2000)
"""Steady rate (requests per second) and burst (requests) of the HTTP API."""

IDENTITY_SOURCE = {
    "query": "route.request.querystring.token",
    "subprotocol": "route.request.header.Sec-WebSocket-Protocol",
}
"""Where the handshake carries its token. Without one, API Gateway responds with 401 and invokes no function."""


class WebSocketSide(Construct):
    """The WebSocket API. Its routes are added after the functions, whose environment contains its URL."""

    def __init__(self, scope: Construct, id: str, options: Options) -> None:
        super().__init__(scope, id)
        self._options = options
        self.api = apigateway.WebSocketApi(
            self,
            "Api",
            api_name=f"{options.stack}-websocket",
            route_selection_expression="$request.body.action",
            ip_address_type=apigateway.IpAddressType.DUAL_STACK,
        )
        self.stage = apigateway.WebSocketStage(
            self, "Stage", web_socket_api=self.api, stage_name=STAGE, auto_deploy=True
        )
        stage = cast("apigateway.CfnStage", self.stage.node.default_child)
        stage.route_settings = {
            route.key: {"ThrottlingRateLimit": rate, "ThrottlingBurstLimit": burst}
            for route in WEBSOCKET_ROUTES
            for rate, burst in [RATES[route.key]]
        }
        self.callback_url = self.stage.callback_url
        """Where frames are posted: the name that AWS gave the API, even if clients use a custom domain."""
        self.url = self.stage.url
        self.domain: apigateway.DomainName | None = None
        if options.websocket_domain:
            self.domain = _domain(self, options.websocket_domain, options.certificate, self.api, self.stage)
            self.url = f"wss://{options.websocket_domain}"
        self.connections = cdk.Stack.of(self).format_arn(
            service="execute-api", resource=self.api.api_id, resource_name=STAGE
        )
        """The ARN of the stage, the prefix of the ARNs of its connections."""

    def add_routes(self, functions: Mapping[str, lambda_.Function]) -> None:
        """Connect each route to its function. Routes have no responses: frames reach clients through `@connections`."""
        authorizer = authorizers.WebSocketLambdaAuthorizer(
            "Authorizer",
            functions[AUTHORIZER],
            identity_source=[IDENTITY_SOURCE[self._options.settings.token_source]],
        )
        for route in WEBSOCKET_ROUTES:
            added = self.api.add_route(
                route.key,
                integration=integrations.WebSocketLambdaIntegration(route.key, functions[route.function]),
                authorizer=authorizer if route.key == "$connect" else None,
            )
            self.stage.node.add_dependency(added)  # a stage deployed before a route lacks that route


class HttpSide(Construct):
    """The HTTP API. Backend routes require IAM. On user routes, the function verifies the token."""

    def __init__(self, scope: Construct, id: str, options: Options, functions: Mapping[str, lambda_.Function]) -> None:
        super().__init__(scope, id)
        origins = options.settings.cors_origins
        self.api = apigateway.HttpApi(
            self,
            "Api",
            api_name=f"{options.stack}-http",
            create_default_stage=False,
            ip_address_type=apigateway.IpAddressType.DUAL_STACK,
            cors_preflight=apigateway.CorsPreflightOptions(
                allow_origins=list(origins),
                allow_methods=[apigateway.CorsHttpMethod.ANY],
                allow_headers=["authorization", "content-type"],
                expose_headers=["retry-after"],
                max_age=cdk.Duration.hours(1),
            )
            if origins
            else None,
        )
        rate, burst = HTTP_RATE
        self.stage = apigateway.HttpStage(
            self,
            "Stage",
            http_api=self.api,
            auto_deploy=True,
            throttle=apigateway.ThrottleSettings(rate_limit=rate, burst_limit=burst),
        )
        iam = authorizers.HttpIamAuthorizer()
        targets = {
            name: integrations.HttpLambdaIntegration(name, functions[name], scope_permission_to_route=False)
            for name in sorted({route.function for route in HTTP_ROUTES})
        }
        for route in HTTP_ROUTES:
            for added in self.api.add_routes(
                path=route.path,
                methods=[apigateway.HttpMethod(route.method)],
                integration=targets[route.function],
                authorizer=iam if route.access == "backend" else None,
            ):
                self.stage.node.add_dependency(added)
        self.url = self.api.api_endpoint
        self.arn = cdk.Stack.of(self).format_arn(service="execute-api", resource=self.api.api_id, resource_name="*")
        """The ARN of all calls of this API, for a policy that allows them."""
        self.domain: apigateway.DomainName | None = None
        if options.http_domain:
            self.domain = _domain(self, options.http_domain, options.certificate, self.api, self.stage)
            self.url = f"https://{options.http_domain}"


def _domain(
    scope: Construct, name: str, certificate: str, api: apigateway.IApi, stage: apigateway.IStage
) -> apigateway.DomainName:
    domain = apigateway.DomainName(
        scope,
        "Domain",
        domain_name=name,
        certificate=acm.Certificate.from_certificate_arn(scope, "Certificate", certificate),
        security_policy=apigateway.SecurityPolicy.TLS_1_2,
        ip_address_type=apigateway.IpAddressType.DUAL_STACK,
    )
    apigateway.ApiMapping(scope, "Mapping", api=api, domain_name=domain, stage=stage)
    return domain
