"""Where the state is: an ElastiCache Serverless cache with a public endpoint or in a VPC, or the operator's own Redis.

A cache of this stack has one user, which authenticates with IAM and may run only the service's commands. The name of
the cache contains what cannot be changed in place (the mode, and the snapshot that it was restored from), so such a
change creates a second cache beside the first. It also contains a part of the stack's id, so that the final snapshot of
an earlier stack with the same name does not conflict.
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
"""Days for which the daily snapshots are kept."""


@dataclass(frozen=True, slots=True)
class Cache:
    """What the functions and the dashboard need to know about the cache."""

    settings: Mapping[str, Any]
    """The settings of the service that lead to it."""
    access: Sequence[iam.PolicyStatement]
    """The permissions that a role needs to use it."""
    placement: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of each `lambda_.Function` that uses it."""
    name: str = ""
    """The name in ElastiCache; empty with `cache=url`."""


def create(scope: Construct, options: Options) -> Cache:
    """Create the cache that the options choose; with `cache=url`, use the existing Redis."""
    if options.cache == "url":
        return Cache({"redis_url_arn": options.redis_url_secret}, [may_read(options.redis_url_secret)])
    parent = Construct(scope, "PublicCache" if options.cache == "public" else "VpcCache")
    return _public(parent, options) if options.cache == "public" else _inside_vpc(parent, options)


def may_read(secret: str) -> iam.PolicyStatement:
    """The permission to read one secret, given by its ARN."""
    return iam.PolicyStatement(actions=["secretsmanager:GetSecretValue"], resources=[secret])


def _public(parent: Construct, options: Options) -> Cache:
    return _serverless(parent, options, {"connection_type": "public"}, {})


def _inside_vpc(parent: Construct, options: Options) -> Cache:
    """In a VPC of its own. Functions reach API Gateway and Secrets Manager through one NAT gateway."""
    vpc = ec2.Vpc(parent, "Vpc", max_azs=2, nat_gateways=1, restrict_default_security_group=False)
    subnets = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS)
    functions = ec2.SecurityGroup(parent, "Functions", vpc=vpc, description="Presence: the functions")
    guarded = ec2.SecurityGroup(
        parent, "Guard", vpc=vpc, description="Presence: the cache, open to the functions", allow_all_outbound=False
    )
    guarded.add_ingress_rule(functions, ec2.Port.tcp(PORT), "Valkey")
    # Lambda needs these for the network interface of a function in a VPC. EC2 supports no narrower resource for most.
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
    return _serverless(parent, options, inside, placement, network)


def _serverless(
    parent: Construct,
    options: Options,
    where: Mapping[str, Any],
    placement: Mapping[str, Any],
    *further: iam.PolicyStatement,
) -> Cache:
    stack = cdk.Stack.of(parent)
    mark = cdk.Fn.select(0, cdk.Fn.split("-", cdk.Fn.select(2, cdk.Fn.split("/", stack.stack_id))))
    name = f"presence-{options.cache}-{mark}"
    if options.restore_snapshot:
        name += f"-{sha256(options.restore_snapshot.encode()).hexdigest()[:6]}"
    user = elasticache.CfnUser(
        parent,
        "User",
        engine="valkey",
        user_id=name,  # IAM authentication requires both to be equal
        user_name=name,
        authentication_mode={"Type": "iam"},
        access_string=REDIS_ACCESS,
    )
    group = elasticache.CfnUserGroup(parent, "Users", engine="valkey", user_group_id=name, user_ids=[user.ref])
    cache = elasticache.CfnServerlessCache(
        parent,
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
