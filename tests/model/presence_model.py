"""The rules of presence again, as plain dictionaries, for comparison with histories.

Written from the design, not from the script: one process, no keys, no leases, no announcements, times as times, and a
full recomputation at every query. It models what viewers may see, not what is sent to them; `world.py` compares both.

A user is a dictionary of `connections`, settings (`claim`, `custom`, `invisible`, `last_seen`, `ended_at`), relations
(`contacts`, and `hidden`: viewer → why, frozen record), and the visible record. All times are ms.
"""

from __future__ import annotations

from typing import Any

from shared.connection import Connection
from shared.settings import Settings

TOMBSTONE = 60_000
"""How long a closed connection is remembered, in ms."""
YOUNG = 5_000
"""A 410 has no effect on a connection younger than this, in ms."""
FORMER = 86_400_000
"""How long a former contact keeps the frozen record, in ms."""
LEEWAY = 60_000
"""How long a connection may outlive its token, in ms."""

User = dict[str, Any]
Live = dict[str, Any]


class Model:
    """All users and everything that happens to them."""

    def __init__(self, settings: Settings) -> None:
        self.ttl, self.grace = round(settings.device_ttl * 1000), round(settings.grace * 1000)
        self.away_after, self.max_polling = round(settings.away_after * 1000), settings.max_devices
        self.retention = round(settings.retention * 1000)
        self.rank: dict[str, int] = {status: -place for place, status in enumerate(settings.status_priority)}
        self.users: dict[str, User] = {}
        self.loaded = True

    def user(self, id: str) -> User:
        """A user, who may never have connected."""
        if id not in self.users:
            self.users[id] = {
                "connections": {}, "claim": None, "custom": None, "invisible": False, "last_seen": "everyone",
                "ended_at": None, "contacts": set(), "hidden": {}, "last": None,
            } | _no_record()  # fmt: skip
        return self.users[id]

    # What happens to connections

    def connect(self, connection: Connection, now: int) -> bool:
        """A handshake; returns whether the connection may send messages."""
        u = self.user(connection.user_id)
        known = self._known(u, connection.id, now)
        if known is None:
            idle = not connection.active
            accepted = self._create(u, connection, connection.active, idle, connection.status, now)
        else:
            accepted = known["state"] in ("live", "lost")
        self.settle(connection.user_id, now)
        return accepted

    def hear(
        self,
        connection: Connection,
        now: int,
        *,
        active: bool = False,
        idle: bool | None = None,
        status: str | None = None,
        settle: bool = True,
    ) -> Live | None:
        """A message of a connection; returns the live connection, or None if it may not send messages."""
        u = self.user(connection.user_id)
        c = self._known(u, connection.id, now)
        if c is not None and c["state"] not in ("live", "lost"):
            return None
        if c is None or c["state"] == "lost":
            idle = not connection.active if idle is None else idle
            if not self._create(u, connection, active, idle, status or connection.status, now, guessed=status is None):
                return None
            c = u["connections"][connection.id]
        if c["guessed"] and status:
            c["status"], c["guessed"] = status, False
        c["beat"] = now
        c["deadline"] = min(now + self.ttl, c["cap"])
        if active:
            c["active"] = max(c["active"], now)
        if c["deadline"] <= now:
            self._close(c, "closed", now)
            return None
        if settle:
            self.settle(connection.user_id, now)
        return dict(c)

    def resume_polling(self, connection: Connection, now: int, *, begins: bool) -> None:
        """A polling device reopens if it starts over or left a while ago; its newest token counts."""
        u = self.user(connection.user_id)
        c = self._known(u, connection.id, now)
        if c and c["state"] in ("live", "lost"):
            c["cap"] = connection.token_expires_at * 1000 + LEEWAY
        elif c and (begins or c["beat"] + YOUNG < now):
            del u["connections"][connection.id]

    def knows(self, id: str, connection_id: str, now: int) -> bool:
        """Whether the user is known to own this connection."""
        return self._known(self.user(id), connection_id, now) is not None

    def replace(self, connection: Connection, old_id: str, now: int) -> None:
        """The rest of a `sync` with `replaces`: the new connection takes over from the old one, which ends."""
        u = self.user(connection.user_id)
        new, old = u["connections"].get(connection.id), u["connections"].get(old_id)
        if new is None or old_id == connection.id:
            return
        if old is None:
            u["connections"][old_id] = self._buried(now)
        else:
            if self._is_live(old, now) or self._lingers(old, now):
                if new["n"]["status"] == 0:
                    new["status"], new["guessed"] = old["status"], old["guessed"]
                new["active"] = max(new["active"], old["active"])
            self._close(old, "closed", now)
        self.settle(connection.user_id, now)

    def disconnect(self, id: str, connection_id: str, now: int) -> None:
        """The socket closed: its grace starts, unless it was not live any more."""
        self.settle(id, now)
        u = self.user(id)
        c = u["connections"].get(connection_id)
        if c is None:
            u["connections"][connection_id] = self._buried(now)
        elif c["state"] == "live":
            u["last"] = now
            self._close(c, "disconnected", now, now + self.grace)
        elif c["state"] == "lost":
            c["state"] = "disconnected"
        self.settle(id, now)

    def leave(self, id: str, connection_id: str, now: int) -> None:
        """Sign-out of one connection, without a grace."""
        self.settle(id, now)
        u = self.user(id)
        c = u["connections"].get(connection_id)
        if c is None:
            u["connections"][connection_id] = self._buried(now)
        else:
            if self._is_live(c, now):
                u["last"] = now
            if c["state"] != "closed":
                self._close(c, "closed", now)
        self.settle(id, now)

    def lost(self, id: str, connection_ids: list[str], now: int) -> None:
        """Posts to these sockets got 410."""
        self.settle(id, now)
        for connection_id in connection_ids:
            c = self.user(id)["connections"].get(connection_id)
            if c and self._is_live(c, now) and c["connected"] + YOUNG < now:
                self._close(c, "lost", now, min(c["deadline"], now + self.grace))
        self.settle(id, now)

    def sign_out(self, id: str, now: int) -> None:
        """Every connection ends, and connections and tokens from before now are refused."""
        self.settle(id, now)
        u = self.user(id)
        u["ended_at"] = now
        for c in u["connections"].values():
            if self._is_live(c, now):
                u["last"] = now
            if c["state"] != "closed":
                self._close(c, "closed", now)
        self.settle(id, now)

    # What users choose

    def choose(self, id: str, change: dict[str, Any], now: int, connection_id: str | None = None) -> None:
        """A status, a claim or a custom status: `change` is the message's JSON without its envelope."""
        u = self.user(id)
        c = u["connections"].get(connection_id) if connection_id else None

        def newer(field: str) -> bool:
            n = change.get("n")
            if c is None or n is None:
                return True
            accepted = bool(n > c["n"][field])
            c["n"][field] = max(n, c["n"][field])
            return accepted

        status = change.get("status")
        if status and change.get("scope") == "user" and newer("claim"):
            u["claim"] = None if status == "online" else {"status": status, "until": change.get("until")}
        elif status and change.get("scope", "device") == "device" and c is not None and newer("status"):
            c["status"], c["guessed"] = status, False
        if "customStatus" in change and newer("customStatus"):
            said = change["customStatus"] or {}
            kept = {"until": None, "text": "", "emoji": "", **said}
            u["custom"] = kept if kept["text"] or kept["emoji"] else None
        self.settle(id, now)

    def set_invisible(self, id: str, invisible: bool, now: int) -> None:
        """Appear offline to everybody, or no longer."""
        self.settle(id, now)
        u = self.user(id)
        u["invisible"] = invisible
        if invisible and not any(self._is_live(c, now) for c in u["connections"].values()):
            for c in u["connections"].values():
                if self._lingers(c, now):
                    self._close(c, "closed", now)
        self.settle(id, now)

    def set_last_seen(self, id: str, policy: str, now: int) -> None:
        """Who may see when the user was last online."""
        self.settle(id, now)
        u = self.user(id)
        if u["last_seen"] != policy:
            u["last_seen"] = policy
            if u["status"] == "offline" and u["seen"] is not None and u["changed"] + self.retention > now:
                u["changed"] = now
        self.settle(id, now)

    def hides(self, id: str, reason: str) -> set[str]:
        """From whom the user hides for this reason: `h` hides, `b` blocks, `B` is blocked by."""
        return {viewer for viewer, entry in self.user(id)["hidden"].items() if reason in entry["why"]}

    def relate(self, id: str, viewer: str, edit: str, now: int) -> None:
        """One change of the relation between a user and a viewer."""
        self.settle(id, now)
        u = self.user(id)
        entry = u["hidden"].get(viewer) or {"why": set(), "frozen": None, "left": None}
        before = self.related_view(viewer, id, now)
        saw = viewer in u["contacts"] and not entry["why"]
        reason = {"hide": "h", "show": "h", "block": "b", "unblock": "b", "blocked": "B", "unblocked": "B"}.get(edit)
        if edit == "contact":
            u["contacts"].add(viewer)
            entry["why"].discard("r")
            entry["left"] = None
        elif edit == "stranger":
            if viewer in u["contacts"]:
                entry["why"].add("r")
                entry["left"] = now
            u["contacts"].discard(viewer)
        elif reason and edit in ("hide", "block", "blocked"):
            entry["why"].add(reason)
        elif reason:
            entry["why"].discard(reason)
        sees = viewer in u["contacts"] and not entry["why"]
        if saw and not sees:
            on = u["status"] != "offline"
            seen = (now if on else u["seen"]) if u["last_seen"] == "everyone" else None
            entry["frozen"] = {"custom": before["customStatus"], "seen": seen, "changed": now if on else u["changed"]}
        elif viewer in u["contacts"] and not sees and entry["frozen"] is None:
            entry["frozen"] = {"custom": None, "seen": None, "changed": 0}
        if entry["why"]:
            u["hidden"][viewer] = entry
        else:
            u["hidden"].pop(viewer, None)
        self.settle(id, now)

    # What follows

    def settle(self, id: str, now: int) -> None:  # noqa: C901 - the rules in one place
        """Recompute a user: what has ended, what the user is now, and what contacts may see."""
        u = self.user(id)
        for connection_id, c in list(u["connections"].items()):
            if c["state"] == "live":
                u["last"] = max(u["last"] or 0, c["beat"])
            if self._forgotten(c, now):
                del u["connections"][connection_id]
        if u["claim"] and _ended(u["claim"]["until"], now):
            u["claim"] = None
        u["custom"] = self._custom(u["custom"], now)
        for viewer, entry in list(u["hidden"].items()):
            frozen = entry["frozen"]
            gone = entry["left"] is not None and entry["left"] + FORMER <= now
            if entry["why"] and frozen and not gone and frozen["custom"] != self._custom(frozen["custom"], now):
                frozen["custom"], frozen["changed"] = None, now
            if entry["why"] == {"r"} and gone:
                del u["hidden"][viewer]
        status, custom = self.real(id, now), u["custom"]
        if u["invisible"]:
            status, custom = "offline", self._custom(u["shown"], now)
        if (status, custom) != (u["status"], u["shown"]):
            if status != "offline":
                u["seen"] = None
            elif u["status"] != "offline":
                u["seen"] = u["last"] if self.real(id, now) == "offline" else now
            best = self._best(u, now)
            u["changed"] = now
            u["status"], u["shown"], u["type"] = status, custom, best["type"] if best else None

    def real(self, id: str, now: int) -> str:
        """The user's real status."""
        u = self.user(id)
        best = self._best(u, now)
        if best is None:
            return "offline"
        return str(u["claim"]["status"] if u["claim"] else self._status(u, best, now))

    def next_change(self, id: str, now: int) -> int | None:
        """When the user next changes through time alone."""
        u = self.user(id)
        times = [c["deadline"] for c in u["connections"].values() if self._is_live(c, now)]
        times += [c["deadline"] for c in u["connections"].values() if self._lingers(c, now)]
        candidates = self._candidates(u, now)
        if any(c["status"] == "online" for c in candidates):
            times.append(max(c["active"] for c in candidates) + self.away_after)
        customs = [u["custom"], u["shown"] if u["invisible"] else None]
        customs += [entry["frozen"]["custom"] for entry in u["hidden"].values() if entry["why"] and entry["frozen"]]
        times += [custom["until"] for custom in customs if custom and custom["until"] is not None]
        times += [u["claim"]["until"]] if u["claim"] and u["claim"]["until"] is not None else []
        return min((time for time in times if time > now), default=None)

    def related_view(self, viewer: str, id: str, now: int) -> dict[str, Any]:
        """What a viewer may see of a user by the relation between the two: a record of the protocol."""
        u = self.user(id)
        entry = u["hidden"].get(viewer) if viewer != id else None
        bare = {"userId": id, "status": "offline"}
        former = entry and entry["frozen"] and entry["left"] is not None and entry["left"] + FORMER > now
        if viewer != id and viewer not in u["contacts"] and not former:
            return bare
        told = u["last_seen"] == "everyone"
        if entry and entry["why"]:
            frozen = entry["frozen"]
            custom = self._custom(frozen["custom"], now)
            return self._offline(id, custom, frozen["seen"], frozen["changed"], now)
        if u["status"] == "offline":
            return self._offline(id, self._custom(u["shown"], now), u["seen"] if told else None, u["changed"], now)
        return {
            "userId": id,
            "status": u["status"],
            "customStatus": self._custom(u["shown"], now),
            "deviceType": u["type"],
            "lastSeen": None,
        }

    def _offline(
        self, id: str, custom: dict[str, Any] | None, seen: int | None, changed: int, now: int
    ) -> dict[str, Any]:
        """The record of an offline user, which is blank after the retention."""
        if changed + self.retention <= now:
            custom = seen = None
        return {"userId": id, "status": "offline", "customStatus": custom, "deviceType": None, "lastSeen": seen}

    def view(self, viewer: str, id: str, now: int) -> dict[str, Any]:
        """What a viewer may see of a user now, on every surface."""
        return self.related_view(viewer, id, now) if self.loaded else {"userId": id, "status": "offline"}

    def sockets(self, id: str, now: int) -> set[str]:
        """The open sockets of a user."""
        connections = self.user(id)["connections"].items()
        return {name for name, c in connections if self._is_live(c, now) and not c["polling"]}

    def own(self, id: str, now: int) -> dict[str, Any]:
        """The user's own real state, except the devices."""
        u = self.user(id)
        return {
            "status": self.real(id, now),
            "customStatus": u["custom"],
            "claim": u["claim"],
            "invisible": u["invisible"],
            "lastSeenPolicy": u["last_seen"],
        }

    def devices(self, id: str, now: int) -> dict[str, tuple[str, str, int, int]]:
        """The live connections of a user: device, status, when it connected and when it was last active."""
        connections = self.user(id)["connections"].items()
        return {
            name: (c["device"], c["status"], c["connected"], c["active"])
            for name, c in connections
            if self._is_live(c, now)
        }

    def numbers(self, id: str, connection_id: str) -> dict[str, int] | None:
        """The update counters of one connection."""
        c = self.user(id)["connections"].get(connection_id)
        return dict(c["n"]) if c else None

    # What the store may lose

    def lose(self, id: str) -> None:
        """The store lost the user's record and connections."""
        self.user(id).update(_no_record(), connections={}, last=None)

    def _create(
        self,
        u: User,
        said: Connection,
        active: bool,
        idle: bool,
        status: str | None,
        now: int,
        *,
        guessed: bool = False,
    ) -> bool:
        cap = (said.token_expires_at * 1000 + LEEWAY) if said.token_expires_at else 10**15
        ended = u["ended_at"]
        if ended is not None and (said.connected_at <= ended or said.token_issued_at * 1000 <= ended):
            return False
        polling = sum(c["polling"] and self._is_live(c, now) for c in u["connections"].values())
        if cap <= now or (said.polling and polling >= self.max_polling):
            return False
        device = said.device_id or said.id
        c = self._buried(now) | {
            "state": "live", "device": device, "type": said.device_type, "connected": said.connected_at,
            "polling": said.polling, "cap": cap, "status": status or "online", "guessed": guessed,
            "active": now - self.away_after if idle else now,
        }  # fmt: skip
        others = [
            (name == said.id, other["connected"], name)
            for name, other in u["connections"].items()
            if name == said.id or (other["device"] == device and not self._is_over(other, now))
        ]
        if others:
            before = u["connections"].pop(max(others)[2])
            c["status"], c["guessed"] = before["status"], before["guessed"]
            c["active"] = now if active else before["active"]
            if max(others)[0]:
                c["n"] = before["n"]
            elif before["state"] != "lost":
                u["connections"][max(others)[2]] = before
            if before["state"] == "disconnected":
                self._close(before, "closed", now)  # the new one takes over its grace
        c["deadline"] = min(now + self.ttl, cap)
        u["connections"][said.id] = c
        return True

    def _known(self, u: User, connection_id: str, now: int) -> Live | None:
        c: Live | None = u["connections"].get(connection_id)
        if c and c["state"] in ("closed", "disconnected") and self._forgotten(c, now):
            del u["connections"][connection_id]
            return None
        return c

    def _buried(self, now: int) -> Live:
        return {
            "state": "closed", "beat": now, "deadline": now, "active": now, "status": "online", "device": None,
            "type": "web", "connected": 0, "polling": False, "cap": 0, "guessed": False,
            "n": {"status": 0, "claim": 0, "customStatus": 0},
        }  # fmt: skip

    def _close(self, c: Live, state: str, now: int, deadline: int = 0) -> None:
        c.update(state=state, beat=now, deadline=deadline or now)

    def _is_live(self, c: Live, now: int) -> bool:
        return bool(c["state"] == "live" and c["deadline"] > now)

    def _is_over(self, c: Live, now: int) -> bool:
        return not self._is_live(c, now) and not self._lingers(c, now)

    def _lingers(self, c: Live, now: int) -> bool:
        return c["state"] in ("disconnected", "lost") and c["deadline"] > now

    def _forgotten(self, c: Live, now: int) -> bool:
        if c["state"] == "live":
            return not self._is_live(c, now)
        return not self._lingers(c, now) and (c["state"] == "lost" or c["beat"] + TOMBSTONE <= now)

    def _candidates(self, u: User, now: int) -> list[Live]:
        return [c for c in u["connections"].values() if self._is_live(c, now) or self._lingers(c, now)]

    def _status(self, u: User, c: Live, now: int) -> str:
        used = max(other["active"] for other in self._candidates(u, now))
        return "away" if c["status"] == "online" and used + self.away_after <= now else str(c["status"])

    def _best(self, u: User, now: int) -> Live | None:
        names = {id(c): name for name, c in u["connections"].items()}
        candidates = self._candidates(u, now)
        return max(
            candidates, key=lambda c: (self.rank[self._status(u, c, now)], c["active"], names[id(c)]), default=None
        )

    def _custom(self, custom: dict[str, Any] | None, now: int) -> dict[str, Any] | None:
        return None if custom is None or _ended(custom["until"], now) else custom


def _no_record() -> dict[str, Any]:
    return {"status": "offline", "shown": None, "seen": None, "type": None, "changed": 0}


def _ended(until: int | None, now: int) -> bool:
    return until is not None and until <= now
