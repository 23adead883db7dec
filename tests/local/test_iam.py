"""The local key pair and the verification of signatures, against botocore's signer."""

from __future__ import annotations

import configparser
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from multidict import CIMultiDict

from local.iam import KeyFileError, KeyPair, SignatureRefused, SignatureVerifier
from tests.support.local_gateway import REGION, sign

HOST = "http://127.0.0.1:8080"
KEYS = KeyPair.create()


def verify(
    url: str, headers: dict[str, str], body: bytes = b"", *, method: str = "POST", clock_offset: float = 0.0
) -> str:
    """Verify `method url` as if it had arrived. Returns the caller's access key."""
    verifier = SignatureVerifier(KEYS, REGION, clock=lambda: time.time() + clock_offset)
    return verifier.verify(method, url.removeprefix(HOST), CIMultiDict(headers), body).access_key


@pytest.mark.parametrize(
    "target",
    [
        "/live/@connections/Df14mfUXIAMCIyg%3D",
        "/live/%40connections/a-_4mfUXIAMCIyg%3D",
        "/v1/users/alice%40example.com/contacts",
        "/v1/users/a~b/contacts?b=2&a=1&a=0&empty=",
        "/v1/users/%C3%A4/contacts?q=%20%2F",
        "/v1//users/./x/../y",
        "/",
    ],
)
def test_a_request_that_botocore_signed_is_accepted(target: str) -> None:
    """With any path and query; `%3D` is signed as `%253D`."""
    headers = sign(KEYS, "POST", HOST + target, b'{"a":1}')
    assert verify(HOST + target, headers, b'{"a":1}') == KEYS.access_key_id


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff\x00" * 1000])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_every_method_and_body_is_covered(method: str, body: bytes) -> None:
    """Every method and body is covered by the signature."""
    url = HOST + "/v1/graph"
    headers = sign(KEYS, method, url, body, headers={"Content-Type": "application/json"})
    assert verify(url, headers, body, method=method) == KEYS.access_key_id
    with pytest.raises(SignatureRefused, match="InvalidSignatureException"):
        verify(url, headers, body + b" ", method=method)
    with pytest.raises(SignatureRefused, match="InvalidSignatureException"):
        verify(url, headers, body, method="PATCH")


def test_the_percent_encoding_is_part_of_the_signature() -> None:
    """A path signed decoded and sent encoded is refused: that is the bug production would have."""
    headers = sign(KEYS, "POST", HOST + "/live/@connections/Df14mfUXIAMCIyg=")
    with pytest.raises(SignatureRefused, match="InvalidSignatureException"):
        verify(HOST + "/live/@connections/Df14mfUXIAMCIyg%3D", headers)


@pytest.mark.parametrize("name", ["X-Amz-Date", "Authorization", "Host", "X-Amz-Target"])
def test_a_changed_header_is_detected(name: str) -> None:
    """A signed header must arrive unchanged."""
    headers = sign(KEYS, "POST", HOST + "/", headers={"X-Amz-Target": "a"})
    headers[name] = headers[name][:-1] + ("0" if headers[name][-1] != "0" else "1")
    with pytest.raises(SignatureRefused):
        verify(HOST + "/", headers)


def test_a_header_added_on_the_way_must_have_been_signed_if_aws_reads_it() -> None:
    """An `x-amz-` header that is not signed is refused; any other is not looked at."""
    headers = sign(KEYS, "POST", HOST + "/")
    assert verify(HOST + "/", {**headers, "User-Agent": "x", "Accept": "*/*"})
    with pytest.raises(SignatureRefused, match="x-amz-security-token"):
        verify(HOST + "/", {**headers, "X-Amz-Security-Token": "t"})


def test_a_security_token_is_part_of_the_signature() -> None:
    """A session token is covered by the signature, as the credentials of a function in AWS need it."""
    headers = sign(KEYS, "POST", HOST + "/", token="session")
    assert verify(HOST + "/", headers) == KEYS.access_key_id
    with pytest.raises(SignatureRefused, match="InvalidSignatureException"):
        verify(HOST + "/", {**headers, "X-Amz-Security-Token": "another"})


@pytest.mark.parametrize("digest", ["UNSIGNED-PAYLOAD", "0" * 64])
def test_a_hash_in_a_header_must_be_the_bodys(digest: str) -> None:
    """`X-Amz-Content-SHA256` is no way around the body: neither another hash nor `UNSIGNED-PAYLOAD` is accepted."""
    headers = sign(KEYS, "POST", HOST + "/", b"body", headers={"X-Amz-Content-SHA256": digest})
    with pytest.raises(SignatureRefused, match="InvalidSignatureException"):
        verify(HOST + "/", headers, b"body")


def test_the_right_hash_in_a_header_is_accepted() -> None:
    """`X-Amz-Content-SHA256` with the body's hash, as some signers send it, is accepted."""
    digest = "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5"
    headers = sign(KEYS, "POST", HOST + "/", b"body", headers={"X-Amz-Content-SHA256": digest})
    assert verify(HOST + "/", headers, b"body") == KEYS.access_key_id


@pytest.mark.parametrize("seconds", [-299, 0, 299])
def test_clocks_may_differ_by_five_minutes(seconds: float) -> None:
    """A signature up to five minutes old or early is accepted."""
    assert verify(HOST + "/", sign(KEYS, "POST", HOST + "/"), clock_offset=seconds)


