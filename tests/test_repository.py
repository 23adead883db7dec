"""The repository's own rules: what a clone must contain, and what must never get into one.

`make check` runs this file on its own, so nothing here starts a server or takes long.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest
import yaml
from importlinter.cli import lint_imports
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from shared.routes import FUNCTIONS

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

LOCKS = {
    "lambda": ["lambda"],
    "run": ["lambda", "run"],
    "infra": ["lambda", "run", "infra"],
    "dev": ["lambda", "run", "infra", "dev"],
    "ministack": ["ministack"],
}
"""Each lock, and the `.in` files that it is made from."""

MACHINES = [
    {
        "python_version": f"3.{minor}",
        "python_full_version": f"3.{minor}.0",
        "sys_platform": system,
        "platform_machine": machine,
    }
    for minor in (11, 12, 13, 14)
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "x86_64"), ("darwin", "arm64"))
]
"""Where the project runs, as the environment of a requirement's marker."""


def files() -> Iterator[Path]:
    """Every file that git would take."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split() if not line.startswith("#")]
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name != ".git" and not _matches(name, ignored)]
        yield from (Path(folder, name) for name in names if not _matches(name, ignored))


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def required(lock: str) -> list[Requirement]:
    """The requirements in the `.in` files of a lock."""
    lines = [
        line for part in LOCKS[lock] for line in (ROOT / "requirements" / f"{part}.in").read_text().splitlines() if line
    ]
    return [Requirement(line) for line in lines if not line.startswith("#")]


def pinned(lock: str) -> list[tuple[Requirement, str]]:
    """The pins of a lock: each requirement, with the lines below it (its hashes, and what requires it)."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    entries = re.split(r"^(?=[^\s#])", text, flags=re.MULTILINE)[1:]
    return [
        (Requirement(first.rstrip("\\")), below) for first, _, below in (entry.partition("\n") for entry in entries)
    ]


def applies(requirement: Requirement, machine: dict[str, str]) -> bool:
    """Whether a machine installs a requirement."""
    return requirement.marker is None or requirement.marker.evaluate(dict(machine))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_met_by_its_lock(lock: str) -> None:
    """On each machine, each line of the .in files is met by exactly one pin of the lock."""
    for machine in MACHINES:
        pins = [pin for pin, _ in pinned(lock) if applies(pin, machine)]
        for want in (want for want in required(lock) if applies(want, machine)):
            found = [pin for pin in pins if canonicalize_name(pin.name) == canonicalize_name(want.name)]
            assert len(found) == 1, f"{want} on {machine}: {found}; run `make lock`"
            version = next(iter(found[0].specifier)).version
            assert version in want.specifier, f"{want}, but the lock has {version}; run `make lock`"
            assert want.extras <= found[0].extras, f"{want}, but the lock has {found[0]}; run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_contains_nothing_that_is_no_longer_required(lock: str) -> None:
    """A pin that refers to an .in file is named in that file."""
    for pin, below in pinned(lock):
        if "-r requirements/" in below:
            names = {canonicalize_name(want.name) for want in required(lock)}
            assert canonicalize_name(pin.name) in names, f"nothing requires {pin.name}; run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_is_exact_and_has_a_hash(lock: str) -> None:
    """Each line of a lock is one exact version with at least one hash."""
    pins = pinned(lock)
    assert pins
    for pin, below in pins:
        assert [specifier.operator for specifier in pin.specifier] == ["=="]
        assert "--hash=sha256:" in below


@pytest.mark.parametrize(
    ("lock", "packages", "given"),
    [
        ("lambda", {"functions", "shared"}, {"boto3", "botocore"}),
        ("run", {"cli", "cost", "load", "local", "tools"}, set()),
    ],
)
def test_what_is_imported_is_required(lock: str, packages: set[str], given: set[str]) -> None:
    """The .in files of a lock name every import of its package, except those that Lambda's runtime provides."""
    ours = {"cli", "cost", "functions", "load", "local", "shared", "tools"}
    graph = grimp.build_graph(*sorted(ours), include_external_packages=True, cache_dir=None)
    imports = {
        found.partition(".")[0]
        for module in graph.modules
        if module.partition(".")[0] in packages
        for found in graph.find_modules_directly_imported_by(module)
    }
    outside = imports - sys.stdlib_module_names - ours
    providers = packages_distributions()
    needed = {canonicalize_name(name) for found in outside for name in providers.get(found, [found])}
    assert needed - given <= {canonicalize_name(want.name) for want in required(lock)}


def test_the_locks_agree() -> None:
    """What runs in Lambda runs on the laptop, and what runs on the laptop and deploys is what is tested."""
    locks = {lock: {str(pin) for pin, _ in pinned(lock)} for lock in LOCKS}
    assert locks["lambda"] <= locks["run"] <= locks["infra"] <= locks["dev"]


def test_no_lambda_carries_boto3() -> None:
    """The runtime's own boto3 and botocore are used; no dependency adds a second copy to the bundle."""
    assert not {"boto3", "botocore"} & {pin.name for pin, _ in pinned("lambda")}


def test_no_file_holds_a_registry_address() -> None:
    """The registry is the choice of the person who installs."""
    address = re.compile(rb"https?://[^\s\"']*(pypi|pythonhosted|npmjs|yarnpkg)\.[a-z]+/(simple|packages|.*\.tgz)")
    assert [path for path in files() if address.search(path.read_bytes())] == []


def test_no_lock_records_where_a_package_came_from() -> None:
    """No uv.lock, which records its index, and a hash but no URL for each npm package."""
    assert not (ROOT / "uv.lock").exists()
    locks = [path for path in files() if path.name == "package-lock.json"]
    assert locks
    for path in locks:
        packages = {name: about for name, about in json.loads(path.read_text())["packages"].items() if name}
        assert all("integrity" in about and "resolved" not in about for about in packages.values()), path


def test_the_makefile_suits_an_old_make() -> None:
    """GNU make 3.81, which macOS has, supports none of these."""
    makefile = (ROOT / "Makefile").read_text()
    newer = re.compile(
        r"^\.ONESHELL|^\.SHELLFLAGS|^\w+ *(!=|::=)|&:|\$\((file|guile|let|intcmp) |^undefine", re.MULTILINE
    )
    assert newer.findall(makefile) == []


def test_everything_automatic_uses_the_makefile() -> None:
    """The workflow, the hook and .ci/run each run a target of the Makefile, and both check and test are run."""
    targets = set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    workflow = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())
    steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    steps = [step for step in steps if not step.startswith(("sudo apt-get ", "brew install "))]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in hooks["repos"] for hook in repo["hooks"]]
    script = re.findall(r"^make .*", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    for command in (*steps, *entries, *script):
        assert re.fullmatch(r"make (\w+)", command), command
        assert command.removeprefix("make ") in targets
    assert {"make check", "make test"} <= set(steps)
    assert {"make check", "make test"} <= set(script)


def test_ci_can_be_started() -> None:
    """The script that checks a change is executable."""
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_workflow_checks_every_supported_python() -> None:
    """CI checks the versions that `requires-python` promises."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())
    assert workflow["jobs"]["check"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert PYPROJECT["project"]["requires-python"] == ">=3.11"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_a_short_handler(name: str) -> None:
    """Each function in the table has a folder whose handler.py stays under 20 lines, not counting blank ones."""
    lines = (ROOT / "functions" / name / "handler.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) < 20


def test_every_folder_of_functions_is_in_the_table() -> None:
    """A folder that no event invokes is dead code."""
    assert {path.parent.name for path in (ROOT / "functions").glob("*/handler.py")} == set(FUNCTIONS)


def test_imports_run_one_way() -> None:
    """The contracts in pyproject.toml hold."""
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_logo=True, cache_dir=None) == 0


def test_the_contracts_see_every_function() -> None:
    """A folder without __init__.py would escape the contracts unnoticed."""
    seen = grimp.build_graph("functions", cache_dir=None).modules
    assert {f"functions.{name}.handler" for name in FUNCTIONS} <= seen


def test_the_layers_are_the_documented_ones() -> None:
    """CONTRIBUTING.md draws the layers that pyproject.toml enforces."""
    whole, service, *_ = PYPROJECT["tool"]["importlinter"]["contracts"]
    documented = re.search(
        r"^## Layers\n.*?^```\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert documented
    assert documented[1].splitlines() == [*whole["layers"][:-1], *service["layers"]]
    assert whole["layers"][-1:] == service["containers"] == ["shared"]


def test_the_readme_names_the_two_commands() -> None:
    """A newcomer finds how to run it and how to test it."""
    readme = (ROOT / "README.md").read_text()
    assert "make run" in readme
    assert "make test" in readme
