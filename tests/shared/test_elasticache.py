"""Signing in to ElastiCache with IAM: over TLS, with a token that verifies, and not too often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from local.elasticache import RedisServer
from shared.commands import InspectUser
from shared.delivery import Unavailable
from shared.elasticache import MAX_DOUBLINGS
from shared.settings import REDIS_ACCESS, Settings, SettingsError
from shared.store import PAUSE, Store
from tests.support.clock import EPOCH
from tests.support.elasticache_front import HOST, UPSTREAM, ElastiCacheFront
from tests.support.management_server import write_certificate
from tests.support.metrics import Counts
from tests.support.redis_cluster import start_cluster

USER, CACHE = "presence-user", "presence-cache"
ENVIRON = {
    "AWS_ACCESS_KEY_ID": "ASIAEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "AWS_SESSION_TOKEN": "IQoJb3JpZ2luX2VjEAMaCXVzLWVhc3QtMSJHMEUCIQ+/==",
    "AWS_REGION": "eu-central-1",
}
ASK = [InspectUser("alice")]


class Monotonic:
    """A clock for pauses, in seconds, that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that no system trusts."""
    return write_certificate(tmp_path_factory.mktemp("tls") / "localhost.pem")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, certificate: Path) -> None:
    """Lambda's environment variables."""
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A real server, with the user as which the front forwards."""
    with RedisServer.start() as server:
        admit(server)
        yield server


def admit(server: RedisServer, *more: str) -> None:
    """Create the user behind the front, with the permissions of the service's user."""
    user, password = UPSTREAM
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL SETUSER", user, *REDIS_ACCESS.split(), *more, f">{password}")


def before(server: RedisServer, certificate: Path, *, serverless: bool = False) -> ElastiCacheFront:
    """A front in front of a server."""
    return ElastiCacheFront(
        server.port, certificate, user=USER, cache=CACHE, environ=ENVIRON.copy(), serverless=serverless
    )


@pytest.fixture
def front(server: RedisServer, certificate: Path) -> Iterator[ElastiCacheFront]:
    """A cache whose users sign in with IAM."""
    with before(server, certificate) as front:
        yield front


@contextmanager
def opened(url: str, monotonic: Callable[[], float] | None = None, **given: Any) -> Iterator[Store]:
    """A store on a URL, as the service opens it."""
    given = {"redis_iam_user": USER, "redis_iam_cache": CACHE, **given}
    store = Store.connect(Settings(redis_url=url, **given), Counts())
    store._monotonic = monotonic or Monotonic()
    yield store
    store.close()


# Signing in ----------------------------------------------------------------------------------------------------------


def test_a_connection_signs_in_first_and_once(front: ElastiCacheFront) -> None:
    """A connection first sends AUTH with user and token; its later calls need none."""
    with opened(front.url) as store:
        for _ in range(3):
            assert store.call(ASK, EPOCH)[0].real.status == "offline"
    assert front.firsts == ["AUTH"]
    assert front.sign_ins[0].user == USER
    assert front.sign_ins[0].token.startswith(f"{CACHE}/?Action=connect&User={USER}&X-Amz-")


def test_a_connection_sends_only_its_sign_in_first(server: RedisServer, front: ElastiCacheFront) -> None:
    """A new connection costs one round trip, the sign-in, and none for CLIENT SETINFO, SELECT or PING."""
    with redis.Redis.from_url(server.url) as admin, opened(front.url) as store:
        admin.config_resetstat()
        store.users("")
        assert admin.info("commandstats").keys() - {"cmdstat_config|resetstat"} == {"cmdstat_auth", "cmdstat_scan"}


