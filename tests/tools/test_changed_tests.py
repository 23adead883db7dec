"""`make quick` chooses the tests that concern a change."""

from __future__ import annotations

import pytest

from tools.changed_tests import ALWAYS, FILES, FOLDERS, ROOT, UNKNOWN, chosen, find_tests


def exists(path: str) -> bool:
    """Whether the repository has such a file or folder."""
    return (ROOT / path).exists()


@pytest.mark.parametrize(
    ("changed", "tests"),
    [
        ("cli/watch.py", ("tests/cli/test_watch.py",)),
        ("cli/commands/graph.py", ("tests/cli/test_app.py",)),
        ("client/reducer.js", ("tests/client",)),
        ("client/demo/demo.js", ("tests/cli/test_demo.py", "tests/browser")),
        ("functions/update/handler.py", ("tests/functions", "tests/tools")),
        ("local/apigateway/http_api.py", ("tests/local/apigateway/test_http_api.py",)),
        ("tests/local/conftest.py", ("tests/local",)),
        ("tests/cli/test_watch.py", ("tests/cli/test_watch.py",)),
        ("tests/cli/test_deleted.py", ()),
        ("Makefile", ()),
        ("tests/support/clock.py", None),
        ("new_folder/file.py", None),
    ],
)
def test_a_change_runs_its_tests(changed: str, tests: tuple[str, ...] | None) -> None:
    """The test file of the same name runs, else the folder's entry."""
    assert find_tests(changed, exists) == tests


def test_a_file_without_an_entry_runs_the_fast_folders() -> None:
    """The developer is informed, and more tests run rather than none."""
    remarks: list[str] = []
    assert chosen(["new_folder/file.py"], exists, remarks.append) == [*ALWAYS, *UNKNOWN]
    assert remarks[0].startswith("new_folder/file.py: no tests are known")


def test_a_test_runs_once() -> None:
    """A file does not run again beside its folder."""
    both = ["tests/cost/test_bill.py", "cost/__main__.py"]
    assert chosen(both, exists, print) == [*ALWAYS, "tests/cost"]


def test_every_product_folder_has_an_entry() -> None:
    """A new package needs an entry in the table."""
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages | {"client", "docs", "requirements"} <= set(FOLDERS)


def test_every_named_path_exists() -> None:
    """The table names no folder, file or test that is gone."""
    tests = {test for folder in FOLDERS.values() for test in (*folder.default, *folder.also)}
    named = {*ALWAYS, *UNKNOWN, *FOLDERS, *FILES, *tests, *(test for extra in FILES.values() for test in extra)}
    assert sorted(path for path in named if not exists(path)) == []
