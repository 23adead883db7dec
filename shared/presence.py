"""The entrance to the service: what happens when a device or the application asks for something.

`PresenceService` has the service's operations. Each runs a command of the state machine (`lua/`, through a `Store`) and
delivers what the outcome asks for: it posts to viewers, closes connections, and reports what was announced. What
devices send is handled here, who sees whom in `contacts.py`, what happens because time passes in `upkeep.py`. The
service keeps no state of its own, so any number of execution environments may run it at the same time.

This module imports no Redis and no AWS: it reaches them through the protocols of `delivery.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar, cast

from shared import commands
from shared.commands import Command
from shared.connection import Connection
from shared.contacts import Contacts
from shared.delivery import Delivery, Metrics, Post, Pusher, Snapshot, Store, Unavailable, call_together
from shared.frames import (
    ContactsSnapshot,
    ErrorFrame,
    ExplainedState,
    InspectedUser,
    Me,
    Record,
    SnapshotFrame,
    encode,
    error_frame,
    own_state,
    query_frames,
    real_state,
    record,
)
from shared.messages import (
    GetPresence,
    Heartbeat,
    Leave,
    LimitReached,
    Message,
    MessageRefused,
    PresenceUpdate,
    StatusChange,
    Sync,
)
from shared.responses import Inspection, MessageOutcome, Refusal, Response, Rule, UserState
from shared.settings import Settings
from shared.upkeep import Upkeep

AnyResponse = TypeVar("AnyResponse", bound=Response)

LATEST_SEQ_MS = 600_000
"""How far the number of a frame can be ahead of the time, in ms; feeds move ahead by a minute for each loss."""

_REASONS: dict[Rule, str] = {
    "no_device": "no device is live",
    "claim": "the user claims {status} on all devices",
    "grace": "the last device closed and the grace has not passed",
    "idle": "no device was used for a while",
    "device": "a device is {status}",
}


class DeviceLeft(Exception):
    """A polling device sent a message shortly after it had left: the message may be a late one.

    Attributes:
        retry_after: milliseconds after which a late message can no longer arrive.
    """

    retry_after = 5000


class PresenceService:
    """The operations. Every method that reads or changes state may raise `Unavailable`.

    Args:
        store: where state is.
        pusher: what reaches clients.
        settings: the service's settings.
        clock: the time, in ms since the epoch.
        metrics: what is counted.

    Attributes:
        contacts: who sees whom.
        upkeep: what happens because time passes.
    """

    def __init__(
        self, store: Store, pusher: Pusher, settings: Settings, clock: Callable[[], int], metrics: Metrics
    ) -> None:
        self._store, self._pusher, self._settings, self._clock, self._metrics = store, pusher, settings, clock, metrics
        self._delivery = Delivery(store, pusher, settings, clock, metrics)
        self.contacts = Contacts(store, self._delivery, settings, clock)
        self.upkeep = Upkeep(store, pusher, settings, clock, metrics)

    # Connections

    def set_user_online(self, connection: Connection) -> bool:
        """`connect`: a handshake. One round trip; posts nothing, the first message does.

        Returns:
            False when the connection may not send: it was signed out, or its `$disconnect` arrived first.

        Raises:
            LimitReached: the user has too many open sockets.
        """
        sender = connection.sender(active=connection.active)
        connected = self._call(commands.Connect(connection.user_id, connection=sender))
        if connected.result == "full":
            raise self._too_many_sockets()
        self._metrics.count("Connections")
        return connected.result == "live"

    def set_user_offline(self, user_id: str, connection_id: str) -> None:
        """`disconnect`: the socket closed. After the grace the user is offline, if nothing else is live."""
        outcome = self._call(commands.Disconnect(user_id, id=connection_id))
        self._delivery.deliver(user_id, outcome)

    def leave(self, user_id: str, connection_id: str) -> None:
        """Sign-out of one connection, without a grace."""
        outcome = self._call(commands.Leave(user_id, id=connection_id))
        outcome.close.append(connection_id)  # also where it is not stored
        self._delivery.deliver(user_id, outcome)

    def sign_out(self, user_id: str) -> int:
        """Close every connection and refuse tokens issued before now; returns how many sockets were open."""
        outcome = self._call(commands.SignOut(user_id))
        self._delivery.deliver(user_id, outcome)
        return outcome.live

    # Messages

    def receive(self, connection: Connection, message: Message) -> None:
        """Handle a message of a connection.

        Raises:
            MessageRefused: it asks for something impossible, or the connection sends too many messages.
        """
        match message:
            case Heartbeat():
                self.update_heartbeat(connection, message)
            case PresenceUpdate():
                self.update_user_status(connection, message)
            case Sync():
                self.sync(connection, message)
            case GetPresence():
                self.get_presence(connection, message)
            case Leave():
                self.leave(connection.user_id, connection.id)

    def update_heartbeat(self, connection: Connection, message: Heartbeat) -> None:
        """The connection is still here. A snapshot answers only where the client missed something.

        A heartbeat also settles one or two neighbors that are due, so that a busy system sweeps itself.

        Raises:
            MessageRefused: the connection sends too many messages.
        """
        self._check_seq(message.seq, message.id)
        sender = connection.sender(active=message.active, idle=not message.active, status=message.status)
        command = commands.Heartbeat(
            connection.user_id, connection=sender, seq=message.seq, status=message.status, n=message.n
        )
        outcome = self._send(connection, message.id, command)
        if outcome is None or outcome.changed_nothing:
            return
        give_up = self._delivery.give_up()
        snapshot = self._snapshot(connection, message.id, outcome, outcome.real) if outcome.real else None
        self._delivery.deliver(connection.user_id, outcome, snapshot=snapshot, give_up=give_up)
        with suppress(Unavailable):  # the neighbors stay due; this heartbeat has been counted
            self._delivery.settle(outcome.due_neighbors, give_up)

    def update_user_status(self, connection: Connection, message: PresenceUpdate) -> None:
        """`update`: the user chose a status or a custom status, on this device or as a claim over all of them.

        Raises:
            MessageRefused: a time is past, or the connection sends too many messages.
        """
        change = message.to_change(self._clock())
        sender = connection.sender(active=True)
        outcome = self._send(
            connection, message.id, commands.Update(connection.user_id, connection=sender, change=change)
        )
        if outcome is not None:
            self._metrics.count("Updates")
            self._delivery.deliver(connection.user_id, outcome)

    def sync(self, connection: Connection, message: Sync) -> None:
        """Post everything that the connection's user may see, or that nothing changed.

        Raises:
            MessageRefused: the connection sends too many messages.
        """
        self._check_seq(message.seq, message.id)
        sender = connection.sender(active=False)
        command = commands.Sync(connection.user_id, connection=sender, seq=message.seq, replaces=message.replaces)
        outcome = self._send(connection, message.id, command)
        if outcome is not None and outcome.real:
            snapshot = self._snapshot(connection, message.id, outcome, outcome.real)
            self._delivery.deliver(connection.user_id, outcome, snapshot=snapshot)

    def get_presence(self, connection: Connection, message: GetPresence) -> None:
        """Post the records of the users that the message names.

        Raises:
            MessageRefused: the connection sends too many messages.
        """
        sender = connection.sender(active=False)
        outcome = self._send(connection, message.id, commands.GetPresence(connection.user_id, connection=sender))
        if outcome is not None:
            users = self.get_bulk_presence(connection.user_id, message.userIds)
            posts = [Post(connection.id, encode(frame)) for frame in query_frames(users, message.id)]
            self._delivery.deliver(connection.user_id, outcome, posts=posts)

    def refuse(self, connection: Connection, error: MessageRefused) -> None:
        """Answer a message that was refused: it counts against the rate limit, and beyond that gets no error."""
        self._metrics.count("MessagesRefused")
        if error.code not in ("rate_limited", "unavailable"):  # these have been counted, or cannot be
            try:
                refusal = self._call(
                    commands.RefuseMessage(connection.user_id, connection=connection.sender(active=False))
                )
            except Unavailable:
                refusal = None
            match refusal:
                case Refusal(result="closed"):
                    self._pusher.close([connection.id])
                    return
                case Refusal(result="limited"):
                    error = _rate_limited(error.id, refusal.wait)
                case Refusal(result="ignored"):
                    return
        self.reply(connection.id, error.frame())

    def reply(self, connection_id: str, frame: ErrorFrame) -> None:
        """Post one error frame to one connection, without touching state."""
        self._pusher.post([Post(connection_id, encode(frame))])

    # Polling devices, which have no socket

    def poll(self, connection: Connection, message: Heartbeat) -> SnapshotFrame:
        """Heartbeat and `sync` of a polling device in one; returns the snapshot, in one part however large.

        Raises:
            SignedOut: the token is no longer valid.
            DeviceLeft: the device left a moment ago.
            LimitReached: the user has too many polling devices.
            MessageRefused: the device sends too many messages.
        """
        self._check_seq(message.seq, message.id)
        sender = connection.sender(active=message.active, idle=not message.active, status=message.status)
        issued_at = connection.token_issued_at * 1000
        outcome = self._send_poll(
            commands.Poll(
                connection.user_id,
                connection=sender,
                issued_at=issued_at,
                seq=message.seq,
                status=message.status,
                n=message.n,
            )
        )
        real = cast("UserState", outcome.real)  # every live poll is answered with a snapshot
        snapshot = self._snapshot(connection, message.id, outcome, real)
        users = self._known(connection.user_id, snapshot.users)
        self._delivery.deliver(connection.user_id, outcome)
        if outcome.resumed:
            return snapshot.first
        return {**snapshot.first, "snapshot": snapshot.name, "part": 1, "parts": 1, "users": users}

    def update_polling_device(self, connection: Connection, change: StatusChange) -> None:
        """The user chose a status or a custom status on a polling device; it counts as a heartbeat.

        Raises:
            SignedOut, DeviceLeft, LimitReached: as for `poll`.
            MessageRefused: a time is past, or the device sends too many messages.
        """
        wanted = change.to_change(self._clock())
        sender, issued_at = connection.sender(active=True), connection.token_issued_at * 1000
        outcome = self._send_poll(
            commands.PollUpdate(connection.user_id, connection=sender, change=wanted, issued_at=issued_at)
        )
        self._metrics.count("Updates")
        self._delivery.deliver(connection.user_id, outcome)

    def end_connection(self, user_id: str, connection_id: str, issued_at: int, *, grace: bool = False) -> None:
        """End another connection of the user's own; one that is not the user's is left alone.

        It is a sign-out or, with `grace`, as if its socket had closed: a device that returns within the grace was never
        away.

        Raises:
            SignedOut: the token, issued at `issued_at` (seconds), is no longer valid.
        """
        outcome = self._call(
            commands.Leave(user_id, id=connection_id, known=True, grace=grace, issued_at=issued_at * 1000)
        )
        self._delivery.deliver(user_id, outcome)

    # Reads. `issued_at` (seconds) is that of the user's token; `SignedOut` is raised if it is no longer valid.

    def get_user_presence(self, viewer: str, user_id: str) -> Record:
        """What `viewer` may see of a user, now."""
        return self.get_bulk_presence(viewer, [user_id])[0]

    def get_bulk_presence(self, viewer: str, user_ids: Sequence[str], issued_at: int | None = None) -> list[Record]:
        """What `viewer` may see of these users, now, in their order. One round trip."""
        checks = [] if issued_at is None else [commands.CheckToken(viewer, issued_at=issued_at * 1000)]
        reads = [commands.ReadView(user, viewer=viewer) for user in user_ids]
        _, views, _ = call_together(self._store, self._clock(), checks, reads)
        return [record(view) for view in views]

    def get_snapshot(self, user_id: str, seq: int | None, issued_at: int) -> ContactsSnapshot:
        """Everything that a user may see, without a connection."""
        self._check_seq(seq)
        snapshot = self._call(commands.GetSnapshot(user_id, seq=seq, issued_at=issued_at * 1000))
        answer: ContactsSnapshot = {
            "seq": snapshot.feed,
            "resumed": snapshot.resumed,
            "self": real_state(user_id, snapshot.real),
        }
        if not snapshot.resumed:
            answer["users"] = self._known(user_id, sorted(snapshot.sees))
        return answer

    def inspect_user(self, user_id: str) -> InspectedUser:
        """The user's real state with every device, and why it is so; for the backend alone."""
        inspection = self._call(commands.InspectUser(user_id))
        return {**_explain(user_id, inspection), "rev": inspection.rev}

    def inspect_self(self, user_id: str, issued_at: int) -> Me:
        """The same for the user, with what the user hides. It never depends on who blocks or hides from the user."""
        inspections, privacies, _ = call_together(
            self._store,
            self._clock(),
            [commands.InspectUser(user_id, issued_at=issued_at * 1000)],
            [commands.GetPrivacy(user_id)],
        )
        privacy = privacies[0]
        return {
            **_explain(user_id, inspections[0]),
            "hideFrom": sorted(privacy.hide_from),
            "blocks": sorted(privacy.blocks),
        }

    def get_user_contacts(self, user_id: str) -> dict[str, list[str]]:
        """Who may see the user (`viewers`) and whom the user may see (`sees`), sorted."""
        return self.contacts.of(user_id)

    # Without a connection

    def set_status(self, user_id: str, change: StatusChange, issued_at: int | None = None) -> None:
        """Choose a claim or a custom status for a user.

        Raises:
            SignedOut: the token, issued at `issued_at` (seconds), is no longer valid.
            MessageRefused: a time is past, or the change is one of a device.
        """
        if change.status is not None and change.scope != "user":
            raise MessageRefused("invalid_message", "without a device the scope of a status is user", field="scope")
        wanted = change.to_change(self._clock())
        token = None if issued_at is None else issued_at * 1000
        outcome = self._call(commands.SetStatus(user_id, change=wanted, issued_at=token))
        self._delivery.deliver(user_id, outcome)

    def cleanup_stale_connections(self, run: str, sleep: Callable[[float], object]) -> int:
        """Settle users who are due, until a newer run has taken over; returns how many (`upkeep.py`)."""
        return self.upkeep.cleanup_stale_connections(run, sleep)

    # Commands

    def _call(self, command: Command[AnyResponse]) -> AnyResponse:
        [response] = self._store.call([command], self._clock())
        return response

    def _send(
        self, connection: Connection, message_id: str | None, command: Command[MessageOutcome]
    ) -> MessageOutcome | None:
        """Run the command of a message; None when the connection may not send, and is closed."""
        outcome = self._call(command)
        match outcome.result:
            case "closed":
                self._pusher.close([connection.id])
                return None
            case "full":
                reason = str(self._too_many_sockets())
                self.reply(connection.id, error_frame("too_many_connections", reason, id=message_id))
                self._pusher.close([connection.id])
                return None
            case "ignored":
                return None
            case "limited":
                raise _rate_limited(message_id, outcome.wait)
        return outcome

    def _too_many_sockets(self) -> LimitReached:
        return LimitReached(f"a user has at most {self._settings.max_sockets} sockets open", "connections")

    def _send_poll(self, command: Command[MessageOutcome]) -> MessageOutcome:
        outcome = self._call(command)
        match outcome.result:
            case "closed":
                raise DeviceLeft
            case "full":
                raise LimitReached(f"at most {self._settings.max_devices} devices poll at once", "deviceId")
            case "limited":
                raise MessageRefused("rate_limited", "too many messages of this device", retry_after=outcome.wait)
        return outcome

    def _snapshot(
        self, connection: Connection, message_id: str | None, outcome: MessageOutcome, real: UserState
    ) -> Snapshot:
        first: SnapshotFrame = {
            "type": "presence_snapshot",
            "seq": outcome.feed,
            "resumed": outcome.resumed,
            "self": own_state(connection.user_id, real, self._settings, connection.id),
        }
        if message_id is not None:
            first["id"] = message_id
        return Snapshot(connection.user_id, connection.id, sorted(outcome.sees), first, outcome.snapshot)

    def _known(self, viewer: str, user_ids: Sequence[str]) -> list[Record]:
        """The records of those of these users whom the viewer may see."""
        views = self._store.call([commands.ReadView(user, viewer=viewer) for user in user_ids], self._clock())
        return [record(view) for view in views if not view.stranger]

    def _check_seq(self, seq: int | None, message_id: str | None = None) -> None:
        """Refuse a number that no frame can have had: it would move the feed away from the time for good."""
        if seq is not None and seq > self._clock() + LATEST_SEQ_MS:
            raise MessageRefused("invalid_message", "is not the number of a frame", field="seq", id=message_id)


def _rate_limited(message_id: str | None, wait: int) -> MessageRefused:
    return MessageRefused("rate_limited", "too many messages on this connection", id=message_id, retry_after=wait)


def _explain(user_id: str, inspection: Inspection) -> ExplainedState:
    real = inspection.real
    why = _REASONS[inspection.rule].format(status=real.status)
    if real.invisible:
        why = f"invisible: contacts see {inspection.shown}"
    return {
        **real_state(user_id, real),
        "lastSeen": inspection.last,
        "visibleStatus": inspection.shown,
        "rule": inspection.rule,
        "why": why,
    }
