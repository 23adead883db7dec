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
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements" / "lambda.txt"
OURS = ("functions", "shared")
SUFFIXES = (".py", ".lua", ".json")
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
    """Build both, below `into`; what is there already and still right is kept.

    Args:
        into: a folder of its own.
        architecture: `arm64` or `x86_64`.
        python: of Lambda, like `3.13`.

    Raises:
        BundleError: the dependencies could not be installed, or something could not be compiled.
    """
    compiler = _interpreter(python)
    name = f"python{python.replace('.', '')}-{architecture}" + ("" if compiler else "-without-bytecode")
    code = _made(into, f"code-{name}", _sources(), lambda folder: _fill_code(folder, compiler))
    layer = _made(into, f"layer-{name}", [LOCK], lambda folder: _fill_layer(folder, architecture, python, compiler))
    return Bundle(code, layer, compiled=compiler is not None)


def size(folder: Path) -> int:
    """Bytes in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _made(into: Path, name: str, sources: Sequence[Path], fill: Callable[[Path], None]) -> Path:
    """The folder that is made from these sources; filled now, if it is not there. It appears whole or not at all.

    What it was made from earlier goes. Several may build at once.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sources:
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    folder = into / f"{name}-{digest.hexdigest()[:12]}"
    if not folder.is_dir():
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into) as making:
            filled = Path(making) / name
            fill(filled)
            try:
                filled.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another has built the same meanwhile
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
