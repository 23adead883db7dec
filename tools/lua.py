"""Checks the Lua of the state machine (`check`), and writes docs/commands.md from its headers (`commands`).

Each command in `shared/lua/` has a header directly above it. In its lists `;` separates items, and a colon begins an
explanation:

    -- name: what it does.
    --   request   field, field; field: what it means
    --   response  as settle; field
    --   errors    failed: why the record cannot be read

`as settle` stands for the response fields of that command. `errors` is left out where there are none.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from shared import commands
from shared.commands import Command
from shared.script import RECIPES, assemble, in_order, part
from shared.settings import Settings

ROOT = Path(__file__).parent.parent
DOCUMENT = "docs/commands.md"
NO_LUACHECK = "luacheck is missing: apt-get install lua-check (Debian) or brew install luacheck (macOS)"
LUACHECK = ("luacheck", "-", "--no-color", "--codes", "--max-line-length", "120", "--std", "lua51", "--read-globals")
SCRIPT = "shared/script.py"
GLOBALS = ("redis", "cjson", "KEYS", "ARGV")
FAST_PATHS = {"fast_message", "fast_views"}
"""Functions that "everything" need not use: the fast paths of other scripts."""

TYPES = ("settings", "commands", "responses")
"""The modules in `shared/` that have the types of requests and responses."""

_DEFINES = re.compile(r"function commands\.|commands\.\w+ = |define_edit\('")
_WARNING = re.compile(r"\s*\S+:(\d+):\d+: (.+)")
_UNUSED = re.compile(r"unused function '(\w+)'|variable '(\w+)' is never accessed")


# Headers


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of a header: name → explanation, which may be empty."""

    named: Mapping[str, str]
    same_as: str = ""
    """The command whose response has further fields."""

    @classmethod
    def parse(cls, text: str) -> Listed:
        """Read a list."""
        named: dict[str, str] = {}
        same_as = ""
        for item in filter(None, text.split("; ")):
            names, _, explanation = item.partition(": ")
            if names.startswith("as "):
                same_as = names.removeprefix("as ")
            else:
                named |= dict.fromkeys(names.split(", "), explanation)
        return cls(named, same_as)


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a command."""

    command: str
    about: str
    request: Listed
    response: Listed
    errors: Listed

    @classmethod
    def parse(cls, lines: list[str]) -> Header:
        """Read the comment above a command, without its dashes."""
        sections: dict[str, list[str]] = {"": []}
        current = ""
        for line in lines:
            found = re.match(r"  (request|response|errors)\b(.*)", line)
            current = found[1] if found else current
            sections.setdefault(current, []).append((found[2] if found else line).strip())
        text = {section: " ".join(parts).strip() for section, parts in sections.items()}
        command, _, about = text[""].partition(": ")
        lists = {section: Listed.parse(text.get(section, "")) for section in ("request", "response", "errors")}
        return cls(command, about[:1].upper() + about[1:], **lists)


def headers_of(name: str) -> Iterator[Header]:
    """The headers of a part's commands."""
    above: list[str] = []
    for line in part(name).splitlines():
        if line.startswith("--"):
            above.append(line[3:])
            continue
        if above and _DEFINES.match(line):
            yield Header.parse(above)
        above = []


def headers() -> dict[str, Header]:
    """Every header, by command."""
    found = (header for name in in_order(RECIPES["everything"].parts) for header in headers_of(name))
    return {header.command: header for header in found}


def command_classes() -> dict[str, type[Command[Any]]]:
    """The class of every command, by the command's name in Lua."""
    found = [value for value in vars(commands).values() if isinstance(value, type) and issubclass(value, Command)]
    return {command.name: command for command in found if command is not Command}


def response_fields(header: Header) -> set[str]:
    """The names of the fields that a command's response may have: its own, and those of the command that it names."""
    same_as = header.response.same_as
    return {*header.response.named, *(response_fields(headers()[same_as]) if same_as else ())}


# luacheck


class Finding(NamedTuple):
    """What luacheck reports."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        """As compilers print it."""
        return f"{self.file}:{self.line}: {self.text}"


def place_of(text: str, line: int) -> tuple[str, int]:
    """The file from which a line of a script comes, and the line there; lines count from 1.

    Lines around the parts come from `shared/script.py`, and keep the number that they have in the script.
    """
    for name in _all_parts():
        if (at := text.find(part(name))) >= 0:
            first = text.count("\n", 0, at) + 1
            if first <= line < first + part(name).count("\n"):
                return f"shared/lua/{name}.lua", line - first + 1
    return SCRIPT, line


def findings(name: str) -> Iterator[Finding]:
    """What luacheck reports about a script.

    Raises:
        SystemExit: luacheck is missing, or cannot read the script.
    """
    if not shutil.which("luacheck"):
        raise SystemExit(NO_LUACHECK)
    text = assemble(name, Settings()).text
    done = subprocess.run([*LUACHECK, *GLOBALS], input=text, capture_output=True, text=True, check=False)
    if done.returncode > 2:
        raise SystemExit(done.stderr or done.stdout)
    for found in filter(None, map(_WARNING.match, done.stdout.splitlines())):
        file, line = place_of(text, int(found[1]))
        unused = _UNUSED.search(found[2])
        # A smaller script has whole parts, and needs only some of what they define.
        is_expected = unused and (name != "everything" or unused[1] in FAST_PATHS)
        # The settings are one line of a script, and are written by no hand.
        if not is_expected and not (file == SCRIPT and "(W631)" in found[2]):
            yield Finding(file, line, found[2])


def check() -> None:
    """Run luacheck over every script; raises SystemExit if it reports anything."""
    found = sorted({finding for name in RECIPES for finding in findings(name)})
    if found:
        raise SystemExit("\n".join(map(str, found)))


def _all_parts() -> list[str]:
    recipes = RECIPES.values()
    names = [name for recipe in recipes for name in (*recipe.parts, recipe.fast_path) if name]
    return in_order([*names, "dispatch"])


# docs/commands.md

_INTRODUCTION = """\
# Commands

