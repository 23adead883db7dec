"""What can go wrong in API Gateway, on purpose: switches for tests and demonstrations.

Each is a thing that AWS says may happen. All are off unless someone sets them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Faults:
    """The switches; each may be turned while the gateway runs."""

    drop_posts: float = 0.0
    """Share (0 to 1) of posts to `@connections` that are answered 200 and never reach the client."""
    throttle_posts: float = 0.0
    """Share (0 to 1) of posts to `@connections` that are answered 429."""
    hang_posts_to: set[str] = field(default_factory=set)
    """Ids of connections to which a post gets no answer for 29 s, like one to a peer that is gone unnoticed."""
    drop_disconnects: float = 0.0
    """Share (0 to 1) of closed connections for which `$disconnect` is never invoked."""
    rng: random.Random = field(default_factory=random.Random)
    """Where chance comes from; seed it for a history that can be repeated."""

    def strikes(self, share: float) -> bool:
        """Whether this one is among the `share` that fails."""
        return share > 0 and self.rng.random() < share
