"""Signatures equal those of the SDK, byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qs, urlencode, urlsplit

import boto3
import botocore.session
import pytest
from botocore.credentials import Credentials
from botocore.model import ServiceId
from botocore.signers import RequestSigner
from hypothesis import given
from hypothesis import strategies as st

from shared.sigv4 import HeaderSigner, Signer
from tests.support.management_server import ManagementServer

SESSION = botocore.session.get_session()
NAMES = st.from_regex(r"[a-z](-?[a-z0-9]){0,39}", fullmatch=True)
SECRETS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=60)


def botocore_presigns(
    service: str, environ: dict[str, str], host: str, query: dict[str, str], lifetime: int
) -> tuple[str, datetime]:
    """The URL that botocore presigns for the same request, and the moment of its signature."""
    credentials = Credentials(
        environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"], environ.get("AWS_SESSION_TOKEN") or None
    )
    events = SESSION.get_component("event_emitter")
    signer = RequestSigner(ServiceId(service), environ["AWS_REGION"], service, "v4", credentials, events)
    url = f"http://{host}/?{urlencode(query)}"
    request = {"method": "GET", "url": url, "body": {}, "headers": {}, "context": {}}
    signed: str = signer.generate_presigned_url(request, "connect", expires_in=lifetime)
    [moment] = parse_qs(urlsplit(signed).query)["X-Amz-Date"]
    return signed, datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


@given(
    st.fixed_dictionaries(
        {"AWS_ACCESS_KEY_ID": SECRETS, "AWS_SECRET_ACCESS_KEY": SECRETS, "AWS_REGION": NAMES},
        optional={"AWS_SESSION_TOKEN": st.one_of(st.just(""), SECRETS)},
    ),
    NAMES,
    SECRETS,
    st.booleans(),
    st.integers(1, 604_800),
)
def test_a_presigned_url_is_the_sdks_byte_for_byte(
    environ: dict[str, str], host: str, user: str, serverless: bool, lifetime: int
) -> None:
    """For any credentials, names and session token, botocore presigns the same URL at the same moment."""
    query = {"Action": "connect", "User": user} | ({"ResourceType": "ServerlessCache"} if serverless else {})
    theirs, moment = botocore_presigns("elasticache", environ, host, query, lifetime)
    assert "http://" + Signer("elasticache", environ, moment).presign(host, query, lifetime) == theirs


@pytest.mark.parametrize("token", ["", "IQoJb3JpZ2luX2VjEAMaCXVzLWVhc3QtMSJHMEUCIQ+/=="])
@pytest.mark.parametrize("connection_id", ["PJqB0E1tKRcFAQw=", "L0SM9cOFvHcCIhw=", "A-_-_-b9-_-_-c_=", "a/b+c d=="])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_signed_headers_are_the_sdks_byte_for_byte(
    server: ManagementServer, method: str, connection_id: str, token: str
) -> None:
    """boto3 sends the same headers for the same request to API Gateway's management API at the same moment."""
    environ = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalr+bPx/K7", "AWS_REGION": "us-east-1"}
    sdk = boto3.client(
        "apigatewaymanagementapi",
        region_name="us-east-1",
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=token or None,
        endpoint_url=server.url,
    )
    if method == "POST":
        sdk.post_to_connection(
            ConnectionId=connection_id, Data='{"customStatus":{"text":"Grüße","emoji":"🎧"}}'.encode()
        )
    else:
        sdk.delete_connection(ConnectionId=connection_id)
    sdk.close()
    [theirs] = server.requests

    moment = datetime.strptime(theirs.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    signer = HeaderSigner(Signer("execute-api", environ | {"AWS_SESSION_TOKEN": token}, moment), server.host)
    ours = signer.headers(method, theirs.path, theirs.body)
    signed = {name for name in theirs.headers if name.startswith("x-amz-") or name == "authorization"}
    assert ours == {name: theirs.headers[name] for name in signed}


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"])
def test_without_credentials_or_region_nothing_is_signed(missing: str) -> None:
    """The error names what the environment lacks."""
    environ = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-central-1"}
    del environ[missing]
    with pytest.raises(KeyError, match=missing):
        Signer("elasticache", environ, datetime(2026, 11, 23, tzinfo=UTC))
