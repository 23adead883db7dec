"""What one user costs the others is bounded: sockets, frames, floods of messages, HTTP calls, lists of privacy."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import redis

from shared.commands import TooManyCalls
from shared.connection import Connection
from shared.frames import encode
from shared.messages import GetPresence, Heartbeat, LimitReached, MessageRefused, Sync, parse_message
from shared.settings import Settings
from tests.support.service import Bench

LONGEST = 64
"""Characters of the longest device id; API Gateway's connection ids have 16, and the protocol allows 128."""


def fill(bench: Bench, user: str = "alice") -> list[str]:
    """Open as many sockets as a user may have, each of a device of its own; gives their ids."""
    most = bench.settings.max_sockets
    return [bench.open(user, device=f"tab{number}").id for number in range(most)]


# Sockets -------------------------------------------------------------------------------------------------------------


def test_a_users_own_state_fits_a_frame_with_as_many_devices_as_allowed(client: redis.Redis) -> None:
    """The largest numbers of sockets and polling devices, the longest ids and custom status: below 32 KB."""
    bench = Bench(client, Settings(buckets=4))
    user = "u" * 128
    connection, *_ = [
        bench.open(user, f"{number:0128}", device=f"{number:0{LONGEST}}", device_type="desktop")
        for number in range(bench.settings.max_sockets)
    ]
    for number in range(bench.settings.max_devices):
        device = bench.connection(
            user, f"poll-{number:020}", device=f"p{number:063}", device_type="desktop", polling=True
        )
        bench.service.poll(device, Heartbeat(action="heartbeat"))
    bench.update(connection, status="busy", scope="user", n=2**31)
    bench.update(connection, customStatus={"text": "🍜" * 140, "emoji": "🍜" * 16, "until": 99_999_999_999_999})
    sizes = [len(frame.data) for frame in bench.pusher.frames]
    assert len(bench.pusher.to(connection.id)[-1]["self"]["devices"]) == 70
    assert 16_000 < max(sizes) < 32 * 1024


def test_42_one_more_socket_than_allowed_is_refused(bench: Bench) -> None:
    """Line 42: beyond the limit a handshake is refused, nothing is stored of it, and no older socket is closed."""
    open_sockets = fill(bench)
    before = bench.client.hgetall(bench.store.key("user", "alice"))
    with pytest.raises(LimitReached, match="at most 50 sockets open"):
        bench.service.set_user_online(bench.connection("alice"))
    assert bench.client.hgetall(bench.store.key("user", "alice")) == before
    assert bench.pusher.closed == []
    bench.open("bob")  # others are not affected
    bench.service.leave("alice", open_sockets[0])
    bench.open("alice")


def test_42_a_message_that_would_create_one_more_gets_an_error_and_is_closed(bench: Bench) -> None:
    """Line 42: a socket that the service had lost gets `too_many_connections` once, and is closed."""
    lost = bench.open("alice", device="lost")
    bench.clock.advance(6)
    bench.pusher.gone.add(lost.id)
    bench.update(bench.open("alice", device="other"), status="busy")  # finds that socket gone, by mistake
    bench.pusher.gone.clear()
    for number in range(bench.settings.max_sockets - 1):
        bench.open("alice", device=f"tab{number}")
    bench.pusher.clear()
    bench.beat(lost, id="h")
    [error] = bench.pusher.to(lost.id)
    assert (error["type"], error["code"], error["id"]) == ("error", "too_many_connections", "h")
    assert bench.pusher.closed == [lost.id]
    bench.beat(lost)
    assert (len(bench.pusher.to(lost.id)), bench.pusher.closed) == (1, [lost.id])


def test_42_a_message_of_an_unknown_socket_beyond_the_limit_is_closed(bench: Bench) -> None:
    """Line 42: a socket that was let in while Redis was away is closed with its first message."""
    fill(bench)
    one_more = bench.connection("alice")
    bench.beat(one_more)
    assert [frame["code"] for frame in bench.pusher.to(one_more.id)] == ["too_many_connections"]
    assert bench.pusher.closed == [one_more.id]


