"""What may happen in a history: a table of steps with weights, drawn from a seed as data that can be shrunk.

A step is valid at any position: it names users and devices that may have nothing open, and then does nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests.simulation.faults import SHARES
from tests.simulation.world import World

USERS = ("ann", "bob", "cat", "dan", "eve")
DEVICES = ("phone", "laptop", "tablet")
STATUSES = ("online", "busy", "away")
PAUSES = (1, 1, 30, 30, 200, 200, 900, 900, 3_000, 3_000, 9_000, 9_000, 25_000, 80_000)
"""Milliseconds before a step."""


class Step(NamedTuple):
    """Something that happens after so many ms."""

    after: int
    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"after {self.after:>6} ms: {self.name}({arguments})"


Draw = Callable[[random.Random], Any]
Play = Callable[..., None]


class Kind(NamedTuple):
    """A kind of step."""

    weight: int
    play: Play
    draws: Mapping[str, Draw]


KINDS: dict[str, Kind] = {}

user: Draw = lambda rng: rng.choice(USERS)  # noqa: E731
device: Draw = lambda rng: rng.choice(DEVICES)  # noqa: E731
flag: Draw = lambda rng: rng.random() < 0.5  # noqa: E731
users: Draw = lambda rng: rng.sample(USERS, rng.randint(0, 3))  # noqa: E731
ends: Draw = lambda rng: rng.choice((None, None, 3, 20, 70))  # noqa: E731
status: Draw = lambda rng: rng.choice(STATUSES)  # noqa: E731
node: Draw = lambda rng: rng.randrange(2)  # noqa: E731
lost: Draw = lambda rng: rng.choice(((0,), (1,), (0, 1)))  # noqa: E731
at: Draw = lambda rng: rng.randint(1, 5)  # noqa: E731


def seconds(*choices: float) -> Draw:
    """One of these."""
    return lambda rng: rng.choice(choices)


def step(weight: int, **draws: Draw) -> Callable[[Play], Play]:
    """Add a kind of step, named for its function."""

    def add(play: Play) -> Play:
        KINDS[play.__name__[1:]] = Kind(weight, play, draws)
        return play

    return add


def draw(seed: int) -> list[Step]:
    """The history of a seed."""
    rng = random.Random(f"{seed} steps")
    names = [name for name, kind in KINDS.items() for _ in range(kind.weight)]
    steps = []
    for _ in range(rng.choice((6, 10, 16, 30))):
        name = rng.choice(names)
        arguments = {argument: draw(rng) for argument, draw in KINDS[name].draws.items()}
        steps.append(Step(rng.choice(PAUSES), name, arguments))
    return steps


def play(world: World, step: Step) -> None:
    """Let a step happen."""
    world.run(step.after)
    KINDS[step.name].play(world, **step.arguments)


# Devices


@step(10, user=user, device=device, polling=lambda rng: rng.random() < 0.2)
def _open_client(world: World, user: str, device: str, polling: bool) -> None:
    world.open(user, device, polling=polling)


@step(8, user=user, device=device, how=lambda rng: rng.choice(("close", "leave", "gone")))
def _end_client(world: World, user: str, device: str, how: str) -> None:
    if f"{user}-{device}" in world.devices:
        world.end(f"{user}-{device}", how)


@step(3, user=user, device=device)
def _reload_page(world: World, user: str, device: str) -> None:
    client = f"{user}-{device}"
    if client in world.devices:
        world.end(client, "close")
        world.run(400)
        world.open(user, device)


def _clients(world: World, user: str) -> list[str]:
    return world.of(user)[:1]


@step(2, user=user)
def _reconnect(world: World, user: str) -> None:
    for client in _clients(world, user):
        world.call(client, "reconnect")


@step(12, user=user, status=status)
def _choose(world: World, user: str, status: str) -> None:
    for client in _clients(world, user):
        world.call(client, "setStatus", status)


@step(4, user=user, status=lambda rng: rng.choice(("busy", "away", None)), ends=ends)
def _claim(world: World, user: str, status: str | None, ends: int | None) -> None:
    until = [world.clock() + ends * 1000] if ends and status else []
    for client in _clients(world, user):
        world.call(client, "setClaim", status, *until)


@step(6, user=user, ends=ends, long=lambda rng: rng.random() < 0.2)
def _describe(world: World, user: str, ends: int | None, long: bool) -> None:
    for client in _clients(world, user):
        until = {"until": world.clock() + ends * 1000} if ends else {}
        world.call(client, "setCustomStatus", {"text": world.text(long=long), **until})


@step(2, user=user, others=users)
def _query(world: World, user: str, others: list[str]) -> None:
    for client in _clients(world, user):
        if others:
            world.call(client, "query", others)


@step(6, user=user)
def _burst(world: World, user: str) -> None:
    """So many changes that viewers get the last ones later, together."""
    for client in _clients(world, user):
        for _ in range(6):
            world.call(client, "setCustomStatus", {"text": world.text()})


@step(3, user=user)
def _touch(world: World, user: str) -> None:
    for client in _clients(world, user):
        world.call(client, "touch")


# The application


@step(3, user=user, status=status, ends=ends)
def _set_status(world: World, user: str, status: str, ends: int | None) -> None:
    until = {"until": world.clock() + ends * 1000 + 10_000} if ends and status != "online" else {}
    custom = {"text": world.text()}
    world.set_status(user, {"status": status, "scope": "user", "customStatus": custom, **until})


@step(5, user=user, on=flag)
def _invisible(world: World, user: str, on: bool) -> None:
    world.set_privacy(user, invisible=on)


@step(5, user=user, others=users)
def _hide(world: World, user: str, others: list[str]) -> None:
    world.set_privacy(user, hide_from=others)


@step(2, user=user, policy=lambda rng: rng.choice(("everyone", "nobody")))
def _last_seen(world: World, user: str, policy: str) -> None:
    world.set_privacy(user, last_seen=policy)


@step(5, user=user, other=user, blocked=flag)
def _block(world: World, user: str, other: str, blocked: bool) -> None:
    if user != other:
        world.set_block(user, other, blocked=blocked)


@step(6, user=user, others=users, add=flag, mutual=lambda rng: rng.random() < 0.7)
def _contacts(world: World, user: str, others: list[str], add: bool, mutual: bool) -> None:
    world.set_contacts(user, mutual=mutual, **{"add" if add else "remove": others})


@step(1, user=user)
def _sign_out(world: World, user: str) -> None:
    world.sign_out(user)


@step(1, user=user)
def _erase(world: World, user: str) -> None:
    world.erase(user)


# Faults


@step(6, nodes=lost, after=seconds(1, 3, 6, 10), reload=lambda rng: rng.random() < 0.1)
def _lose_tail(world: World, nodes: tuple[int, ...], after: float, reload: bool) -> None:
    world.lose_tail(nodes, after, reload=reload)


@step(6, kind=lambda rng: rng.choice(("user", "pending", "sees", "due")), user=user)
def _evict(world: World, kind: str, user: str) -> None:
    # Not `tell`: it never expires, so Redis does not evict it; and what was to be announced would be lost for good.
    if kind == "pending":  # it is there for a moment only
        world.evict_next(kind)
    else:
        world.evict(kind, user)


@step(1, nodes=lost, after=seconds(1, 10, 40))
def _restart(world: World, nodes: tuple[int, ...], after: float) -> None:
    world.restart(nodes, after)


@step(1, after=seconds(0.5, 5, 40))
def _unload(world: World, after: float) -> None:
    world.unload(after)


@step(2, node=node, after=seconds(0.5, 3, 20))
def _refuse_calls(world: World, node: int, after: float) -> None:
    world.refuse_calls(node, after)


@step(8, at=at)
def _kill(world: World, at: int) -> None:
    world.arm(at, None)


@step(8, at=at, ms=seconds(50, 300, 2000, 6000))
def _delay(world: World, at: int, ms: float) -> None:
    world.arm(at, ms)


@step(3, at=lambda rng: rng.randint(2, 5), ms=seconds(500, 3000, 8000))
def _delay_sweeper(world: World, at: int, ms: float) -> None:
    world.arm(at, ms, "sweeper")


@step(16, kinds=lambda rng: rng.sample(SHARES, 3), share=seconds(0.1, 0.4, 1.0), after=seconds(3, 15, 60))
def _weather(world: World, kinds: list[str], share: float, after: float) -> None:
    for kind in kinds:
        world.set_weather(kind, share, after)


@step(6, user=user)
def _cut(world: World, user: str) -> None:
    for client in _clients(world, user):
        world.cut(client)


@step(3, user=user, after=seconds(3, 20, 100))
def _go_away(world: World, user: str, after: float) -> None:
    for client in _clients(world, user):
        world.go_away(client, after)


@step(1)
def _pass_day(world: World) -> None:
    opened = dict(world.devices)
    world.pass_day()
    for client, user in opened.items():
        world.open(user, client.removeprefix(f"{user}-"))
