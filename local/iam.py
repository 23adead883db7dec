"""AWS IAM on a laptop: one key pair, and the verification of requests signed with it.

Signatures are recomputed with botocore's own signer, not with a second implementation, so that AWS accepts the same
requests as this module. There are no permissions: a caller with the key is the application's backend or a function.
"""

from __future__ import annotations

import base64
import configparser
import contextlib
import functools
import hashlib
import hmac
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPMessage
from pathlib import Path
from typing import NamedTuple, Self

from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

ACCOUNT = "000000000000"
"""The account in ARNs and events. It has the right form, and belongs to nobody."""
SERVICE = "execute-api"
"""The service name in signatures, for both APIs and for `@connections`."""
ALGORITHM = "AWS4-HMAC-SHA256"
CLOCK_SKEW = 300
"""Seconds by which a signature's time may differ: AWS's five minutes."""


class KeyFileError(Exception):
    """The file with the key pair cannot be used; the message says what to do."""


class SignatureRefused(Exception):
    """The request has no valid signature. `error_type` is AWS's name for the reason; the HTTP status is 403."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(f"{error_type}: {message}")
        self.error_type = error_type
        self.message = message


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The credentials of the backend and the functions on this machine."""

    access_key_id: str
    secret_access_key: str = field(repr=False)

    @property
    def credentials(self) -> ReadOnlyCredentials:
        """The pair in botocore's form."""
        return ReadOnlyCredentials(self.access_key_id, self.secret_access_key, None)

    @classmethod
    def create(cls) -> Self:
        """A new random pair in the form of an IAM user's."""
        name = base64.b32encode(secrets.token_bytes(10)).decode()
        return cls("AKIA" + name, base64.b64encode(secrets.token_bytes(30)).decode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a pair that `load_or_create` wrote.

        Raises:
            FileNotFoundError: there is none.
            KeyFileError: users other than its owner can read the file, or it holds no key pair.
        """
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise KeyFileError(
                f"{path} can be read by others (mode {mode:o}): chmod 600 it, or delete it for a new pair"
            )
        file = configparser.ConfigParser(interpolation=None)
        try:
            file.read_string(path.read_text())
            return cls(file["default"]["aws_access_key_id"], file["default"]["aws_secret_access_key"])
        except (configparser.Error, KeyError, UnicodeDecodeError):
            raise KeyFileError(f"{path} holds no key pair: delete it for a new one") from None

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """The pair at `path`. The first call creates it, readable by its owner only.

        The file is an AWS credentials file: with `AWS_SHARED_CREDENTIALS_FILE=<path>` any AWS client signs with it.

        Raises:
            KeyFileError: as `load`.
        """
        with contextlib.suppress(FileNotFoundError):
            return cls.load(path)
        pair = cls.create()
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{pair.access_key_id}")
        draft.touch(mode=0o600, exist_ok=False)
        draft.write_text(
            f"[default]\naws_access_key_id = {pair.access_key_id}\naws_secret_access_key = {pair.secret_access_key}\n"
        )
        try:
            # Creating a link is atomic: if two processes start together, both use the pair of the first one.
            path.hardlink_to(draft)
        except FileExistsError:
            return cls.load(path)
        finally:
            draft.unlink()
        return pair


class Caller(NamedTuple):
    """The signer of a request, as in an event's `requestContext.authorizer.iam`."""

    access_key: str
    account_id: str
    user_id: str
    user_arn: str


class SignatureVerifier:
    """Checks that requests to the two APIs are signed with the local key pair.

    One check took 50 µs on the machine it was written on, 10 of them for deriving the day's key. Two thousand posts a
    second take a tenth of a core, so caching keys is not worth a second implementation of AWS's derivation.
    """

    def __init__(self, key_pair: KeyPair, region: str, clock: Callable[[], float] = time.time) -> None:
        self.region = region
        self._key_pair = key_pair
        self._clock = clock
        self._signer = _Recomputation(key_pair.credentials, SERVICE, region)
        self._caller = Caller(
            key_pair.access_key_id, ACCOUNT, "AIDA" + key_pair.access_key_id[4:], f"arn:aws:iam::{ACCOUNT}:user/local"
        )

    def verify(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Caller:
        """Verify a request's signature. Returns the signer.

        Args:
            method: the HTTP method.
            target: path and query as received, including percent-encoding: `%3D` is signed as `%253D`.
            headers: case-insensitive, including `Authorization`. The signature covers a security token like any
                `x-amz-` header; it is not checked otherwise, since no temporary credentials are issued here.
            body: the whole body; its hash is always part of the signature.

        Raises:
            SignatureRefused: the signature is missing or wrong.
        """
        authorization = headers.get("Authorization")
        if not authorization:
            raise SignatureRefused("MissingAuthenticationTokenException", "Missing Authentication Token")
        access_key, scope, names, signature = _parse(authorization)
        if access_key != self._key_pair.access_key_id:
            raise SignatureRefused(
                "UnrecognizedClientException", "The security token included in the request is invalid."
            )
        timestamp = headers.get("X-Amz-Date", "")
        self._check_scope(scope, timestamp)
        self._check_time(timestamp)
        must = {"host"} | {name.lower() for name in headers if name.lower().startswith("x-amz-")}
        if not must.issubset(names):
            missing = ", ".join(sorted(must.difference(names)))
            raise SignatureRefused("InvalidSignatureException", f"Not all headers that must be are signed: {missing}")
        payload = hashlib.sha256(body).hexdigest()
        expected = self._signature(method, target, {name: headers.get(name, "") for name in names}, timestamp, payload)
        right = hmac.compare_digest(expected.encode(), signature.encode(errors="backslashreplace"))
        if not right or headers.get("X-Amz-Content-SHA256", payload) != payload:
            raise SignatureRefused(
                "InvalidSignatureException",
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
                "Access Key and signing method. Consult the service documentation for details.",
            )
        return self._caller

    def _signature(self, method: str, target: str, signed: Mapping[str, str], timestamp: str, payload: str) -> str:
        named = HTTPMessage()
        for name, value in signed.items():
            named[name] = value.encode(errors="backslashreplace").decode()  # Undecodable bytes cannot have been signed.
        url = "http://gateway" + target.encode(errors="backslashreplace").decode()
        request = AWSRequest(method, url, {"X-Amz-Content-SHA256": payload})
        request.context = {"timestamp": timestamp, "signed": named}
        canonical = self._signer.canonical_request(request)
        return self._signer.signature(self._signer.string_to_sign(request, canonical), request)

    def _check_scope(self, scope: str, timestamp: str) -> None:
        for wanted, given, what in zip(
            (timestamp[:8], self.region, SERVICE, "aws4_request"),
            scope.split("/"),
            ("the date of X-Amz-Date", "a valid region", "the correct service", "a valid terminator"),
            strict=True,
        ):
            if wanted != given:
                raise SignatureRefused(
                    "InvalidSignatureException", f"Credential should be scoped to {what}: {wanted!r}, not {given!r}."
                )

    def _check_time(self, timestamp: str) -> None:
        try:
            age = self._clock() - _seconds(timestamp)
        except ValueError:
            raise SignatureRefused("IncompleteSignatureException", "X-Amz-Date must be YYYYMMDD'T'HHMMSS'Z'.") from None
        if age > CLOCK_SKEW:
            raise SignatureRefused("InvalidSignatureException", f"Signature expired: {timestamp} is {age:.0f} s ago.")
        if age < -CLOCK_SKEW:
            raise SignatureRefused("InvalidSignatureException", f"Signature not yet current: {timestamp}.")


@functools.lru_cache(maxsize=16)
def _seconds(timestamp: str) -> float:
    """A signature's time in seconds since the epoch; all requests of one second share it."""
    return datetime.strptime(timestamp, SIGV4_TIMESTAMP).replace(tzinfo=UTC).timestamp()


class _Recomputation(SigV4Auth):
    """botocore's signer, over the headers that the client lists as signed."""

    def headers_to_sign(self, request: AWSRequest) -> HTTPMessage:
        signed: HTTPMessage = request.context["signed"]
        return signed


def _parse(authorization: str) -> tuple[str, str, list[str], str]:
    """Access key, credential scope, names of the signed headers, signature."""
    algorithm, _, rest = authorization.partition(" ")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    access_key, _, scope = parts.get("Credential", "").partition("/")
    names = parts.get("SignedHeaders", "").lower().split(";")
    signature = parts.get("Signature", "")
    if algorithm != ALGORITHM or scope.count("/") != 3 or not all(names) or not signature:
        raise SignatureRefused(
            "IncompleteSignatureException",
            f"Authorization header requires {ALGORITHM} with 'Credential', 'SignedHeaders' and 'Signature'.",
        )
    return access_key, scope, names, signature