def test_a_connection_that_was_cut_is_replaced_with_a_fresh_token(
    front: ElastiCacheFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After twelve hours ElastiCache cuts a connection: the next call signs in again, with the rotated credentials."""
    with opened(front.url) as store:
        store.call(ASK, EPOCH)
        front.cut()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"):
            monkeypatch.setenv(name, "ROTATED")
            front._environ[name] = "ROTATED"  # type: ignore[index] # this test's own
        store.call(ASK, EPOCH)
        assert store._metrics.counts["RedisFailures"] == 0  # type: ignore[attr-defined] # a test's metrics
    assert len(front.sign_ins) == 2
    assert "X-Amz-Credential=ROTATED%2F" in front.sign_ins[1].token


@pytest.mark.parametrize(
    ("host", "serverless"),
    [
        ("presence-x2e9hv.serverless.use1.cache.amazonaws.com", True),
        ("presence-x2e9hv.public.serverless.use1.cache.amazonaws.com", True),
        ("presence-x2e9hv.serverless.cnn1.cache.amazonaws.com.cn", True),
        ("master.presence.x2e9hv.use1.cache.amazonaws.com", False),
        ("clustercfg.presence.x2e9hv.use1.cache.amazonaws.com", False),
    ],
)
def test_a_token_names_a_serverless_cache_as_such(
    server: RedisServer, certificate: Path, host: str, serverless: bool
) -> None:
    """The host name decides, and the cache's name is in lower case, as ElastiCache stores it."""
    with opened(f"rediss://{host}:6379", redis_iam_cache="Presence-Cache") as store:
        assert store._iam
        sign_in = ["AUTH", *store._iam.get_credentials()]
    for expected in (True, False):
        refused = before(server, certificate, serverless=expected)._judge(sign_in)
        assert (refused == "") is (expected is serverless)


def test_every_node_of_a_cluster_is_signed_in_to(certificate: Path) -> None:
    """A client of a cluster signs in first, too: to the first node, and to each node that the cluster names."""
    with start_cluster(1) as [node], before(node, certificate) as front, redis.Redis.from_url(node.url) as admin:
        admit(node, "+cluster|slots", "+command")
        admin.config_set("cluster-announce-port", front.port)
        admin.config_set("cluster-announce-hostname", HOST)
        admin.config_set("cluster-preferred-endpoint-type", "hostname")
        with opened(front.url, redis_cluster=True) as store:
            assert store.call(ASK, EPOCH)[0].real.status == "offline"
            store.users("")
        assert set(front.firsts) == {"AUTH"}
        assert admin.acl_log() == []


# Being refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "tokens"),
    [
        ("ERR service is not available", 1),
        # redis-py takes this for a lost connection, and tries once more.
        ("WRONGPASS invalid username-password pair or user is disabled.", 2),
    ],
)
def test_a_refused_sign_in_waits_longer_each_time_with_jitter(front: ElastiCacheFront, error: str, tokens: int) -> None:
    """Each token without a response doubles the pause, up to 32 s; jitter shortens it, and a success ends it."""
    monotonic, front.refusal = Monotonic(), error
    with opened(front.url, monotonic) as store:
        for call in range(1, 8):
            with pytest.raises(Unavailable, match=error.partition(" ")[2]):
                store.call(ASK, EPOCH)
            assert len(front.sign_ins) == call * tokens
            longest = PAUSE * 2 ** min(call * tokens, MAX_DOUBLINGS)
            assert longest / 2 <= store._refuse_until[""] - monotonic.now <= longest
            monotonic.now = store._refuse_until[""] - 0.001
            with pytest.raises(Unavailable, match="a moment ago"):
                store.call(ASK, EPOCH)
            assert len(front.sign_ins) == call * tokens
            monotonic.now = store._refuse_until[""]
        front.refusal = ""
        store.call(ASK, EPOCH)
        assert store._iam
        assert store._iam.pause(PAUSE) == PAUSE


def test_a_cache_that_cannot_be_reached_is_tried_each_second(front: ElastiCacheFront) -> None:
    """Without a token nothing is throttled, so the pause does not grow."""
    monotonic = Monotonic()
    with opened("rediss://localhost:1", monotonic) as store:
        for _ in range(3):
            with pytest.raises(Unavailable, match="ConnectionError"):
                store.call(ASK, EPOCH)
            assert store._refuse_until[""] - monotonic.now == PAUSE
            monotonic.now += PAUSE


def test_a_cache_with_an_untrusted_certificate_gets_no_token(
    front: ElastiCacheFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without AWS_CA_BUNDLE the system's certificates decide, and the token is not sent to a stranger."""
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with opened(front.url) as store, pytest.raises(Unavailable, match="certificate verify failed"):
        store.call(ASK, EPOCH)
    assert front.firsts == []


# Settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", [False, True])
@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis://cache:6379", "redis_url must begin with rediss:// if redis_iam_user is given"),
        ("unix:///run/redis.sock", "redis_url must begin with rediss:// if redis_iam_user is given"),
        ("rediss://:secret@cache:6379", "redis_url must name no user and no password if redis_iam_user is given"),
        ("rediss://user@cache:6379", "redis_url must name no user and no password if redis_iam_user is given"),
    ],
)
def test_a_url_that_does_not_fit_iam_is_refused_at_the_start(url: str, sentence: str, cluster: bool) -> None:
    """IAM needs TLS, and its token is the only password; the error does not repeat the password in the URL."""
    with pytest.raises(SettingsError, match=sentence) as refused, opened(url, redis_cluster=cluster):
        pass
    assert "secret" not in str(refused.value)
