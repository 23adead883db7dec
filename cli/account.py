"""The operator's AWS account, as AWS's own tools find it: credentials, region, what a stack says, what a secret holds.

What is done with any of them is other modules' matter. Nothing here is asked of AWS before it is needed.
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

from cli.errors import Complaint

CONFIG = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 3, "mode": "standard"})
NO_CREDENTIALS = "no AWS credentials are found: set AWS_PROFILE, or log in as you do for the AWS CLI"
NO_REGION = "no AWS region is known: give --region, or set AWS_REGION"


@dataclass(frozen=True, slots=True)
class Stack:
    """A deployed stack, as CloudFormation describes it."""

    name: str
    region: str
    status: str
    """Like `UPDATE_COMPLETE`."""
    why: str
    """CloudFormation's reason for the status; mostly ""."""
    outputs: Mapping[str, str]


class Account:
    """What the operator of a deployment may see there. Every method raises Complaint when AWS does not answer it.

    Args:
        region: where the deployment is; by default where `AWS_REGION`, `AWS_DEFAULT_REGION` or the profile says.
        profile: whose credentials; by default what AWS's tools would take.
    """

    def __init__(self, region: str | None = None, profile: str | None = None) -> None:
        self._region, self._profile = region, profile

    @property
    def region(self) -> str:
        """What calls are signed for, where nothing else names a region."""
        with _asking():
            region = self._region or os.environ.get("AWS_REGION") or self._session.get_config_variable("region")
        if not region:
            raise Complaint(NO_REGION)
        return str(region)

    def credentials(self) -> ReadOnlyCredentials:
        """What calls are signed with, as it is now."""
        with _asking():
            credentials = self._session.get_credentials()
            if credentials is None:
                raise Complaint(NO_CREDENTIALS)
            return credentials.get_frozen_credentials()  # Some are only fetched here, and may be over.

    def number(self) -> str:
        """The account whose credentials these are: twelve digits."""
        self.credentials()
        with _asking():
            number: str = self._client("sts").get_caller_identity()["Account"]
        return number

    def stack(self, name: str) -> Stack:
        """A stack of this region, by its name or ARN."""
        with _asking():
            try:
                found = self._client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
            except ClientError as error:
                if "does not exist" in str(error):
                    raise Complaint(
                        f"there is no stack {name} in {self.region}: deploy it, or give another --stack or --region"
                    ) from None
                raise
        outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
        why = found.get("StackStatusReason", "")
        return Stack(found["StackName"], self.region, found["StackStatus"], why, outputs)

    def secret(self, arn: str) -> str:
        """The text that a secret holds."""
        with _asking():
            secret: str = self._client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
        return secret

    @functools.cached_property
    def _session(self) -> Session:
        return Session(profile=self._profile)

    def _client(self, service: str) -> Any:
        return self._session.create_client(service, region_name=self.region, config=CONFIG)


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Put into words what goes wrong between here and AWS."""
    try:
        yield
    except ProfileNotFound as error:
        raise Complaint(f"there is no AWS profile {error.kwargs['profile']}: `aws configure list-profiles`") from None
    except NoCredentialsError:
        raise Complaint(NO_CREDENTIALS) from None
    except NoRegionError:
        raise Complaint(NO_REGION) from None
    except EndpointConnectionError as error:
        raise Complaint(f"nothing answers at {error.kwargs['endpoint_url']}: is the region right?") from None
    except ClientError as error:
        about = error.response["Error"]
        raise Complaint(f"AWS refuses {error.operation_name}: {about.get('Message')} ({about.get('Code')})") from None
    except (BotoCoreError, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL leads nowhere.
        raise Complaint(f"AWS cannot be asked: {error}") from None
