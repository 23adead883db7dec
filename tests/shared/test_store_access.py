"""The service needs what `REDIS_ACCESS` allows its Redis user, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import redis
from redis.exceptions import NoPermissionError, ResponseError

from local.elasticache import RedisServer
from shared.messages import GetPresence, StatusChange
from shared.script import assemble
from shared.settings import REDIS_ACCESS, Settings
from tests.support.service import Bench

USER, PASSWORD = "presence", "of-the-test"
OF_THE_STORE = {"eval", "evalsha", "info", "scan"}


@pytest.fixture
def admin() -> Iterator[redis.Redis]:
    """An operator's connection to a real server that has the service's user."""
    with RedisServer.start() as server, redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL SETUSER", USER, *REDIS_ACCESS.split(), f">{PASSWORD}")
        yield admin


@pytest.fixture
def client(admin: redis.Redis) -> Iterator[redis.Redis]:
    """A connection of the service's user to that server."""
    port = admin.connection_pool.connection_kwargs["port"]
    url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{port}/0"
    with redis.Redis.from_url(url, protocol=2, driver_info=None) as client:
        yield client


def test_every_command_of_the_script_is_allowed_and_no_other() -> None:
    """The access string names the commands that the scripts call and the store sends."""
    script = assemble("everything", Settings()).text
    called = {name.lower() for name in re.findall(r"\bp?call\('([A-Z]+)'", script)}
    allowed = set(re.findall(r"\+(\S+)", REDIS_ACCESS))
    assert len(called) > 10
    assert allowed == called | OF_THE_STORE
    assert len(re.findall(r"\bcall\(", script)) == len(re.findall(r"\bcall\('", script)), "a command without a name"


def test_the_service_works_as_this_user(admin: redis.Redis, client: redis.Redis) -> None:
    """Redis refuses this user no command of any operation of the service."""
    bench = Bench(client)
    service = bench.service
    service.contacts.change("alice", ["bob", "carol"])
    alice, bob = bench.open("alice", device="phone"), bench.open("bob")
    bench.beat(alice)
    bench.update(alice, status="busy", customStatus={"text": "at lunch"})
    bench.live(40, alice, bob)
    service.get_presence(bob, GetPresence(action="get_presence", userIds=["alice"]))
    service.contacts.set_privacy("alice", invisible=True, last_seen="nobody", hide_from=["carol"], blocks=["bob"])
    bench.live(40, alice, bob)
    service.contacts.set_privacy("alice", invisible=False, hide_from=[], blocks=[])
    service.set_status("alice", StatusChange(status="away", scope="user"))
    service.contacts.change("alice", remove=["bob"])
    service.set_user_offline("bob", bob.id)
    service.leave("alice", alice.id)
    service.sign_out("bob")
    bench.sweep(300)
    service.contacts.set_graph_loaded(True)
    service.get_bulk_presence("bob", ["alice", "carol"])
    service.inspect_user("alice")
    service.get_user_contacts("alice")
    service.contacts.get_privacy("alice")
    bench.upkeep.health()
    cursor, pages = "", 0
    while cursor or not pages:
        _, cursor = service.contacts.graph_page(cursor)
        pages += 1
    assert admin.acl_log() == []


def test_this_user_may_do_nothing_else(client: redis.Redis) -> None:
    """Other keys and commands about the server are refused, and so are scripts that use them."""
    for command in [
        "GET presence:{0}:meta",
        "HGETALL another",
        "SCRIPT FLUSH",
        "CONFIG GET maxmemory",
        "FLUSHALL",
        "KEYS *",
        "CLIENT LIST",
        "ACL LIST",
    ]:
        with pytest.raises(NoPermissionError):
            client.execute_command(*command.split())  # type: ignore[no-untyped-call]
    with pytest.raises(ResponseError, match=r"NOPERM|ACL"):
        client.eval("return redis.call('FLUSHALL')", 0)
