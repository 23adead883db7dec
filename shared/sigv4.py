"""AWS Signature Version 4 without an SDK: signed headers, and presigned URLs, for one service as of one moment.

Importing botocore takes longer than the rest of a cold start, and signing with it longer than a post
(docs/decisions/0010 and 0011). The tests compare every signature with botocore's, byte for byte.

Not here: which requests are signed, and sending them. `push.py` posts frames, `store.py` signs in to the cache.

Source: AWS IAM User Guide, "Create a signed AWS API request".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote, urlencode

ALGORITHM = "AWS4-HMAC-SHA256"
_NO_BODY = hashlib.sha256().hexdigest()
_RESERVED = re.compile(r"[^A-Za-z0-9_.~/-]")


class Signer:
    """The signing key for one service as of one moment.

    Attributes:
        moment: that moment, in the format of signed requests.
        credential: the access key's id and the scope of the signature, in the format of signed requests.
        token: the session token, "" for credentials that have none.

    Args:
        service: the name in the signature's scope: `execute-api`, `elasticache`.
        environ: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, and `AWS_SESSION_TOKEN` if there is one.
        at: the moment, in UTC.

    Raises:
        KeyError: the environment has no credentials or no region.
    """

    def __init__(self, service: str, environ: Mapping[str, str], at: datetime) -> None:
        self.moment = at.strftime("%Y%m%dT%H%M%SZ")
        self.token = environ.get("AWS_SESSION_TOKEN", "")
        self._scope = f"{self.moment[:8]}/{environ['AWS_REGION']}/{service}/aws4_request"
        self.credential = f"{environ['AWS_ACCESS_KEY_ID']}/{self._scope}"
        self._key = b"AWS4" + environ["AWS_SECRET_ACCESS_KEY"].encode()
        for part in self._scope.split("/"):
            self._key = hmac.digest(self._key, part.encode(), "sha256")

    def sign(self, canonical_request: str) -> str:
        """The signature of a request in its canonical form, in hexadecimal digits."""
        digest = hashlib.sha256(canonical_request.encode()).hexdigest()
        to_sign = f"{ALGORITHM}\n{self.moment}\n{self._scope}\n{digest}"
        return hmac.digest(self._key, to_sign.encode(), "sha256").hex()

    def presign(self, host: str, query: Mapping[str, str], lifetime: int) -> str:
        """The URL of a `GET /` that is valid for `lifetime` seconds, without its scheme.

        Parameter names in `query` are plain ASCII; values may be any text.
        """
        query = {
            **query,
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": self.credential,
            "X-Amz-Date": self.moment,
            "X-Amz-Expires": str(lifetime),
            "X-Amz-SignedHeaders": "host",
        }
        if self.token:
            query["X-Amz-Security-Token"] = self.token
        canonical = urlencode(sorted(query.items()), safe="", quote_via=quote)
        signature = self.sign(f"GET\n/\n{canonical}\nhost:{host}\n\nhost\n{_NO_BODY}")
        return f"{host}/?{urlencode(query, safe='', quote_via=quote)}&X-Amz-Signature={signature}"


class HeaderSigner:
    """Signs requests to one host in their headers. The requests have no query.

    Key, date and signed headers are prepared once, so each request costs three hashes.
    """

    def __init__(self, signer: Signer, host: str) -> None:
        self._signer = signer
        self._headers = {"x-amz-date": signer.moment}
        if signer.token:
            self._headers["x-amz-security-token"] = signer.token
        signed = {"host": host, **self._headers}
        self._names = ";".join(signed)
        self._canonical = "".join(f"{name}:{value}\n" for name, value in signed.items())
        self._authorization = f"{ALGORITHM} Credential={signer.credential}, SignedHeaders={self._names}, Signature="

    def headers(self, method: str, path: str, body: bytes) -> dict[str, str]:
        """The headers to send beside `Host`.

        `path` is percent-encoded, as it is sent. The canonical request encodes it once more, as for every service but
        S3; this does so in half the time of `urllib.parse.quote`.
        """
        canonical_path = _RESERVED.sub(lambda found: f"%{ord(found[0]):02X}", path)
        content = hashlib.sha256(body).hexdigest()
        signature = self._signer.sign(f"{method}\n{canonical_path}\n\n{self._canonical}\n{self._names}\n{content}")
        return {**self._headers, "authorization": self._authorization + signature}
