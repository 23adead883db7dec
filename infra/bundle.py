"""What is uploaded to Lambda: one small asset with our own code, and one layer with what it imports.

Neither needs Docker: uv installs wheels for Lambda's machine and Python, whatever this one is. The same input gives
the same bytes, and so the same hash, wherever Lambda's Python is there to compile with. Where it is not, the bundle has
no bytecode: it works as well, and starts more slowly (docs/decisions/0013).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements" / "lambda.txt"
OURS = ("functions", "shared")
SUFFIXES = (".py", ".lua")
PLATFORMS = {"arm64": "aarch64-manylinux2014", "x86_64": "x86_64-manylinux2014"}
"""The oldest that all dependencies have wheels for: it suits every Linux that Lambda's Pythons run on."""
LEFT_OUT = ("bin", ".lock", "*.dist-info/RECORD", "*.dist-info/INSTALLER", "*.dist-info/REQUESTED", "**/*.pyi")
"""What uv writes that a function never reads, or that names the machine on which it was written."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Two folders to upload."""

    code: Path
    layer: Path
    compiled: bool
    """Whether there is bytecode beside each module."""


class BundleError(Exception):
    """It could not be built; the message says why."""


def build(into: Path, architecture: str, python: str) -> Bundle:
    """Build both, below `into`; a layer that is there already and still right is kept.

    Args:
        into: a folder of its own.
        architecture: `arm64` or `x86_64`.
        python: of Lambda, like `3.13`.

    Raises:
        BundleError: the dependencies could not be installed, or something could not be compiled.
    """
    compiler = _interpreter(python)
    name = f"python{python.replace('.', '')}-{architecture}" + ("" if compiler else "-without-bytecode")
    code, layer = into / f"code-{name}", into / f"layer-{name}"
    _fill_code(code, compiler)
    made_from = hashlib.sha256(LOCK.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    stamp = into / f"layer-{name}.made-from"
    if not (layer.is_dir() and stamp.is_file() and stamp.read_text() == made_from):
        stamp.unlink(missing_ok=True)
        _fill_layer(layer, architecture, python, compiler)
        stamp.write_text(made_from)
    return Bundle(code, layer, compiled=compiler is not None)


def size(folder: Path) -> int:
    """Bytes in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _fill_code(folder: Path, compiler: str | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in SUFFIXES:
                target = folder / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    if compiler:
        _compile(folder, "/var/task", compiler)


def _fill_layer(folder: Path, architecture: str, python: str, compiler: str | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    packages = folder / "python"
    _run(
        "the layer's dependencies could not be installed",
        *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
        *("--only-binary", ":all:", "--link-mode", "copy"),
        *("--python-platform", PLATFORMS[architecture], "--python-version", python),
        *("--target", str(packages), "--requirement", str(LOCK)),
    )
    for pattern in LEFT_OUT:
        for path in sorted(packages.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    if compiler:
        _compile(packages, "/opt/python", compiler)


def _interpreter(python: str) -> str | None:
    """The Python of this version on this machine, if there is one that runs."""
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in (sys.executable, shutil.which(f"python{python}")):
        if candidate:
            said = subprocess.run([candidate, "-I", "-c", version], capture_output=True, text=True, check=False)
            if said.stdout.strip() == python:
                return candidate
    return None


def _compile(folder: Path, runs_at: str, compiler: str) -> None:
    """Put bytecode beside each module: a sandbox cannot write its own, and would compile everything at each start.

    It is not checked against its source when it is loaded, and it names the path where it runs, not where it was made.
    """
    _run(
        "the bundle could not be compiled",
        *(compiler, "-I", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"),
        *("-s", str(folder), "-p", runs_at, str(folder)),
    )


def _run(failure: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BundleError(f"{failure}: {(done.stderr or done.stdout).strip()}")