def test_42_at_the_limit_a_device_reconnects_and_rotates(bench: Bench) -> None:
    """Line 42: at the limit a socket within its grace comes back, and a rotation opens the new one before the old."""
    first, second, *_ = fill(bench)
    bench.service.set_user_offline("alice", first)
    bench.open("alice", device="tab0")
    rotated = bench.connection("alice", device="tab1")
    assert bench.service.set_user_online(rotated)
    bench.service.sync(rotated, Sync(action="sync", replaces=second))
    assert bench.pusher.closed == [second]
    # A reload whose `$disconnect` is late or lost: the old socket is still live.
    bench.open("alice", device="tab2")
    # The one place for that is taken until the old socket closes.
    with pytest.raises(LimitReached):
        bench.service.set_user_online(bench.connection("alice", device="tab2"))
    with pytest.raises(LimitReached):
        bench.service.set_user_online(bench.connection("alice", device="tab3"))


def test_a_query_for_a_hundred_long_custom_statuses_is_answered_in_frames_that_fit(bench: Bench) -> None:
    """A hundred records with the longest ids and custom statuses come in parts below 32 KB, in the order asked for."""
    users = [f"{number:03}{'u' * 125}" for number in range(100)]
    for user in users:
        bench.service.contacts.change(user, ["alice"], mutual=False)
        bench.update(bench.open(user), customStatus={"text": "\U0001f35c" * 140, "emoji": "\U0001f35c" * 16})
    alice = bench.open("alice")
    bench.pusher.clear()
    bench.service.get_presence(alice, GetPresence(action="get_presence", userIds=users, id="q" * 64))
    assert max(len(frame.data) for frame in bench.pusher.frames) <= 32 * 1024
    frames = bench.pusher.to(alice.id)
    assert [(frame["type"], frame["id"], frame["part"], frame["parts"]) for frame in frames] == [
        ("presence", "q" * 64, place, len(frames)) for place in range(1, len(frames) + 1)
    ]
    assert len(frames) > 2
    assert [record["userId"] for frame in frames for record in frame["users"]] == users


def test_an_error_frame_is_small(bench: Bench) -> None:
    """Whatever a message contains, its error repeats no more than the id, and a field's name of limited length."""
    for body in (
        {"action": "presence_update", "customStatus": {"x" * 4000: 1}},
        {"action": "x" * 3900, "id": "y" * 64},
        {"action": "get_presence", "userIds": [1] * 2000},
    ):
        with pytest.raises(MessageRefused) as refused:
            parse_message(json.dumps(body))
        assert len(encode(refused.value.frame())) < 8 * 1024


# Floods of messages --------------------------------------------------------------------------------------------------


ID = "BFaT_fALIAMCKug="
GARBAGE = ("{", '{"action":"x"}', '{"action":"heartbeat","active":1}', "x" * 5000, '{"action":"leave","id":"\\u0000"}')


class Sender:
    """A client with one socket, through the real handlers, at a time that the test decides."""

    def __init__(self, bench: Bench, user: str = "alice") -> None:
        self.bench, self.connection = bench, bench.open(user)

    def say(self, body: str) -> list[str]:
        """Send a text; gives the codes of the errors that it gets."""
        before = len(self.bench.pusher.to(self.connection.id))
        try:
            self.bench.service.receive(self.connection, parse_message(body))
        except MessageRefused as error:
            self.bench.service.refuse(self.connection, error)
        return [frame["code"] for frame in self.bench.pusher.to(self.connection.id)[before:] if "code" in frame]


