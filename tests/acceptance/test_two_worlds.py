"""Two worlds that differ only in what a hidden user does: a viewer cannot tell them apart."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import redis

from shared.connection import Connection
from shared.delivery import Post
from shared.messages import StatusChange, Sync
from shared.settings import Settings
from tests.support.service import Bench


def secretly(bench: Bench, rng: random.Random, connections: list[Connection]) -> None:
    """One random action of a hidden user."""
    match rng.randrange(8):
        case 0 | 1:
            connections.append(bench.open("hider", device=rng.choice(["", "phone"])))
        case 2 if connections:
            bench.service.leave("hider", connections.pop().id)
        case 3 if connections:
            bench.service.set_user_offline("hider", connections.pop(0).id)
        case 4 | 5 if connections:
            bench.update(connections[-1], status=rng.choice(["online", "busy", "away"]))
        case 6 if connections:
            bench.update(connections[-1], customStatus={"text": f"secret {rng.random()}"})
        case _:
            bench.service.set_status("hider", StatusChange(status=rng.choice(["busy", "online"]), scope="user"))


def world(client: redis.Redis, seed: int, hidden: dict[str, Any], *, quiet: bool) -> tuple[list[str], Bench]:
    """A history in which a user hides from a viewer and then does nothing (`quiet`) or a lot; the rest is the same.

    Returns everything that the viewer learns, with its times, and the service at the end.
    """
    client.flushall()
    bench, script, secret = Bench(client, Settings(buckets=4)), random.Random(seed), random.Random(seed + 1000)
    bench.service.contacts.change("viewer", ["hider", "other"])
    bench.service.contacts.change("hider", ["other"])
    viewer, other, hider = (bench.open(user, f"{user}=") for user in ("viewer", "other", "hider"))
    bench.update(hider, status="busy", customStatus={"text": "public", "until": bench.clock() + 60_000})
    bench.sweep(3)
    bench.service.contacts.set_privacy("hider", **hidden)
    trace: list[str] = []

    def note(frame: Post) -> None:
        if frame.connection_id == viewer.id:
            fields = json.loads(frame.data)
            fields.pop("snapshot", None)  # a random name
            trace.append(f"{bench.clock()} {sorted(fields.items())}")

    bench.pusher.deliver = note
    bench.service.leave("hider", hider.id)
    connections: list[Connection] = []
    for step in range(40):
        if not quiet:
            secretly(bench, secret, connections)
        if step % 5 == 2:
            bench.update(other, status=script.choice(["online", "busy", "away"]))
        bench.sweep(script.choice([0.5, 1, 3, 8]))
        bench.beat(viewer, seq=script.choice([None, bench.clock()]))
        bench.beat(other)
        if step % 9 == 0:
            bench.service.sync(viewer, Sync(action="sync"))
        trace.append(str([sorted(r.items()) for r in bench.service.get_bulk_presence("viewer", ["hider", "other"])]))
    return trace, bench


HIDDEN: dict[str, dict[str, Any]] = {
    "invisible": {"invisible": True},
    "hide": {"hide_from": ["viewer"]},
    "block": {"blocks": ["viewer"]},
}
SHOWN: dict[str, dict[str, Any]] = {
    "invisible": {"invisible": False},
    "hide": {"hide_from": []},
    "block": {"blocks": []},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("way", HIDDEN)
def test_21_two_worlds_give_a_viewer_identical_traces(client: redis.Redis, way: str, seed: int) -> None:
    """Line 21: a hidden user does nothing in one world and a lot in the other: the viewer gets identical frames."""
    quiet, _ = world(client, seed, HIDDEN[way], quiet=True)
    busy, _ = world(client, seed, HIDDEN[way], quiet=False)
    assert quiet == busy


@pytest.mark.parametrize("way", HIDDEN)
def test_21_showing_again_reveals_only_the_present_record(client: redis.Redis, way: str) -> None:
    """Line 21: when the user shows again, the viewer gets one newer frame with the present record and nothing older."""
    _, bench = world(client, 7, HIDDEN[way], quiet=False)
    connection = bench.open("hider", device="desk", device_type="desktop")
    bench.service.set_status("hider", StatusChange(status="away", scope="user"))
    bench.update(connection, customStatus={"text": "present"})
    bench.sweep(3)
    bench.pusher.clear()
    bench.service.contacts.set_privacy("hider", **SHOWN[way])
    bench.sweep(3)
    [change] = bench.pusher.changes("viewer=", "hider")
    assert change["type"] == "user_online"
    assert {name: change[name] for name in ("status", "customStatus", "lastSeen")} == {
        "status": "away",
        "customStatus": {"text": "present", "emoji": "", "until": None},
        "lastSeen": None,
    }
    record = bench.sees("viewer", "hider")
    assert record == {name: change[name] for name in record}
