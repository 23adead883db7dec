"""Signing in to ElastiCache with IAM: each connection with a token of its own, by the credentials of that moment.

Source: Amazon ElastiCache User Guide, "Authenticating with IAM".
"""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime
from urllib.parse import urlsplit

import redis

from shared.settings import Settings
from shared.sigv4 import Signer

TOKEN_LIFE = 900
"""Seconds in which a connection must have signed in with its token; AWS accepts no longer ones."""
MAX_DOUBLINGS = 5
"""How often the pause after a failed sign-in doubles, at most."""


class IamTokens(redis.CredentialProvider):
    """Creates the tokens. A host name with `.serverless.` in it is a serverless cache's, as in AWS's own drivers.

    Attributes:
        unanswered: tokens created since Redis last answered a call.
    """

    def __init__(self, settings: Settings) -> None:
        self.unanswered = 0
        self._user, self._cache = settings.redis_iam_user, settings.redis_iam_cache.lower()
        self._query = {"Action": "connect", "User": self._user}
        if ".serverless." in (urlsplit(settings.redis_url).hostname or ""):
            self._query["ResourceType"] = "ServerlessCache"

    def get_credentials(self) -> tuple[str, str]:
        """The user, and a token as the password."""
        self.unanswered += 1
        signer = Signer("elasticache", os.environ, datetime.now(UTC))
        return self._user, signer.presign(self._cache, self._query, TOKEN_LIFE)

    def pause(self, shortest: float) -> float:
        """Seconds for which no call should be tried after a failure.

        ElastiCache refuses a throttled sign-in with the same words as any other trouble, and a fleet that retried each
        second would keep the throttle in force. So tokens that led to nothing make the pause longer, with jitter.
        """
        if not self.unanswered:
            return shortest
        longest: float = shortest * 2 ** min(self.unanswered, MAX_DOUBLINGS)
        return longest * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
