"""Whatever a user hides stays hidden on every surface, and so does the fact that it is hidden."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from shared.connection import Connection
from shared.delivery import Post
from shared.messages import GetPresence, Sync
from shared.responses import LastSeenPolicy
from tests.support.service import Bench

everywhere = pytest.mark.parametrize("client", ["fakeredis", "redis"], indirect=True)


def surfaces(bench: Bench, viewer: Connection, user_id: str) -> dict[str, Any]:
    """What a viewer learns of a user on each surface that it can query."""
    asked = bench.service.get_user_presence(viewer.user_id, user_id)
    bench.pusher.clear()
    bench.service.get_presence(viewer, GetPresence(action="get_presence", userIds=[user_id, "nobody"]))
    queried = bench.pusher.to(viewer.id)[-1]["users"][0]
    bench.pusher.clear()
    bench.service.sync(viewer, Sync(action="sync"))
    [snapshot] = bench.pusher.to(viewer.id)
    listed = [user for user in snapshot["users"] if user["userId"] == user_id]
    now = bench.clock() // 1000
    polled = bench.service.get_snapshot(viewer.user_id, None, now)["users"]
    return {
        "read": asked,
        "query": queried,
        "snapshot": listed[0] if listed else None,
        "HTTP query": bench.service.get_bulk_presence(viewer.user_id, [user_id], now)[0],
        "HTTP snapshot": next((user for user in polled if user["userId"] == user_id), None),
    }


def anonymous(value: Any, *names: str) -> str:
    """A value as text, with the two names made alike."""
    text = json.dumps(value, sort_keys=True)
    for name in names:
        text = text.replace(name, "X")
    return text


HIDINGS: dict[str, Callable[[Bench, str], None]] = {
    "invisible": lambda bench, user: bench.service.contacts.set_privacy(user, invisible=True),
    "hidden from the viewer": lambda bench, user: bench.service.contacts.set_privacy(user, hide_from=["viewer"]),
    "blocking the viewer": lambda bench, user: bench.service.contacts.set_privacy(user, blocks=["viewer"]),
}


@pytest.mark.parametrize("hide", HIDINGS.values(), ids=HIDINGS.keys())
def test_20_a_hidden_user_equals_an_offline_one_on_every_surface(
    bench: Bench, hide: Callable[[Bench, str], None]
) -> None:
    """Line 20: of two users with the same past, one hides and one signs out: no viewer can tell which."""
    bench.service.contacts.change("viewer", ["hider", "leaver"])
    viewer = bench.open("viewer")
    twins = {user: bench.open(user, device_type="mobile") for user in ("hider", "leaver")}
    for connection in twins.values():
        bench.update(connection, status="busy", customStatus={"text": "In a call", "until": bench.clock() + 600_000})
    bench.sweep(3)
    bench.pusher.clear()
    hide(bench, "hider")
    bench.service.leave("leaver", twins["leaver"].id)
    bench.sweep(2)
    pushed = {user: bench.pusher.changes(viewer.id, user) for user in twins}
    assert [change["type"] for change in pushed["hider"]] == ["user_offline"]
    numbers = {"seq": 0, "prev": 0}
    assert anonymous([{**c, **numbers} for c in pushed["hider"]], "hider") == anonymous(
        [{**c, **numbers} for c in pushed["leaver"]], "leaver"
    )
    seen: dict[str, dict[str, Any]] = {}
    for minute in range(12):
        bench.live(60, viewer, twins["hider"])
        bench.update(twins["hider"], status=["online", "away"][minute % 2], customStatus={"text": str(minute)})
        seen = {user: surfaces(bench, viewer, user) for user in twins}
        assert anonymous(seen["hider"], "hider") == anonymous(seen["leaver"], "leaver")
    assert seen["hider"]["read"]["status"] == "offline"
    assert seen["hider"]["read"]["customStatus"] is None, "its end has passed"


@everywhere
def test_20_a_pending_batch_shows_what_the_viewer_may_see_when_it_is_sent(bench: Bench) -> None:
    """Line 20: a user hides while a change waits for the viewer's window: the batch shows an offline user."""
    users = [f"user{number}" for number in range(12)]
    bench.service.contacts.change("viewer", users)
    viewer, *others = [bench.open(user) for user in ["viewer", *users]]
    told = {change["userId"] for change in bench.pusher.changes(viewer.id)}
    assert not told & {"user8", "user9"}
    bench.pusher.clear()
    for user, hidden in (("user8", {"invisible": True}), ("user9", {"hide_from": ["viewer"]})):
        connection = others[users.index(user)]
        bench.update(connection, status="busy")
        bench.service.contacts.set_privacy(user, **hidden)
        bench.update(connection, customStatus={"text": "secret"})
    assert bench.pusher.changes(viewer.id) == [], "all wait for the viewer's window after the first frames"
    bench.sweep(3)
    assert {change["userId"]: change["status"] for change in bench.pusher.changes(viewer.id)} == {
        **dict.fromkeys(set(users) - told, "online"),
        "user8": "offline",
        "user9": "offline",
    }
    assert b"secret" not in b"".join(frame.data for frame in bench.pusher.frames if frame.connection_id == viewer.id)


