"""Faults of API Gateway that tests and demonstrations can switch on.

AWS documents each of them as possible. All are off by default.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Faults:
    """The faults; each can be changed while the gateway runs."""

    drop_posts: float = 0.0
    """Share (0 to 1) of posts to `@connections` that return 200 and never reach the client."""
    throttle_posts: float = 0.0
    """Share (0 to 1) of posts to `@connections` that return 429."""
    hang_posts_to: set[str] = field(default_factory=set)
    """Ids of connections to which a post gets no response for 29 s, as when a peer has vanished."""
    drop_disconnects: float = 0.0
    """Share (0 to 1) of closed connections for which `$disconnect` is never invoked."""
    rng: random.Random = field(default_factory=random.Random)
    """The source of randomness; seed it to make a run repeatable."""

    def strikes(self, share: float) -> bool:
        """Whether this call fails, with the probability `share`."""
        return share > 0 and self.rng.random() < share
