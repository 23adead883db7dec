"""AWS Signature Version 4 without an SDK: a key for one service at one moment, what it signs, and presigned URLs.

Importing botocore takes longer than the rest of a cold start, and signing with it longer than a post
(docs/decisions/0010 and 0011). What is signed and sent is not decided here: posts are `push.py`'s matter, signing in
to the cache is `store.py`'s. The tests compare with botocore's signer, byte for byte.

Source: AWS IAM User Guide, "Create a signed AWS API request".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote, urlencode

ALGORITHM = "AWS4-HMAC-SHA256"
_NO_BODY = hashlib.sha256().hexdigest()


class Signer:
    """Signs requests to one service, all as of one moment.

    Attributes:
        moment: that moment, as signed requests carry it.
        credential: the access key's id and what the signature is good for, as they carry it.
        token: the session token, "" for credentials that have none.

    Args:
        service: the name for which is signed: `execute-api`, `elasticache`.
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
        """The URL of a GET of `/` that is good for `lifetime` seconds, without its scheme.

        The names in `query` are plain ASCII words; its values may be anything.
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
