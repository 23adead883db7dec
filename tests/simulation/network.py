"""What is between clients and the service, under virtual time: API Gateway, the functions, the store's nodes.

Every request takes some ms. A function is a task, so others run while it waits, and it may die or be held up after any
round trip and any fan-out. The faults are those that `shared/push.py` and `shared/store.py` report or hide.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from functions.api import requests
from shared.auth import Authenticator, Identity, Refused
from shared.commands import Command, SignedOut, TooManyCalls
from shared.connection import Connection
from shared.delivery import Post, Unavailable
from shared.events import Handshake, HandshakeRefused, body_of, connection_of
from shared.messages import Heartbeat, LimitReached, MessageRefused, id_of, parse_message
from shared.presence import DeviceLeft, PresenceService
from shared.settings import Settings
from shared.store import FACTS, AnyResponse
from tests.simulation.faults import Faults
from tests.simulation.invariants import Watch
from tests.simulation.scheduler import Scheduler
from tests.support import events
from tests.support.clock import Clock
from tests.support.metrics import Counts
from tests.support.nodes import SplitStore
from tests.support.shipped_clients import Action, Closed, Opening, Requested, Sent, ShippedClients

IDLE_CUT_MS = 600_000
"""API Gateway closes a socket that was idle for so long."""


class Killed(BaseException):
    """The function died here. No `except Exception` catches it."""


@dataclass(slots=True, eq=False)
class Socket:
    """API Gateway's end of a WebSocket."""

    number: int
    client: str
    connection_id: str
    connected_at: int
    context: dict[str, Any]
    is_open: bool = False
    """Whether its `$connect` was accepted and it has not closed: only then can be posted to it."""
    has_closed: bool = False
    arrival: int = 0
    """When the last frame arrives: later ones do not overtake it."""

    @property
    def user(self) -> str:
        user: str = self.context["userId"]
        return user


class SimulatedStore:
    """A `Store`: the real one on each node, a network between, and a watch on what it answers.

    Attributes:
        calls: how many round trips there were.
        unavailable: nodes that do not answer.
    """

    def __init__(self, store: SplitStore, network: Network) -> None:
        self._store, self._network = store, network
        self.buckets, self.nodes = store.buckets, len(store.stores)
        self.calls = 0
        self.unavailable: set[int] = set()

    def node_of(self, command: Command[Any]) -> int:
        bucket = self._store.bucket_of(command.user) if command.bucket is None else command.bucket
        return bucket % self.nodes

    def call(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse]:
        responses = []
        for response in self.call_each(commands, now):
            if isinstance(response, Unavailable):
                raise response
            responses.append(response)
        return responses

    def call_each(self, commands: Sequence[Command[AnyResponse]], now: int) -> list[AnyResponse | Unavailable]:
        if not commands:
            return []
        network, rng = self._network, self._network.faults.random
        places: dict[int, list[int]] = {}
        for place, command in enumerate(commands):
            places.setdefault(self.node_of(command), []).append(place)
        nodes = sorted(places)
        rng.shuffle(nodes)
        responses: list[Any] = [None] * len(commands)
        for node in nodes:
            network.scheduler.pause(rng.choice((20, 400, 900)) if network.faults.strikes("call slow") else 1)
            of_node = [commands[place] for place in places[node]]
            answers: Sequence[Any]
            if node in self.unavailable:
                network.faults.counts["node unavailable"] += 1
                answers = [Unavailable("the node does not answer")] * len(of_node)
                if rng.random() < 0.2:  # it did what it was asked to, but the answer was lost
                    self._run(of_node, now)
            else:
                if network.faults.strikes("call repeated"):  # the connection was lost, and the client tries once more
                    self._run(of_node, now)
                answers = self._run(of_node, now)
            for place, answer in zip(places[node], answers, strict=True):
                responses[place] = answer
        network.step()
        return responses

    def _run(self, commands: Sequence[Command[Any]], now: int) -> list[Any]:
        self.calls += 1
        answers = self._store.call_each(commands, now)
        self._network.watch.ran(commands, answers, self._network.scheduler.current)
        for wake in list(self._network.wakes):
            wake()
        return answers

    def users(self, cursor: str, count: int = 100, kinds: Sequence[str] = FACTS) -> tuple[set[str], str]:
        return self._store.users(cursor, count, kinds)

    def eviction_policy(self) -> str | None:
        return None


