"""Any number of users in a store, in the service's own layout: a script copies one whom the service wrote itself.

They stand in a ring: each is a mutual contact of the same number of neighbours on both sides, is online with one
device, has been announced, and was told of a contact's change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.environment import Sandbox, connection
from shared.presence import Connection
from shared.store import KINDS

BATCH = 1000
"""Users that one call writes."""
CONNECTION = "ConnQ%sw="
"""The id of a user's one connection, about as long as API Gateway's."""
COPY = """
local ring, template, places, due = cjson.decode(ARGV[1]), cjson.decode(ARGV[2]), cjson.decode(ARGV[3]), ARGV[4]
local function name(place) return ring.prefix .. string.format('%07d', place % ring.count) end
for _, at in ipairs(places) do
  local place, id = at[1], name(at[1])
  local bucket = 'presence:{' .. at[2] .. '}:'
  local function key(kind) return bucket .. kind .. ':' .. id end
  for _, kind in ipairs(template.kinds) do redis.call('DEL', key(kind)) end
  redis.call('HSET', key('user'), unpack(template.user))
  local connection = string.format(template.connection, id)
  redis.call('HSET', key('user'), '@' .. connection, template.fixed, '!' .. connection, template.beat)
  redis.call('PEXPIRE', key('user'), template.keep)
  redis.call('ZADD', bucket .. 'due', due, id)
  for step = 1, ring.contacts / 2 do
    redis.call('SADD', key('contacts'), name(place + step), name(place - step))
    redis.call('SADD', key('sees'), name(place + step), name(place - step))
  end
end
"""


@dataclass(frozen=True, slots=True)
class Ring:
    """So many users, each with an even number of contacts; their ids begin with a prefix of their own."""

    prefix: str
    count: int
    contacts: int

    def id(self, place: int) -> str:
        """The user at a place, counted around."""
        return f"{self.prefix}{place % self.count:07d}"

    def contacts_of(self, place: int) -> list[str]:
        """The neighbours of a place."""
        steps = range(1, self.contacts // 2 + 1)
        return [self.id(place + step) for step in steps] + [self.id(place - step) for step in steps]

    def connection(self, place: int) -> Connection:
        """The one connection of a user."""
        return connection(self.id(place), CONNECTION % self.id(place))


class People:
    """Writes the users of a ring, as often as a benchmark wants.

    Making one takes the store to be empty. Time moves on by some seconds, so that nobody waits for anything.

    Raises:
        AssertionError: copies would not be what the service writes.
    """

    def __init__(self, sandbox: Sandbox, ring: Ring) -> None:
        self._sandbox, self.ring = sandbox, ring
        self._copy = sandbox.client.register_script(COPY)
        self._began = sandbox.clock.now
        self._kept = self._written_by_service(0)
        for place in (ring.count // 2, ring.count - 1):
            self.check(place)

    def check(self, place: int) -> None:
        """Hold a copy against what the service writes, at the same time as the one that is copied.

        Raises:
            AssertionError: they differ.
        """
        self._sandbox.clock.now = self._began
        by_service = self._written_by_service(place)
        self.write([place])
        copied = self._kept_of(self.ring.id(place))
        assert copied == by_service, f"{copied} is not {by_service}"
        self.forget(self.ring.id(place))

    def write(self, places: Sequence[int] | None = None) -> None:
        """Write all users, or those at some places, over whatever is kept of them."""
        ring, kept, store = self.ring, self._kept, self._sandbox.store
        user = {field.decode(): value.decode() for field, value in kept["user"].items()}
        sample = ring.connection(0).id
        template = {
            "kinds": KINDS,
            "connection": CONNECTION,
            "fixed": user.pop(f"@{sample}"),
            "beat": user.pop(f"!{sample}"),
            "user": [word for field in user.items() for word in field],
            "keep": 30 * 86_400_000,
        }
        whole = range(ring.count) if places is None else places
        for start in range(0, len(whole), BATCH):
            some = [(place, store.bucket_of(ring.id(place))) for place in whole[start : start + BATCH]]
            self._copy(args=[*(json.dumps(value) for value in (asdict(ring), template, some)), int(kept["due"])])
        self._sandbox.refresh()

    def _written_by_service(self, place: int) -> dict[str, Any]:
        """Let the service write one user, and give what it kept, by kind, and `due`. Nothing stays in the store."""
        sandbox, ring, speaker = self._sandbox, self.ring, self.ring.connection(place)
        if ring.contacts:
            sandbox.service.set_contacts(speaker.user_id, ring.contacts_of(place))
        sandbox.rest()
        sandbox.open(speaker)
        sandbox.rest()
        if ring.contacts:
            sandbox.open(ring.connection(place + 1))  # of whom this user is told
        sandbox.rest()
        sandbox.say({"action": "heartbeat"}, speaker)
        kept = self._kept_of(speaker.user_id)
        for user in (speaker.user_id, *ring.contacts_of(place)):
            self.forget(user)
        return kept

    def forget(self, user: str, kinds: Sequence[str] = KINDS) -> None:
        """Leave nothing of a user in the store, or nothing of these kinds."""
        client, store = self._sandbox.client, self._sandbox.store
        client.delete(*(store.key(kind, user) for kind in kinds))
        client.zrem(f"presence:{{{store.bucket_of(user)}}}:due", user)

    def _kept_of(self, user: str) -> dict[str, Any]:
        client, store = self._sandbox.client, self._sandbox.store
        reads: dict[Any, Callable[[str], Any]] = {b"hash": client.hgetall, b"set": client.smembers}
        keys = {kind: store.key(kind, user) for kind in KINDS}
        kept: dict[str, Any] = {kind: reads[client.type(key)](key) for kind, key in keys.items() if client.exists(key)}
        return {**kept, "due": client.zscore(f"presence:{{{store.bucket_of(user)}}}:due", user)}
