"""How many users there are and what they do: the input of the cost model. Nothing is computed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cache = Literal["public", "vpc", "url"]
Beats = Literal["socket", "http_api", "function_url"]


@dataclass(frozen=True, slots=True)
class Workload:
    """Users and their activity, as averages over the month."""

    users: float = 10_000
    contacts: int = 50
    """How many users may see each user."""
    online_share: float = 1.0
    """Share of the contacts that are online when a user changes."""
    heartbeat_interval: float = 30.0
    """Seconds. A device that is silent for two and a half intervals is dead."""
    changes_per_hour: float = 20 / 24
    """Status changes of each online user, chosen or caused by inactivity."""
    devices: int = 1
    """Connections of each online user."""
    hours_online: float = 24.0
    """Hours a day."""
    sessions_per_day: float = 0.0
    """How often a user comes online each day; 0 for users who are always online."""
    connection_minutes: float = 110.0
    """Minutes until the client opens its next connection: the token's life, at most 110."""
    cache: Cache = "public"
    # The next fields describe options that are not implemented, to estimate what they would save.
    beats: Beats = "socket"
    """How heartbeats are sent."""
    batch_window: float = 0.0
    """Seconds for which a viewer's changes are collected into one frame."""
    notified_share: float = 1.0
    """Share of the online contacts that are notified of a change."""
    heartbeat_memory: int = 256
    """MB of the function `heartbeat`."""

    @property
    def device_ttl(self) -> float:
        """Seconds after its last message until a device counts as dead."""
        return 2.5 * self.heartbeat_interval
