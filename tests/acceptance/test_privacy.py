"""What somebody wants to hide stays hidden, on every surface, and so does that it is hidden."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from shared.delivery import Frame
from shared.messages import GetPresence, LastSeenPolicy, Sync
from shared.presence import Connection
from tests.support.service import Bench

everywhere = pytest.mark.parametrize("client", ["fakeredis", "redis"], indirect=True)


def surfaces(bench: Bench, viewer: Connection, user_id: str) -> dict[str, Any]:
    """What a viewer learns of a user on every surface that it can ask."""
    asked = bench.service.get_user_presence(viewer.user_id, user_id)
    bench.pusher.clear()
    bench.service.answer_query(viewer, GetPresence(action="get_presence", userIds=[user_id, "nobody"]))
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
    """A value as text, in which one name looks like another."""
    text = json.dumps(value, sort_keys=True)
    for name in names:
        text = text.replace(name, "X")
    return text


HIDINGS: dict[str, Callable[[Bench, str], None]] = {
    "invisible": lambda bench, user: bench.service.set_privacy(user, invisible=True),
    "hidden from the viewer": lambda bench, user: bench.service.set_privacy(user, hide_from=["viewer"]),
    "blocking the viewer": lambda bench, user: bench.service.set_privacy(user, blocks=["viewer"]),
}


@pytest.mark.parametrize("hide", HIDINGS.values(), ids=HIDINGS.keys())
def test_20_a_hidden_user_is_an_offline_user_on_every_surface(bench: Bench, hide: Callable[[Bench, str], None]) -> None:
    """Of two users who did the same, one hides and one signs out at the same moment: no viewer can tell which."""
    bench.service.set_contacts("viewer", ["hider", "leaver"])
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
    assert anonymous([{**c, "seq": 0} for c in pushed["hider"]], "hider") == anonymous(
        [{**c, "seq": 0} for c in pushed["leaver"]], "leaver"
    )
    seen: dict[str, dict[str, Any]] = {}
    for minute in range(12):
        bench.live(60, viewer, twins["hider"])
        bench.update(twins["hider"], status=["online", "away"][minute % 2], customStatus={"text": str(minute)})
        seen = {user: surfaces(bench, viewer, user) for user in twins}
        assert anonymous(seen["hider"], "hider") == anonymous(seen["leaver"], "leaver")
    assert seen["hider"]["read"]["status"] == "offline"
    assert seen["hider"]["read"]["customStatus"] is None, "it had an end, which passed"


@everywhere
def test_20_a_batch_that_is_pending_already_tells_what_may_be_seen_when_it_is_sent(bench: Bench) -> None:
    """A change waits for the viewer's window, and its user hides: the batch that goes out shows an offline user."""
    users = [f"user{number}" for number in range(12)]
    bench.service.set_contacts("viewer", users)
    viewer, *others = [bench.open(user) for user in ["viewer", *users]]
    told = {change["userId"] for change in bench.pusher.changes(viewer.id)}
    assert not told & {"user8", "user9"}
    bench.pusher.clear()
    for user, hidden in (("user8", {"invisible": True}), ("user9", {"hide_from": ["viewer"]})):
        connection = others[users.index(user)]
        bench.update(connection, status="busy")
        bench.service.set_privacy(user, **hidden)
        bench.update(connection, customStatus={"text": "secret"})
    assert bench.pusher.changes(viewer.id) == [], "all wait for the viewer's window since the first were told"
    bench.sweep(3)
    assert {change["userId"]: change["status"] for change in bench.pusher.changes(viewer.id)} == {
        **dict.fromkeys(set(users) - told, "online"),
        "user8": "offline",
        "user9": "offline",
    }
    assert b"secret" not in b"".join(frame.data for frame in bench.pusher.frames if frame.connection_id == viewer.id)


@everywhere
def test_20_who_is_no_contact_learns_nothing_and_neither_from_whom_does_not_exist(bench: Bench) -> None:
    """A stranger, and a user whom nobody has ever seen, are both `offline` and nothing more, whatever they do."""
    viewer, stranger = bench.open("viewer"), bench.open("stranger")
    bench.update(stranger, status="busy", customStatus={"text": "secret"})
    for user in ("stranger", "nobody"):
        seen = surfaces(bench, viewer, user)
        assert seen["read"] == seen["query"] == {"userId": user, "status": "offline"}
        assert seen["snapshot"] is None


