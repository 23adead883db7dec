"""What is uploaded to Lambda: a small asset with our own code, and a layer with its dependencies.

Docker is not needed: uv installs the wheels for Lambda's architecture and Python version on any machine. The same input
gives the same bytes, and so the same hash, on every machine that has Lambda's Python version to compile with. Without
it, the bundle has no bytecode and functions start more slowly (docs/decisions/0013).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements" / "lambda.txt"
OURS = ("functions", "shared")
SUFFIXES = (".py", ".lua", ".json")
PLATFORMS = {"arm64": "aarch64-manylinux2014", "x86_64": "x86_64-manylinux2014"}
"""The oldest platform for which all dependencies have wheels. It fits every Linux that Lambda's Pythons run on."""
LEFT_OUT = ("bin", ".lock", "*.dist-info/RECORD", "*.dist-info/INSTALLER", "*.dist-info/REQUESTED", "**/*.pyi")
"""Files of uv that a function never reads, or that contain a path of the building machine."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Two folders to upload."""

    code: Path
    layer: Path
    compiled: bool
    """Whether each module has bytecode beside it."""


class BundleError(Exception):
    """The bundle could not be built; the message gives the reason."""


def build(into: Path, architecture: str, python: str) -> Bundle:
    """Build both folders below `into`. A folder built earlier from the same sources is reused.

    Args:
        into: a folder that holds nothing else.
        architecture: `arm64` or `x86_64`.
        python: Lambda's Python version, such as `3.13`.

    Raises:
        BundleError: the dependencies could not be installed, or something could not be compiled.
    """
    compiler = _interpreter(python)
    name = f"python{python.replace('.', '')}-{architecture}" + ("" if compiler else "-without-bytecode")
    code = _folder(into, f"code-{name}", _sources(), lambda folder: _fill_code(folder, compiler))
    layer = _folder(into, f"layer-{name}", [LOCK], lambda folder: _fill_layer(folder, architecture, python, compiler))
    return Bundle(code, layer, compiled=compiler is not None)


def size(folder: Path) -> int:
    """Bytes in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _folder(into: Path, name: str, sources: Sequence[Path], fill: Callable[[Path], None]) -> Path:
    """The folder for these sources; calls `fill` if it does not exist yet. It appears complete or not at all.

    Removes the folders of earlier sources. Processes may build concurrently.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sources:
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    folder = into / f"{name}-{digest.hexdigest()[:12]}"
    if not folder.is_dir():
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into) as temporary:
            filled = Path(temporary) / name
            fill(filled)
            try:
                filled.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process has built it meanwhile
                    raise
        for earlier in into.glob(f"{name}-" + "[0-9a-f]" * 12):
            if earlier != folder:
                shutil.rmtree(earlier, ignore_errors=True)
    return folder


def _sources() -> list[Path]:
    paths = (path for package in OURS for path in (ROOT / package).rglob("*"))
    return sorted(path for path in paths if path.suffix in SUFFIXES)


def _fill_code(folder: Path, compiler: str | None) -> None:
    for path in _sources():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    if compiler:
        _compile(folder, "/var/task", compiler)


def _fill_layer(folder: Path, architecture: str, python: str, compiler: str | None) -> None:
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
    """A Python of this version on this machine, if one runs."""
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in (sys.executable, shutil.which(f"python{python}")):
        if candidate:
            done = subprocess.run([candidate, "-I", "-c", version], capture_output=True, text=True, check=False)
            if done.stdout.strip() == python:
                return candidate
    return None


def _compile(folder: Path, runs_at: str, compiler: str) -> None:
    """Put bytecode beside each module. An execution environment cannot write it and would compile at every cold start.

    Python loads this bytecode without checking the source. Its paths are those in Lambda, not those of this machine.
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
