"""Assembles the state machine, which runs inside Redis, from its parts in `lua/`.

Each part names the parts that it uses in a line `-- Uses: …`. Redis has no modules for Lua, and creates every
function of a script again in each call, at about 0.2 µs each: for a heartbeat, that was more than half of the time.
So

- there are five scripts, and each of the first four holds only the parts that its commands need;
- a script may have a *fast path*, which answers the common case before the other parts are defined;
- the other parts are inside one function, `main`: at the top of a script, Lua would search a list of all locals for
  each local that a function uses.

`python -m shared.script [NAME]` prints a script as Redis runs it, with line numbers, for reading an error's.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files

from shared.settings import Settings

_USES = re.compile(r"^-- Uses: (.+)\.$", re.MULTILINE)
_COMMAND = re.compile(r"^(?:function commands\.|commands\.|define_edit\(')(\w+)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a script is made of: the parts with its commands, and the one with its fast path."""

    parts: tuple[str, ...]
    fast_path: str = ""


RECIPES = {
    "targets": Recipe(("feed",)),
    "views": Recipe(("reads",), fast_path="fast_views"),
    "upkeep": Recipe(("upkeep",)),
    "devices": Recipe(("devices",), fast_path="fast_message"),
    "everything": Recipe(("devices", "relations", "reads", "erasing", "upkeep")),
}
"""The scripts, the smallest first. The last one has every command, for calls that mix them."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script as Redis runs it."""

    text: str
    sha: str
    """By which Redis knows it."""
    commands: frozenset[str]


@functools.cache
def part(name: str) -> str:
    """The source of one part."""
    return files("shared").joinpath("lua", f"{name}.lua").read_text("utf-8")


def commands_of(name: str) -> list[str]:
    """The commands that a part defines."""
    return _COMMAND.findall(part(name))


def in_order(names: Iterable[str]) -> list[str]:
    """These parts and all that they use, each after what it uses."""
    ordered: dict[str, None] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for uses in _USES.findall(part(name)):
                for used in uses.split(", "):
                    add(used)
            ordered[name] = None

    for name in names:
        add(name)
    return list(ordered)


@functools.cache
def assemble(name: str, settings: Settings) -> Script:
    """One of `RECIPES`, with these settings in front as constants, so that no call carries or parses them."""
    recipe = RECIPES[name]
    first = in_order([recipe.fast_path or "connections"])
    rest = [part for part in in_order([*recipe.parts, "dispatch"]) if part not in first]
    lines = [f"local SETTINGS = {_constants(settings)}", *map(part, first)]
    if recipe.fast_path:
        lines += [f"local fast_response = {recipe.fast_path}()", "if fast_response then return fast_response end"]
    lines += ["local function main()", *map(part, rest), "return run()", "end", "return main()"]
    text = "\n".join(lines)
    found = frozenset(command for name in (*first, *rest) for command in commands_of(name))
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest(), found)


def script_for(commands: frozenset[str], settings: Settings) -> Script:
    """The smallest script that has all of these commands."""
    return next(script for name in RECIPES if commands <= (script := assemble(name, settings)).commands)


def _constants(settings: Settings) -> str:
    """The settings as a Lua table; durations in ms."""
    ranks = ", ".join(f"{status} = {3 - place}" for place, status in enumerate(settings.status_priority))
    values = {
        "device_ttl": _ms(settings.device_ttl),
        "away_after": _ms(settings.away_after),
        "grace": _ms(settings.grace),
        "announce_lease": _ms(settings.announce_lease),
        "retention": _ms(settings.retention),
        "rate_every": max(1, round(1000 / settings.rate_limit)),
        "rate_burst": settings.rate_burst,
        "http_rate_every": max(1, round(1000 / settings.http_rate_limit)),
        "http_rate_burst": settings.http_rate_burst,
        "max_contacts": settings.max_contacts,
        "max_sockets": settings.max_sockets,
        "max_devices": settings.max_devices,
        "buckets": settings.buckets,
        "rank": f"{{ {ranks} }}",
    }
    return "{ " + ", ".join(f"{name} = {value}" for name, value in values.items()) + " }"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def main(names: list[str]) -> None:
    """Print scripts, with the numbers of their lines."""
    for name in names or ["everything"]:
        for number, line in enumerate(assemble(name, Settings()).text.splitlines(), 1):
            print(f"{number:4}  {line}")  # noqa: T201 - printing is what this command does


if __name__ == "__main__":
    main(sys.argv[1:])