@everywhere
def test_20_a_stranger_cannot_tell_who_exists(bench: Bench) -> None:
    """Line 20: to a viewer who is no contact, every user is just `offline`, whether or not the user exists."""
    viewer, stranger = bench.open("viewer"), bench.open("stranger")
    bench.update(stranger, status="busy", customStatus={"text": "secret"})
    for user in ("stranger", "nobody"):
        seen = surfaces(bench, viewer, user)
        assert seen["read"] == seen["query"] == {"userId": user, "status": "offline"}
        assert seen["snapshot"] is None


@everywhere
def test_20_a_last_seen_policy_acts_immediately_on_those_who_saw_it(bench: Bench) -> None:
    """Line 20: an offline user's policy changes: contacts are notified; a viewer hidden from sees no change."""
    bench.service.contacts.change("alice", ["bob", "carol"])
    alice, bob, carol = bench.open("alice"), bench.open("bob"), bench.open("carol")
    bench.service.leave("alice", alice.id)
    left = bench.clock()
    bench.service.contacts.set_privacy("alice", hide_from=["carol"])
    changes: list[tuple[LastSeenPolicy, int | None]] = [("nobody", None), ("nobody", None), ("everyone", left)]
    for policy, seen in changes:
        bench.clock.advance(5)
        bench.pusher.clear()
        known, frozen = bench.sees("bob", "alice"), surfaces(bench, carol, "alice")
        bench.service.contacts.set_privacy("alice", last_seen=policy)
        told = bench.pusher.changes(bob.id, "alice")
        expected = [] if known["lastSeen"] == seen else [("presence_status", "offline", seen)]
        assert [(c["type"], c["status"], c["lastSeen"]) for c in told] == expected
        assert bench.sees("bob", "alice")["lastSeen"] == seen
        assert bench.pusher.changes(carol.id) == []
        assert surfaces(bench, carol, "alice") == frozen


@everywhere
@pytest.mark.parametrize(("policy", "shown"), [("everyone", True), ("nobody", False)])
def test_20_a_frozen_last_seen_follows_the_policy_at_the_time_of_hiding(
    bench: Bench, policy: LastSeenPolicy, shown: bool
) -> None:
    """Line 20: a frozen record keeps the time of hiding if the policy showed it; showing again shows the present."""
    bench.service.contacts.change("alice", ["bob"])
    alice = bench.open("alice")
    bench.service.contacts.set_privacy("alice", last_seen=policy)
    began = bench.clock()
    bench.service.contacts.set_privacy("alice", hide_from=["bob"])
    bench.service.contacts.set_privacy("alice", last_seen="nobody" if shown else "everyone")
    assert bench.sees("bob", "alice")["lastSeen"] == (began if shown else None)
    bench.clock.advance(5)
    bench.service.leave("alice", alice.id)
    bench.service.contacts.set_privacy("alice", hide_from=[])
    assert bench.sees("bob", "alice")["lastSeen"] == (None if shown else began + 5000)


@everywhere
def test_20_a_policy_change_of_an_online_user_is_no_event(bench: Bench) -> None:
    """Line 20: an online user's policy changes: no frame is sent, since no record of an online user has `lastSeen`."""
    bench.service.contacts.change("alice", ["bob"])
    bob = bench.open("bob")
    bench.open("alice")
    bench.sweep(3)
    bench.pusher.clear()
    bench.service.contacts.set_privacy("alice", last_seen="nobody")
    bench.sweep(3)
    assert bench.pusher.changes(bob.id) == []


