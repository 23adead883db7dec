"""Where the state is: a serverless cache of Valkey, in the open or inside a VPC, or a Redis of your own.

A cache that the stack makes knows one user, who signs in with IAM and may run what the service runs and nothing else.
Its name holds what cannot be changed in place (the mode, and the snapshot that it began with), so that a change of
these makes another beside the old one; and a part of the stack's id, so that what an earlier stack of the same name
left behind is not in the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticache as elasticache
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.options import Options
from shared.settings import REDIS_ACCESS

PORT = 6379
DAILY_SNAPSHOTS = 7
"""Days for which a snapshot of each day is kept."""


@dataclass(frozen=True, slots=True)
class Cache:
    """What the functions and the dashboard need to know of it."""

    settings: Mapping[str, Any]
    """Those of the service that lead to it."""
    access: Sequence[iam.PolicyStatement]
    """What a role may do, to use it."""
    placement: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of a `lambda_.Function` that reaches it."""
    name: str = ""
    """In ElastiCache; nothing where the cache is not ours."""


def make(scope: Construct, options: Options) -> Cache:
    """The cache that the options ask for."""
    if options.cache == "url":
        return Cache({"redis_url_arn": options.redis_url_secret}, [may_read(options.redis_url_secret)])
    room = Construct(scope, "PublicCache" if options.cache == "public" else "VpcCache")
    return _public(room, options) if options.cache == "public" else _inside_vpc(room, options)


def may_read(secret: str) -> iam.PolicyStatement:
    """A role may read one secret, by its ARN."""
    return iam.PolicyStatement(actions=["secretsmanager:GetSecretValue"], resources=[secret])


def _public(room: Construct, options: Options) -> Cache:
    return _serverless(room, options, {"connection_type": "public"}, {})


def _inside_vpc(room: Construct, options: Options) -> Cache:
    """A VPC with a way out through one NAT gateway: functions in it still post to API Gateway and read secrets."""
    vpc = ec2.Vpc(room, "Vpc", max_azs=2, nat_gateways=1, restrict_default_security_group=False)
    subnets = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS)
    functions = ec2.SecurityGroup(room, "Functions", vpc=vpc, description="Presence: the functions")
    guarded = ec2.SecurityGroup(
        room, "Guard", vpc=vpc, description="Presence: the cache, open to the functions", allow_all_outbound=False
    )
    guarded.add_ingress_rule(functions, ec2.Port.tcp(PORT), "Valkey")
    # What a function in a VPC needs to have its network interface; EC2 knows no narrower resource for most of these.
    network = iam.PolicyStatement(
        actions=[
            "ec2:AssignPrivateIpAddresses",
            "ec2:CreateNetworkInterface",
            "ec2:DeleteNetworkInterface",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSubnets",
            "ec2:UnassignPrivateIpAddresses",
        ],
        resources=["*"],
    )
    inside = {
        "subnet_ids": vpc.select_subnets(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS).subnet_ids,
        "security_group_ids": [guarded.security_group_id],
    }
    placement = {"vpc": vpc, "vpc_subnets": subnets, "security_groups": [functions]}
    return _serverless(room, options, inside, placement, network)


def _serverless(
    room: Construct,
    options: Options,
    where: Mapping[str, Any],
    placement: Mapping[str, Any],
    *further: iam.PolicyStatement,
) -> Cache:
    stack = cdk.Stack.of(room)
    mark = cdk.Fn.select(0, cdk.Fn.split("-", cdk.Fn.select(2, cdk.Fn.split("/", stack.stack_id))))
    name = f"presence-{options.cache}-{mark}"
    if options.restore_snapshot:
        name += f"-{sha256(options.restore_snapshot.encode()).hexdigest()[:6]}"
    user = elasticache.CfnUser(
        room,
        "User",
        engine="valkey",
        user_id=name,  # IAM asks that both be the same
        user_name=name,
        authentication_mode={"Type": "iam"},
        access_string=REDIS_ACCESS,
    )
    group = elasticache.CfnUserGroup(room, "Users", engine="valkey", user_group_id=name, user_ids=[user.ref])
    cache = elasticache.CfnServerlessCache(
        room,
        "Cache",
        engine="valkey",
        major_engine_version="9",
        serverless_cache_name=name,
        description=f"{options.stack}: who is online, who sees whom, and what users chose",
        user_group_id=group.ref,
        daily_snapshot_time="03:00",
        snapshot_retention_limit=DAILY_SNAPSHOTS,
        final_snapshot_name=f"{name}-final",
        snapshot_arns_to_restore=[options.restore_snapshot] if options.restore_snapshot else None,
        **where,
    )
    return Cache(
        settings={
            "redis_url": f"rediss://{cache.attr_endpoint_address}:{PORT}",
            "redis_iam_user": name,
            "redis_iam_cache": name,
        },
        access=[
            iam.PolicyStatement(
                actions=["elasticache:Connect"],
                resources=[
                    cache.attr_arn,
                    stack.format_arn(
                        service="elasticache",
                        resource="user",
                        resource_name=name,
                        arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
                    ),
                ],
            ),
            *further,
        ],
        placement=placement,
        name=name,
    )