class SimulatedPusher:
    """A `Pusher` as the service sees it: frames of one connection in order, connections concurrently."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def post(self, posts: Sequence[Post], within: float = math.inf) -> set[str]:
        queues: dict[str, list[Post]] = {}
        for post in posts:
            queues.setdefault(post.connection_id, []).append(post)
        gone = {id for id in queues if not self._network.sockets[id].is_open}
        if gone:
            self._network.faults.counts["post gone (410, true)"] += len(gone)
        budget = min(within, self._network.settings.push_budget) * 1000
        slowest = 1.0
        for id, queue in queues.items():
            socket, frames = self._network.sockets[id], [self._check(post) for post in queue]
            if id in gone:
                continue
            if self._network.faults.strikes("post gone (410, false)"):
                gone.add(id)
                continue
            slowest = max(slowest, self._send(socket, frames, budget))
        self._network.scheduler.pause(min(slowest, budget))
        self._network.step()
        return gone

    def close(self, connection_ids: Iterable[str], within: float = math.inf) -> None:
        for id in connection_ids:
            if id in self._network.sockets:
                self._network.close(self._network.sockets[id])
        self._network.scheduler.pause(2)
        self._network.step()

    def _check(self, post: Post) -> str:
        viewer = self._network.sockets[post.connection_id].user
        frame = self._network.watch.posted(viewer, post, self._network.scheduler.current)
        self._network.numbered += "prev" in frame
        return post.data.decode()

    def _send(self, socket: Socket, frames: Sequence[str], budget: float) -> float:
        """Post the frames of one connection; gives how long it takes, in ms."""
        faults, took = self._network.faults, 0.0
        for frame in frames:
            took += faults.random.uniform(1, 10)
            if faults.strikes("post throttled (429, 5xx)"):  # a 5xx may be a post that was delivered all the same
                if faults.random.random() < 0.3:
                    self._network.deliver(socket, frame, took)
                took += faults.random.uniform(100, 1500)
            if took > budget or faults.strikes("post refused (403)"):
                continue
            if faults.strikes("post hangs"):  # no answer, and the next frames would hang as well
                if faults.random.random() < 0.5:
                    self._network.deliver(socket, frame, took + faults.random.uniform(0, 8000))
                return budget
            if not faults.strikes("post lost"):
                self._network.deliver(socket, frame, took)
                if faults.strikes("post duplicated"):
                    self._network.deliver(socket, frame, took + faults.random.uniform(0, 3000), overtakes=True)
        return took


class Network:
    """API Gateway and the functions.

    Attributes:
        sockets: every socket so far, by its connection id.
        firewalled: clients whose handshakes are refused, so that they poll.
        away: client → until when its network is away, in ms.
        syncs: client → how many `sync` it has sent over sockets.
        numbered: how many numbered frames were posted.
        wakes: what is called after each round trip.
    """

    def __init__(
        self, clock: Clock, clients: ShippedClients, settings: Settings, faults: Faults, watch: Watch, metrics: Counts
    ) -> None:
        self.clock, self.clients, self.settings, self.faults, self.watch = clock, clients, settings, faults, watch
        self.scheduler = Scheduler(clock)
        self.sockets: dict[str, Socket] = {}
        self.firewalled: set[str] = set()
        self.away: dict[str, int] = {}
        self.syncs: dict[str, int] = {}
        self.numbered = 0
        self.wakes: list[Callable[[], None]] = []
        self._metrics = metrics
        self._authenticator = Authenticator(settings)
        self._of_client: dict[int, Socket] = {}
        self._opened = 0
        self._client_time = clock()

    def use(self, store: SplitStore, skews: Sequence[int]) -> None:
        """Create an execution environment for each of these clock errors, in ms."""
        self.store = SimulatedStore(store, self)
        self.environments = [self._environment(skew) for skew in skews]

    def _environment(self, skew: int) -> PresenceService:
        return PresenceService(
            self.store, SimulatedPusher(self), self.settings, lambda: self.clock() + skew, self._metrics
        )

    # Functions

    def function(self, name: str, work: Callable[[PresenceService], object], after: float = 0) -> None:
        """Invoke a function after so many ms; an error of the store ends it."""

        def run() -> None:
            with suppress(Killed, Unavailable):
                self.run(work)

        self.scheduler.start(name, run, after)

    def run(self, work: Callable[[PresenceService], object]) -> Any:
        """Run a function in the current task; raises what it raises, and `Killed`."""
        task = self.scheduler.current
        if task:
            task.steps = 0
            task.reads.clear()
            if any(other is not task and other.steps for other in self.scheduler.running if other.name != "sweeper"):
                self.faults.counts["functions overlap"] += 1
        return work(self.faults.random.choice(self.environments))

    def step(self) -> None:
        """A function completed a round trip or a fan-out: it may die, or be held up."""
        task = self.scheduler.current
        if task is None:
            return
        task.steps += 1
        if (armed := self.faults.of_step(task.name, task.steps)) is not None:
            if armed.ms is None:
                raise Killed
            self.scheduler.pause(armed.ms)

    # Clients

    def do(self, command: Callable[[], list[Action]]) -> None:
        """Give clients a command, now, and take up what they do."""
        if self._client_time < self.clock():
            self.advance_clients()
        self._handle(command())

    def advance_clients(self) -> None:
        """The clients' clock follows."""
        self._client_time = self.clock()
        self._handle(self.clients.advance(self.clock()))

    def is_away(self, client: str) -> bool:
        """Whether nothing reaches the client now."""
        return self.away.get(client, 0) > self.clock()

    def _latency(self, client: str) -> float | None:
        """How long a message of a client takes, in ms; None if it is lost."""
        if self.is_away(client) or self.faults.strikes("message lost"):
            return None
        late = self.faults.strikes("message late")
        return self.faults.random.uniform(1000, 9000) if late else self.faults.random.uniform(5, 30)

    def _handle(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Opening():
                    self._handshake(action)
                case Sent(client=client, socket=number, data=text):
                    self.syncs[client] = self.syncs.get(client, 0) + ('"action":"sync"' in text)
                    socket, latency = self._of_client.get(number), self._latency(client)
                    if socket and not socket.has_closed and latency is not None:
                        self._message(socket, text, latency)
                case Closed(socket=number):
                    if number in self._of_client:
                        self._disconnect(self._of_client[number])
                case Requested():
                    self._call(action)

    def _handshake(self, opening: Opening) -> None:
        if opening.client in self.firewalled or self.is_away(opening.client):
            self.scheduler.after(50, lambda: self.do(lambda: self.clients.lose(opening.socket)))
            return
        now = self.clock()
        handshake = Handshake.of({"queryStringParameters": dict(parse_qsl(urlsplit(opening.url).query))}, "query")
        identity = self._authenticator.verify(handshake.token, now / 1000)
        context = handshake.context(identity.user_id, identity.issued_at, identity.expires_at)
        self._opened += 1
        socket = Socket(opening.socket, opening.client, f"C{self._opened}=", now, context)
        self.sockets[socket.connection_id] = self._of_client[opening.socket] = socket

        def connect(service: PresenceService) -> None:
            accepted = False
            try:
                event = events.connect(context, socket.connection_id, now)
                handshake.check()
                accepted = service.set_user_online(connection_of(event))
            except Unavailable:
                accepted = True
            except (HandshakeRefused, LimitReached):
                pass
            finally:  # a function that dies is a refusal, too
                self._answer_handshake(socket, accepted=accepted)

        late = self.faults.random.uniform(1000, 9000) if self.faults.strikes("connect late") else 20
        self.function("connect", connect, late)

    def _answer_handshake(self, socket: Socket, *, accepted: bool) -> None:
        if accepted and not socket.has_closed:
            socket.is_open = True
            self.scheduler.after(10, lambda: self.do(lambda: self.clients.opened(socket.number)))
        else:
            socket.has_closed = True
            self.scheduler.after(10, lambda: self.do(lambda: self.clients.lose(socket.number)))

    def _message(self, socket: Socket, text: str, latency: float) -> None:
        event = events.message(socket.context, text, socket.connection_id, socket.connected_at)

        def handle(service: PresenceService) -> None:
            connection = connection_of(event)
            try:
                service.receive(connection, parse_message(body_of(event)))
            except MessageRefused as error:
                service.refuse(connection, error)
            except Unavailable as error:
                wait = error.retry_after
                refusal = MessageRefused("unavailable", "try again", id=id_of(body_of(event)), retry_after=wait)
                service.refuse(connection, refusal)

        self.function("message", handle, latency)

    def deliver(self, socket: Socket, frame: str, latency: float, *, overtakes: bool = False) -> None:
        """A frame is on its way to a client."""
        if self.is_away(socket.client):
            return
        if self.faults.strikes("post late"):
            latency, overtakes = latency + self.faults.random.uniform(500, 9000), True
        if not overtakes:
            latency = max(latency + 5, socket.arrival - self.clock())
            socket.arrival = self.clock() + round(latency)
        self.scheduler.after(latency, lambda: self.do(lambda: self.clients.deliver(socket.number, frame)))

    def close(self, socket: Socket, code: int = 1001) -> None:
        """The service or the network closes a socket."""
        self._disconnect(socket)
        self.scheduler.after(10, lambda: self.do(lambda: self.clients.lose(socket.number, code)))

    def _disconnect(self, socket: Socket, after: float = 20) -> None:
        """A socket closed; the service is notified, or not, or late, or twice."""
        if socket.has_closed:
            return
        socket.has_closed, socket.is_open = True, False
        if self.faults.strikes("disconnect lost"):
            return
        times = 2 if self.faults.strikes("disconnect twice") else 1
        if self.faults.strikes("disconnect late"):
            after = self.faults.random.uniform(1000, 60_000)
        for time in range(times):
            self.function(
                "disconnect",
                lambda service: service.set_user_offline(socket.user, socket.connection_id),
                after + 1500 * time,
            )

    def abandon(self, client: str) -> None:
        """The machine of a client is gone: its sockets look open until they have been idle for long."""
        self.do(lambda: self.clients.drop(client))
        for socket in self.sockets.values():
            if socket.client == client and socket.is_open:
                self.scheduler.after(IDLE_CUT_MS, partial(self._disconnect, socket))

    def cut(self, client: str) -> bool:
        """Cut the sockets of a client; gives whether there were any."""
        found = [socket for socket in self.sockets.values() if socket.client == client and socket.is_open]
        for socket in found:
            self.close(socket, 1006)
        return bool(found)

    # The HTTP API

    def _call(self, request: Requested) -> None:
        latency = self._latency(request.client)
        if latency is None:
            self.scheduler.after(1000, lambda: self.do(lambda: self.clients.fail(request.request)))
            return

        def handle(service: PresenceService) -> None:
            status, body = 502, {"message": "Bad Gateway"}
            try:
                status, body = self._answer(service, request)
            finally:
                headers = {"Retry-After": "1"} if status in (409, 429, 503) else {}
                text = json.dumps(body) if body else ""
                respond = lambda: self.clients.respond(request.request, status, text, headers)  # noqa: E731
                self.scheduler.after(10, lambda: self.do(respond))

        self.function("api", handle, latency)

    def _answer(self, service: PresenceService, request: Requested) -> tuple[int, dict[str, Any]]:
        try:
            token = request.headers["Authorization"].removeprefix("Bearer ")
            me = self._authenticator.verify(token, self.clock() / 1000)
            answer = self._route(service, request, me)
        except (Refused, SignedOut):
            return 401, {"title": "Unauthorized"}
        except (DeviceLeft, LimitReached):
            return 409, {"title": "Conflict"}
        except (TooManyCalls, MessageRefused) as error:
            is_limit = isinstance(error, TooManyCalls) or error.code == "rate_limited"
            field = None if isinstance(error, TooManyCalls) else error.field
            errors = [{"field": field, "message": str(error)}] if field else []
            return (429 if is_limit else 400), {"title": "Refused", "errors": errors}
        except Unavailable:
            return 503, {"title": "Service Unavailable"}
        return (200, answer) if answer else (204, {})

    def _route(self, service: PresenceService, request: Requested, me: Identity) -> dict[str, Any] | None:
        """What the routes of functions/api do for the calls of a client."""
        body, user = request.body or "{}", me.user_id

        def device(id: str) -> Connection:
            return Connection.of_polling_device(
                user, id, now=self.clock(), issued_at=me.issued_at, expires_at=me.expires_at
            )

        match request.method, urlsplit(request.url).path:
            case "POST", "/v1/me/heartbeat":
                poll = requests.Poll.model_validate_json(body)
                beat = Heartbeat(action="heartbeat", active=poll.active, status=poll.status, seq=poll.seq, n=poll.n)
                answer: dict[str, Any] = dict(service.poll(device(poll.deviceId), beat))
                self.watch.read(user, answer, self.scheduler.current)
                return answer
            case "POST", "/v1/me/leave":
                leaving = requests.Leaving.model_validate_json(body)
                id = leaving.connectionId or device(leaving.deviceId).id
                service.end_connection(user, id, me.issued_at, grace=leaving.grace)
            case "PUT", "/v1/me/status":
                change = requests.OwnStatusChange.model_validate_json(body)
                if change.deviceId is None:
                    service.set_status(user, change, me.issued_at)
                else:
                    service.update_polling_device(device(change.deviceId), change)
            case "POST", "/v1/presence/query":
                ids = requests.UsersQuery.model_validate_json(body).userIds
                records = service.get_bulk_presence(user, ids, me.issued_at)
                self.watch.read(user, {"users": records}, self.scheduler.current)
                return {"users": records}
            case method, path:
                raise AssertionError(f"no client calls {method} {path} here")
        return None
