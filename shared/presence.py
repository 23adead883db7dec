"""The core: what the service does when something happens, in terms of users, connections and contacts.

`PresenceService` holds the use cases: what users, devices and the application ask for; what happens because time passes
is in `upkeep.py`. Each use case asks the state machine (`presence.lua`, through a `Store`) what an event changes, and
then carries out what the answer says: posts to viewers, closes connections, and reports back what was announced. It
keeps no state of its own, so any number of sandboxes may run it at once.

This module imports no Redis and no AWS: it reaches them through the protocols of `delivery.py`.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Self

from shared.delivery import (
    Delivery,
    Frame,
    Meter,
    Pusher,
    Request,
    Snapshot,
    Store,
    Unavailable,
    Work,
    of_buckets,
    view,
)
from shared.frames import TOKEN_LEEWAY, Answer, as_list, claim, custom_status, encode, own_state, record
from shared.messages import (
    MAX_BLOCKS,
    GetPresence,
    Heartbeat,
    LastSeenPolicy,
    Leave,
    Message,
    MessageRefused,
    PresenceUpdate,
    Record,
    StatusChange,
    Sync,
)
from shared.settings import Settings

EDITS = 250
"""Contacts that one script call changes: more would hold up everybody else on the node."""


class LimitReached(Exception):
    """A request that would take somebody over a limit; nothing of it was done.

    Attributes:
        field: the field of the request that asks for too much.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class SignedOut(Exception):
    """The token of whoever asks was issued before its user signed out everywhere, or was erased."""


class DeviceLeft(Exception):
    """A polling device says something although it has left, a moment ago: it may be a straggler.

    Attributes:
        retry_after: milliseconds after which it can be none any more.
    """

    retry_after = 5000


class StillTelling(Exception):
    """A user cannot be erased yet: contacts are still to be told that the user is offline. Ask again."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The connection that speaks, as the authorizer vouched for it. Times in ms unless named otherwise.

    A polling device has no socket: it speaks over HTTP, and nothing is posted to it.
    """

    user_id: str
    id: str
    connected_at: int
    token_issued_at: int
    """Seconds; 0 when the token does not say."""
    token_expires_at: int
    """Seconds."""
    device_id: str = ""
    device_type: str = "web"
    status: str | None = None
    active: bool = True
    polling: bool = False

    @classmethod
    def of_polling_device(cls, user_id: str, device_id: str, **vouched: Any) -> Self:
        """A device that has no socket. Its id is made of the user's and the device's: every poll is the same one's."""
        name = blake2b(f"{user_id}/{device_id}".encode(), digest_size=15).digest()
        return cls(user_id, f"poll-{urlsafe_b64encode(name).decode()}", device_id=device_id, polling=True, **vouched)

    def said(self, *, active: bool, idle: bool | None = None, status: str | None = None) -> dict[str, Any]:
        """The connection as the state machine wants it, and whether this is activity.

        Where the server lost the connection, it begins with `status`, and as idle or not; unsaid, as at the handshake.
        """
        said: dict[str, Any] = {
            "id": self.id,
            "type": self.device_type,
            "connectedAt": self.connected_at,
            "issuedAt": self.token_issued_at * 1000,
            "cap": (self.token_expires_at + TOKEN_LEEWAY) * 1000 if self.token_expires_at else 0,
            "active": active,
            "idle": not self.active if idle is None else idle,
            "polling": self.polling,
        }
        if self.device_id:
            said["device"] = self.device_id
        if status or self.status:
            said["status"] = status or self.status
        return said


