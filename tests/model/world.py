"""Users, their clients and the service, compared with the model: the material of histories.

Each method is one possible event. It happens to the model first and then to the service. Every frame that the service
posts is compared with what the model lets that viewer see at that moment. `check` compares everything that could be
read. Histories decide which events happen, and when.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.cluster import RedisCluster

from shared.commands import EditRelations, Gone, ReadView, SignedOut
from shared.connection import Connection
from shared.delivery import Post
from shared.frames import record
from shared.messages import GetPresence, Heartbeat, PresenceUpdate, StatusChange, Sync
from shared.presence import DeviceLeft
from shared.settings import Settings
from tests.model.client import Client
from tests.model.presence_model import Model
from tests.support.service import TOKEN_LIFE, AnyCommand, Bench

SETTINGS = Settings(buckets=4, rate_burst=10_000, http_rate_burst=10_000, away_after=100)
"""Few buckets, so that users share some; away before a device's second TTL; and no rate limit."""


def without_frame(event: dict[str, Any]) -> dict[str, Any]:
    """An event's record, without what belongs to its frame."""
    return {name: value for name, value in event.items() if name not in ("type", "seq", "prev")}


@dataclass(slots=True)
class Socket:
    """A client's end of a connection."""

    connection: Connection
    client: Client = field(default_factory=Client)
    synced: bool = False
    """Whether a snapshot has arrived since the connection became live; before that a client need not know anything."""
    speaks: bool = True
    """False once it was closed by the client or the service, or the client vanished."""
    n: int = 0
    numbers: set[int] = field(default_factory=set)
    """The numbers of the frames that were posted to it."""
    told: dict[str, tuple[dict[str, Any], int]] = field(default_factory=dict)
    """user → the record in the latest event about the user, and how many events in a row have had it."""


