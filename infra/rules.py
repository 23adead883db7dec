"""The acknowledged findings of the checks: each with its place, its rule and the reason why it is accepted.

The checks are cdk-nag's pack “AWS Solutions” and CDK's own validation. Any other finding fails the synthesis.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import aws_cdk as cdk
from constructs import IConstruct

from infra.api import STAGE
from shared.routes import HTTP_ROUTES, WEBSOCKET_ROUTES

NAG = "AwsSolutions::AwsSolutions-"


def acknowledge(stack: cdk.Stack) -> None:
    """Acknowledge each listed finding whose place exists in the stack."""
    api = stack.node.find_child("WebSocket").node.find_child("Api").node.default_child
    for path, rule, reason in findings(stack.get_logical_id(cast("cdk.CfnElement", api))):
        place: IConstruct | None = stack
        for name in path.split("|"):
            place = place and place.node.try_find_child(name)
        if place:
            cdk.Validations.of(place).acknowledge(cdk.Acknowledgment(id=rule, reason=reason))


def findings(api: str) -> Iterator[tuple[str, str, str]]:
    """Yield place (construct ids, joined by `|`), rule and reason. `api` is the logical id of the WebSocket API."""
    for path in ("WebSocket|Stage", "Http|Stage"):
        yield (
            path,
            f"{NAG}APIG1",
            "Access logs need a role that is set per account and region; without it the first deployment fails.",
        )
    for route in WEBSOCKET_ROUTES:
        if route.key != "$connect":
            yield (
                f"WebSocket|Api|{route.key}-Route",
                f"{NAG}APIG4",
                "An authorizer runs on $connect only; every later event of the connection carries its result.",
            )
    for http_route in HTTP_ROUTES:
        if http_route.access != "backend":
            yield (
                f"Http|Api|{http_route.method}{http_route.path.replace('/', '--')}",
                f"{NAG}APIG4",
                "Health and the OpenAPI document are public; on user routes the function verifies the token.",
            )
    for method in ("POST", "DELETE"):
        arn = f"arn:<AWS::Partition>:execute-api:<AWS::Region>:<AWS::AccountId>:<{api}>/{STAGE}"
        yield (
            "Functions",
            f"{NAG}IAM5[Resource::{arn}/{method}/@connections/*]",
            "Connection ids are not known in advance; the API, the stage and the method are fixed.",
        )
    yield (
        "Functions",
        f"{NAG}L1",
        "Python 3.13: the version that the tests use, and that developers most likely have to compile bytecode with.",
    )
    yield (
        "TokenSecret",
        f"{NAG}SMG4",
        "A new secret invalidates every token; docs/operations.md describes how to rotate it deliberately.",
    )
    yield (
        "PublicCache|Cache",
        "CloudFormation-Validate::F3002",
        "CDK's copy of the resource schema predates ConnectionType, which AWS added in September 2026.",
    )
    yield (
        "VpcCache|Vpc",
        f"{NAG}VPC7",
        "Flow logs cost more than the cache; its security group limits what may reach it.",
    )
    yield (
        "Functions",
        f"{NAG}IAM5[Resource::*]",
        "Lambda creates the network interface of a function in a VPC; its ARN is not known in advance.",
    )
