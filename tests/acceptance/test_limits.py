"""What one user costs the others is bounded: sockets, frames, floods of messages, HTTP calls, lists of privacy."""

from __future__ import annotations

import pytest
import redis

from shared.messages import Heartbeat, LimitReached, Sync
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
