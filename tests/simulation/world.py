"""Users, their clients, the application's backend and the service, in one simulated world.

Each method of `World` is something that happens (`steps.py` decides what, and when). At the end the faults end, and
`settle_down` checks what must be true once everything is quiet.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.contacts import StillAnnouncing
from shared.delivery import Unavailable
from shared.messages import StatusChange
from shared.presence import PresenceService
from shared.settings import Settings
from tests.simulation.faults import SHARES, Armed, Faults
from tests.simulation.invariants import SKEW, Fact, Ledger, Violation, Watch
from tests.simulation.network import Killed, Network
from tests.support.clock import Clock
from tests.support.metrics import Counts
from tests.support.nodes import Nodes
from tests.support.shipped_clients import Picture, ShippedClients

SECRET = "of-the-simulation-and-long-enough-for-hs256"
SETTINGS = {
    nodes: Settings(buckets=2 * nodes, away_after=100, jwt_secret=SECRET, max_contacts=1000) for nodes in (1, 2)
}
"""By the number of nodes. Few buckets, so that users share some; away before the end of a history."""
SWEEP_EVERY = 60_000
QUIET_MS = 200_000
"""After the faults: clients have reconnected and sent two heartbeats, leases have ended, every check has run."""
RELOADED_MS = 45_000
"""Until the application has begun whatever it does after a fault."""
SILENCE_MS = 70_000
"""After that: two heartbeats, during which nobody is posted anything."""
MOST_SYNCS = 12
"""`sync`s of one client in the quiet."""
LONG_TEXT = "🚆" * 130


@dataclass
class User:
    """What the application and the user want: what is loaded again after the store was lost."""

    contacts: set[str] = field(default_factory=set)
    invisible: bool = False
    last_seen: str = "everyone"
    hide_from: set[str] = field(default_factory=set)
    blocks: set[str] = field(default_factory=set)


class World:
    """A world at its beginning.

    Args:
        seed: of everything random.
        nodes: the servers; they are emptied.
        clients: the Node process; its clients are forgotten.
        users: the ids of the users.
        crowd: how many more contacts each user has, who have no clients.
    """

    def __init__(
        self, seed: int, nodes: Nodes, clients: ShippedClients, users: Sequence[str], *, crowd: int = 0
    ) -> None:
        self.seed, self.nodes, self.clients = seed, nodes, clients
        self.clock, self.faults = Clock(), Faults(seed)
        rng = random.Random(f"{seed} world")
        nodes.flush()
        clients.reset(self.clock())
        self.metrics = Counts()
        self.count = rng.choice((1, 1, 2))
        nodes.used, self.settings = self.count, SETTINGS[self.count]
        store = nodes.connect(self.settings, self.metrics, lambda: rng.getrandbits(48))
        self._bucket_of, self._key = store.bucket_of, store.key
        self.watch = Watch(self.settings, self.clock, Ledger(self.clock, self.node_of))
        self.network = Network(self.clock, clients, self.settings, self.faults, self.watch, self.metrics)
        self.network.use(store, [0, *(rng.randint(-SKEW, SKEW) for _ in range(2))])
        self.service = PresenceService(store, _nowhere(), self.settings, self.clock, self.metrics)
        self.users = {user: User() for user in users}
        self.crowd = [f"crowd{number}" for number in range(crowd)]
        self.devices: dict[str, str] = {}
        """client → user, of those that are open."""
        self._created: set[str] = set()
        self._wishes = 0
        self._written = 0
        self._forks: dict[int, int] = {}
        self._evicted: set[str] = set()
        self._sweep()

    # Time

    def run(self, ms: float) -> None:
        """Let time pass, and with it everything that happens by itself."""
        until = self.clock() + round(ms)
        scheduler = self.network.scheduler
        while True:
            event, timer = scheduler.next, self.clients.next_timer
            when = min(event if event is not None else until, timer if timer is not None else until)
            if when >= until:
                break
            self.clock.now = max(self.clock.now, when)
            if timer is not None and timer <= self.clock():
                self.network.advance_clients()
            else:
                scheduler.step()
        self.clock.now = max(self.clock.now, until)

    def node_of(self, user: str) -> int:
        """The node that stores a user."""
        return self._bucket_of(user) % self.count

    # The sweeper

    def _sweep(self) -> None:
        """EventBridge invokes the sweeper, and again after a minute."""
        run = f"run-{self.clock()}"
        self.network.function("sweeper", lambda service: service.cleanup_stale_connections(run, self._nap))
        self.network.scheduler.after(SWEEP_EVERY, self._sweep)

    def _nap(self, seconds: float) -> None:
        """A sweeper sleeps; while nobody calls the store and nobody is due, it need not look."""
        network, calls = self.network, self.network.store.calls
        network.scheduler.pause(seconds * 1000)
        if network.store.calls != calls or network.store.unavailable:
            return
        wake = network.scheduler.park()
        network.wakes.append(wake)
        if (due := self._next_due()) is not None:
            network.scheduler.after(due - self.clock() + SKEW, wake)
        network.scheduler.wait()
        network.wakes.remove(wake)

    def _next_due(self) -> int | None:
        return self.nodes.lowest_score([f"presence:{{{bucket}}}:due" for bucket in range(self.settings.buckets)])

    # The application's backend: each call is repeated until it succeeds

    def insist(
        self,
        work: Callable[[PresenceService], object],
        facts: Sequence[tuple[Fact, bool]] = (),
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Call the service until it succeeds."""
        network = self.network

        def run() -> None:
            self.watch.ledger.begin([fact for fact, _ in facts])
            while True:
                try:
                    network.run(work)
                    break
                except (Killed, Unavailable, StillAnnouncing):
                    network.scheduler.pause(self.faults.random.choice((300, 2000)))
            self.watch.ledger.end(facts)
            self._wishes -= 1
            then()

        self._wishes += 1
        network.scheduler.start("api", run)

    def set_loaded(self, *, loaded: bool) -> None:
        """The application marks the graph."""
        facts: list[tuple[Fact, bool]] = [(("loaded", str(node), ""), loaded) for node in range(self.count)]
        self.insist(lambda service: service.contacts.set_graph_loaded(loaded), facts)

    def set_contacts(self, user: str, *, add: Iterable[str] = (), remove: Iterable[str] = (), mutual: bool) -> None:
        """The application changes who sees a user."""
        added, removed = [sorted({other for other in some if other != user}) for some in (add, remove)]
        facts: list[tuple[Fact, bool]] = []
        for others, value in ((added, True), (removed, False)):
            for other in others:
                facts.append((("contact", user, other), value))
                (self.users[user].contacts.add if value else self.users[user].contacts.discard)(other)
                if mutual and other in self.users:
                    facts.append((("contact", other, user), value))
                    (self.users[other].contacts.add if value else self.users[other].contacts.discard)(user)
        self.insist(lambda service: service.contacts.change(user, added, removed, mutual=mutual), facts)

    def set_privacy(self, user: str, **wanted: Any) -> None:
        """A user changes `invisible`, `last_seen`, `hide_from` or `blocks`."""
        facts: list[tuple[Fact, bool]] = []
        for name, kind in (("hide_from", "hide"), ("blocks", "block")):
            if name in wanted:
                wanted[name] = sorted(other for other in wanted[name] if other != user)
                facts += [((kind, user, other), other in wanted[name]) for other in self.users if other != user]
        if "invisible" in wanted:
            facts.append((("invisible", user, ""), wanted["invisible"]))
        for name, value in wanted.items():
            setattr(self.users[user], name, set(value) if isinstance(value, list) else value)
        self.insist(lambda service: service.contacts.set_privacy(user, **wanted), facts)

    def set_block(self, user: str, other: str, *, blocked: bool) -> None:
        """A user blocks another, or no longer."""
        (self.users[user].blocks.add if blocked else self.users[user].blocks.discard)(other)
        issued_at = self.clock() // 1000 + 60  # whatever sign-out comes meanwhile
        self.insist(
            lambda service: service.contacts.set_block(user, other, blocked=blocked, issued_at=issued_at),
            [(("block", user, other), blocked)],
        )

    def set_status(self, user: str, change: dict[str, Any]) -> None:
        """The application sets a claim or a custom status."""
        self.insist(lambda service: service.set_status(user, StatusChange.model_validate(change)))

    def sign_out(self, user: str) -> None:
        """The application signs a user out everywhere."""
        self.insist(lambda service: service.sign_out(user))

    def erase(self, user: str) -> None:
        """The user's clients go away, and everything about the user is erased."""
        for client in self.of(user):
            self.end(client, "leave")
        facts: list[tuple[Fact, bool]] = [(("invisible", user, ""), False)]
        for other in self.users:
            if other != user:
                facts += [((kind, user, other), False) for kind in ("contact", "hide", "block")]
                facts += [((kind, other, user), False) for kind in ("contact", "hide", "block")]
                for kept in (self.users[other].contacts, self.users[other].hide_from, self.users[other].blocks):
                    kept.discard(user)
        self.users[user] = User()
        self._erase(user, facts)

    def _erase(self, user: str, facts: Sequence[tuple[Fact, bool]] = ()) -> None:
        self.insist(lambda service: service.contacts.erase_user(user), facts)

    def load_graph(self) -> None:
        """The application loads privacy, then contacts, and marks the graph as loaded."""
        before = self._wishes
        for user, wanted in self.users.items():
            self.set_privacy(
                user,
                invisible=wanted.invisible,
                last_seen=wanted.last_seen,
                hide_from=sorted(wanted.hide_from),
                blocks=sorted(wanted.blocks),
            )

        def contacts() -> None:
            for user, wanted in self.users.items():
                if wanted.contacts:
                    self.set_contacts(user, add=wanted.contacts, mutual=False)
            when_done(300, lambda: self.set_loaded(loaded=True))

        def when_done(wait: int, then: Callable[[], None]) -> None:
            if self._wishes > before and wait > 0:
                self.network.scheduler.after(100, lambda: when_done(wait - 1, then))
            else:
                then()

        when_done(300, contacts)

    # Clients

    def of(self, user: str) -> list[str]:
        """The open clients of a user."""
        return [client for client, owner in self.devices.items() if owner == user]

    def open(self, user: str, device: str, *, polling: bool = False) -> None:
        """A client is opened, a new one if its machine was gone."""
        client = f"{user}-{device}"
        if client in self.devices:
            return
        if client not in self._created:
            self._created.add(client)
            seed = random.Random(f"{self.seed} {client}").getrandbits(31)
            self.network.do(
                lambda: self.clients.create(
                    client, user=user, secret=SECRET, url="wss://host/live", seed=seed, httpUrl="https://host",
                    tokenLifetime=5 * 86_400, deviceType=("web", "mobile", "desktop")[seed % 3],
                )
            )  # fmt: skip
        if polling:
            self.network.firewalled.add(client)
        self.devices[client] = user
        self.call(client, "open")

    def call(self, client: str, method: str, *values: Any) -> None:
        """Call a method of a client."""
        self.network.do(lambda: self.clients.call(client, method, *values))

    def forget(self, client: str) -> None:
        """A client is no longer open."""
        del self.devices[client]

    def end(self, client: str, how: str) -> None:
        """A client is closed or signs out, or its machine is gone."""
        self.forget(client)
        if how == "gone":
            self.faults.counts["machine gone"] += 1
            self._created.discard(client)
            self.network.abandon(client)
        else:
            self.call(client, how)

    def text(self, *, long: bool = False) -> str:
        """A custom status that nobody had before."""
        self._written += 1
        text = f"t{self._written}"
        self.watch.written[text] = self.clock()
        return f"{text} {LONG_TEXT}" if long else text

    # Faults of the store

    def lose_tail(self, lost: Sequence[int], seconds: float, *, reload: bool) -> None:
        """What these nodes are given from now on is lost in so many seconds, when their replicas take over.

        With `reload` the application then loads the graph again. It gives every client a snapshot, and so hides
        faults.
        """
        lost = [node for node in lost if node < self.count and node not in self._forks]
        for node in lost:
            self.nodes.copy(node)
            self._forks[node] = self.clock()
        self.network.scheduler.after(seconds * 1000, lambda: self._fail_over(lost, reload=reload))

    def _fail_over(self, lost: Sequence[int], *, reload: bool = False) -> None:
        lost = [node for node in lost if node in self._forks]
        since = min((self._forks[node] for node in lost), default=0)
        for node in lost:
            self.nodes.fail_over(node)
            self.watch.ledger.lose(node, self._forks.pop(node))
        if lost:
            every = len(lost) == self.count
            self.faults.counts["tail lost on all nodes" if every else "tail lost on one node"] += 1
        self.watch.lost([user for user in self.users if self.node_of(user) in lost], since)
        if lost and reload:
            self.network.scheduler.after(500, self.load_graph)

    def restart(self, lost: Sequence[int], seconds: float) -> None:
        """These nodes restart empty; in so many seconds the application loads the graph again."""
        lost = [node for node in lost if node < self.count]
        for node in lost:
            self._forks.pop(node, None)
            self.nodes.restart(node)
            self.watch.ledger.lose(node, 0)
            self.watch.ledger.begin([("loaded", str(node), "")])
            self.watch.ledger.end([(("loaded", str(node), ""), False)])
        if lost:
            every = len(lost) == self.count
            self.faults.counts["store restarted empty" if every else "node restarted empty"] += 1
        self.watch.lost([user for user in self.users if self.node_of(user) in lost], 0)
        self.network.scheduler.after(seconds * 1000, self.load_graph)

    def evict_next(self, kind: str, seconds: float = 30) -> None:
        """Redis evicts the next key of this kind that anybody has, within so many seconds."""

        def look() -> None:
            before = self.faults.counts[f"{kind} evicted"]
            for user in self.users:
                self.evict(kind, user)
            if self.faults.counts[f"{kind} evicted"] > before:
                end()

        def end() -> None:
            if look in self.network.wakes:
                self.network.wakes.remove(look)

        self.network.wakes.append(look)
        self.network.scheduler.after(seconds * 1000, end)

    def evict(self, kind: str, user: str) -> None:
        """Redis evicts a key."""
        bucket = self._bucket_of(user)
        key = f"presence:{{{bucket}}}:due" if kind == "due" else self._key(kind, user)
        if self.nodes.client.delete(key):
            self.faults.counts[f"{kind} evicted"] += 1
            if kind == "user":
                self._evicted.add(user)
                self.watch.lost([user])

    def refuse_calls(self, node: int, seconds: float) -> None:
        """A node, or the slots that move, cannot be reached for a while."""
        unavailable = self.network.store.unavailable
        unavailable.add(node)
        self.network.scheduler.after(seconds * 1000, lambda: unavailable.discard(node))

    def unload(self, seconds: float) -> None:
        """The application marks the graph as not loaded, for a while."""
        self.faults.counts["graph not loaded"] += 1
        self.set_loaded(loaded=False)
        self.network.scheduler.after(seconds * 1000, lambda: self.set_loaded(loaded=True))

    # Other faults

    def set_weather(self, kind: str, share: float, seconds: float) -> None:
        """A kind of fault strikes a share of what happens, for a while."""
        assert kind in SHARES
        self.faults.shares[kind] = share
        self.network.scheduler.after(seconds * 1000, lambda: self.faults.shares.pop(kind, None))

    def arm(self, step: int, ms: float | None, only: str = "") -> None:
        """The next function that completes so many steps dies, or is held up."""
        self.faults.armed.append(Armed(step, ms, only))

    def cut(self, client: str) -> None:
        """The sockets of a client break."""
        self.faults.counts["socket cut"] += self.network.cut(client)

    def go_away(self, client: str, seconds: float) -> None:
        """Nothing reaches a client, and nothing comes from it, for a while."""
        self.faults.counts["network away"] += 1
        self.network.away[client] = self.clock() + round(seconds * 1000)

    def pass_day(self) -> None:
        """Everybody closes, and a day passes."""
        self.faults.counts["day passed"] += 1
        for client in list(self.devices):
            self.end(client, "close")
        self.run(200_000)
        self.clock.advance(86_400)
        self.run(200_000)

    # The end

    def end_faults(self) -> None:
        """Nothing fails any more; what the application wants is carried out."""
        self.faults.end()
        self._fail_over(list(self._forks))
        self.network.away.clear()
        self.network.store.unavailable.clear()
        self.run(RELOADED_MS)
        self._finish_calls()
        if self.service.upkeep.health()["graph"] != "loaded":
            self.load_graph()
            self._finish_calls()

    def _finish_calls(self) -> None:
        """Wait until the application's calls have succeeded."""
        for _ in range(200):
            self.run(1000)
            if not self._wishes:
                return
        raise Violation("calls end", f"{self._wishes} calls of the application do not succeed")

    def settle_down(self) -> None:
        """Let everything become quiet, and check what must be true then."""
        self.end_faults()
        syncs = dict(self.network.syncs)
        self.run(QUIET_MS)
        for client in self.devices:
            if (sent := self.network.syncs.get(client, 0) - syncs.get(client, 0)) > MOST_SYNCS:
                raise Violation("endless sync", f"{client} sent {sent} syncs after the faults")
        self._check_screens()
        if self.crowd:  # the check of stored state takes many runs of the sweeper, and may announce something again
            return
        syncs, numbered = dict(self.network.syncs), self.network.numbered
        self.run(SILENCE_MS)
        # A client asks once after two minutes without a frame.
        more = [client for client in self.devices if self.network.syncs.get(client, 0) - syncs.get(client, 0) > 1]
        if self.network.numbered != numbered or more:
            raise Violation("silence", f"{self.network.numbered - numbered} frames; more than one sync of {more}")
        self._check_screens()

    def _check_screens(self) -> None:
        everybody = [*self.users, *self.crowd]
        for client, viewer in self.devices.items():
            picture = self.clients.picture(client)
            if picture.connection not in ("online", "polling"):
                raise Violation("connected", f"{client} is {picture.connection}")
            served = {record["userId"]: dict(record) for record in self.service.get_bulk_presence(viewer, everybody)}
            for user, record in served.items():
                shown = picture.users.get(user, {"userId": user, "status": "offline"})
                # Where the record of an offline user was evicted, a screen may still have the last one.
                is_evicted = user in self._evicted and record["status"] == "offline"
                is_stranger = len(record) == 2 or len(shown) == 2 or is_evicted
                is_right = shown["status"] == record["status"] if is_stranger else shown == record
                if user != viewer and not is_right:
                    raise Violation("screens", f"{client} shows {shown}, the service {record}")
            self._check_self(client, viewer, picture)

    def _check_self(self, client: str, viewer: str, picture: Picture) -> None:
        real: Mapping[str, Any] = dict(self.service.inspect_user(viewer))
        for name in ("status", "customStatus", "claim", "invisible", "lastSeenPolicy"):
            if picture.self is None or picture.self[name] != real[name]:
                raise Violation("own state", f"{client} shows {name} of {json.dumps(picture.self)}, real: {real}")

    def fall_silent(self) -> None:
        """Everybody leaves and is erased, and a day passes: nothing is left."""
        for client in list(self.devices):
            self.end(client, "leave")
        self.run(120_000)
        for user in [*self.users, *self.crowd]:
            self._erase(user)
        self.run(200_000)
        self.clock.advance(86_400)
        self.run(200_000)
        left = sorted(self.nodes.lasting_keys())
        if any(not key.endswith(":meta") for key in left):
            raise Violation("keys", f"left: {left}")


def _nowhere() -> Any:
    """A pusher for a service that only reads."""

    class Nowhere:
        def post(self, posts: Sequence[object], within: float = 0) -> set[str]:
            raise AssertionError("a read posts nothing")

        def close(self, connection_ids: Iterable[str], within: float = 0) -> None:
            raise AssertionError("a read closes nothing")

    return Nowhere()
