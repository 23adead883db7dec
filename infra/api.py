"""The two APIs, made from `shared.routes`: the WebSocket API that clients keep open, and the HTTP API beside it.

Construct ids are the route's own words and never change: another id would make a new API, and drop every socket.
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
"""Requests per second that each route takes, over time and at once. An account has 10,000 a second in most regions for
the messages of all its clients and all posts to them (Amazon API Gateway quotas): no route may use that up, and what is
no message at all least of all. 500 new connections a second is what an account may have."""
HTTP_RATE = (1000, 2000)

IDENTITY_SOURCE = {
    "query": "route.request.querystring.token",
    "subprotocol": "route.request.header.Sec-WebSocket-Protocol",
}
"""Where the handshake carries its token; without it, API Gateway answers 401 and wakes nobody."""


class WebSocketSide(Construct):
    """The WebSocket API. Its routes come after the functions, since these are told its address."""

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
        """Where frames are posted to. Its own name, whatever clients know the API by."""
        self.url = self.stage.url
        self.domain: apigateway.DomainName | None = None
        if options.websocket_domain:
            self.domain = _domain(self, options.websocket_domain, options.certificate, self.api, self.stage)
            self.url = f"wss://{options.websocket_domain}"
        self.connections = cdk.Stack.of(self).format_arn(
            service="execute-api", resource=self.api.api_id, resource_name=STAGE
        )
        """The ARN of the stage; its connections are below it."""

    def add_routes(self, functions: Mapping[str, lambda_.Function]) -> None:
        """Let each route wake its function. No route has a response of its own: what clients get is posted."""
        authorizer = authorizers.WebSocketLambdaAuthorizer(
            "Authorizer",
            functions[AUTHORIZER],
            identity_source=[IDENTITY_SOURCE[self._options.settings.token_source]],
        )
        for route in WEBSOCKET_ROUTES:
            made = self.api.add_route(
                route.key,
                integration=integrations.WebSocketLambdaIntegration(route.key, functions[route.function]),
                authorizer=authorizer if route.key == "$connect" else None,
            )
            self.stage.node.add_dependency(made)  # a stage that is deployed before a route does not have it


class HttpSide(Construct):
    """The HTTP API: for the application's backend with IAM; for users the function itself verifies their token."""

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
        wakes = {
            name: integrations.HttpLambdaIntegration(name, functions[name], scope_permission_to_route=False)
            for name in sorted({route.function for route in HTTP_ROUTES})
        }
        for route in HTTP_ROUTES:
            for made in self.api.add_routes(
                path=route.path,
                methods=[apigateway.HttpMethod(route.method)],
                integration=wakes[route.function],
                authorizer=iam if route.access == "backend" else None,
            ):
                self.stage.node.add_dependency(made)
        self.url = self.api.api_endpoint
        self.arn = cdk.Stack.of(self).format_arn(service="execute-api", resource=self.api.api_id, resource_name="*")
        """All calls of this API, for a policy that allows them."""
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
