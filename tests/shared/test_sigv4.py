"""What is signed without an SDK is the SDK's own, byte for byte; posts are compared in `test_push.py`."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qs, urlencode, urlsplit

import botocore.session
import pytest
from botocore.credentials import Credentials
from botocore.model import ServiceId
from botocore.signers import RequestSigner
from hypothesis import given
from hypothesis import strategies as st

from shared.sigv4 import Signer

SESSION = botocore.session.get_session()
NAMES = st.from_regex(r"[a-z](-?[a-z0-9]){0,39}", fullmatch=True)
SECRETS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=60)


def botocore_presigns(
    service: str, environ: dict[str, str], host: str, query: dict[str, str], lifetime: int
) -> tuple[str, datetime]:
    """What botocore makes of the same request, and the moment that it made it for."""
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
    """Whatever the credentials, the names and the session token, botocore presigns the same URL at the same moment."""
    query = {"Action": "connect", "User": user} | ({"ResourceType": "ServerlessCache"} if serverless else {})
    theirs, moment = botocore_presigns("elasticache", environ, host, query, lifetime)
    assert "http://" + Signer("elasticache", environ, moment).presign(host, query, lifetime) == theirs


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"])
def test_without_credentials_or_region_nothing_is_signed(missing: str) -> None:
    """What the environment lacks is named."""
    environ = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-central-1"}
    del environ[missing]
    with pytest.raises(KeyError, match=missing):
        Signer("elasticache", environ, datetime(2026, 11, 23, tzinfo=UTC))
