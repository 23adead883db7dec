"""Memory of Redis for each user, as `used_memory` grows when many are stored, against the plain layout: a hash (status,
custom status, when last seen), a set of devices, a set of contacts, none of which ever expires. Ours has besides: what
each device said last, when the user is due, what contacts were told and the user was told (lease and feed), when what
is forgotten is forgotten, and an index of whom the user may see. Each user is online with one device. Sets of contacts
are as large as `MEMORY USAGE` says of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import redis

from bench.endpoint import endpoint
from bench.environment import sandbox
from bench.people import People, Ring
from bench.report import Amount, Plot, Row, Scale, Target
from local.elasticache import RedisServer
from tests.support.clock import EPOCH

CONTACTS = (10, 50)
SAMPLE = 200
OURS = ("user", "contacts", "sees")
"""The kinds of keys that such a user has. The entry in the bucket's `due` comes on top."""


def run(scale: Scale) -> list[Row]:
    """Both layouts, with few contacts and with many."""
    rows = []
    for contacts in CONTACTS:
        ring = Ring("u", scale.pick(2_000, 20_000), contacts)
        ours, our_keys = _our_layout(ring)
        theirs, their_contacts = _plain_layout(ring)
        if contacts == CONTACTS[0]:
            aside = ours - our_keys["contacts"] - our_keys["sees"], theirs - their_contacts
            rows.append(_row("sets of contacts aside", *aside, Target("≤", 1.5)))
        note = ", ".join(f"{kind} {size:.0f}" for kind, size in our_keys.items())
        rows.append(_row(f"with {contacts} contacts", ours, theirs, None, f"bytes of keys: {note}"))
    return rows


def _our_layout(ring: Ring) -> tuple[float, dict[str, float]]:
    """Bytes for each user, and those of each kind of key, in a Redis that held nothing before."""
    with RedisServer.start() as server, endpoint() as posts, sandbox(server.url, posts.url) as running:
        people, store = People(running, ring), running.store
        grown = _grown(running.client, people.write)
        keys = {kind: [store.key(kind, ring.id(place)) for place in range(SAMPLE)] for kind in OURS}
        return grown / ring.count, {kind: _size(running.client, some) for kind, some in keys.items()}


def _plain_layout(ring: Ring) -> tuple[float, float]:
    """Bytes for each user, and those of the set of contacts."""
    with RedisServer.start() as server, redis.Redis.from_url(server.url) as client:
        grown = _grown(client, lambda: _write_plainly(client, ring))
        return grown / ring.count, _size(client, [f"contacts:{ring.id(place)}" for place in range(SAMPLE)])


def _grown(client: redis.Redis, write: Callable[[], None]) -> float:
    """By how many bytes Redis grows."""
    before = client.info("memory")["used_memory"]
    write()
    return float(client.info("memory")["used_memory"] - before)


def _size(client: redis.Redis, keys: Sequence[str]) -> float:
    """Bytes of one of these keys with what it holds, on average."""
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
    """Bytes for each user, both layouts."""
    bars = []
    for row in rows:
        what = row.what.removeprefix("memory of a user, ")
        bars += [(f"{what}: ours", row.ours.value), (f"{what}: plain", row.theirs.value if row.theirs else 0)]
    return Plot("Memory of Redis for each user", "B", bars, ours=[name for name, _ in bars if name.endswith("ours")])
