"""The bundle for Lambda: it is reproducible, complete enough to start each function, and contains nothing else."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.bundle import Bundle, build, size
from shared.routes import FUNCTIONS

HERE = "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
START = """
import sys, time
sys.path[:0] = {paths!r}
began = time.perf_counter()
import {module}
print(round(1000 * (time.perf_counter() - began)), *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that this machine and this Python can run."""
    return build(tmp_path_factory.mktemp("bundle"), HERE, PYTHON)


def digest(folder: Path) -> str:
    """A hash over names and contents."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            whole.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def test_the_same_input_gives_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    """Two concurrent builds in another folder give the same content and leave no temporary files."""
    with ThreadPoolExecutor() as threads:
        builds = [threads.submit(build, tmp_path / "elsewhere", HERE, PYTHON) for _ in range(2)]
    assert builds[0].result() == builds[1].result()
    again = builds[0].result()
    assert digest(again.code) == digest(bundle.code)
    assert digest(again.layer) == digest(bundle.layer)
    assert set((tmp_path / "elsewhere").iterdir()) == {again.code, again.layer}


def test_a_current_folder_is_not_built_again(bundle: Bundle) -> None:
    """Neither code nor layer is rebuilt, and a folder of earlier sources is removed."""
    earlier = bundle.code.with_name(bundle.code.name[:-12] + "0123456789ab")
    earlier.mkdir()
    before = (bundle.layer / "python" / "redis" / "__init__.py").stat().st_mtime_ns
    assert build(bundle.layer.parent, HERE, PYTHON) == bundle
    assert (bundle.layer / "python" / "redis" / "__init__.py").stat().st_mtime_ns == before
    bundle.code.rename(bundle.code.with_name("gone"))
    assert digest(build(bundle.layer.parent, HERE, PYTHON).code) == digest(bundle.code.with_name("gone"))
    assert not earlier.exists()
    shutil.rmtree(bundle.code.with_name("gone"))


def test_it_contains_only_what_runs_in_lambda(bundle: Bundle) -> None:
    """No tests, no tools, no boto3, which Lambda provides, and no path of the building machine."""
    assert {path.name for path in bundle.code.iterdir()} == {"functions", "shared"}
    assert {path.suffix for path in bundle.code.rglob("*") if path.is_file()} == {".json", ".lua", ".py", ".pyc"}
    assert [path.name for path in bundle.layer.iterdir()] == ["python"]
    packages = {path.name for path in (bundle.layer / "python").iterdir()}
    assert {"redis", "pydantic", "aws_lambda_powertools"} <= packages
    assert not packages & {"boto3", "botocore", "aiohttp", "typer", "awslambdaric", "aws_cdk", "bin", ".lock"}
    here = str(bundle.code.parent).encode()
    assert not [path for path in bundle.code.parent.rglob("*") if path.is_file() and here in path.read_bytes()]


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
@pytest.mark.parametrize("python", ["3.11", "3.13", "3.14"])
def test_it_can_be_built_for_every_architecture_and_python(architecture: str, python: str, tmp_path: Path) -> None:
    """This machine builds it without Docker for any architecture and Python version of Lambda."""
    built = build(tmp_path, architecture, python)
    machine = {"arm64": "aarch64", "x86_64": "x86_64"}[architecture]
    extensions = [path.name for path in built.layer.rglob("*.so")]
    assert any(f"cpython-{python.replace('.', '')}-{machine}" in name for name in extensions)
    assert built.compiled or not list(built.layer.rglob("*.pyc"))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_function_starts_with_the_bundle_alone(function: str, bundle: Bundle) -> None:
    """As in an execution environment, nothing else is on the path. The import time is printed."""
    paths = [str(bundle.code), str(bundle.layer / "python")]
    code = START.format(paths=paths, module=f"functions.{function}.handler")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    took, *modules = done.stdout.split()
    print(f"{function}: imported in {took} ms")  # noqa: T201
    assert not {"boto3", "botocore"} & set(modules), (
        "importing boto3 takes a tenth of a second, which only reading a secret is worth"
    )
    if function not in ("authorize", "api"):
        assert "jwt" not in modules


def test_it_is_small(bundle: Bundle) -> None:
    """Lambda's limit for code and layers is 250 MB unzipped. A smaller bundle starts faster."""
    print(f"code {size(bundle.code) / 1e6:.1f} MB, layer {size(bundle.layer) / 1e6:.1f} MB")  # noqa: T201
    assert size(bundle.code) < 2e6
    assert size(bundle.layer) < 60e6
