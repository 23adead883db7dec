"""The operator's AWS account, found as AWS's own tools find it: credentials, region, stacks and secrets.

Each is read from AWS when it is first needed.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
)
from botocore.session import Session

from cli.errors import UserError

CONFIG = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 3, "mode": "standard"})
NO_CREDENTIALS = "found no AWS credentials: set AWS_PROFILE, or log in as you do for the AWS CLI"
NO_REGION = "found no AWS region: give --region, or set AWS_REGION"


@dataclass(frozen=True, slots=True)
class Stack:
    """A deployed stack, as CloudFormation describes it."""

    name: str
    region: str
    status: str
    """Like `UPDATE_COMPLETE`."""
    why: str
    """CloudFormation's reason for the status; usually ""."""
    outputs: Mapping[str, str]


class Account:
    """What the operator of a deployment may read in AWS. Every method raises UserError when AWS refuses or fails.

    Args:
        region: the deployment's region; by default that of `AWS_REGION`, `AWS_DEFAULT_REGION` or the profile.
        profile: the AWS profile; by default the one that AWS's tools would use.
    """

    def __init__(self, region: str | None = None, profile: str | None = None) -> None:
        self._region, self._profile = region, profile

    @property
    def region(self) -> str:
        """The region that calls are signed for, unless their URL names one."""
        with _aws_errors():
            region = self._region or os.environ.get("AWS_REGION") or self._session.get_config_variable("region")
        if not region:
            raise UserError(NO_REGION)
        return str(region)

    def credentials(self) -> ReadOnlyCredentials:
        """The current credentials."""
        with _aws_errors():
            credentials = self._session.get_credentials()
            if credentials is None:
                raise UserError(NO_CREDENTIALS)
            return credentials.get_frozen_credentials()  # Some are fetched only here, and may have expired.

    def number(self) -> str:
        """The number of the account: twelve digits."""
        self.credentials()
        with _aws_errors():
            number: str = self._client("sts").get_caller_identity()["Account"]
        return number

    def stack(self, name: str) -> Stack:
        """A stack of this region, by name or ARN."""
        with _aws_errors():
            try:
                found = self._client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
            except ClientError as error:
                if "does not exist" in str(error):
                    raise UserError(
                        f"there is no stack {name} in {self.region}: deploy it, or give another --stack or --region"
                    ) from None
                raise
        outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
        why = found.get("StackStatusReason", "")
        return Stack(found["StackName"], self.region, found["StackStatus"], why, outputs)

    def secret(self, arn: str) -> str:
        """The text of a secret."""
        with _aws_errors():
            secret: str = self._client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
        return secret

    @functools.cached_property
    def _session(self) -> Session:
        return Session(profile=self._profile)

    def _client(self, service: str) -> Any:
        return self._session.create_client(service, region_name=self.region, config=CONFIG)


@contextlib.contextmanager
def _aws_errors() -> Iterator[None]:
    """Turn errors of AWS's SDK into UserError."""
    try:
        yield
    except ProfileNotFound as error:
        raise UserError(f"there is no AWS profile {error.kwargs['profile']}: `aws configure list-profiles`") from None
    except NoCredentialsError:
        raise UserError(NO_CREDENTIALS) from None
    except NoRegionError:
        raise UserError(NO_REGION) from None
    except EndpointConnectionError as error:
        raise UserError(f"nothing answers at {error.kwargs['endpoint_url']}: is the region right?") from None
    except ClientError as error:
        about = error.response["Error"]
        raise UserError(f"AWS refuses {error.operation_name}: {about.get('Message')} ({about.get('Code')})") from None
    except (BotoCoreError, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is no URL.
        raise UserError(f"cannot call AWS: {error}") from None