@everywhere
def test_20_whoever_was_shown_when_somebody_was_last_here_is_told_when_that_is_hidden(bench: Bench) -> None:
    """The policy of an offline user changes: contacts are told at once; one who is hidden from notices nothing."""
    bench.service.set_contacts("alice", ["bob", "carol"])
    alice, bob, carol = bench.open("alice"), bench.open("bob"), bench.open("carol")
    bench.service.leave("alice", alice.id)
    left = bench.clock()
    bench.service.set_privacy("alice", hide_from=["carol"])
    changes: list[tuple[LastSeenPolicy, int | None]] = [("nobody", None), ("nobody", None), ("everyone", left)]
    for policy, seen in changes:
        bench.clock.advance(5)
        bench.pusher.clear()
        known, frozen = bench.sees("bob", "alice"), surfaces(bench, carol, "alice")
        bench.service.set_privacy("alice", last_seen=policy)
        told = bench.pusher.changes(bob.id, "alice")
        expected = [] if known["lastSeen"] == seen else [("presence_status", "offline", seen, known["rev"] + 1)]
        assert [(c["type"], c["status"], c["lastSeen"], c["rev"]) for c in told] == expected
        assert bench.sees("bob", "alice")["lastSeen"] == seen
        assert bench.pusher.changes(carol.id) == []
        assert surfaces(bench, carol, "alice") == frozen


@everywhere
@pytest.mark.parametrize(("policy", "shown"), [("everyone", True), ("nobody", False)])
def test_20_what_a_hidden_viewer_keeps_is_what_the_policy_showed_when_that_began(
    bench: Bench, policy: LastSeenPolicy, shown: bool
) -> None:
    """Who is hidden from keeps the moment when that began, if it was seen then; showing again shows the present."""
    bench.service.set_contacts("alice", ["bob"])
    alice = bench.open("alice")
    bench.service.set_privacy("alice", last_seen=policy)
    began = bench.clock()
    bench.service.set_privacy("alice", hide_from=["bob"])
    bench.service.set_privacy("alice", last_seen="nobody" if shown else "everyone")
    assert bench.sees("bob", "alice")["lastSeen"] == (began if shown else None)
    bench.clock.advance(5)
    bench.service.leave("alice", alice.id)
    bench.service.set_privacy("alice", hide_from=[])
    assert bench.sees("bob", "alice")["lastSeen"] == (None if shown else began + 5000)


@everywhere
def test_20_nobody_is_told_of_a_policy_that_changes_nothing_to_see(bench: Bench) -> None:
    """The policy of an online user changes: no record shows when somebody who is here was last here."""
    bench.service.set_contacts("alice", ["bob"])
    bob = bench.open("bob")
    bench.open("alice")
    bench.sweep(3)
    bench.pusher.clear()
    bench.service.set_privacy("alice", last_seen="nobody")
    bench.sweep(3)
    assert bench.pusher.changes(bob.id) == []


@everywhere
def test_20_last_seen_is_only_told_where_its_owner_lets_it(bench: Bench) -> None:
    """`lastSeen` is null while somebody is there, a time when they have gone, and always null if they say so."""
    bench.service.set_contacts("alice", ["bob"])
    alice = bench.open("alice")
    assert bench.sees("bob", "alice")["lastSeen"] is None
    left = bench.clock()
    bench.service.leave("alice", alice.id)
    assert bench.sees("bob", "alice")["lastSeen"] == left
    bench.service.set_privacy("alice", last_seen="nobody")
    assert bench.sees("bob", "alice")["lastSeen"] is None
    bench.service.set_privacy("alice", last_seen="everyone")
    assert bench.sees("bob", "alice")["lastSeen"] == left


def related(bench: Bench) -> tuple[Connection, Connection]:
    """Alice and Bob, who see each other, are online, and have been told so."""
    bench.service.set_contacts("alice", ["bob"])
    alice, bob = bench.open("alice"), bench.open("bob")
    bench.sweep(3)
    bench.pusher.clear()
    return alice, bob


def seen(bench: Bench) -> tuple[str, str]:
    """What Alice sees of Bob, and Bob of Alice."""
    return bench.sees("alice", "bob")["status"], bench.sees("bob", "alice")["status"]


