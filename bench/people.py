"""Any number of users in a store, in the service's own layout: a script copies a user that the service wrote.

They form a ring: each is a mutual contact of the same number of neighbors on both sides, is online with one device, has
been announced, and has been notified of a contact's change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.environment import Environment, connection
from shared.connection import Connection
from shared.store import KINDS

BATCH = 1000
"""Users in one call."""
CONNECTION = "ConnQ%sw="
"""The id of a user's connection, about as long as API Gateway's."""
COPY = """
local ring, template, places, due = cjson.decode(ARGV[1]), cjson.decode(ARGV[2]), cjson.decode(ARGV[3]), ARGV[4]
local function name(place) return ring.prefix .. string.format('%07d', place % ring.count) end
for _, at in ipairs(places) do
  local place, id = at[1], name(at[1])
  local bucket = 'presence:{' .. at[2] .. '}:'
  local function key(kind) return bucket .. kind .. ':' .. id end
  for _, kind in ipairs(template.kinds) do redis.call('DEL', key(kind)) end
  redis.call('HSET', key('user'), unpack(template.user))
  redis.call('HSET', key('user'), 'epoch', redis.call('HGET', bucket .. 'meta', 'epoch'))
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
    """A number of users, each with an even number of contacts; their ids start with a prefix."""

    prefix: str
    count: int
    contacts: int

    def id(self, place: int) -> str:
        """The id of the user at a place; places wrap around."""
        return f"{self.prefix}{place % self.count:07d}"

    def contacts_of(self, place: int) -> list[str]:
        """The neighbors of a place."""
        steps = range(1, self.contacts // 2 + 1)
        return [self.id(place + step) for step in steps] + [self.id(place - step) for step in steps]

    def connection(self, place: int) -> Connection:
        """The connection of a user."""
        return connection(self.id(place), CONNECTION % self.id(place))


class People:
    """Writes the users of a ring, as often as a benchmark needs them.

    The store must be empty when this is created. The clock moves by some seconds, so that nothing is pending.

    Raises:
        AssertionError: a copy differs from what the service writes.
    """

    def __init__(self, environment: Environment, ring: Ring) -> None:
        self._environment, self.ring = environment, ring
        self._copy = environment.client.register_script(COPY)
        self._began = environment.clock.now
        self._kept = self._written_by_service(0)
        for place in (ring.count // 2, ring.count - 1):
            self.check(place)

    def check(self, place: int) -> None:
        """Compare a copy with what the service writes at the same time.

        Raises:
            AssertionError: they differ.
        """
        self._environment.clock.now = self._began
        by_service = self._written_by_service(place)
        self.write([place])
        copied = self._kept_of(self.ring.id(place))
        assert copied == by_service, f"{copied} is not {by_service}"
        self.forget(self.ring.id(place))

    def write(self, places: Sequence[int] | None = None) -> None:
        """Write all users, or those at some places, and overwrite what is stored."""
        ring, kept, store = self.ring, self._kept, self._environment.store
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
        self._environment.refresh()

    def _written_by_service(self, place: int) -> dict[str, Any]:
        """Let the service write one user. Returns what it stored, by kind, and `due`. Nothing stays in the store."""
        environment, ring, speaker = self._environment, self.ring, self.ring.connection(place)
        if ring.contacts:
            environment.service.contacts.change(speaker.user_id, ring.contacts_of(place))
        environment.advance()
        environment.open(speaker)
        environment.advance()
        if ring.contacts:
            environment.open(ring.connection(place + 1))  # this user is notified
        environment.advance()
        environment.send({"action": "heartbeat"}, speaker)
        kept = self._kept_of(speaker.user_id)
        for user in (speaker.user_id, *ring.contacts_of(place)):
            self.forget(user)
        return kept

    def forget(self, user: str, kinds: Sequence[str] = KINDS) -> None:
        """Leave nothing of a user in the store, or nothing of these kinds."""
        client, store = self._environment.client, self._environment.store
        client.delete(*(store.key(kind, user) for kind in kinds))
        client.zrem(f"presence:{{{store.bucket_of(user)}}}:due", user)

    def _kept_of(self, user: str) -> dict[str, Any]:
        client, store = self._environment.client, self._environment.store
        reads: dict[Any, Callable[[str], Any]] = {b"hash": client.hgetall, b"set": client.smembers}
        keys = {kind: store.key(kind, user) for kind in KINDS}
        kept: dict[str, Any] = {kind: reads[client.type(key)](key) for kind, key in keys.items() if client.exists(key)}
        return {**kept, "due": client.zscore(f"presence:{{{store.bucket_of(user)}}}:due", user)}
