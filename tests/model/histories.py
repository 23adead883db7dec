"""Histories: what may happen to a presence service, as data that hypothesis can draw, shrink and print.

A history is a list of steps, each a name and its arguments. Sockets and users are small numbers, so a step is valid at
any position, and a shortened history is still a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st

from tests.model.world import Socket, World

USERS = ("ann", "bob", "cat", "dan")
Step = tuple[str, dict[str, Any]]

_any = st.integers(0, 9)
_user = st.sampled_from(USERS)
_users = st.lists(_user, max_size=3, unique=True)
_flag = st.booleans()
_kill = st.sampled_from([0, 0, 0, 0, 0, 1, 2, 3, 4, 5])
_status = st.sampled_from(["online", "busy", "away"])
_ends_in = st.sampled_from([None, None, 1, 5, 20, 60, 90])
_custom = st.one_of(
    st.none(), st.fixed_dictionaries({"text": st.sampled_from(["", "lunch", "train"]), "ends": _ends_in})
)
_first = st.sampled_from(["beat", "sync", "query"])
_moment = st.sampled_from([0.001, 0.03, 0.08, 0.2, 0.9, 3.0])
_while = st.sampled_from([5.0, 9.999, 10.0, 29.0, 45.0, 74.999, 75.0, 100.0, 200.0])


def _step(name: str, weight: int, **arguments: st.SearchStrategy[Any]) -> tuple[str, int, st.SearchStrategy[Step]]:
    return name, weight, st.tuples(st.just(name), st.fixed_dictionaries(arguments))


_COMMON = [
    _step("connect", 10, user=_user, device=st.sampled_from(["", "d1", "d2"]), active=_flag,
          status=st.sampled_from([None, None, None, "busy", "away"]),
          brief=st.sampled_from([False, False, False, True]),
          polling=st.sampled_from([False, False, False, False, True]), sync=_flag, kill=_kill),
    _step("sync", 4, socket=_any, resume=_flag, replaces=st.one_of(st.none(), st.none(), _any), kill=_kill),
    _step("reconnect", 6, socket=_any, rotate=_flag, seconds=_moment, kill=_kill),
    _step("beat", 6, socket=_any, active=_flag, numbered=_flag, kill=_kill),
    _step("update", 12, socket=_any, status=_status, scope=st.sampled_from(["device", "device", "user"]), ends=_ends_in,
          lag=st.sampled_from([None, None, 1, 2]), kill=_kill),
    _step("describe", 4, socket=_any, custom=_custom, kill=_kill),
    _step("query", 1, socket=_any, users=_users),
    _step("poll", 4, user=_user, device=st.sampled_from(["d1", "tab"]), begins=_flag, active=_flag, kill=_kill),
    _step("stop_polling", 1, user=_user, device=st.sampled_from(["d1", "tab"]), kill=_kill),
    _step("late", 3, socket=_any, what=st.sampled_from(["beat", "update", "sync", "leave", "disconnect"])),
    _step("leave", 2, socket=_any, kill=_kill),
    _step("disconnect", 5, socket=_any, kill=_kill),
    _step("vanish", 2, socket=_any, gone=_flag),
    _step("backwards", 1, user=_user, kill=_kill),
    _step("sign_out", 1, user=_user, kill=_kill),
    _step("set_status", 2, user=_user, status=_status, ends=_ends_in, custom=_custom, kill=_kill),
    _step("invisible", 5, user=_user, on=_flag, kill=_kill),
    _step("policy", 2, user=_user, policy=st.sampled_from(["everyone", "nobody"]), kill=_kill),
    _step("hide", 6, user=_user, users=_users, kill=_kill),
    _step("block", 4, user=_user, users=_users, kill=_kill),
    _step("contacts", 6, user=_user, users=_users, add=_flag, mutual=_flag, kill=_kill),
    _step("moment", 12, seconds=_moment, sweep=_flag),
    _step("live", 8, seconds=_while, active=_flag),
    _step("silence", 2, seconds=_while, sweep=_flag),
    _step("day", 1),
    _step("forget_scripts", 1),
    _step("lose", 2, user=_user, first=_first, active=_flag),
    _step("restart", 1, first=_first, active=_flag),
]  # fmt: skip
_FAULTS = [
    _step("false_alarm", 2, socket=_any),
    _step("arrive", 6),
    _step("loss", 3, share=st.sampled_from([0.0, 0.3, 1.0])),
]


def histories(*, faulty: bool, size: int) -> st.SearchStrategy[list[Step]]:
    """Lists of steps. With `faulty`, functions die, and frames are lost, late, reordered and duplicated."""
    steps = _COMMON + (_FAULTS if faulty else [])
    names = st.sampled_from([name for name, weight, _ in steps for _ in range(weight)])
    by_name = {name: step for name, _, step in steps}
    step = names.flatmap(by_name.__getitem__)
    if not faulty:
        step = step.map(lambda step: (step[0], {**step[1], "kill": 0} if "kill" in step[1] else step[1]))
    return st.lists(step, min_size=size // 3, max_size=size)


def steps_of(*names: str, users: Sequence[str], named: Sequence[str], kill: bool = True) -> st.SearchStrategy[Step]:
    """Steps of these kinds, by one of `users` or on one of their sockets, that affect users among `named`."""
    weighted = [name for name, weight, _ in _COMMON for _ in range(weight) if name in names]
    by_name = {name: step for name, _, step in _COMMON}

    def narrow(step: Step, user: str, others: list[str]) -> Step:
        arguments = dict(step[1])
        if "socket" in arguments or "user" in arguments:
            arguments["user"] = user
        if "users" in arguments:
            arguments["users"] = others
        if "kill" in arguments and not kill:
            arguments["kill"] = 0
        return step[0], arguments

    step = st.sampled_from(weighted).flatmap(by_name.__getitem__)
    others = st.lists(st.sampled_from(named), max_size=2, unique=True)
    return st.builds(narrow, step, st.sampled_from(users), others)


class Player:
    """Executes steps in a world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def play(self, step: Step) -> None:
        """Execute one step; a step that does not apply now does nothing."""
        name, arguments = step
        arguments = dict(arguments)
        if "socket" in arguments:
            owner = arguments.pop("user", None)
            everybody = self.world.sockets.values() if owner is None else self.world.of(owner)
            sockets = [socket for socket in everybody if socket.speaks != (name == "late")]
            if not sockets:
                return
            arguments["socket"] = sockets[arguments["socket"] % len(sockets)]
        if "user" in arguments and "users" in arguments:
            arguments["users"] = [other for other in arguments["users"] if other != arguments["user"]]
        getattr(self, f"_{name}")(**arguments)

    def _connect(self, user: str, brief: bool, sync: bool, kill: int, **claims: Any) -> None:
        if brief:
            claims["token_expires_at"] = self.world.now // 1000 + 20
        socket = self.world.connect(user, kill=kill, **claims)
        if sync and socket.speaks:
            self.world.sync(socket, kill=kill)

    def _sync(self, socket: Socket, resume: bool, replaces: int | None, kill: int) -> None:
        others = [s.connection.id for s in self.world.of(socket.connection.user_id)] + ["never="]
        old = None if replaces is None else others[replaces % len(others)]
        self.world.sync(socket, resume=resume, replaces=old, kill=kill)

    def _reconnect(self, socket: Socket, rotate: bool, seconds: float, kill: int) -> None:
        """The same client on a new connection: before the old one closes, or after it was cut."""
        old = socket.connection
        if not rotate:
            self.world.disconnect(old.user_id, old.id, kill)
            self.world.sweep(seconds)
        new = self.world.connect(old.user_id, client=socket.client, device=old.device_id, active=False)
        if new.speaks:
            self.world.sync(new, resume=True, replaces=old.id if rotate else None, kill=kill)

    def _beat(self, socket: Socket, **how: Any) -> None:
        self.world.beat(socket, **how)

    def _update(self, socket: Socket, status: str, scope: str, ends: int | None, lag: int | None, kill: int) -> None:
        change = {"status": status, "scope": scope} | self._until(
            ends if scope == "user" and status != "online" else None
        )
        self.world.update(socket, change, n=lag, kill=kill)

    def _describe(self, socket: Socket, custom: dict[str, Any] | None, kill: int) -> None:
        self.world.update(socket, {"customStatus": self._words(custom)}, kill=kill)

    def _query(self, socket: Socket, users: list[str]) -> None:
        if users:
            self.world.query(socket, users)

    def _poll(self, user: str, device: str, **how: Any) -> None:
        self.world.poll(user, device, **how)

    def _stop_polling(self, user: str, device: str, kill: int) -> None:
        self.world.stop_polling(user, device, kill)

    def _late(self, socket: Socket, what: str) -> None:
        match what:
            case "beat":
                self.world.beat(socket)
            case "update":
                self.world.update(socket, {"status": "busy"})
            case "sync":
                self.world.sync(socket)
            case "leave":
                self.world.leave(socket)
            case _:
                self.world.disconnect(socket.connection.user_id, socket.connection.id)

    def _leave(self, socket: Socket, kill: int) -> None:
        self.world.leave(socket, kill)

    def _disconnect(self, socket: Socket, kill: int) -> None:
        self.world.disconnect(socket.connection.user_id, socket.connection.id, kill)

    def _vanish(self, socket: Socket, gone: bool) -> None:
        self.world.vanish(socket, gone=gone)

    def _false_alarm(self, socket: Socket) -> None:
        self.world.bench.pusher.gone.add(socket.connection.id)

    def _backwards(self, user: str, kill: int) -> None:
        """`$disconnect` is handled before `$connect`."""
        self.world.disconnect(user, f"{user}-{len(self.world.of(user)) + 1}=")
        self.world.connect(user, kill=kill)

    def _sign_out(self, user: str, kill: int) -> None:
        self.world.sign_out(user, kill)

    def _set_status(self, user: str, status: str, ends: int | None, custom: dict[str, Any] | None, kill: int) -> None:
        change = {"status": status, "customStatus": self._words(custom)}
        self.world.set_status(user, change | self._until(ends if status != "online" else None), kill)

    def _invisible(self, user: str, on: bool, kill: int) -> None:
        self.world.set_privacy(user, invisible=on, kill=kill)

    def _policy(self, user: str, policy: str, kill: int) -> None:
        self.world.set_privacy(user, last_seen=policy, kill=kill)

    def _hide(self, user: str, users: list[str], kill: int) -> None:
        self.world.set_privacy(user, hide_from=users, kill=kill)

    def _block(self, user: str, users: list[str], kill: int) -> None:
        self.world.set_privacy(user, blocks=users, kill=kill)

    def _contacts(self, user: str, users: list[str], add: bool, mutual: bool, kill: int) -> None:
        self.world.set_contacts(user, mutual=mutual, kill=kill, **{"add" if add else "remove": users})

    def _moment(self, seconds: float, sweep: bool) -> None:
        if sweep:
            self.world.sweep(seconds)
        else:
            self.world.advance(seconds)

    def _live(self, seconds: float, active: bool) -> None:
        while seconds > 0:
            for socket in list(self.world.sockets.values()):
                if socket.speaks:
                    self.world.beat(socket, active=active)
            self.world.sweep(min(30.0, seconds))
            seconds -= 30

    def _silence(self, seconds: float, sweep: bool) -> None:
        self._moment(seconds, sweep)

    def _day(self) -> None:
        self.world.advance(86_400)

    def _forget_scripts(self) -> None:
        self.world.bench.client.script_flush()

    def _lose(self, user: str, first: str, active: bool) -> None:
        self.world.lose(user, first, active=active)

    def _restart(self, first: str, active: bool) -> None:
        self.world.restart(first, active=active)

    def _arrive(self) -> None:
        self.world.arrive()

    def _loss(self, share: float) -> None:
        self.world.loss = share

    def _until(self, ends: int | None) -> dict[str, int]:
        return {"until": self.world.now + ends * 1000} if ends else {}

    def _words(self, custom: dict[str, Any] | None) -> dict[str, Any] | None:
        return {"text": custom["text"]} | self._until(custom["ends"]) if custom else None
