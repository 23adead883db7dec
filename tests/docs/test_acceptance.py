"""docs/acceptance.md names the tests that hold its lines, and those tests name their lines."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "acceptance.md").read_text("utf-8")
PARTS = re.split(r"^(\d+)\. ", TEXT, flags=re.MULTILINE)
LINES = {int(number): text for number, text in zip(PARTS[1::2], PARTS[2::2], strict=True)}
NAMED = {number: re.findall(r"^ +- `([^`:]+)(?:::([^`]+))?`$", text, re.MULTILINE) for number, text in LINES.items()}
HELD = tuple(range(1, 43))
"""The lines; tests hold each."""


def _docstrings(path: Path) -> dict[str, str]:
    """Each test function of a Python file, with its docstring."""
    tree = ast.parse(path.read_text("utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name: ast.get_docstring(node) or "" for node in functions if node.name.startswith("test_")}


def _titles(path: Path) -> list[str]:
    """The titles of the tests in a file, in Python or JavaScript."""
    if path.suffix == ".py":
        return list(_docstrings(path))
    return re.findall(r'^test\("(.+)", ', path.read_text("utf-8"), re.MULTILINE)


def test_the_lines_are_numbered_from_1_to_42() -> None:
    """The document has 42 lines; those that tests hold name at least one test."""
    assert list(LINES) == list(range(1, 43))
    assert [number for number, named in NAMED.items() if named] == list(HELD)


@pytest.mark.parametrize("number", HELD)
def test_every_named_test_exists(number: int) -> None:
    """Each path is a file, and each test named in it is one of that file's tests."""
    for path, name in NAMED[number]:
        assert (ROOT / path).is_file(), path
        assert not name or name in _titles(ROOT / path), f"{path} has no test {name!r}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "acceptance").glob("test_*.py")), ids=lambda path: path.name)
def test_every_numbered_test_is_named(path: Path) -> None:
    """A test with a line's number in its name is listed at that line and starts its docstring with it."""
    for name, docstring in _docstrings(path).items():
        if found := re.match(r"test_(\d\d)_", name):
            number = int(found[1])
            assert (f"tests/acceptance/{path.name}", name) in NAMED[number], f"line {number} does not name {name}"
            assert docstring.startswith(f"Line {number}: "), name
