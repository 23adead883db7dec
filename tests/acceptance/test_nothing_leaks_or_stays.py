"""What numbers reveal, what the end of the retention reveals, how large frames become, and which keys remain."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from shared.frames import MAX_FRAME_BYTES
from shared.messages import GetPresence, PresenceUpdate, StatusChange, Sync
from tests.model.client import Client
from tests.support.service import AnyCommand, Bench

DAY = 86_400


# Announcing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["a sign-out", "going invisible", "hiding"])
@pytest.mark.parametrize("slow", [1, 2, 3, 4, 5])
def test_30_a_slow_announcer_never_posts_its_older_record(bench: Bench, end: str, slow: int) -> None:
    """Line 30: a function announces `busy`; between two of its steps another one announces the end, which waits.

    Whatever the slow function then takes out of the viewer's window, the viewer ends with the newer record.
    """
    bench.service.contacts.change("alice", ["bob", "carol"])
    bob, alice = bench.open("bob"), bench.open("alice")
    bench.sweep(5)
    client, steps = Client(), 0
    bench.pusher.deliver = lambda post: (
        client.receive(json.loads(post.data), bench.clock()) if post.connection_id == bob.id else None
    )
    bench.service.sync(bob, Sync(action="sync"))
    bench.make_changes_wait(alice)
    bench.sweep(1.5)
    bench.make_changes_wait(alice)
    other = bench.environment()

    def meanwhile(_commands: list[AnyCommand], _now: int) -> None:
        nonlocal steps
        steps += 1
        if steps == slow:
            bench.on_round_trip = lambda _commands, _now: None
            match end:
                case "a sign-out":
                    other.leave("alice", alice.id)
                case "going invisible":
                    other.contacts.set_privacy("alice", invisible=True)
                case _:
                    other.contacts.set_privacy("alice", hide_from=["bob"])
            bench.clock.advance(1.2)  # the window ends while the slow function is between two steps

    bench.on_round_trip = meanwhile
    bench.service.update_user_status(alice, PresenceUpdate(action="presence_update", status="busy"))
    bench.on_round_trip = lambda _commands, _now: None
    if bench.service.inspect_user("alice")["status"] == "busy" and end == "a sign-out":
        bench.service.leave("alice", alice.id)
    bench.sweep(15)
    client.catch_up(bench.clock(), lambda seq: bench.service.sync(bob, Sync(action="sync", seq=seq)))
    assert client.status("alice") == bench.sees("bob", "alice")["status"]


# Privacy ---------------------------------------------------------------------------------------------------------


def numbers(frames: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """`prev` and `seq` of the numbered frames."""
    return [(frame["prev"], frame["seq"]) for frame in frames if "prev" in frame]


@pytest.mark.parametrize("hides", [False, True], ids=["quiet", "busy"])
def test_36_numbers_have_no_holes_for_what_is_hidden(bench: Bench, hides: bool) -> None:
    """Line 36: Alice is blocked by Bob, and Carol sees both; neither Alice's nor Carol's numbers show that."""
    bench.service.contacts.change("alice", ["bob", "carol"])
    bench.service.contacts.change("bob", ["carol"])
    alice, bob, carol = (bench.open(user) for user in ("alice", "bob", "carol"))
    for _ in range(2):
        bench.live(30, alice, bob, carol)
    bench.pusher.clear()
    bench.update(alice, status="busy")
    bench.sweep(2)
    if hides:
        bench.service.contacts.set_privacy("bob", blocks=["alice"])
        for status in ("busy", "away", "online"):
            bench.sweep(2)
            bench.update(bob, status=status)
        bench.service.contacts.set_privacy("bob", blocks=[])
        bench.sweep(2)
    bench.update(alice, status="away")
    bench.sweep(2)
    for viewer in (alice, carol):
        frames = bench.pusher.to(viewer.id)
        assert all('"rev"' not in json.dumps(frame) for frame in frames)
        of = numbers(frames)
        assert [prev for prev, _ in of[1:]] == [seq for _, seq in of[:-1]], "each frame follows the one before"
    own = [frame["self"] for frame in bench.pusher.to(alice.id) if "self" in frame]
    assert [state["status"] for state in own] == ["busy", "away"], "nothing of one's own shows the block"


HIDINGS: dict[str, Callable[[Bench], object]] = {
    "invisible": lambda bench: bench.service.contacts.set_privacy("hider", invisible=True),
    "hidden": lambda bench: bench.service.contacts.set_privacy("hider", hide_from=["viewer"]),
    "blocked": lambda bench: bench.service.contacts.set_privacy("hider", blocks=["viewer"]),
}


@pytest.mark.parametrize("way", HIDINGS)
def test_37_an_offline_user_and_a_hidden_one_stay_equal_past_the_retention(bench: Bench, way: str) -> None:
    """Line 37: 29, 31 and 62 days later, a user who left and one who hides, and is active, look the same."""
    bench.service.contacts.change("viewer", ["hider", "leaver"])
    for user in ("hider", "leaver"):
        connection = bench.open(user)
        bench.update(connection, customStatus={"text": "Lunch"})
        bench.sweep(2)
        if user == "hider":
            HIDINGS[way](bench)
        bench.service.leave(user, connection.id)
        bench.sweep(1)
    began, shown = bench.clock(), []
    for day in (29, 31, 62):
        for _ in range(3):
            bench.clock.now = began + (day - 1) * DAY * 1000
            secret = bench.open("hider")  # of the hidden one, everything goes on
            bench.update(secret, status="busy", customStatus={"text": f"secret {day}"})
            bench.service.contacts.set_privacy("hider", last_seen="everyone")
            bench.sweep(1)
            bench.service.leave("hider", secret.id)
        bench.clock.now = began + day * DAY * 1000
        bench.sweep(1)
        records = [bench.sees("viewer", user) for user in ("hider", "leaver")]
        for record in records:
            record.pop("userId")  # type: ignore[misc]
            if record["lastSeen"]:
                record["lastSeen"] = 1
        assert records[0] == records[1], day
        shown.append((records[0]["customStatus"], records[0]["lastSeen"]))
    assert shown[0][1] is not None
    assert shown[1:] == [(None, None), (None, None)]


def test_38_a_block_that_ended_leaves_nothing(bench: Bench) -> None:
    """Line 38: two hundred strangers are blocked and unblocked: a minute later every key that it made is gone."""
    strangers = [f"stranger{number}" for number in range(200)]
    bench.service.set_status("alice", StatusChange(status="busy", scope="user"))
    bench.sweep(2)
    before = set(bench.client.scan_iter())
    bench.service.contacts.set_privacy("alice", blocks=strangers)
    bench.sweep(12)
    assert len(set(bench.client.scan_iter())) > len(before) + 200
    bench.service.contacts.set_privacy("alice", blocks=[])
    bench.sweep(75)
    assert set(bench.client.scan_iter()) - before <= {f"presence:{{{b}}}:due".encode() for b in range(4)}
    assert not bench.client.hexists(bench.store.key("user", "alice"), "hiddenDue")


# Size ------------------------------------------------------------------------------------------------------------


def test_39_frames_stay_below_32_kb(bench: Bench) -> None:
    """Line 39: long custom statuses, many contacts, and as many sockets as a user may have."""
    contacts = [f"contact-{'x' * 60}-{number}" for number in range(300)]
    bench.service.contacts.change("viewer", contacts)
    sockets = [bench.open("viewer", device=f"{'d' * 50}-{number}") for number in range(bench.settings.max_sockets)]
    for contact in contacts:
        bench.service.set_status(contact, StatusChange.model_validate({"customStatus": {"text": "🦊" * 140}}))
    for connection in [bench.open(contact) for contact in contacts[:120]]:
        bench.update(connection, status="busy")
    bench.sweep(3)
    bench.service.sync(sockets[0], Sync(action="sync"))
    bench.service.get_presence(sockets[0], GetPresence(action="get_presence", userIds=contacts[:100]))
    assert max(len(frame.data) for frame in bench.pusher.frames) <= MAX_FRAME_BYTES
    [asked] = {frame["parts"] for frame in bench.pusher.to(sockets[0].id) if frame["type"] == "presence"}
    assert asked > 1


# Grace -----------------------------------------------------------------------------------------------------------


def test_40_a_reload_shows_contacts_nothing_while_another_device_is_away(bench: Bench) -> None:
    """Line 40: the phone is away, the laptop reloads: contacts see neither `away` nor `online` again."""
    bench.service.contacts.change("alice", ["bob"])
    bob, phone = bench.open("bob"), bench.open("alice", device="phone")
    bench.update(phone, status="away")
    laptop = bench.open("alice", device="laptop")
    bench.sweep(5)
    bench.pusher.clear()
    for _ in range(3):
        bench.service.set_user_offline("alice", laptop.id)
        assert bench.service.inspect_user("alice")["rule"] == "grace"
        bench.sweep(4)
        laptop = bench.open("alice", device="laptop")
        bench.sweep(4)
    assert bench.pusher.changes(bob.id, "alice") == []
    bench.service.set_user_offline("alice", laptop.id)
    bench.sweep(11)
    assert [change["status"] for change in bench.pusher.changes(bob.id, "alice")] == ["away"]