@everywhere
def test_22_a_block_acts_at_once_on_both_sides(bench: Bench) -> None:
    """Alice blocks Bob: neither sees the other on any surface, and each gets one ordinary `user_offline`."""
    alice, bob = related(bench)
    bench.service.set_privacy("alice", blocks=["bob"])
    assert seen(bench) == ("offline", "offline")
    for viewer, other in ((bob, "alice"), (alice, "bob")):
        [change] = bench.pusher.changes(viewer.id)
        assert (change["type"], change["userId"], change["status"]) == ("user_offline", other, "offline")
        assert set(change) == {"type", "seq", *bench.sees(viewer.user_id, other)}
    for viewer, other in ((bob, "alice"), (alice, "bob")):
        answers = surfaces(bench, viewer, other)
        assert {answer["status"] for answer in answers.values()} == {"offline"}
    bench.pusher.clear()
    bench.update(alice, status="busy")
    bench.update(bob, status="busy")
    bench.sweep(20)
    assert bench.pusher.changes(alice.id) == bench.pusher.changes(bob.id) == []


@everywhere
def test_22_a_block_while_a_change_is_being_announced_is_told_right_after_it(bench: Bench) -> None:
    """Alice blocks Bob while a function still posts a change of hers: it tells Bob when it is done, no lease later."""
    alice, bob = related(bench)

    def block(_frame: Frame) -> None:
        bench.pusher.deliver = lambda _frame: None
        bench.sandbox().set_privacy("alice", blocks=["bob"])

    bench.pusher.deliver = block
    bench.update(alice, status="busy")
    bench.sweep(1.5)  # a viewer's window, at most
    assert bench.pusher.changes(bob.id)[-1]["status"] == "offline"
    assert bench.pusher.changes(alice.id)[-1]["status"] == "offline"


@everywhere
def test_22_hiding_and_removal_act_at_once_on_one_side(bench: Bench) -> None:
    """Alice hides from Bob, or lets him see her no longer: Bob gets one offline, and Alice still sees Bob."""
    for way in ("hide", "remove"):
        alice, bob = related(bench)
        if way == "hide":
            bench.service.set_privacy("alice", hide_from=["bob"])
        else:
            bench.service.set_contacts("alice", remove=["bob"], mutual=False)
        assert seen(bench) == ("online", "offline")
        assert [change["type"] for change in bench.pusher.changes(bob.id)] == ["user_offline"]
        assert bench.pusher.changes(alice.id) == []
        bench.service.set_privacy("alice", hide_from=[])
        bench.sweep(3)


@everywhere
def test_22_whoever_is_offline_already_hides_without_a_word(bench: Bench) -> None:
    """To hide, block or remove while offline is told to nobody: there is nothing that would change."""
    alice, bob = related(bench)
    bench.service.leave("alice", alice.id)
    bench.sweep(3)
    before = bench.sees("bob", "alice")
    bench.pusher.clear()
    bench.service.set_privacy("alice", hide_from=["bob"], blocks=["bob"])
    bench.service.set_contacts("alice", remove=["bob"], mutual=False)
    bench.live(20, bob)
    assert bench.pusher.changes(bob.id) == []
    assert bench.sees("bob", "alice") == before


@everywhere
def test_22_unblocking_does_not_unhide_and_unhiding_does_not_unblock(bench: Bench) -> None:
    """Each reason not to be seen ends by itself alone, and who has two of them is hidden until both have ended."""
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
        bench.service.set_privacy("alice", **change)
        assert seen(bench) == expected, change


@everywhere
def test_22_a_block_by_the_other_side_ends_only_there(bench: Bench) -> None:
    """Both block each other: when one unblocks, nothing changes for either until the other does so too."""
    alice, bob = related(bench)
    bench.service.set_privacy("alice", blocks=["bob"])
    bench.service.set_privacy("bob", blocks=["alice"])
    bench.sweep(3)
    bench.pusher.clear()
    bench.service.set_privacy("alice", blocks=[])
    assert seen(bench) == ("offline", "offline")
    assert bench.pusher.changes(alice.id) == bench.pusher.changes(bob.id) == []
    bench.service.set_privacy("bob", blocks=[])
    assert seen(bench) == ("online", "online")
    for viewer in (alice, bob):
        assert [change["type"] for change in bench.pusher.changes(viewer.id)] == ["user_online"]


