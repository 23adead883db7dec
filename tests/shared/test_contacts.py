"""Contacts: many in one call, and concurrent calls."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import fakeredis
import pytest

from shared.commands import Command, EditRelations, SetPrivacy
from shared.delivery import Unavailable
from shared.presence import PresenceService
from shared.store import AnyResponse
from tests.support.service import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A service on fakeredis, whose graph is loaded."""
    bench = Bench(fakeredis.FakeRedis())
    yield bench
    bench.close()


def test_many_contacts_change_in_portions(bench: Bench) -> None:
    """Six hundred contacts change in portions, in order: a user who is added and removed in one call is no contact."""
    users = [f"user{number:03}" for number in range(600)]
    with bench.counted() as round_trips:
        bench.service.contacts.change("alice", users, users[550:], mutual=False)
    edits = [command.edits for trip in round_trips for command in trip if isinstance(command, EditRelations)]
    assert max(map(len, edits)) == 250
    assert bench.service.get_user_contacts("alice")["viewers"] == users[:550]
    assert [bench.service.get_user_contacts(user)["sees"] for user in (users[549], users[550])] == [["alice"], []]


class TurnStore:
    """A store that waits for its function's turn before each round trip."""

    def __init__(self, bench: Bench, turn: Callable[[], None]) -> None:
        self._store, self.buckets, self._turn = bench.store, bench.store.buckets, turn

    def call(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse]:
        if commands:
            self._turn()
        return self._store.call(commands, now)

    def call_each(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse | Unavailable]:
        if commands:
            self._turn()
        return self._store.call_each(commands, now)

    def users(self, cursor: str, count: int = 100, kinds: Sequence[str] = ()) -> tuple[set[str], str]:
        return self._store.users(cursor, count, kinds)

    def eviction_policy(self) -> str | None:
        return self._store.eviction_policy()


def take_turns(bench: Bench, order: Sequence[int], *calls: Callable[[PresenceService], None]) -> None:
    """Run calls concurrently; `order` names the call of each next round trip, as long as it has any left."""
    turns, moved, running = list(order), threading.Condition(), set(range(len(calls)))

    def turn(number: int) -> None:
        with moved:
            moved.wait_for(lambda: not turns or turns[0] == number)
            del turns[:1]
            moved.notify_all()

    def run(number: int) -> None:
        store = TurnStore(bench, lambda: turn(number))
        calls[number](PresenceService(store, bench.pusher, bench.settings, bench.clock, bench.metrics))
        with moved:
            running.discard(number)
            turns[:] = [other for other in turns if other in running]
            moved.notify_all()

    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(run, number) for number in range(len(calls))]:
            done.result()


@pytest.mark.parametrize("mutual", [True, False], ids=["mutual", "one way"])
def test_a_contact_that_is_added_and_removed_concurrently_is_in_snapshots_or_is_no_contact(
    bench: Bench, mutual: bool
) -> None:
    """Two calls cross, in every order of their round trips: a viewer who may see the user has the user in `sees`."""
    for number, first in enumerate(itertools.combinations(range(8), 4)):
        order = [0 if place in first else 1 for place in range(8)]
        alice, bob = f"alice{number}", f"bob{number}"
        bench.service.contacts.change(alice, [bob], mutual=mutual)
        take_turns(
            bench,
            order,
            lambda service, alice=alice, bob=bob: service.contacts.change(alice, add=[bob], mutual=mutual),  # type: ignore[misc]
            lambda service, alice=alice, bob=bob: service.contacts.change(alice, remove=[bob], mutual=mutual),  # type: ignore[misc]
        )
        for user, viewer in ((alice, bob), (bob, alice)):
            may_see = viewer in bench.service.get_user_contacts(user)["viewers"]
            knows = user in bench.service.get_user_contacts(viewer)["sees"]
            assert knows or not may_see, order


def test_long_lists_of_privacy_change_in_portions(bench: Bench) -> None:
    """A thousand users to hide from and to block are written in portions of 250; lists are replaced, not extended."""
    users = [f"user{number:04}" for number in range(1000)]
    contacts = bench.service.contacts
    contacts.set_privacy("alice", hide_from=users[:10], blocks=users[995:])
    with bench.counted() as round_trips:
        contacts.set_privacy("alice", hide_from=users[5:], blocks=users[:600])
    portions = [command for trip in round_trips for command in trip if isinstance(command, SetPrivacy)]
    assert [command.most for command in portions] == [250] * 7
    assert max(len(command.edits or ()) for command in portions) == 250
    privacy = contacts.get_privacy("alice")
    assert (privacy["hideFrom"], privacy["blocks"]) == (users[5:], users[:600])
    with bench.counted() as round_trips:
        contacts.set_privacy("alice", hide_from=users[5:], blocks=users[:600], invisible=False)
    assert len(round_trips) == 1, "nothing differed"


@pytest.mark.parametrize("at", range(1, 12))
def test_a_change_of_privacy_that_was_killed_is_finished_by_the_same_call(bench: Bench, at: int) -> None:
    """Whatever has been done is in force for its viewers and in the list read back; the same call does the rest."""
    users = [f"user{number:03}" for number in range(700)]
    bench.service.contacts.change("alice", users, mutual=False)
    bench.open("alice")
    viewer = bench.open(users[699])
    with bench.killed(at):
        bench.service.contacts.set_privacy("alice", hide_from=users)
    hidden = set(bench.service.contacts.get_privacy("alice")["hideFrom"])
    for user in users[::50]:
        assert (bench.sees(user, "alice")["status"] == "offline") == (user in hidden)
    bench.service.contacts.set_privacy("alice", hide_from=users)
    assert bench.service.contacts.get_privacy("alice")["hideFrom"] == users
    bench.sweep(12)
    assert [change["status"] for change in bench.pusher.changes(viewer.id, "alice")][-1] == "offline"