class World:
    """A service and its model.

    Args:
        redis_client: an empty Redis.
        users: the ids of all users.
        lossless: every frame arrives immediately, in order; then each change must be sent exactly once.
        watched: everything is read after each event, so that nothing settles late and records are exact.
        seed: for what is lost or reordered on the way to clients.
    """

    def __init__(
        self,
        redis_client: redis.Redis | RedisCluster,
        users: Sequence[str],
        *,
        lossless: bool = True,
        watched: bool = True,
        seed: int = 0,
    ) -> None:
        self.users, self.lossless, self.watched = list(users), lossless, watched
        self.bench = Bench(redis_client, SETTINGS)
        self.model = Model(SETTINGS)
        self.sockets: dict[str, Socket] = {}
        self.told: list[tuple[int, str, dict[str, Any]]] = []
        """(when, connection, event) for every event posted about contacts."""
        self.loss = 0.0
        self.answers: list[tuple[int, str, dict[str, Any] | None]] = []
        """(when, user, response) for all polls; None if the device may not poll."""
        self._random = random.Random(seed)
        self._in_flight: list[Post] = []
        self._related: dict[tuple[str, str], dict[str, Any]] = {}
        """(viewer, user) → what the viewer could see before the latest round trip, if that changed it."""
        self._closed_at: dict[str, int] = {}
        self._renumbered: set[str] = set()
        """Connections whose update counters the store lost. Their clients need not know: newer numbers are higher."""
        self._settled: dict[str, int] = dict.fromkeys(users, self.now)
        self.bench.pusher.deliver = self._posted
        self.bench.on_round_trip = self._ran

    @property
    def now(self) -> int:
        return self.bench.clock()

    def close(self) -> None:
        self.bench.store._threads.shutdown()

    # Connections

    def connect(self, user: str, *, client: Client | None = None, kill: int = 0, **claims: Any) -> Socket:
        """A handshake, perhaps of a client that was connected before."""
        name = f"{user}-{len(self.of(user)) + 1}="
        connection = self.bench.connection(user, name, **claims)
        socket = self.sockets[name] = Socket(connection, client or Client())
        accepted = self.model.connect(connection, self.now)
        with self._dying(kill):
            assert self.bench.service.set_user_online(connection) == accepted
        socket.speaks = accepted
        return socket

    def sync(self, socket: Socket, *, replaces: str | None = None, resume: bool = False, kill: int = 0) -> None:
        """A `sync`, with the number of the last frame if `resume` is set."""
        self._lapse(socket)
        message = Sync(action="sync", replaces=replaces, seq=socket.client.seq if resume else None)
        heard = self.model.hear(socket.connection, self.now, settle=False)
        if heard and replaces:
            self.model.replace(socket.connection, replaces, self.now)
            if replaces in self.sockets:
                self.sockets[replaces].speaks = False
        self.model.settle(socket.connection.user_id, self.now)
        with self._speaking(socket, heard, kill):
            self.bench.service.sync(socket.connection, message)

    def beat(
        self, socket: Socket, *, status: str | None = None, active: bool = True, numbered: bool = True, kill: int = 0
    ) -> None:
        """A heartbeat as clients send it: with the device's own status and the number of the last frame."""
        self._lapse(socket)
        status = status or self._own_status(socket)
        heard = self.model.hear(socket.connection, self.now, active=active, idle=not active, status=status)
        seq = socket.client.seq if numbered else None
        message = Heartbeat.model_validate({"action": "heartbeat", "active": active, "status": status, "seq": seq})
        with self._speaking(socket, heard, kill):
            self.bench.service.update_heartbeat(socket.connection, message)

    def update(self, socket: Socket, change: dict[str, Any], *, n: int | None = None, kill: int = 0) -> None:
        """A `presence_update`, numbered as clients number them; `n` is how many numbers it lags behind."""
        self._lapse(socket)
        socket.n += 1
        change = {**change, "n": max(1, socket.n - n) if n is not None else socket.n}
        heard = self.model.hear(socket.connection, self.now, active=True, settle=False)
        if heard:
            self.model.choose(socket.connection.user_id, change, self.now, socket.connection.id)
        message = PresenceUpdate.model_validate({"action": "presence_update", **change})
        with self._speaking(socket, heard, kill):
            self.bench.service.update_user_status(socket.connection, message)

    def query(self, socket: Socket, users: list[str]) -> None:
        """A `get_presence` over the socket."""
        self._lapse(socket)
        heard = self.model.hear(socket.connection, self.now)
        with self._speaking(socket, heard, 0):
            self.bench.service.get_presence(socket.connection, GetPresence(action="get_presence", userIds=users))

    def poll(self, user: str, device: str, *, begins: bool, active: bool, kill: int = 0) -> None:
        """A poll of a device without a socket, with the number of its last response unless it starts over."""
        seconds = self.now // 1000
        connection = Connection.of_polling_device(
            user, device, now=self.now, issued_at=seconds, expires_at=seconds + TOKEN_LIFE
        )
        if not self.watched and connection.id not in self.model.devices(user, self.now):
            self.bench.service.inspect_user(user)  # as in _lapse
        last = [answer for _, name, answer in self.answers if name == user and answer]
        seq = last[-1]["seq"] if last and not begins else None
        self.model.resume_polling(connection, self.now, begins=seq is None)
        heard = self.model.hear(connection, self.now, active=active, idle=not active)
        # The response is read before anything is posted, and a post may find a connection gone.
        before = {other: self.model.view(user, other, self.now) for other in self.users}
        answer = None
        with self._dying(kill), suppress(DeviceLeft, SignedOut):
            answer = self.bench.service.poll(connection, Heartbeat(action="heartbeat", active=active, seq=seq))
        if kill and answer is None:
            return
        assert (answer is None) == (heard is None), connection.id
        self.answers.append((self.now, user, {**answer} if answer else None))
        for seen in answer.get("users", []) if answer else []:
            if self._exact(seen) != self._exact(before[seen["userId"]]):
                self._compare(user, seen)

    def stop_polling(self, user: str, device: str, kill: int = 0) -> None:
        """A device without a socket leaves, if it exists."""
        id = Connection.of_polling_device(user, device, now=0, issued_at=0, expires_at=0).id
        if self.model.knows(user, id, self.now):
            self.model.leave(user, id, self.now)
        with self._dying(kill), suppress(SignedOut):
            self.bench.service.end_connection(user, id, self.now // 1000)

    def leave(self, socket: Socket, kill: int = 0) -> None:
        """Sign-out of one connection."""
        self.model.leave(socket.connection.user_id, socket.connection.id, self.now)
        socket.speaks = False
        with self._dying(kill):
            self.bench.service.leave(socket.connection.user_id, socket.connection.id)

    def disconnect(self, user: str, connection_id: str, kill: int = 0) -> None:
        """API Gateway's `$disconnect`, perhaps of a connection whose `$connect` is still to come."""
        self.model.disconnect(user, connection_id, self.now)
        if connection_id in self.sockets:
            self.sockets[connection_id].speaks = False
        self.bench.pusher.gone.add(connection_id)
        with self._dying(kill):
            self.bench.service.set_user_offline(user, connection_id)

    def vanish(self, socket: Socket, *, gone: bool) -> None:
        """A client stops sending; posts to it succeed or get 410."""
        socket.speaks = False
        if gone:
            self.bench.pusher.gone.add(socket.connection.id)

    def sign_out(self, user: str, kill: int = 0) -> None:
        """Sign-out everywhere."""
        self.model.sign_out(user, self.now)
        for socket in self.of(user):
            socket.speaks = False
        with self._dying(kill):
            self.bench.service.sign_out(user)

    # Settings and relations

    def set_status(self, user: str, change: dict[str, Any], kill: int = 0) -> None:
        """A claim or a custom status, without a connection."""
        self.model.settle(user, self.now)
        self.model.choose(user, {"scope": "user", **change}, self.now)
        with self._dying(kill):
            self.bench.service.set_status(user, StatusChange.model_validate({"scope": "user", **change}))

    def set_privacy(self, user: str, *, kill: int = 0, **wanted: Any) -> None:
        """Invisibility, the `lastSeen` policy, and who is hidden from or blocked, as the service takes them."""
        model = self.model
        if wanted.get("invisible") is not None:
            model.set_invisible(user, wanted["invisible"], self.now)
        if wanted.get("last_seen"):
            model.set_last_seen(user, wanted["last_seen"], self.now)
        for name, reason, on, off in (("hide_from", "h", "hide", "show"), ("blocks", "b", "block", "unblock")):
            if wanted.get(name) is not None:
                before = model.hides(user, reason)
                for viewer in sorted(before ^ set(wanted[name])):
                    model.relate(user, viewer, on if viewer not in before else off, self.now)
        with self._dying(kill):
            self.bench.service.contacts.set_privacy(user, **wanted)

    def set_contacts(
        self, user: str, *, add: Sequence[str] = (), remove: Sequence[str] = (), mutual: bool = True, kill: int = 0
    ) -> None:
        """The application changes the graph; the model follows when the service applies it."""
        with self._dying(kill):
            self.bench.service.contacts.change(user, add, remove, mutual=mutual)

    # Time and faults

    def attend(self) -> None:
        """Each client that is still there does what the rules ask for now: it may have to send a `sync`."""
        for socket in list(self.sockets.values()):
            if socket.speaks and socket.synced:
                socket.client.catch_up(self.now, lambda _seq, socket=socket: self.sync(socket, resume=True))  # type: ignore[misc]

    def advance(self, seconds: float) -> None:
        """Time passes while nothing runs."""
        self.bench.clock.advance(seconds)
        for user in self.users:
            self.model.settle(user, self.now)
            self._settled[user] = self.now
        self._note_lapses()

    def sweep(self, seconds: float) -> None:
        """Time passes while sweepers run."""
        self.bench.sweep(seconds)
        self._walk()
        self.attend()

    def lose(self, user: str, first: str, *, active: bool) -> None:
        """The store loses a user, a second after everything else, and then the user's clients send messages."""
        if not any(socket.speaks for socket in self.of(user)) or self.model.user(user)["invisible"]:
            return
        self.advance(1)
        self.check()
        chosen = self._chosen(self.of(user))
        self.bench.client.delete(self.bench.store.key("user", user))
        self.model.lose(user)
        self._lose_counters([user])
        self._renumbered |= {socket.connection.id for socket, _ in chosen}
        self._heard_again(chosen, first, active=active)

    def restart(self, first: str, *, active: bool) -> None:
        """The store restarts empty; the backend loads privacy, then contacts; then clients send messages."""
        self.advance(1)
        chosen = self._chosen(self.sockets.values())
        self.bench.client.flushall()
        self._renumbered |= {socket.connection.id for socket, _ in chosen}
        old, self.model = self.model, Model(SETTINGS)
        self.model.loaded = False
        self._lose_counters(self.users)
        self.check()
        for user in self.users:
            facts = old.user(user)
            self.set_privacy(
                user, invisible=facts["invisible"], last_seen=facts["last_seen"],
                hide_from=sorted(old.hides(user, "h")), blocks=sorted(old.hides(user, "b")),
            )  # fmt: skip
        for user in self.users:
            self.set_contacts(user, add=sorted(old.user(user)["contacts"]), mutual=False)
        self.check()
        self.bench.service.contacts.set_graph_loaded(True)
        self.model.loaded = True
        self._heard_again(chosen, first, active=active)

    def _chosen(self, sockets: Iterable[Socket]) -> list[tuple[Socket, str | None]]:
        """The status that each client that is still there will send."""
        return [(socket, self._own_status(socket)) for socket in sockets if socket.speaks]

    def _heard_again(self, chosen: Sequence[tuple[Socket, str | None]], first: str, *, active: bool) -> None:
        """Clients send heartbeats, perhaps after another message, which does not carry their status."""
        for socket, status in chosen:
            if first == "sync":
                self.sync(socket)
            elif first == "query":
                self.query(socket, self.users[:1])
            if socket.speaks:
                self.beat(socket, status=status, active=active)

    def _lose_counters(self, users: Sequence[str]) -> None:
        """After a loss a user's frames get new numbers, and what was sent to its viewers is forgotten."""
        for socket in self.sockets.values():
            if socket.connection.user_id in users:
                socket.synced, socket.numbers = False, set()
            for user in users:
                socket.told.pop(user, None)

    def arrive(self) -> None:
        """Frames in flight arrive: in any order, and some of them twice."""
        frames = self._in_flight + self._random.choices(self._in_flight, k=len(self._in_flight) // 4)
        self._in_flight = []
        self._random.shuffle(frames)
        for frame in frames:
            self._arrived(frame)

    def of(self, user: str) -> list[Socket]:
        """All sockets that a user ever had."""
        return [socket for socket in self.sockets.values() if socket.connection.user_id == user]

    # Comparisons

    def check(self) -> None:
        """Everything that anybody could read equals the model, and nothing is due too late."""
        self._walk()
        self._check_due()
        pairs = [(viewer, user) for viewer in self.users for user in self.users]
        reads = [ReadView(user, viewer=viewer) for viewer, user in pairs]
        for (viewer, _), answer in zip(pairs, self.bench.store.call(reads, self.now), strict=True):
            self._compare(viewer, record(answer))
        if self.lossless:
            for socket in self.sockets.values():
                late = socket.client.late(self.now)
                assert not (socket.synced and socket.speaks and late), socket.connection.id
        for user in self.users:
            state: dict[str, Any] = {**self.bench.service.inspect_user(user)}
            own = self.model.own(user, self.now)
            assert {name: state[name] for name in own} == own, user
            devices = {
                device["connectionId"]: (
                    device["deviceId"],
                    device["status"],
                    device["connectedAt"],
                    device["lastActive"],
                )
                for device in state["devices"]
            }
            assert devices == self.model.devices(user, self.now), user

    def check_pictures(self) -> None:
        """Every client that is still there shows what the server would return."""
        for socket in self.sockets.values():
            user = socket.connection.user_id
            if not socket.speaks or not socket.synced or socket.connection.id not in self.model.sockets(user, self.now):
                continue
            for other in self.users:
                if other != user:
                    seen = self.model.view(user, other, self.now)
                    shown = socket.client.status(other), socket.client.custom(other), socket.client.last_seen(other)
                    right = [(seen["status"], seen.get("customStatus"), seen.get("lastSeen"))]
                    if user not in self.model.user(other)["contacts"]:
                        right.append(("offline", None, None))  # snapshots do not list former contacts
                    assert shown in right, (socket.connection.id, other)
            own = self.model.own(user, self.now)
            assert {name: socket.client.own[1][name] for name in own} == own, socket.connection.id
            latest = socket.client.own[1]  # after a reconnect it may be a frame that was in flight to the old socket
            if latest["connectionId"] == socket.connection.id:
                told, kept = latest["n"], self.model.numbers(user, socket.connection.id)
                assert kept, socket.connection.id
                if socket.connection.id in self._renumbered:
                    kept = {name: max(number, told[name]) for name, number in kept.items()}
                assert told == kept, socket.connection.id

    def fall_silent(self, survivor: str) -> None:
        """All but one vanish: each user that the survivor saw is announced offline once, when TTL or grace ends."""
        for socket in self.sockets.values():
            socket.speaks = False
        observer = self.connect(survivor)
        self.sync(observer)
        ends = {}
        for user in self.users:
            if self.model.view(survivor, user, self.now)["status"] != "offline" and user != survivor:
                connections = self.model.user(user)["connections"].values()
                live = [c["deadline"] for c in connections if c["state"] == "live"]
                ends[user] = max(live or [c["deadline"] for c in connections])
        before = len(self.told)
        for _ in range(4):
            self.sweep(25)
            self.beat(observer)
        for user, end in ends.items():
            offline = [
                (when, event["customStatus"])
                for when, name, event in self.told[before:]
                if name == observer.connection.id and event["userId"] == user and event["status"] == "offline"
            ]
            # The end of an offline user's custom status is an event as well.
            told = [
                when for place, (when, custom) in enumerate(offline) if not place or custom == offline[place - 1][1]
            ]
            assert len(told) == 1, f"{user} was announced offline {len(told)} times"
            assert told[0] <= end + 2000, f"{user} was a ghost for {told[0] - end} ms"
            assert end <= self.now

    def settle_down(self) -> None:
        """Leases expire, every client sends two heartbeats, and missed frames are recovered."""
        self.loss = 0
        self.sweep(12)
        for _ in range(2):
            self.arrive()
            for socket in list(self.sockets.values()):
                if socket.speaks:
                    self.beat(socket, active=False)
                if socket.speaks and (socket.client.behind or not socket.synced):
                    self.sync(socket)
            self.sweep(4)
        while any(map(self._unsettled, self.users)):
            self.sweep(1)
        self.arrive()

    def _unsettled(self, user: str) -> bool:
        """Something ended just now: no sweeper has run, or a frame waits for the viewer's window."""
        due = self.bench.client.hget(self.bench.store.key("user", user), "due")
        return bool(self.bench.client.exists(self.bench.store.key("pending", user)) or (due and int(due) <= self.now))

    def _compare(self, viewer: str, seen: Any) -> None:
        expected = self.model.view(viewer, seen["userId"], self.now)
        # A block between two users starts or ends in the same round trip that looks up the targets.
        if self._exact(seen) != self._exact(self._related.get((viewer, seen["userId"]), {})):
            assert self._exact(seen) == self._exact(expected), viewer

    def _exact(self, seen: Any) -> dict[str, Any]:
        return {k: v for k, v in seen.items() if self.watched or k in ("userId", "status", "customStatus")}

    def _check_due(self) -> None:
        for user in self.users:
            due = self.bench.client.hget(self.bench.store.key("user", user), "due")
            following = self.model.next_change(user, self.now)
            if following is not None and self.bench.client.exists(self.bench.store.key("user", user)):
                assert due, f"{user} changes at {following} but is never due"
                assert int(due) <= following, f"{user} changes at {following} but is due at {due!r}"
                bucket = self.bench.store.key("user", user).partition("user:")[0]
                assert self.bench.client.zscore(bucket + "due", user) is not None, user

    # Behind the scenes

    @contextmanager
    def _dying(self, at: int) -> Iterator[None]:
        if at:
            with self.bench.killed(at):
                yield
        else:
            yield

    @contextmanager
    def _speaking(self, socket: Socket, heard: object, kill: int) -> Iterator[None]:
        """A message arrives; the service closes the connection if and only if it may not send messages."""
        before = len(self.bench.pusher.closed)
        with self._dying(kill):
            yield
        closed = socket.connection.id in self.bench.pusher.closed[before:]
        if not socket.connection.polling and not kill:
            just_closed = closed or self.now - self._closed_at.get(socket.connection.id, 0) < 1000
            assert just_closed if heard is None else not closed, socket.connection.id
        if closed:
            self._closed_at[socket.connection.id] = self.now
        if heard is None:
            socket.speaks = False

    def _lapse(self, socket: Socket) -> None:
        """Settle a connection that has ended by now: unsettled it would continue, settled it starts over."""
        if not self.watched and socket.connection.id not in self.model.devices(socket.connection.user_id, self.now):
            self.bench.service.inspect_user(socket.connection.user_id)

    def _own_status(self, socket: Socket) -> str | None:
        c = self.model.user(socket.connection.user_id)["connections"].get(socket.connection.id)
        return c["status"] if c and c["state"] == "live" else socket.connection.status

    def _walk(self) -> None:
        """Bring the model up to now, through each change that time alone makes."""
        for user in self.users:
            at = self._settled[user]
            while (following := self.model.next_change(user, at)) is not None and following <= self.now:
                at = following
                self.model.settle(user, at)
            self._settled[user] = self.now
        self._note_lapses()

    def _note_lapses(self) -> None:
        """A client that was silent for too long gets nothing, and must sync when it sends messages again."""
        for socket in self.sockets.values():
            if socket.synced and socket.connection.id not in self.model.devices(socket.connection.user_id, self.now):
                socket.synced = False

    def _ran(self, commands: list[AnyCommand], now: int) -> None:
        """A round trip was run: apply its changes of relations to the model."""
        self._walk()
        self._related.clear()
        for command in commands:
            if isinstance(command, EditRelations):
                for viewer, edit, *_turn in command.edits:
                    self._related[viewer, command.user] = self.model.view(viewer, command.user, now)
                    self.model.relate(command.user, viewer, edit, now)
            elif isinstance(command, Gone):
                self.model.lost(command.user, list(command.ids), now)

    def _posted(self, frame: Post) -> None:
        """The service posts a frame: it goes to an open socket, and contains what that viewer may see now."""
        socket, said = self.sockets[frame.connection_id], json.loads(frame.data)
        viewer = socket.connection.user_id
        events = said.get("events", [said] if "userId" in said else [])
        for event in events:
            self.told.append((self.now, frame.connection_id, without_frame(event) | {"type": event["type"]}))
        for event in [*events, *said.get("users", [])]:
            self._compare(viewer, without_frame(event))
        if "self" in said:
            own = self.model.own(viewer, self.now)
            assert {name: said["self"][name] for name in own} == own, viewer
        if said["type"] != "presence_snapshot" and not socket.connection.polling and said["type"] != "presence":
            assert frame.connection_id in self.model.sockets(viewer, self.now)
        if self.lossless:
            self._check_told_once(socket, said, events)
            self._arrived(frame)
        elif self._random.random() >= self.loss:
            self._in_flight.append(frame)

    def _check_told_once(self, socket: Socket, said: dict[str, Any], events: list[dict[str, Any]]) -> None:
        client = socket.client
        if "prev" in said:
            assert said["seq"] not in socket.numbers, f"{socket.connection.id} got number {said['seq']} twice"
            socket.numbers.add(said["seq"])
        for event in events:
            user, record = event["userId"], without_frame(event)
            told, times = socket.told.get(user, ({}, 0))
            # A change that waited, or crossed another one, may be read twice; what is read is the newest.
            times = times + 1 if told == record else 1
            assert times <= 2, f"{socket.connection.id} got {event} again"
            socket.told[user] = record, times
            known = client.records.get(user)
            if socket.synced and known and not client.behind and known == told != record:
                on, was_on = event["status"] != "offline", known["status"] != "offline"
                hint = {(False, True): "user_online", (True, False): "user_offline"}
                assert event["type"] == hint.get((was_on, on), "presence_status"), event

    def _arrived(self, frame: Post) -> None:
        socket, said = self.sockets[frame.connection_id], json.loads(frame.data)
        socket.client.receive(said, self.now)
        socket.synced = socket.synced or said["type"] == "presence_snapshot"