def test_42_a_refused_message_counts_against_the_rate_limit(bench: Bench) -> None:
    """Line 42: refused messages get an error each up to the limit, and then at most one `rate_limited` a second."""
    sender = Sender(bench)
    errors = [code for number in range(19) for code in sender.say(GARBAGE[number % len(GARBAGE)])]
    assert len(errors) == 19
    assert "rate_limited" not in errors
    bench.clock.advance(0.1)
    assert [sender.say("{") for _ in range(4)] == [["rate_limited"], [], [], []]
    assert sender.say('{"action":"heartbeat"}') == [], "they used up what valid messages may use"
    bench.clock.advance(1)
    assert [sender.say("{") for _ in range(7)] == [["invalid_message"]] * 5 + [["rate_limited"], []]
    assert bench.pusher.closed == []


@pytest.mark.parametrize("pattern", ["FS", "FFSS", "FSS", "FFFFSFSS"])
def test_42_environments_whose_clocks_differ_limit_nobody(bench: Bench, pattern: str) -> None:
    """Line 42: of 40 messages in 10 s, handled by two environments whose clocks are 6 s apart, none is limited."""
    connection = bench.open("alice")
    environments = {"F": bench.environment(3), "S": bench.environment(-3)}
    for number in range(40):
        environments[pattern[number % len(pattern)]].sync(connection, Sync(action="sync"))
        bench.clock.advance(0.25)


def test_42_a_refused_message_is_one_round_trip_and_at_most_one_post(bench: Bench) -> None:
    """Line 42: refusing a message costs one script call, and beyond the limit no post."""
    sender = Sender(bench)
    for _ in range(60):
        with bench.counted() as round_trips:
            assert len(sender.say("{")) <= 1
        assert [len(commands) for commands in round_trips] == [1]
    assert len(bench.pusher.to(sender.connection.id)) == 1 + 19 + 1


@pytest.mark.parametrize("body", ["{", '{"action":"heartbeat"}', '{"action":"presence_update","status":"busy"}'])
def test_42_a_persistent_offender_is_closed(bench: Bench, body: str) -> None:
    """Line 42: who stays far above the limit, with messages of any kind, loses the connection; others do not notice."""
    bench.service.contacts.change("alice", ["bob"])
    bob, sender = bench.open("bob"), Sender(bench)
    other = bench.open("alice")
    for _ in range(28 * 10):
        bench.clock.advance(1 / 28)
        sender.say(body)
        if bench.pusher.closed:
            break
    assert bench.pusher.closed == [sender.connection.id]
    answered = len(bench.pusher.to(sender.connection.id))
    assert sender.say(body) == []
    assert len(bench.pusher.to(sender.connection.id)) == answered
    bench.beat(other)
    assert bench.sees("bob", "alice")["status"] == "online"
    assert "offline" not in [change["status"] for change in bench.pusher.changes(bob.id, "alice")]
    bench.service.leave("alice", other.id)
    bench.sweep(bench.settings.grace + 2)
    assert bench.sees("bob", "alice")["status"] == "offline"


def test_42_who_is_a_little_above_the_limit_is_not_closed(bench: Bench) -> None:
    """Line 42: six messages a second for two minutes lose one in six, and nothing else."""
    sender = Sender(bench)
    for _ in range(6 * 120):
        bench.clock.advance(1 / 6)
        sender.say('{"action":"heartbeat"}')
    assert bench.pusher.closed == []
    assert bench.sees("bob", "alice") == {"userId": "alice", "status": "offline"}
    assert len(bench.service.inspect_user("alice")["devices"]) == 1


def test_42_a_refused_message_is_no_heartbeat(bench: Bench) -> None:
    """Line 42: a broken client that sends only refused messages ends with its TTL, and its socket is closed."""
    sender = Sender(bench)
    for _ in range(8):
        bench.sweep(10)
        assert len(sender.say("{")) == (1 if bench.clock() < sender.connection.connected_at + 75_000 else 0)
    assert bench.service.inspect_user("alice")["status"] == "offline"
    assert bench.pusher.closed == [sender.connection.id]


