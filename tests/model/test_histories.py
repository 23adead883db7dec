"""Random histories of the whole service, compared with the model.

Most run on a real server, which is the fastest; a few run on fakeredis and on a cluster, where keys and slots matter.
A failing history is shrunk and printed with its seed. In CI there are four times as many (`tests/conftest.py`).
"""

from __future__ import annotations

import hypothesis.strategies as st
import redis
from hypothesis import HealthCheck, given, settings

from tests.model.conftest import Client
from tests.model.histories import USERS, Player, Step, histories
from tests.model.world import World

HISTORIES = settings().max_examples
SEEDS = st.integers(0, 2**20)
ACQUAINTED = st.sampled_from([True, True, True, False])


def play(client: Client, steps: list[Step], *, faulty: bool, watched: bool, seed: int, acquainted: bool) -> None:
    """Play a history, compare after each step, and let the world settle."""
    client.flushall()
    world = World(client, USERS, lossless=not faulty, watched=watched, seed=seed)
    try:
        player = Player(world)
        if acquainted:
            for user in USERS:
                world.set_contacts(user, add=[other for other in USERS if other > user])
            for user in USERS:
                world.sync(world.connect(user))
        for step in steps:
            player.play(step)
            if watched:
                world.check()
        world.settle_down()
        world.check()
        world.check_pictures()
        world.fall_silent("dan")
    finally:
        world.close()


@settings(max_examples=HISTORIES)
@given(steps=histories(faulty=False, size=40), seed=SEEDS, acquainted=ACQUAINTED)
def test_records_are_exact_without_faults(server: redis.Redis, steps: list[Step], seed: int, acquainted: bool) -> None:
    """Every record is exact at every moment, and each change is sent once, only to those who may see it."""
    play(server, steps, faulty=False, watched=True, seed=seed, acquainted=acquainted)


@settings(max_examples=HISTORIES // 2)
@given(steps=histories(faulty=False, size=40), seed=SEEDS, acquainted=ACQUAINTED)
def test_users_settle_without_reads(server: redis.Redis, steps: list[Step], seed: int, acquainted: bool) -> None:
    """Reading settles a user, so constant reads could hide faults that occur when nobody reads."""
    play(server, steps, faulty=False, watched=False, seed=seed, acquainted=acquainted)


@settings(max_examples=HISTORIES)
@given(steps=histories(faulty=True, size=40), seed=SEEDS, acquainted=ACQUAINTED)
def test_clients_end_up_right_after_faults(server: redis.Redis, steps: list[Step], seed: int, acquainted: bool) -> None:
    """Functions die at any step; frames are lost, late, reordered, duplicated: in the end every client is right."""
    play(server, steps, faulty=True, watched=True, seed=seed, acquainted=acquainted)


@settings(max_examples=HISTORIES // 8, suppress_health_check=list(HealthCheck))
@given(steps=histories(faulty=True, size=25), seed=SEEDS, acquainted=ACQUAINTED)
def test_histories_hold_on_every_kind_of_store(client: Client, steps: list[Step], seed: int, acquainted: bool) -> None:
    """The same on fakeredis, a server and a cluster of three nodes: all keys of a user share one slot."""
    play(client, steps, faulty=True, watched=True, seed=seed, acquainted=acquainted)
