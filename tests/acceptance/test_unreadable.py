"""One record that cannot be read stops nobody else, whichever command meets it."""

from __future__ import annotations

import pytest

from shared.messages import GetPresence, Sync
from shared.responses import Unreadable
from tests.support.service import Bench

pytestmark = pytest.mark.unreadable

GARBAGE: dict[str, tuple[str, ...]] = {
    "wrong type of user": ("user", ""),
    "wrong type of contacts": ("contacts", ""),
    "wrong type of sees": ("sees", ""),
    "wrong type of hidden": ("hidden", ""),
    "wrong type of settings": ("settings", ""),
    "wrong type of tell": ("tell", ""),
    "wrong type of pending": ("pending", ""),
    "a connection": ("user", "!bob-1="),
    "a number": ("user", "rev"),
    "a custom status": ("user", "custom"),
    "a custom status of another shape": ("user", "custom", "{}"),
    "a setting": ("settings", "custom"),
    "an entry of hidden": ("hidden", "carol"),
    "a notice": ("tell", "!carol"),
}
USERS = ("alice", "bob", "carol", "dave")
"""All contacts of each other; bob's record becomes unreadable."""


def spoil(bench: Bench, kind: str, field: str, value: str = "garbage") -> None:
    """Make one of bob's keys unreadable."""
    key = bench.store.key(kind, "bob")
    if field:
        bench.client.hset(key, field, value)
    else:
        bench.client.delete(key)
        bench.client.set(key, "garbage")


@pytest.mark.parametrize("name", GARBAGE)
def test_41_an_unreadable_record_stops_nobody_else(bench: Bench, name: str) -> None:
    """Line 41: messages, queries, snapshots, announcements, sweeps, edits and erasing of others go on."""
    for user in USERS:
        bench.service.contacts.change(user, USERS)
    open_ = {user: bench.open(user, f"{user}-1=") for user in USERS}
    bench.sweep(5)
    spoil(bench, *GARBAGE[name])
    bench.pusher.clear()

    bench.update(open_["alice"], status="busy")
    bench.sweep(3)
    for user in ("carol", "dave"):
        assert [change["status"] for change in bench.pusher.changes(open_[user].id, "alice")] == ["busy"]
    others = ["alice", "bob", "dave"]
    bench.service.get_presence(open_["carol"], GetPresence(action="get_presence", userIds=others))
    bench.service.sync(open_["carol"], Sync(action="sync"))
    answer, snapshot = (frame for frame in bench.pusher.to(open_["carol"].id) if "users" in frame)
    for frame in (answer, snapshot):
        shown = {record["userId"]: record["status"] for record in frame["users"]}
        assert (shown["alice"], shown["dave"]) == ("busy", "online")
    now = bench.clock() // 1000
    listed = {record["userId"] for record in bench.service.get_snapshot("carol", None, now)["users"]}
    assert listed >= {"alice", "dave"}, "whoever cannot be read is left out, as a stranger is"

    bench.service.contacts.change("alice", ["bob", "erin"])
    assert "erin" in bench.service.get_user_contacts("alice")["viewers"]
    bench.service.contacts.set_privacy("dave", blocks=["bob", "erin"])
    bench.service.leave("alice", open_["alice"].id)
    for _ in range(4):
        bench.sweep(25)
        bench.beat(open_["carol"])
    assert bench.sees("carol", "dave")["status"] == "offline", "the sweeper went on"
    assert [change["status"] for change in bench.pusher.changes(open_["carol"].id, "dave")][-1] == "offline"
    healed = ("a number", "a custom status of another shape")  # these are as if there were none
    assert (bench.metrics.counts["RecordsFailed"] > 0) == (name not in healed)


def test_41_only_the_request_itself_fails(bench: Bench) -> None:
    """Line 41: the user's own messages and calls fail visibly, and nothing of them is stored."""
    bob = bench.open("bob", "bob-1=")
    spoil(bench, "settings", "")
    before = bench.client.hgetall(bench.store.key("user", "bob"))
    for call in (
        lambda: bench.update(bob, status="busy"),
        lambda: bench.service.sign_out("bob"),
        lambda: bench.service.contacts.set_privacy("bob", invisible=True),
        lambda: bench.service.inspect_user("bob"),
        lambda: bench.service.get_bulk_presence("bob", ["alice"], bench.clock() // 1000),
    ):
        with pytest.raises(Unreadable):
            call()
    assert bench.client.hgetall(bench.store.key("user", "bob")) == before
    bench.client.delete(bench.store.key("settings", "bob"))
    bench.update(bob, status="busy")
    assert bench.service.inspect_user("bob")["status"] == "busy"