def test_42_the_count_of_an_offender_takes_no_room_for_others(bench: Bench) -> None:
    """Line 42: what is stored for an offender goes when the connection keeps to the limit again."""
    sender = Sender(bench)
    bench.beat(sender.connection)
    key, field = bench.store.key("user", "alice"), f"!{sender.connection.id}"
    size = len(str(bench.client.hget(key, field)))
    for _ in range(30):
        sender.say("{")
    assert len(str(bench.client.hget(key, field))) > size + 10
    bench.clock.advance(60)
    bench.beat(sender.connection)
    assert len(str(bench.client.hget(key, field))) <= size


# HTTP calls ----------------------------------------------------------------------------------------------------------


CALLS: dict[str, Callable[[Bench, str, int], object]] = {
    "a query": lambda bench, user, at: bench.service.get_bulk_presence(user, ["bob"], at),
    "the snapshot": lambda bench, user, at: bench.service.get_snapshot(user, None, at),
    "me": lambda bench, user, at: bench.service.inspect_self(user, at),
    "leave": lambda bench, user, at: bench.service.end_connection(user, "other=", at),
    "privacy": lambda bench, user, at: bench.service.contacts.set_privacy(user, hide_from=["bob"], issued_at=at),
    "a block": lambda bench, user, at: bench.service.contacts.set_block(user, "bob", blocked=True, issued_at=at),
    "a poll": lambda bench, user, at: bench.service.poll(
        Connection.of_polling_device(user, "d1", now=bench.clock(), issued_at=at, expires_at=at + 3600),
        Heartbeat(action="heartbeat"),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_42_a_users_http_calls_are_limited(client: redis.Redis, name: str) -> None:
    """Line 42: a user's calls of all kinds share a limit, in no further round trip; other users are not affected."""
    bench = Bench(client, Settings(buckets=4, http_rate_limit=2, http_rate_burst=4))
    call, at = CALLS[name], bench.clock() // 1000
    call(bench, "alice", at)
    with bench.counted() as before:
        call(bench, "alice", at)
    for _ in range(2):
        bench.service.inspect_self("alice", at)
    with bench.counted() as round_trips, pytest.raises(TooManyCalls) as refused:
        call(bench, "alice", at)
    assert refused.value.retry_after == 500
    assert len(round_trips) == 0, "the store refused it"
    assert len(before) <= 2
    call(bench, "carol", at)
    bench.clock.advance(0.5)
    call(bench, "alice", at)
    with pytest.raises(TooManyCalls):
        call(bench, "alice", at)
    bench.service.inspect_user("alice")  # the backend is not limited
    bench.service.contacts.set_privacy("alice", invisible=True)


def test_42_a_limited_call_changes_nothing(bench: Bench) -> None:
    """Line 42: a call beyond the limit is not carried out."""
    at = bench.clock() // 1000
    for _ in range(bench.settings.http_rate_burst):
        bench.service.inspect_self("alice", at)
    with pytest.raises(TooManyCalls):
        bench.service.contacts.set_privacy("alice", invisible=True, hide_from=["bob"], issued_at=at)
    privacy = bench.service.contacts.get_privacy("alice")
    assert (privacy["invisible"], privacy["hideFrom"]) == (False, [])


def test_the_count_of_calls_is_no_record_of_the_user(bench: Bench) -> None:
    """Where a user has no record, the count of calls is stored for seconds, and does not look like one."""
    at = bench.clock() // 1000
    bench.service.get_bulk_presence("alice", ["bob"], at)
    key = bench.store.key("user", "alice")
    assert set(bench.client.hgetall(key)) == {b"calls"}
    assert 0 < bench.client.pttl(key) <= 10_000
    alice = bench.open("alice")
    assert bench.client.pttl(key) > 10_000
    due = bench.client.zscore(f"presence:{{{bench.store.bucket_of('alice')}}}:due", "alice")
    bench.client.delete(key)
    bench.service.get_bulk_presence("alice", ["bob"], at)  # the evicted record is still found missing
    assert due is not None
    bench.sweep(80)
    assert bench.service.upkeep.health()["inconsistencies"]["dueUnknown"] == 1
    bench.beat(alice)
    assert bench.service.inspect_user("alice")["status"] == "online"
