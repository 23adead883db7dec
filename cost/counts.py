"""How often each thing happens in a period: heartbeats, connections, changes, frames, script calls.

tests/cost/test_counts.py compares these numbers with a run of the real functions. What AWS bills for them is in
`usage.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp

from cost.assumptions import BUCKETS, KEEP_ALIVE, MESSAGE_UNIT, MONTH, snapshot_bytes
from cost.workload import Beats, Workload
from shared.upkeep import SWEEP_NAP_MS, SWEEP_PAUSE_MS


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each thing happens in a period."""

    hours: float
    device_hours: float
    beats: float
    """Heartbeats, however they are sent."""
    keep_alives: float
    """Messages that only keep a socket open, where heartbeats do not use the socket."""
    arrivals: float
    """Connections that bring a user online: their first `sync` notifies the contacts."""
    further: float
    """Connections of further devices: their first `sync` notifies nobody."""
    rotations: float
    """Connections that replace an older one, which the service closes."""
    departures: float
    """Users who go offline: all their connections close, and contacts are notified after the grace."""
    changes: float
    snapshots: float
    """Frames of snapshots that contain users."""
    fan_out: float
    """Frames to contacts."""
    own: float
    """Frames to a user's own devices."""
    upkeep: float
    """Users who are settled because a deadline passed, and who turn out to be still online."""
    looks: float
    """How often the sweeper reads the due sets."""
    sweeps: float
    """Runs of the sweeper."""

    @property
    def connects(self) -> float:
        """Handshakes."""
        return self.arrivals + self.further + self.rotations

    @property
    def settled(self) -> float:
        """How often users are settled.

        A user who leaves is settled twice: after the grace, and a minute after the socket closed, to delete its entry.
        For a user who stays, the second one coincides with the upkeep.
        """
        return 2 * self.departures + self.upkeep

    @property
    def announcements(self) -> float:
        """Changes of a user that contacts see."""
        return self.arrivals + self.departures + self.changes

    @property
    def posts(self) -> float:
        """Posted frames."""
        return self.fan_out + self.own + self.snapshots + self.rotations

    def messages(self, beats: Beats) -> float:
        """Messages that clients send through sockets."""
        return self.connects + self.changes + self.keep_alives + (self.beats if beats == "socket" else 0)

    def invocations(self, beats: Beats) -> dict[str, float]:
        """How often each function is invoked."""
        invoked = {
            "authorize": self.connects,
            "connect": self.connects,
            "disconnect": self.connects,
            "query": self.connects,
            "update": self.changes,
            "heartbeat": self.keep_alives + self.beats,
            "sweeper": self.sweeps,
        }
        if beats == "http_api":
            invoked |= {"api": self.beats, "heartbeat": self.keep_alives}
        return invoked

    @property
    def round_trips(self) -> dict[str, float]:
        """Round trips to Redis, by cause, without the sweeper's slow consistency check."""
        return {
            "heartbeats": self.beats + self.keep_alives,
            "connections": 2 * self.connects,  # $connect and $disconnect
            "syncs": self.arrivals + self.further + self.rotations,
            # For the frames of a change; an arrival's snapshot is read in the round trip that finds the targets.
            "views": self.announcements + self.further,
            "updates": self.changes,
            "fan-out": 2 * self.announcements,  # one finds the targets, one records the announcement
            "settling": self.settled,
            "looks": self.looks,
        }

    def calls(self, contacts: int) -> dict[str, float]:
        """Script calls, by cause. Each is one command; a round trip contains one for each bucket that it touches."""
        spread = min(contacts, BUCKETS)
        return {
            **self.round_trips,
            "views": self.announcements + spread * self.further,
            "fan-out": (spread + 1) * self.announcements,
            "looks": BUCKETS * self.looks,
        }


def count(workload: Workload, hours: float = MONTH) -> Counts:
    """Count what happens in a period, by default a month."""
    w = workload
    days = hours / 24
    user_hours = w.users * w.hours_online * days
    device_hours = user_hours * w.devices
    sessions = w.users * w.sessions_per_day * days
    if w.sessions_per_day:
        length = 60 * w.hours_online / w.sessions_per_day
        rotations = sessions * w.devices * max(0, ceil(length / w.connection_minutes) - 1)
    else:
        rotations = 60 * device_hours / w.connection_minutes
    changes = user_hours * w.changes_per_hour
    targets = w.contacts * w.online_share * w.notified_share * w.devices
    frames = (2 * sessions + changes) * targets
    # A frame opens a window; changes within the window share the next frame.
    frames_each_second = frames / device_hours / 3600 if device_hours else 0
    beats = 3600 * device_hours / w.heartbeat_interval
    # A user is settled when the oldest deadline passes. By then that device has sent a heartbeat half an interval ago.
    upkeep = 3600 * user_hours / (w.device_ttl - w.heartbeat_interval / 2)
    due_each_second = (upkeep + 2 * sessions) / (3600 * hours) if hours else 0
    return Counts(
        hours=hours,
        device_hours=device_hours,
        beats=beats,
        keep_alives=0 if w.beats == "socket" else 3600 * device_hours / KEEP_ALIVE,
        arrivals=sessions,
        further=sessions * (w.devices - 1),
        rotations=rotations,
        departures=sessions,
        changes=changes,
        snapshots=sessions * w.devices * ceil(snapshot_bytes(w) / MESSAGE_UNIT),
        fan_out=frames / (1 + frames_each_second * w.batch_window),
        own=changes * w.devices,
        upkeep=upkeep,
        looks=3600 * hours * looks_each_second(due_each_second) + 60 * hours,  # one more at the start of each run
        sweeps=60 * hours,
    )


def looks_each_second(due: float) -> float:
    """How often the sweeper reads the due sets in a second, when `due` users a second become due at random times.

    It looks again when the next user is due, but not before its pause has passed, and after a second at the latest.
    """
    pause, longest = SWEEP_PAUSE_MS / 1000, SWEEP_NAP_MS / 1000
    waits = (exp(-due * pause) - exp(-due * longest)) / due if due else longest - pause
    return 1 / (pause + waits)
