"""What the checks object to and is right all the same: each objection, where it is made, and the reason.

The checks are cdk-nag's pack “AWS Solutions” and CDK's own validation. What is not listed here fails the synthesis.
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
    """Acknowledge what is listed here wherever the stack has it."""
    api = stack.node.find_child("WebSocket").node.find_child("Api").node.default_child
    for path, rule, reason in objections(stack.get_logical_id(cast("cdk.CfnElement", api))):
        place: IConstruct | None = stack
        for name in path.split("|"):
            place = place and place.node.try_find_child(name)
        if place:
            cdk.Validations.of(place).acknowledge(cdk.Acknowledgment(id=rule, reason=reason))


def objections(api: str) -> Iterator[tuple[str, str, str]]:
    """Where (names of constructs, from the stack down), the rule's id, and why; `api` is the WebSocket API's id."""
    for path in ("WebSocket|Stage", "Http|Stage"):
        yield (
            path,
            f"{NAG}APIG1",
            "Access logs need a role that is set for a whole account and region; without it a first deployment fails.",
        )
    for route in WEBSOCKET_ROUTES:
        if route.key != "$connect":
            yield (
                f"WebSocket|Api|{route.key}-Route",
                f"{NAG}APIG4",
                "An authorizer runs on $connect only, and what it said comes with every later event of the connection.",
            )
    for http_route in HTTP_ROUTES:
        if http_route.access != "backend":
            yield (
                f"Http|Api|{http_route.method}{http_route.path.replace('/', '--')}",
                f"{NAG}APIG4",
                "Health is open to all; where a user calls, the function verifies the token itself.",
            )
    for method in ("POST", "DELETE"):
        arn = f"arn:<AWS::Partition>:execute-api:<AWS::Region>:<AWS::AccountId>:<{api}>/{STAGE}"
        yield (
            "Functions",
            f"{NAG}IAM5[Resource::{arn}/{method}/@connections/*]",
            "Connections come and go, so none can be named; the API, the stage and the method are.",
        )
    yield (
        "Functions",
        f"{NAG}L1",
        "Lambda's Python 3.13: what the tests run on, and what a developer is likeliest to have for its bytecode.",
    )
    yield (
        "TokenSecret",
        f"{NAG}SMG4",
        "A new secret ends every token at once; docs/operations.md says how to change it when that is wanted.",
    )
    yield (
        "PublicCache|Cache",
        "CloudFormation-Validate::F3002",
        "CDK's copy of the resource's schema is older than ConnectionType, which AWS added in September 2026.",
    )
    yield (
        "VpcCache|Vpc",
        f"{NAG}VPC7",
        "Flow logs cost more than the cache; what may reach it, its security group says.",
    )
    yield (
        "Functions",
        f"{NAG}IAM5[Resource::*]",
        "A function in a VPC makes its own network interface, which has no ARN before it is made.",
    )
