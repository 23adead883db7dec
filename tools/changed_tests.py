"""`make quick`: runs the tests that concern what has changed since the branch left `main`, committed or not.

A changed module runs the test file of the same name. The table `FOLDERS` adds the tests of other folders that concern a
change, and the tests of modules without a test file of their own. `make test` remains the test before a push.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
BASE = "main"
ALWAYS = ("tests/test_repository.py",)
UNKNOWN = ("tests/docs", "tests/functions", "tests/tools")
"""What runs for a file that no entry covers: the fast folders that touch most of the service."""
PARALLEL = ("--numprocesses", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder")


class Tests(NamedTuple):
    """The tests that concern a folder."""

    default: tuple[str, ...]
    """For a file without a test file of its own."""
    also: tuple[str, ...] = ()
    """For every file."""


FOLDERS: Mapping[str, Tests] = {
    ".github": Tests(()),
    "bench": Tests(("tests/bench/test_bench.py",)),
    "cli": Tests(("tests/cli/test_app.py",)),
    "client": Tests(("tests/client",)),
    "client/demo": Tests(("tests/cli/test_demo.py", "tests/browser")),
    "cost": Tests(("tests/cost",), ("tests/cost/test_tables.py",)),
    "docs": Tests(("tests/docs", "tests/cost/test_tables.py", "tests/tools")),
    "functions": Tests(("tests/functions",), ("tests/tools",)),
    "infra": Tests(("tests/infra",)),
    "load": Tests(("tests/load",)),
    "local": Tests(("tests/local",)),
    "requirements": Tests(()),
    "shared": Tests(("tests/shared", "tests/acceptance"), ("tests/docs", "tests/functions", "tests/tools")),
    "shared/lua": Tests(
        ("tests/acceptance", "tests/shared/test_commands.py", "tests/shared/test_script.py", "tests/tools")
    ),
    "tools": Tests(("tests/tools",), ("tests/docs",)),
}
"""The longest folder that contains a file counts."""
FILES: Mapping[str, tuple[str, ...]] = {
    "Makefile": (),
    "README.md": ("tests/cost/test_tables.py",),
    "docs/vectors.json": ("tests/client", "tests/load"),
    "pyproject.toml": (),
    "shared/routes.py": ("tests/infra/test_stack.py",),
    "shared/settings.py": ("tests/infra/test_options.py",),
}
"""Further tests of single files."""


def find_tests(changed: str, exists: Callable[[str], bool]) -> tuple[str, ...] | None:
    """The tests that concern a changed file; None if no entry covers it.

    Args:
        changed: the file's path in the repository.
        exists: whether there is such a file or folder.
    """
    path = PurePosixPath(changed)
    if path.parts[0] == "tests" and len(path.parts) > 1:
        if path.name.startswith("test_"):
            return (changed,) if exists(changed) else ()
        return None if path.parts[1] == "support" or len(path.parts) == 2 else (f"tests/{path.parts[1]}",)
    folder = next((str(parent) for parent in path.parents if str(parent) in FOLDERS), None)
    if folder is None and changed not in FILES:
        return None
    own = f"tests/{path.parent}/test_{path.stem}.py"
    tests = FOLDERS.get(folder or "", Tests(()))
    return ((own,) if exists(own) else tests.default) + tests.also + FILES.get(changed, ())


def changed_files(base: str) -> list[str]:
    """The files that differ from the commit at which this branch left `base`, and new ones that git does not ignore."""
    left = _git("merge-base", base, "HEAD") or ["HEAD"]
    return sorted({*_git("diff", "--name-only", left[0]), *_git("ls-files", "--others", "--exclude-standard")})


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def chosen(changed: Iterable[str], exists: Callable[[str], bool], remark: Callable[[str], None]) -> list[str]:
    """The tests for some changed files, each once. Files that no entry covers are remarked on."""
    tests = dict.fromkeys(ALWAYS)
    for path in changed:
        found = find_tests(path, exists)
        if found is None:
            remark(f"{path}: no tests are known for this file; running the fast folders ({', '.join(UNKNOWN)})")
            found = UNKNOWN
        tests |= dict.fromkeys(found)
    # A folder that is chosen contains its files.
    return [test for test in tests if not any(str(parent) in tests for parent in PurePosixPath(test).parents)]


def main() -> None:
    """Replace this process with pytest on the chosen tests. Arguments are passed on."""

    def remark(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    tests = chosen(changed_files(BASE), lambda path: (ROOT / path).exists(), remark)
    remark(f"pytest {' '.join(tests)}")
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "--quiet", *PARALLEL, *tests, *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()