class PresenceService:
    """The use cases. Every method that reads or changes state may raise `Unavailable`.

    Args:
        store: where state lives.
        pusher: what reaches clients.
        settings: the service's settings.
        clock: the time, in ms since the epoch.
        meter: what is counted.
    """

    def __init__(
        self, store: Store, pusher: Pusher, settings: Settings, clock: Callable[[], int], meter: Meter
    ) -> None:
        self._store, self._pusher, self._settings, self._clock, self._meter = store, pusher, settings, clock, meter
        self._delivery = Delivery(store, pusher, settings, clock, meter)

    # Connections

    def set_user_online(self, connection: Connection) -> bool:
        """A handshake: the connection is live from now on. One round trip; posts nothing, the first message does.

        Returns:
            False when the connection may not speak: it was signed out, or closed before it was announced here.
        """
        said = connection.said(active=connection.active)
        [answer] = self._ask(Request(connection.user_id, "connect", {"connection": said}))
        self._meter.count("Connections")
        return bool(answer["word"] == "live")

    def set_user_offline(self, user_id: str, connection_id: str) -> None:
        """The socket closed (`$disconnect`): after the grace the user is offline, if nothing else is live."""
        self._tell(user_id, Request(user_id, "disconnect", {"id": connection_id}))

    def leave(self, user_id: str, connection_id: str) -> None:
        """Sign-out of one connection, without a grace."""
        work = self._delivery.begin()
        work.closing = [connection_id]
        self._delivery.collect(work, user_id, *self._ask(Request(user_id, "leave", {"id": connection_id})))
        self._delivery.carry_out(work)

    def sign_out(self, user_id: str) -> int:
        """Close every connection and refuse tokens issued before now; gives how many sockets were closed."""
        [answer] = self._ask(Request(user_id, "sign_out", {}))
        work = self._delivery.begin()
        work.closing = as_list(answer.get("close"))
        self._delivery.collect(work, user_id, answer)
        self._delivery.carry_out(work)
        return int(answer["live"])

    # Messages

    def receive(self, connection: Connection, message: Message) -> None:
        """Do what a connection's message asks for.

        Raises:
            MessageRefused: it asks for something that cannot be, or the connection sends too much.
        """
        match message:
            case Heartbeat():
                self.update_heartbeat(connection, message)
            case PresenceUpdate():
                self.update_user_status(connection, message)
            case Sync():
                self.sync(connection, message)
            case GetPresence():
                self.answer_query(connection, message)
            case Leave():
                self.leave(connection.user_id, connection.id)

    def update_heartbeat(self, connection: Connection, message: Heartbeat) -> None:
        """Still here. Answered with a snapshot only where the client missed something.

        A heartbeat also settles one or two neighbours that are due, so that a busy system sweeps itself.

        Raises:
            MessageRefused: the connection sends too much.
        """
        said = connection.said(active=message.active, idle=not message.active, status=message.status)
        args: dict[str, Any] = {"connection": said}
        if message.seq is not None:
            args["seq"] = message.seq
        if message.status is not None:
            args["status"] = message.status
        answer = self._heard(connection, message.id, "heartbeat", args)
        if answer is None or answer.keys() == {"word", "wait"}:  # as nearly always, nothing comes of it
            return
        work = self._delivery.begin()
        self._delivery.collect(work, connection.user_id, answer)
        if "self" in answer:
            work.snapshot = self._snapshot(connection, message.id, answer)
        self._delivery.carry_out(work)
        with suppress(Unavailable):  # the neighbours stay due; this client's beat has been heard
            self._delivery.settle(as_list(answer.get("help")), Work(work.give_up))

    def update_user_status(self, connection: Connection, message: PresenceUpdate) -> None:
        """The user chose a status or a custom status, on this device or as a claim over all of them.

        Raises:
            MessageRefused: a time is past, or the connection sends too much.
        """
        change = self._change(message, message.id)
        if message.n is not None:
            change["n"] = message.n
        args = {"connection": connection.said(active=True), "change": change}
        answer = self._heard(connection, message.id, "update", args)
        if answer is not None:
            self._meter.count("Updates")
            self._delivery.carry_out(self._delivery.collect(self._delivery.begin(), connection.user_id, answer))

    def sync(self, connection: Connection, message: Sync) -> None:
        """Tell this connection everything that its user may see, or that it has missed nothing.

        Raises:
            MessageRefused: the connection sends too much.
        """
        args: dict[str, Any] = {"connection": connection.said(active=False)}
        if message.seq is not None:
            args["seq"] = message.seq
        if message.replaces is not None:
            args["replaces"] = message.replaces
        answer = self._heard(connection, message.id, "sync", args)
        if answer is None:
            return
        work = self._delivery.begin()
        work.closing = as_list(answer.get("close"))
        if "own" in answer:  # the snapshot says the same
            answer["own"]["connections"] = [id for id in as_list(answer["own"]["connections"]) if id != connection.id]
        self._delivery.collect(work, connection.user_id, answer)
        work.snapshot = self._snapshot(connection, message.id, answer)
        self._delivery.carry_out(work)

    def answer_query(self, connection: Connection, message: GetPresence) -> None:
        """Tell this connection about the users that it names.

        Raises:
            MessageRefused: the connection sends too much.
        """
        answer = self._heard(connection, message.id, "query", {"connection": connection.said(active=False)})
        if answer is None:
            return
        users = self.get_bulk_presence(connection.user_id, message.userIds)
        frame: dict[str, Any] = {"type": "presence", "users": users}
        if message.id is not None:
            frame["id"] = message.id
        work = self._delivery.collect(self._delivery.begin(), connection.user_id, answer)
        work.frames.append((connection.user_id, Frame(connection.id, encode(frame))))
        self._delivery.carry_out(work)

    def reply(self, connection_id: str, frame: Mapping[str, Any]) -> None:
        """Post one frame to one connection, without touching state: an error, mostly."""
        self._pusher.post([Frame(connection_id, encode(frame))])

    # Polling devices, which have no socket

    def poll(self, connection: Connection, message: Heartbeat) -> dict[str, Any]:
        """Heartbeat and `sync` of a polling device in one; gives the snapshot, in one part.

        Raises:
            SignedOut: the token is dead.
            DeviceLeft: it has left, a moment ago.
            LimitReached: the user has too many polling devices.
            MessageRefused: the device sends too much.
        """
        args: dict[str, Any] = {
            "connection": connection.said(active=message.active, idle=not message.active, status=message.status)
        }
        if message.seq is not None:
            args["seq"] = message.seq
        if message.status is not None:
            args["status"] = message.status
        answer = self._polled(connection, "poll", args)
        snapshot = self._snapshot(connection, message.id, answer)
        users = self.get_bulk_presence(connection.user_id, snapshot.users)
        self._delivery.carry_out(self._delivery.collect(self._delivery.begin(), connection.user_id, answer))
        return {**snapshot.head, "part": 1, "parts": 1, "users": users}

    def update_polling_device(self, connection: Connection, change: StatusChange) -> None:
        """The user chose a status or a custom status on a polling device; it counts as a heartbeat.

        Raises:
            SignedOut, DeviceLeft, LimitReached: as for `poll`.
            MessageRefused: a time is past, or the device sends too much.
        """
        args = {"connection": connection.said(active=True), "change": self._change(change, None)}
        answer = self._polled(connection, "poll_update", args)
        self._meter.count("Updates")
        self._delivery.carry_out(self._delivery.collect(self._delivery.begin(), connection.user_id, answer))

    def end_connection(self, user_id: str, connection_id: str, issued_at: int, *, grace: bool = False) -> None:
        """End a connection that is not the one that speaks; nothing happens unless it is the user's own.

        It is a sign-out, or, with `grace`, as if a socket had closed: whoever comes back within the grace was not away.

        Raises:
            SignedOut: the token, issued at `issued_at` (seconds), is dead.
        """
        args = {"id": connection_id, "known": True, "grace": grace}
        [answer] = self._ask(Request(user_id, "leave", args | _by(issued_at)))
        work = self._delivery.begin()
        work.closing = as_list(answer.get("close"))
        self._delivery.carry_out(self._delivery.collect(work, user_id, answer))

    # Reads. `issued_at` (seconds) is that of the token with which a user asks; a dead one raises `SignedOut`.

    def get_user_presence(self, viewer: str, user_id: str) -> Record:
        """What `viewer` may see of a user, now."""
        return self.get_bulk_presence(viewer, [user_id])[0]

    def get_bulk_presence(self, viewer: str, user_ids: Sequence[str], issued_at: int | None = None) -> list[Record]:
        """What `viewer` may see of these users, now, in their order. One round trip."""
        admission = [] if issued_at is None else [Request(viewer, "admit", _by(issued_at))]
        answers = self._ask(*admission, *(view(viewer, user) for user in user_ids))
        return [record(answer) for answer in answers[len(admission) :]]

    def get_snapshot(self, user_id: str, seq: int | None, issued_at: int) -> dict[str, Any]:
        """Everything that a user may see, without a connection; `resumed` and nobody if nothing is newer than `seq`."""
        args = _by(issued_at) if seq is None else {"seq": seq, **_by(issued_at)}
        [answer] = self._ask(Request(user_id, "contacts", args))
        return {
            "seq": answer["feed"],
            "resumed": answer["resumed"],
            "self": own_state(user_id, answer["self"], self._settings),
            "users": self.get_bulk_presence(user_id, sorted(as_list(answer.get("sees")))),
        }

    def inspect_user(self, user_id: str) -> dict[str, Any]:
        """The user's real state with every device, and why it is so; for the backend alone."""
        [answer] = self._ask(Request(user_id, "inspect", {}))
        return {**self._explained(user_id, answer), "rev": answer["record"].get("rev")}

    def inspect_self(self, user_id: str, issued_at: int) -> dict[str, Any]:
        """The same for the user, with what the user hides. Nothing in it depends on who blocks or hides from the user.

        `rev` does: it jumps when somebody keeps a frozen record.
        """
        answer, privacy = self._ask(Request(user_id, "inspect", _by(issued_at)), Request(user_id, "privacy_of", {}))
        lists = {name: sorted(as_list(privacy[name])) for name in ("hideFrom", "blocks")}
        return {**self._explained(user_id, answer), **lists}

    # Relations and settings

    def get_user_contacts(self, user_id: str) -> dict[str, list[str]]:
        """Who may see the user (`viewers`) and whom the user may see (`sees`), sorted."""
        [answer] = self._ask(Request(user_id, "graph_of", {}))
        return {name: sorted(as_list(answer[name])) for name in ("viewers", "sees")}

    def set_contacts(
        self, user_id: str, add: Sequence[str] = (), remove: Sequence[str] = (), *, mutual: bool = True
    ) -> None:
        """Let each in `add` see the user, and those in `remove` no longer; with `mutual` the other way round too.

        Each pair changes at one moment on each side, and not all pairs together. Calls that run at the same time do not
        see each other's additions when they look whether there is room.

        Raises:
            LimitReached: somebody would have more than `max_contacts` viewers; nothing was changed.
        """
        add, remove = _others(user_id, add), _others(user_id, remove)
        self._check_room(user_id, add, mutual=mutual)
        edits = [[viewer, "contact"] for viewer in add] + [[viewer, "stranger"] for viewer in remove]
        give_up = self._delivery.begin().give_up
        for start in range(0, len(edits), EDITS):
            some = edits[start : start + EDITS]
            added, removed = ([id for id, edit in some if edit == kind] for kind in ("contact", "stranger"))
            # `sees` is an index of the others' `contacts`, which decide: it may hold too much, never too little.
            # Another call may undo it meanwhile: so it is written before and after, and who removed looks once more.
            self._ask(*self._sees(user_id, "add", added, mutual=mutual))
            requests = [Request(user_id, "relate", {"edits": some})]
            if mutual:
                requests += [Request(viewer, "relate", {"edits": [[user_id, edit]]}) for viewer, edit in some]
            self._delivery.tell_all(requests, Work(give_up))
            sees = self._sees(user_id, "add", added, mutual=mutual)
            self._ask(*sees, *self._sees(user_id, "remove", removed, mutual=mutual))
            self._ask(*self._added_meanwhile(user_id, removed, mutual=mutual))

    def get_privacy(self, user_id: str) -> dict[str, Any]:
        """What the user hides: `invisible`, `lastSeen` policy, `hideFrom` and `blocks`."""
        [answer] = self._ask(Request(user_id, "privacy_of", {}))
        return {
            "invisible": answer["invisible"],
            "lastSeen": answer["lastSeen"],
            "hideFrom": sorted(as_list(answer["hideFrom"])),
            "blocks": sorted(as_list(answer["blocks"])),
        }

    def set_privacy(
        self,
        user_id: str,
        *,
        invisible: bool | None = None,
        last_seen: LastSeenPolicy | None = None,
        hide_from: Sequence[str] | None = None,
        blocks: Sequence[str] | None = None,
        issued_at: int | None = None,
    ) -> None:
        """Replace what is given, leave the rest. Acts on every surface at once.

        Raises:
            SignedOut: the token with which the user asks, issued at `issued_at` (seconds), is dead.
        """
        given = {
            "invisible": invisible,
            "lastSeen": last_seen,
            "hideFrom": hide_from and _others(user_id, hide_from),
            "blocks": blocks and _others(user_id, blocks),
        }
        args = {name: value for name, value in given.items() if value is not None}
        self._tell(user_id, Request(user_id, "privacy", args | _by(issued_at)))

    def set_block(self, user_id: str, other: str, *, blocked: bool, issued_at: int) -> None:
        """Block one user, or no longer.

        Raises:
            SignedOut: as for `set_privacy`.
            LimitReached: the user blocks as many as anybody may.
        """
        args = {"viewer": other, "on": blocked, "most": MAX_BLOCKS, **_by(issued_at)}
        [answer] = self._ask(Request(user_id, "block", args))
        if answer.get("word") == "full":
            raise LimitReached(f"nobody blocks more than {MAX_BLOCKS} users", "userId")
        self._delivery.carry_out(self._delivery.collect(self._delivery.begin(), user_id, answer))

    def set_status(self, user_id: str, change: StatusChange, issued_at: int | None = None) -> None:
        """Choose a claim or a custom status for a user, without a connection.

        Raises:
            SignedOut: as for `set_privacy`.
            MessageRefused: a time is past, or the change is one of a device.
        """
        if change.status is not None and change.scope != "user":
            raise MessageRefused("invalid_message", "without a device the scope of a status is user", field="scope")
        self._tell(user_id, Request(user_id, "choose", {"change": self._change(change, None)} | _by(issued_at)))

    def erase_user(self, user_id: str) -> None:
        """Keep nothing about a user, nor of them in what is kept of others. May be done again, and cut short anywhere.

        Sockets are closed, contacts are told once that the user is offline, and then everybody whom the user's own keys
        name forgets the user, before those keys go. For a day it stays known that older tokens are dead.

        Raises:
            StillTelling: contacts could not all be told yet.
        """
        self.sign_out(user_id)
        [known] = self._ask(Request(user_id, "known_to", {}))
        if not known["told"]:
            raise StillTelling
        others = [Request(other, "forget", {"other": user_id}) for other in sorted(as_list(known["others"]))]
        self._delivery.tell_all(others, self._delivery.begin())
        [answer] = self._ask(Request(user_id, "erase", {}))
        work = self._delivery.begin()
        work.closing = as_list(answer.get("close"))
        self._delivery.carry_out(work)

    def set_graph_loaded(self, loaded: bool) -> None:
        """Say that privacy and contacts are loaded: before that nobody sees anybody."""
        self._ask(*of_buckets(self._store, "bucket", loaded=loaded))

    def graph_page(self, cursor: str) -> tuple[list[dict[str, Any]], str]:
        """A slice of everything that the application or users gave, for a backup, and the next cursor ("" ends).

        A user may come in more than one slice.

        Raises:
            MessageRefused: the cursor leads nowhere, perhaps because the store has lost a node since it was given.
        """
        try:
            ids, following = self._store.users(cursor)
        except IndexError:
            raise MessageRefused("invalid_message", "leads nowhere; begin again without one", field="cursor") from None
        users = sorted(ids)
        answers = self._ask(*(Request(user, "graph_of", {}) for user in users))
        page = []
        for user, answer in zip(users, answers, strict=True):
            line: dict[str, Any] = {"userId": user, "invisible": answer["invisible"], "lastSeen": answer["lastSeen"]}
            line |= {name: sorted(as_list(answer[name])) for name in ("viewers", "hideFrom", "blocks")}
            line["customStatus"] = custom_status(answer.get("custom"))
            line["claim"] = claim(answer)
            page.append(line)
        return page, following

    # Asking

    def _ask(self, *requests: Request) -> list[Answer]:
        answers = self._store.call(requests, self._clock())
        if any(answer.get("word") == "signed_out" for answer in answers):
            raise SignedOut
        return answers

    def _polled(self, connection: Connection, verb: str, args: Mapping[str, Any]) -> Answer:
        [answer] = self._ask(Request(connection.user_id, verb, {**args, **_by(connection.token_issued_at)}))
        match answer["word"]:
            case "closed":
                raise DeviceLeft
            case "full":
                raise LimitReached(f"at most {self._settings.max_devices} devices poll at once", "deviceId")
            case "limited":
                raise MessageRefused("rate_limited", "too many messages of this device", retry_after=answer["wait"])
        return answer

    def _explained(self, user_id: str, answer: Answer) -> dict[str, Any]:
        own = own_state(user_id, answer["self"], self._settings)
        rule, why = _why(own, answer)
        shown = answer["record"]["status"]
        return {**own, "lastSeen": answer.get("last"), "visibleStatus": shown, "rule": rule, "why": why}

    def _heard(
        self, connection: Connection, message_id: str | None, verb: str, args: Mapping[str, Any]
    ) -> Answer | None:
        """Let a message of a connection count; None when the connection may not speak, and is closed."""
        [answer] = self._ask(Request(connection.user_id, verb, args))
        if answer["word"] == "closed" and not connection.polling:
            self._pusher.close([connection.id])
        if answer["word"] in ("closed", "ignored"):
            return None
        if answer["word"] == "limited":
            raise MessageRefused(
                "rate_limited", "too many messages on this connection", id=message_id, retry_after=answer["wait"]
            )
        return answer

    def _tell(self, user_id: str, request: Request) -> None:
        work = self._delivery.begin()
        self._delivery.carry_out(self._delivery.collect(work, user_id, *self._ask(request)))

    def _sees(self, user_id: str, edit: str, others: Sequence[str], *, mutual: bool) -> list[Request]:
        if not others:
            return []
        requests = [Request(other, "sees", {edit: [user_id]}) for other in others]
        return [*requests, Request(user_id, "sees", {edit: list(others)})] if mutual else requests

    def _added_meanwhile(self, user_id: str, removed: Sequence[str], *, mutual: bool) -> list[Request]:
        """Further `sees` for those who are contacts after all."""
        if not removed:
            return []
        requests = [Request(user_id, "contacts_among", {"users": list(removed)})]
        if mutual:
            requests += [Request(other, "contacts_among", {"users": [user_id]}) for other in removed]
        pairs = [
            (viewer, request.user)
            for request, answer in zip(requests, self._ask(*requests), strict=True)
            for viewer in as_list(answer["contacts"])
        ]
        return [Request(viewer, "sees", {"add": [user]}) for viewer, user in pairs]

    def _check_room(self, user_id: str, add: Sequence[str], *, mutual: bool) -> None:
        if not add:
            return
        requests = [Request(user_id, "room", {"viewers": list(add)})]
        if mutual:
            requests += [Request(other, "room", {"viewers": [user_id]}) for other in add]
        for request, answer in zip(requests, self._ask(*requests), strict=True):
            if not answer["room"]:
                most = self._settings.max_contacts
                raise LimitReached(f"{request.user} would have more than {most} contacts", "add")

    def _change(self, change: StatusChange, message_id: str | None) -> dict[str, Any]:
        """A change as the state machine wants it; the custom status as the text in which it is kept."""
        now = self._clock()
        if change.until is not None and change.until <= now:
            raise MessageRefused("invalid_message", "until is past", field="until", id=message_id)
        wanted: dict[str, Any] = {"scope": change.scope}
        if change.status is not None:
            wanted["status"] = change.status
        if change.until is not None:
            wanted["until"] = change.until
        if "customStatus" in change.model_fields_set:
            custom = change.customStatus
            if custom is not None and custom.until is not None and custom.until <= now:
                raise MessageRefused("invalid_message", "until is past", field="customStatus.until", id=message_id)
            kept = custom.model_dump(exclude_none=True) if custom and (custom.text or custom.emoji) else None
            wanted["custom"] = encode(kept).decode() if kept else ""
        return wanted

    def _snapshot(self, connection: Connection, message_id: str | None, answer: Answer) -> Snapshot:
        head: dict[str, Any] = {
            "type": "presence_snapshot",
            "seq": answer["feed"],
            "resumed": bool(answer.get("resumed")),
            "self": own_state(connection.user_id, answer["self"], self._settings, connection.id),
        }
        if message_id is not None:
            head["id"] = message_id
        return Snapshot(connection.user_id, connection.id, sorted(as_list(answer.get("sees"))), head)


def _others(user_id: str, users: Sequence[str]) -> list[str]:
    """Each of `users` once, without the user: nobody is a contact of themselves, or hides from themselves."""
    return [other for other in dict.fromkeys(users) if other != user_id]


def _by(issued_at: int | None) -> dict[str, Any]:
    """Whose token asks, so that it is refused where it is dead; the backend asks without one."""
    return {} if issued_at is None else {"issuedAt": issued_at * 1000}


def _why(own: Mapping[str, Any], answer: Answer) -> tuple[str, str]:
    """The rule that decided the user's real status, as a word, and in a sentence."""
    if own["status"] == "offline":
        rule, why = "no_device", "no device is live"
    elif own["claim"]:
        rule, why = "claim", f"the user claims {own['claim']['status']} on all devices"
    elif not own["devices"]:
        rule, why = "grace", "the last device closed and the grace has not passed"
    elif answer["idle"] and own["status"] == "away":
        rule, why = "idle", "no device was used for a while"
    else:
        rule, why = "device", f"a device says {own['status']}"
    if own["invisible"]:
        why = f"invisible: contacts see {answer['record']['status']}"
    return rule, why