@everywhere
def test_22_adding_a_contact_again_does_not_unblock(bench: Bench) -> None:
    """The application adds a blocked contact once more: the block stands."""
    related(bench)
    bench.service.set_privacy("alice", blocks=["bob"])
    bench.service.set_contacts("alice", remove=["bob"])
    bench.service.set_contacts("alice", ["bob"])
    assert seen(bench) == ("offline", "offline")
    bench.service.set_privacy("alice", blocks=[])
    assert seen(bench) == ("online", "online")


@everywhere
def test_22_a_removed_contact_leaves_the_snapshot(bench: Bench) -> None:
    """Who was removed is in no snapshot any more; a question still gets the offline record of a former contact."""
    alice, bob = related(bench)
    bench.service.set_contacts("alice", remove=["bob"])
    answers = surfaces(bench, bob, "alice")
    assert answers["snapshot"] is None
    assert answers["read"] == answers["query"]
    assert answers["read"]["status"] == "offline"
    bench.clock.advance(86_400)
    bench.beat(alice)
    assert bench.sees("bob", "alice") == {"userId": "alice", "status": "offline"}


def test_23_a_connection_does_not_outlive_its_token_by_more_than_a_minute(bench: Bench) -> None:
    """A client beats on after its token has ended: a minute later it is closed, and offline for everybody."""
    bench.service.set_contacts("alice", ["bob"])
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
def test_23_a_sign_out_that_was_cut_short_closes_what_is_open_when_it_is_said_again_or_somebody_speaks(
    bench: Bench,
) -> None:
    """The function dies before it has closed a socket: nothing is posted there, and each way to end it still works."""
    bench.service.set_contacts("alice", ["bob"])
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
def test_23_whoever_goes_on_speaking_on_a_dead_connection_has_it_closed_once_a_second(bench: Bench, later: int) -> None:
    """A hundred messages of a signed-out client within two seconds cost two attempts to close it, not a hundred."""
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
def test_23_sign_out_everywhere_ends_every_connection_and_every_token_before_it(bench: Bench) -> None:
    """After a sign-out everywhere nothing that began before it can speak or come back; a newer token can."""
    bench.service.set_contacts("alice", ["bob"])
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
def test_23_a_message_moves_nobody_but_its_sender(bench: Bench) -> None:
    """`replaces` and `leave` reach the sender's own connections only: another user's id in them does nothing."""
    bench.service.set_contacts("alice", ["mallory"])
    alice, mallory = bench.open("alice"), bench.open("mallory")
    bench.service.sync(mallory, Sync(action="sync", replaces=alice.id))
    bench.service.leave("mallory", alice.id)
    bench.service.set_user_offline("mallory", alice.id)
    bench.sweep(20)
    bench.beat(alice)
    assert [device["connectionId"] for device in bench.service.inspect_user("alice")["devices"]] == [alice.id]
    assert bench.sees("mallory", "alice")["status"] == "online"


@everywhere
def test_24_one_sees_ones_own_real_state_and_not_who_blocks_one(bench: Bench) -> None:
    """Invisible, claimed and blocked by somebody: one's own state says all of it but the last."""
    alice, _ = related(bench)
    bench.update(alice, status="busy", scope="user", until=bench.clock() + 60_000)
    before = bench.service.inspect_user("alice"), bench.service.get_privacy("alice")
    bench.service.set_privacy("bob", blocks=["alice"])
    assert (bench.service.inspect_user("alice"), bench.service.get_privacy("alice")) == before
    bench.service.set_privacy("alice", invisible=True, last_seen="nobody", hide_from=["carol"])
    own = bench.service.inspect_user("alice")
    assert (own["status"], own["invisible"], own["lastSeenPolicy"]) == ("busy", True, "nobody")
    assert own["claim"] == {"status": "busy", "until": bench.clock() + 60_000}
    assert own["why"] == "invisible: contacts see offline"
    assert [device["connectionId"] for device in own["devices"]] == [alice.id]
    assert bench.service.get_privacy("alice") == {
        "invisible": True,
        "lastSeen": "nobody",
        "hideFrom": ["carol"],
        "blocks": [],
    }