The commands of the state machine, which runs inside Redis, by the part in `shared/lua/` that defines them. `make
schemas` writes this page from the parts' headers, `shared/commands.py` and `shared/responses.py`.

A request is about one user, or about a bucket. Fields with a `?` may be absent. Times are in ms since the epoch. A
response leaves out empty lists and maps. A request with `issued_at` comes from a user over HTTP, and `signed_out` is
the error where the token that was issued then is no longer valid. Such a user may also make too many calls: then the
response has the `result` `too_many_calls`, and `wait`.
"""


class Described(NamedTuple):
    """A field of a class, or a type that is a list of values."""

    name: str
    type: str
    about: str


@dataclass(frozen=True, slots=True)
class Type:
    """A class of a command, of a response, or of what they hold."""

    name: str
    bases: tuple[str, ...]
    about: str
    fields: tuple[Described, ...]

    @classmethod
    def parse(cls, node: ast.ClassDef) -> Type:
        """Read a class."""
        bases = tuple(ast.unparse(base) for base in node.bases)
        total = not any(keyword.arg == "total" for keyword in node.keywords)
        described = []
        for statement, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign) and not ast.unparse(statement.annotation).startswith("ClassVar"):
                type_ = ast.unparse(statement.annotation).removesuffix(" | None")
                required = total
                if marked := re.fullmatch(r"(Not)?Required\[(.+)\]", type_):
                    type_, required = marked[2], not marked[1]
                optional = statement.value is not None or ("TypedDict" in bases and not required)
                name = ast.unparse(statement.target) + ("?" if optional else "")
                described.append(Described(name, type_, _docstring(after)))
        return cls(node.name, bases, " ".join((ast.get_docstring(node) or "").split()), tuple(described))


def document() -> str:
    """The page."""
    modules = [ast.parse(files("shared").joinpath(f"{name}.py").read_text("utf-8")) for name in TYPES]
    nodes = [node for module in modules for node in module.body]
    types = {node.name: Type.parse(node) for node in nodes if isinstance(node, ast.ClassDef)}
    classes = command_classes()
    text = [_INTRODUCTION]
    for name in in_order(RECIPES["everything"].parts):
        if found := list(headers_of(name)):
            text.append(f"## {_title(name)}\n")
            text += [_command(header, types[classes[header.command].__name__]) for header in found]
    text.append("## Types\n\nWhat requests and responses hold.\n")
    text += [f"`{name}` is {values}.{about and ' ' + about}\n" for name, values, about in _literals(nodes)]
    held = {"TypedDict", "Response", *(name for name, type_ in types.items() if "Response" in type_.bases)}
    text += [_type(type_) for type_ in types.values() if type_.fields and held.intersection(type_.bases)]
    return "\n".join(text)


def _literals(nodes: list[ast.stmt]) -> Iterator[Described]:
    """The types that are lists of values."""
    for statement, after in zip(nodes, [*nodes[1:], None], strict=True):
        if isinstance(statement, ast.Assign) and ast.unparse(statement.value).startswith("Literal["):
            values = ast.literal_eval(ast.unparse(statement.value).removeprefix("Literal"))
            yield Described(
                ast.unparse(statement.targets[0]), ", ".join(f"`{value}`" for value in values), _docstring(after)
            )


def _docstring(node: ast.stmt | None) -> str:
    """The text below a field."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def _title(name: str) -> str:
    """A part, and what it holds."""
    about = part(name).partition("\n-- Uses")[0].removeprefix("-- ").replace("\n-- ", " ")
    return f"{name}.lua\n\n{about}"


def _command(header: Header, command: Type) -> str:
    same_as = header.response.same_as
    [response] = (found[1] for base in command.bases if (found := re.fullmatch(r"Command\[(\w+)\]", base)))
    request = [_field(field, header.request.named.get(field.name.rstrip("?"), "")) for field in command.fields]
    responses = [f"as [{same_as}](#{same_as})"] if same_as else []
    responses += [f"`{name}`{_more(about)}" for name, about in header.response.named.items()]
    errors = [f"`{name}`{_more(about)}" for name, about in header.errors.named.items()]
    lines = [
        f"### {header.command}\n",
        f"{header.about}\n",
        f"- request: {', '.join(request) or 'no fields'}",
        f"- response, [{response}](#{response.lower()}): {', '.join(responses) or 'no fields'}",
        *([f"- errors: {', '.join(errors)}"] if errors else []),
    ]
    return "\n".join([*lines, ""])


def _more(about: str) -> str:
    """An explanation that follows a name."""
    return f" ({about[:1].lower()}{about[1:].removesuffix('.')})" if about else ""


def _field(field: Described, about: str = "") -> str:
    return f"`{field.name}` `{field.type}`{_more(about or field.about)}"


def _type(type_: Type) -> str:
    bases = [f"as [{base}](#{base.lower()})" for base in type_.bases if base not in ("Response", "TypedDict")]
    return f"### {type_.name}\n\n{type_.about}\n\n- {', '.join([*bases, *map(_field, type_.fields)])}\n"


def main(arguments: list[str]) -> None:
    """Run the command that is named."""
    match arguments:
        case ["check"]:
            check()
        case ["commands"]:
            (ROOT / DOCUMENT).write_text(document(), "utf-8")
        case _:
            raise SystemExit("usage: python -m tools.lua check | commands")


if __name__ == "__main__":
    main(sys.argv[1:])