@everywhere
def test_20_last_seen_is_shown_only_where_the_policy_allows_it(bench: Bench) -> None:
    """Line 20: `lastSeen` is null while the user is online, then a time, and always null if the policy hides it."""
    bench.service.contacts.change("alice", ["bob"])
    alice = bench.open("alice")
    assert bench.sees("bob", "alice")["lastSeen"] is None
    left = bench.clock()
    bench.service.leave("alice", alice.id)
    assert bench.sees("bob", "alice")["lastSeen"] == left
    bench.service.contacts.set_privacy("alice", last_seen="nobody")
    assert bench.sees("bob", "alice")["lastSeen"] is None
    bench.service.contacts.set_privacy("alice", last_seen="everyone")
    assert bench.sees("bob", "alice")["lastSeen"] == left


def related(bench: Bench) -> tuple[Connection, Connection]:
    """Alice and Bob: mutual contacts, online, with everything announced."""
    bench.service.contacts.change("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.sweep(3)
    bench.pusher.clear()
    return alice, bob


def seen(bench: Bench) -> tuple[str, str]:
    """What Alice sees of Bob, and Bob of Alice."""
    return bench.sees("alice", "bob")["status"], bench.sees("bob", "alice")["status"]


@everywhere
def test_22_a_block_acts_immediately_on_both_sides(bench: Bench) -> None:
    """Line 22: Alice blocks Bob: neither sees the other on any surface, and each gets one ordinary `user_offline`."""
    alice, bob = related(bench)
    bench.service.contacts.set_privacy("alice", blocks=["bob"])
    assert seen(bench) == ("offline", "offline")
    for viewer, other in ((bob, "alice"), (alice, "bob")):
        [change] = bench.pusher.changes(viewer.id)
        assert (change["type"], change["userId"], change["status"]) == ("user_offline", other, "offline")
        assert set(change) == {"type", "seq", "prev", *bench.sees(viewer.user_id, other)}
    for viewer, other in ((bob, "alice"), (alice, "bob")):
        answers = surfaces(bench, viewer, other)
        assert {answer["status"] for answer in answers.values()} == {"offline"}
    bench.pusher.clear()
    bench.update(alice, status="busy")
    bench.update(bob, status="busy")
    bench.sweep(20)
    assert bench.pusher.changes(alice.id) == bench.pusher.changes(bob.id) == []


@everywhere
def test_22_a_block_during_an_announcement_is_announced_right_after_it(bench: Bench) -> None:
    """Line 22: Alice blocks Bob while a function posts her change: Bob is notified right after, not a lease later."""
    alice, bob = related(bench)

    def block(_frame: Post) -> None:
        bench.pusher.deliver = lambda _frame: None
        bench.environment().contacts.set_privacy("alice", blocks=["bob"])

    bench.pusher.deliver = block
    bench.update(alice, status="busy")
    bench.sweep(1.5)  # at most one viewer's window
    assert bench.pusher.changes(bob.id)[-1]["status"] == "offline"
    assert bench.pusher.changes(alice.id)[-1]["status"] == "offline"


@everywhere
def test_22_hiding_and_removal_act_immediately_on_one_side(bench: Bench) -> None:
    """Line 22: Alice hides from Bob or removes him: Bob gets one offline, and Alice still sees Bob."""
    for way in ("hide", "remove"):
        alice, bob = related(bench)
        if way == "hide":
            bench.service.contacts.set_privacy("alice", hide_from=["bob"])
        else:
            bench.service.contacts.change("alice", remove=["bob"], mutual=False)
        assert seen(bench) == ("online", "offline")
        assert [change["type"] for change in bench.pusher.changes(bob.id)] == ["user_offline"]
        assert bench.pusher.changes(alice.id) == []
        bench.service.contacts.set_privacy("alice", hide_from=[])
        bench.sweep(3)


@everywhere
def test_22_an_offline_user_hides_without_an_event(bench: Bench) -> None:
    """Line 22: hiding, blocking or removing while offline sends nothing, because nothing visible changes."""
    alice, bob = related(bench)
    bench.service.leave("alice", alice.id)
    bench.sweep(3)
    before = bench.sees("bob", "alice")
    bench.pusher.clear()
    bench.service.contacts.set_privacy("alice", hide_from=["bob"], blocks=["bob"])
    bench.service.contacts.change("alice", remove=["bob"], mutual=False)
    bench.live(20, bob)
    assert bench.pusher.changes(bob.id) == []
    assert bench.sees("bob", "alice") == before


@everywhere
def test_22_unblocking_does_not_unhide_and_unhiding_does_not_unblock(bench: Bench) -> None:
    """Line 22: each reason to be hidden ends on its own; with two reasons, the user is hidden until both end."""
    related(bench)
    steps: list[tuple[dict[str, Any], tuple[str, str]]] = [
        ({"hide_from": ["bob"]}, ("online", "offline")),
        ({"blocks": ["bob"]}, ("offline", "offline")),
        ({"blocks": []}, ("online", "offline")),
        ({"blocks": ["bob"]}, ("offline", "offline")),
        ({"hide_from": []}, ("offline", "offline")),
        ({"blocks": []}, ("online", "online")),
        ({"hide_from": ["bob"], "blocks": ["bob"]}, ("offline", "offline")),
        ({"hide_from": [], "blocks": []}, ("online", "online")),
        ({"hide_from": ["bob"]}, ("online", "offline")),
        ({"invisible": True}, ("online", "offline")),
        ({"hide_from": []}, ("online", "offline")),
        ({"invisible": False}, ("online", "online")),
    ]
    for change, expected in steps:
        bench.service.contacts.set_privacy("alice", **change)
        assert seen(bench) == expected, change


@everywhere
def test_22_each_side_ends_only_its_own_block(bench: Bench) -> None:
    """Line 22: both users block each other: when one unblocks, nothing changes until the other does too."""
    alice, bob = related(bench)
    bench.service.contacts.set_privacy("alice", blocks=["bob"])
    bench.service.contacts.set_privacy("bob", blocks=["alice"])
    bench.sweep(3)
    bench.pusher.clear()
    bench.service.contacts.set_privacy("alice", blocks=[])
    assert seen(bench) == ("offline", "offline")
    assert bench.pusher.changes(alice.id) == bench.pusher.changes(bob.id) == []
    bench.service.contacts.set_privacy("bob", blocks=[])
    assert seen(bench) == ("online", "online")
    for viewer in (alice, bob):
        assert [change["type"] for change in bench.pusher.changes(viewer.id)] == ["user_online"]


@everywhere
def test_22_adding_a_contact_again_does_not_unblock(bench: Bench) -> None:
    """Line 22: the application adds a blocked contact again: the block remains."""
    related(bench)
    bench.service.contacts.set_privacy("alice", blocks=["bob"])
    bench.service.contacts.change("alice", remove=["bob"])
    bench.service.contacts.change("alice", ["bob"])
    assert seen(bench) == ("offline", "offline")
    bench.service.contacts.set_privacy("alice", blocks=[])
    assert seen(bench) == ("online", "online")


@everywhere
def test_22_a_removed_contact_leaves_the_snapshot(bench: Bench) -> None:
    """Line 22: a removed contact is in no snapshot; a query still gets the former contact's offline record."""
    alice, bob = related(bench)
    bench.service.contacts.change("alice", remove=["bob"])
    answers = surfaces(bench, bob, "alice")
    assert answers["snapshot"] is None
    assert answers["read"] == answers["query"]
    assert answers["read"]["status"] == "offline"
    bench.clock.advance(86_400)
    bench.beat(alice)
    assert bench.sees("bob", "alice") == {"userId": "alice", "status": "offline"}


def test_23_a_connection_does_not_outlive_its_token_by_more_than_a_minute(bench: Bench) -> None:
    """Line 23: a client keeps sending heartbeats after its token has ended: a minute later it is closed and offline."""
    bench.service.contacts.change("alice", ["bob"])
    bob = bench.open("bob")
    ends = bench.clock() + 120_000
    alice = bench.open("alice", token_expires_at=ends // 1000)
    frame = next(frame for frame in bench.pusher.to(alice.id) if frame["type"] == "presence_snapshot")
    assert frame["self"]["rotateAt"] < ends
    bench.live(180, alice, bob)
    bench.sweep(1)
    assert bench.clock() == ends + 61_000
    assert bench.sees("bob", "alice")["status"] == "offline"
    bench.beat(alice)
    bench.update(alice, status="busy")
    assert set(bench.pusher.closed) == {alice.id}
    assert bench.sees("bob", "alice")["status"] == "offline"
    assert not bench.service.set_user_online(bench.connection("alice", token_expires_at=ends // 1000))


@everywhere
def test_23_an_interrupted_sign_out_still_closes_every_socket(bench: Bench) -> None:
    """Line 23: a sign-out dies before it closes a socket: nothing is posted there; a repeat or a message closes it."""
    bench.service.contacts.change("alice", ["bob"])
    first, second, bob = bench.open("alice"), bench.open("alice"), bench.open("bob")
    with bench.killed(at=1):
        bench.service.sign_out("alice")
    assert bench.pusher.closed == []
    bench.pusher.clear()
    bench.sweep(1)
    bench.update(bob, status="busy")
    assert bench.pusher.to(first.id) == bench.pusher.to(second.id) == []
    bench.beat(first)
    assert bench.pusher.closed == [first.id]
    bench.clock.advance(1)
    assert bench.service.sign_out("alice") == 0
    assert sorted(bench.pusher.closed[1:]) == sorted([first.id, second.id])


@everywhere
@pytest.mark.parametrize("later", [0, 70])
def test_23_messages_on_a_dead_connection_close_it_once_a_second(bench: Bench, later: int) -> None:
    """Line 23: a hundred messages of a signed-out client within two seconds cost two close calls, not a hundred."""
    alice = bench.open("alice")
    bench.service.sign_out("alice")
    bench.clock.advance(later)
    bench.pusher.closed.clear()
    for _ in range(100):
        bench.beat(alice)
        bench.clock.advance(0.02)
    assert bench.pusher.closed == [alice.id, alice.id]
    assert bench.service.inspect_user("alice")["devices"] == []


@everywhere
def test_23_sign_out_everywhere_ends_all_earlier_connections_and_tokens(bench: Bench) -> None:
    """Line 23: after a sign-out everywhere, older connections and tokens are refused; a newer token works."""
    bench.service.contacts.change("alice", ["bob"])
    bob = bench.open("bob")
    old = [bench.open("alice", device=device) for device in ("phone", "laptop", "laptop")]
    issued = bench.clock() // 1000
    bench.sweep(5)
    bench.pusher.clear()
    assert bench.service.sign_out("alice") == 3
    assert sorted(bench.pusher.closed) == sorted(connection.id for connection in old)
    assert [change["type"] for change in bench.pusher.changes(bob.id)] == ["user_offline"]
    for connection in old:
        bench.beat(connection)
        bench.update(connection, status="busy")
    bench.clock.advance(200)  # longer than closed connections are remembered
    bench.sweep(1)
    for connection in old:
        bench.beat(connection)
    stale = bench.connection("alice", token_issued_at=issued)
    assert not bench.service.set_user_online(stale)
    bench.beat(stale)
    assert bench.sees("bob", "alice")["status"] == "offline"

    fresh = bench.open("alice")
    assert bench.sees("bob", "alice")["status"] == "online"
    assert [device["connectionId"] for device in bench.service.inspect_user("alice")["devices"]] == [fresh.id]


@everywhere
def test_23_a_message_affects_only_its_sender(bench: Bench) -> None:
    """Line 23: `replaces` and `leave` reach the sender's own connections only; another user's id has no effect."""
    bench.service.contacts.change("alice", ["mallory"])
    alice, mallory = bench.open("alice"), bench.open("mallory")
    bench.service.sync(mallory, Sync(action="sync", replaces=alice.id))
    bench.service.leave("mallory", alice.id)
    bench.service.set_user_offline("mallory", alice.id)
    bench.sweep(20)
    bench.beat(alice)
    assert [device["connectionId"] for device in bench.service.inspect_user("alice")["devices"]] == [alice.id]
    assert bench.sees("mallory", "alice")["status"] == "online"


@everywhere
def test_24_a_user_sees_the_real_own_state_but_not_who_blocks(bench: Bench) -> None:
    """Line 24: `GET /v1/me` shows the user's real status and settings, but never who blocks the user."""
    alice, _ = related(bench)
    bench.update(alice, status="busy", scope="user", until=bench.clock() + 60_000)
    before = bench.service.inspect_user("alice"), bench.service.contacts.get_privacy("alice")
    bench.service.contacts.set_privacy("bob", blocks=["alice"])
    assert (bench.service.inspect_user("alice"), bench.service.contacts.get_privacy("alice")) == before
    bench.service.contacts.set_privacy("alice", invisible=True, last_seen="nobody", hide_from=["carol"])
    own = bench.service.inspect_user("alice")
    assert (own["status"], own["invisible"], own["lastSeenPolicy"]) == ("busy", True, "nobody")
    assert own["claim"] == {"status": "busy", "until": bench.clock() + 60_000}
    assert own["why"] == "invisible: contacts see offline"
    assert [device["connectionId"] for device in own["devices"]] == [alice.id]
    assert bench.service.contacts.get_privacy("alice") == {
        "invisible": True,
        "lastSeen": "nobody",
        "hideFrom": ["carol"],
        "blocks": [],
    }