@pytest.mark.parametrize(("seconds", "message"), [(302, "expired"), (-302, "not yet current")])
def test_clocks_may_not_differ_by_more(seconds: float, message: str) -> None:
    """A signature older or earlier than five minutes is refused."""
    with pytest.raises(SignatureRefused, match=message):
        verify(HOST + "/", sign(KEYS, "POST", HOST + "/"), clock_offset=seconds)


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ({"region": "us-east-1"}, "a valid region: 'eu-central-1', not 'us-east-1'"),
        ({"service": "lambda"}, "the correct service: 'execute-api', not 'lambda'"),
    ],
)
def test_a_signature_for_another_region_or_service_is_refused(scope: dict[str, str], message: str) -> None:
    """A signature for another region or service is refused, and the message says which was wanted."""
    with pytest.raises(SignatureRefused, match=message):
        verify(HOST + "/", sign(KEYS, "POST", HOST + "/", **scope))  # type: ignore[arg-type]


def test_another_secret_is_refused() -> None:
    """The right access key with another secret is refused."""
    impostor = KeyPair(KEYS.access_key_id, KeyPair.create().secret_access_key)
    with pytest.raises(SignatureRefused, match="InvalidSignatureException"):
        verify(HOST + "/", sign(impostor, "POST", HOST + "/"))


def test_another_access_key_is_refused() -> None:
    """A key pair that nobody issued is refused."""
    with pytest.raises(SignatureRefused, match="UnrecognizedClientException"):
        verify(HOST + "/", sign(KeyPair.create(), "POST", HOST + "/"))


@pytest.mark.parametrize(
    ("authorization", "error_type"),
    [
        ("", "MissingAuthenticationTokenException"),
        ("Bearer x.y.z", "IncompleteSignatureException"),
        ("AWS4-HMAC-SHA256", "IncompleteSignatureException"),
        ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host", "IncompleteSignatureException"),
        ("AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host, Signature=0", "IncompleteSignatureException"),
        ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=, Signature=0", "IncompleteSignatureException"),
        ("AWS4-HMAC-SHA256 Credential=\xe9/b/c/d/e, SignedHeaders=host, Signature=0", "UnrecognizedClientException"),
    ],
)
def test_an_invalid_signature_has_awss_error(authorization: str, error_type: str) -> None:
    """A missing or malformed Authorization header is refused with AWS's name for the error."""
    with pytest.raises(SignatureRefused) as refused:
        verify(HOST + "/", {"Host": "127.0.0.1:8080", "Authorization": authorization})
    assert refused.value.error_type == error_type


@pytest.mark.parametrize("place", ["path", "header", "signature"])
def test_undecodable_bytes_are_a_wrong_signature(place: str) -> None:
    """Bytes from a socket that are not text do not crash."""
    bad = b"\xff".decode(errors="surrogateescape")
    headers = sign(KEYS, "POST", HOST + "/", headers={"X-Amz-Target": "a"})
    if place == "header":
        headers["X-Amz-Target"] = bad
    elif place == "signature":
        headers["Authorization"] += bad
    with pytest.raises(SignatureRefused, match="InvalidSignatureException"):
        verify(HOST + "/" + (bad if place == "path" else ""), headers)


@pytest.mark.parametrize("date", ["", "yesterday", "20261301T000000Z"])
def test_an_invalid_date_is_refused(date: str) -> None:
    """A missing or impossible X-Amz-Date is refused, even if the scope repeats it."""
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={KEYS.access_key_id}/{date[:8]}/{REGION}/execute-api/aws4_request, "
        "SignedHeaders=host;x-amz-date, Signature=0"
    )
    with pytest.raises(SignatureRefused, match="IncompleteSignatureException"):
        verify(HOST + "/", {"Host": "h", "X-Amz-Date": date, "Authorization": authorization})


def test_a_key_pair_is_created_once(tmp_path: Path) -> None:
    """The first call creates it, and only its owner can read it."""
    path = tmp_path / ".presence" / "credentials"
    pair = KeyPair.load_or_create(path)
    assert pair == KeyPair.load_or_create(path) == KeyPair.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["credentials"]
    assert pair.secret_access_key not in repr(pair)


def test_the_key_file_is_one_that_aws_clients_read(tmp_path: Path) -> None:
    """The file has AWS's own format, so that any AWS client can be pointed at it."""
    path = tmp_path / "credentials"
    pair = KeyPair.load_or_create(path)
    file = configparser.ConfigParser(interpolation=None)
    file.read(path)
    assert dict(file["default"]) == {
        "aws_access_key_id": pair.access_key_id,
        "aws_secret_access_key": pair.secret_access_key,
    }


def test_processes_that_start_together_use_one_pair(tmp_path: Path) -> None:
    """All processes that create the pair at the same time get the same one."""
    path = tmp_path / "credentials"
    with ThreadPoolExecutor(16) as pool:
        pairs = set(pool.map(lambda _: KeyPair.load_or_create(path), range(64)))
    assert len(pairs) == 1
    assert [found.name for found in tmp_path.iterdir()] == ["credentials"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """The error contains the command that fixes it."""
    path = tmp_path / "credentials"
    KeyPair.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        KeyPair.load_or_create(path)


@pytest.mark.parametrize("content", [b"", b"[default]\naws_access_key_id = a\n", b"not a file of any kind", b"\xff"])
def test_a_key_file_without_a_key_pair_is_refused(tmp_path: Path, content: bytes) -> None:
    """A damaged key file is refused in one sentence, and not replaced."""
    path = tmp_path / "credentials"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match="holds no key pair"):
        KeyPair.load_or_create(path)
