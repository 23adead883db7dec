"""Memory of Redis for each user: the growth of `used_memory` when many users are stored, compared with a plain layout.
That is a hash (status, custom status, last seen), a set of devices, and a set of contacts, none of which expires. Ours
also stores the last message of each device, the time at which the user is due, what was announced to contacts and to
the user (lease and feed), expiry times, and an index of the users whom the user may see. Each user is online with one
device. The size of the sets of contacts is the `MEMORY USAGE` of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import redis

from bench.endpoint import endpoint
from bench.environment import warm_environment
from bench.people import People, Ring
from bench.report import Amount, Plot, Row, Scale, Target
from local.elasticache import RedisServer
from tests.support.clock import EPOCH

CONTACTS = (10, 50)
SAMPLE = 200
OURS = ("user", "contacts", "sees")
"""The kinds of keys of such a user, besides the entry in the bucket's `due` set."""


def run(scale: Scale) -> list[Row]:
    """Both layouts, with few and with many contacts."""
    rows = []
    for contacts in CONTACTS:
        ring = Ring("u", scale.pick(2_000, 20_000), contacts)
        ours, our_keys = _our_layout(ring)
        theirs, their_contacts = _plain_layout(ring)
        if contacts == CONTACTS[0]:
            aside = ours - our_keys["contacts"] - our_keys["sees"], theirs - their_contacts
            rows.append(_row("without sets of contacts", *aside, Target("≤", 1.5)))
        note = ", ".join(f"{kind} {size:.0f}" for kind, size in our_keys.items())
        rows.append(_row(f"with {contacts} contacts", ours, theirs, None, f"bytes of keys: {note}"))
    return rows


def _our_layout(ring: Ring) -> tuple[float, dict[str, float]]:
    """Bytes of each user, and of each kind of key, in a new Redis."""
    with RedisServer.start() as server, endpoint() as posts, warm_environment(server.url, posts.url) as running:
        people, store = People(running, ring), running.store
        grown = _grown(running.client, people.write)
        keys = {kind: [store.key(kind, ring.id(place)) for place in range(SAMPLE)] for kind in OURS}
        return grown / ring.count, {kind: _size(running.client, some) for kind, some in keys.items()}


def _plain_layout(ring: Ring) -> tuple[float, float]:
    """Bytes of each user, and of the set of contacts."""
    with RedisServer.start() as server, redis.Redis.from_url(server.url) as client:
        grown = _grown(client, lambda: _write_plainly(client, ring))
        return grown / ring.count, _size(client, [f"contacts:{ring.id(place)}" for place in range(SAMPLE)])


def _grown(client: redis.Redis, write: Callable[[], None]) -> float:
    """The growth of Redis, in bytes."""
    before = client.info("memory")["used_memory"]
    write()
    return float(client.info("memory")["used_memory"] - before)


def _size(client: redis.Redis, keys: Sequence[str]) -> float:
    """The average size of these keys and their values, in bytes."""
    return sum(client.memory_usage(key, samples=0) or 0 for key in keys) / len(keys)


def _write_plainly(client: redis.Redis, ring: Ring) -> None:
    for begin in range(0, ring.count, 1_000):
        pipeline = client.pipeline(transaction=False)
        for place in range(begin, min(begin + 1_000, ring.count)):
            user = ring.id(place)
            pipeline.hset(f"presence:{user}", mapping={"status": "online", "customStatus": "", "lastSeen": str(EPOCH)})
            pipeline.sadd(f"devices:{user}", ring.connection(place).id)
            pipeline.sadd(f"contacts:{user}", *ring.contacts_of(place))
        pipeline.execute()


def _row(what: str, ours: float, theirs: float, target: Target | None, note: str = "") -> Row:
    plain = "the plain layout"
    return Row(f"memory of a user, {what}", Amount(ours, "B"), plain, Amount(theirs, "B"), ours / theirs, target, note)


def plot(rows: list[Row]) -> Plot:
    """Bytes of each user, in both layouts."""
    bars = []
    for row in rows:
        what = row.what.removeprefix("memory of a user, ")
        bars += [(f"{what}: ours", row.ours.value), (f"{what}: plain", row.theirs.value if row.theirs else 0)]
    return Plot("Memory of Redis for each user", "B", bars, ours=[name for name, _ in bars if name.endswith("ours")])
