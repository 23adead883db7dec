"""The checks of the Lua, and the page about its commands."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shared.script import Script, assemble, commands_of, part
from shared.settings import Settings
from tools import lua

needs_luacheck = pytest.mark.skipif(  # in CI nothing is skipped
    not shutil.which("luacheck") and "CI" not in os.environ, reason="`make check` prints how to install luacheck"
)
SCRIPT = assemble("everything", Settings())


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Replaces a text in the parts, as if it were so in the file."""

    def change(old: str, new: str) -> None:
        def changed(name: str, settings: Settings) -> Script:
            script = assemble(name, settings)
            return replace(script, text=script.text.replace(old, new))

        monkeypatch.setattr(lua, "assemble", changed)
        monkeypatch.setattr(lua, "part", lambda name: part(name).replace(old, new))

    return change


def line_of(name: str, text: str) -> int:
    """The line of a part that has this text."""
    [number] = [number for number, line in enumerate(part(name).splitlines(), 1) if text in line]
    return number


def test_a_line_of_a_script_is_found_in_its_part() -> None:
    """The first and the last line of a part lead back to it, and a line between the parts to script.py."""
    lines = SCRIPT.text.splitlines()
    for name in ("core", "settle", "upkeep"):
        source = part(name).splitlines()
        first = next(at for at in range(len(lines)) if lines[at : at + len(source)] == source) + 1
        assert lua.place_of(SCRIPT.text, first) == (f"shared/lua/{name}.lua", 1)
        assert lua.place_of(SCRIPT.text, first + len(source) - 1) == (f"shared/lua/{name}.lua", len(source))
    assert lua.place_of(SCRIPT.text, len(lines)) == ("shared/script.py", len(lines))


@needs_luacheck
def test_the_scripts_have_no_findings() -> None:
    """As `make check` runs it."""
    lua.check()


@needs_luacheck
@pytest.mark.parametrize(
    ("part_name", "old", "new", "found"),
    [
        ("settle", "u.due = nil\n", "u.due, forgotten = nil, nil\n", "non-standard global variable 'forgotten'"),
        ("values", "local function earliest(", "local function farthest() end local function earliest(", "'farthest'"),
        ("erasing", "local close, keys =", f"local close, keys --[[{'long ' * 24}]] =", "line is too long"),
    ],
    ids=["a global", "an unused function", "a long line"],
)
def test_a_finding_names_the_line_of_the_part(
    change: Callable[[str, str], None], part_name: str, old: str, new: str, found: str
) -> None:
    """The reader opens the part, not the assembled script; each finding is reported once."""
    line = line_of(part_name, old.strip())
    change(old, new)
    with pytest.raises(SystemExit) as raised:
        lua.check()
    [report] = str(raised.value).splitlines()
    assert report.startswith(f"shared/lua/{part_name}.lua:{line}: ")
    assert found in report


def test_a_missing_luacheck_fails_the_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line, and a failure: a check that does not run must not pass."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^luacheck is missing: apt-get install lua-check .* brew install luacheck"):
        lua.main(["check"])


@pytest.mark.parametrize("name", ["devices", "relations", "reads", "erasing", "upkeep", "feed", "statuses"])
def test_the_page_has_every_command_below_its_part(name: str) -> None:
    """A heading for each; that the page is up to date is tested with the schemas."""
    _, _, section = lua.document().partition(f"## {name}.lua\n")
    headings = [line.removeprefix("### ") for line in section.partition("\n## ")[0].splitlines() if line[:4] == "### "]
    assert headings == commands_of(name)
