"""How commands use a terminal: errors in one line, files or pipes, progress, and Ctrl-C.

No command is here, and nothing that is specific to presence.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar, cast

import typer

from cli.errors import UserError
from load.errors import LoadError
from shared.settings import SettingsError

T = TypeVar("T")


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
    """Report expected errors in one line (or one for each bad line of a file), and exit with code 1."""
    try:
        yield
    except (UserError, LoadError, SettingsError) as error:
        _refuse(str(error))
    except UnicodeDecodeError as error:
        _refuse(f"not UTF-8: {error.reason} at byte {error.start}")
    except BrokenPipeError:
        # The reader, like `head`, has closed the pipe. Without this, Python reports an error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _refuse(text: str) -> NoReturn:
    for line in text.splitlines():
        remark(line)
    raise typer.Exit(1) from None


def remark(line: str) -> None:
    """Print a remark to stderr, so that a pipe carries only the command's output."""
    sys.stderr.write(f"presence: {line}\n")


def plural(count: int, noun: str) -> str:
    """A count with its noun: `1 user`, `2,000 users`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@contextlib.contextmanager
def reading(file: str) -> Iterator[TextIO]:
    """The lines of a file; `-` is stdin. A byte order mark, as spreadsheets write one, is skipped."""
    if file == "-":
        yield sys.stdin
    else:
        with Path(file).open(encoding="utf-8-sig") as lines:
            yield lines


@contextlib.contextmanager
def writing(file: str) -> Iterator[TextIO]:
    """A file to write to; `-` is stdout. The file is replaced only when the block succeeds: half a backup is worse than
    the previous one.

    Raises:
        UserError: the file cannot be written.
    """
    if file == "-":
        yield sys.stdout
        return
    if Path(file).is_dir():
        raise UserError(f"{file}: Is a directory")
    draft = Path(f"{file}.{os.getpid()}")
    try:
        lines = draft.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    try:
        with lines:
            yield lines
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def progress(what: str = "writing") -> Iterator[Callable[[float, float], None]]:
    """A progress bar on stderr, if that is a terminal. Call it with the number of steps done, and their total."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run something that ends by itself. Ctrl-C and SIGTERM end it early."""
    try:
        return asyncio.run(_stoppable(work))
    except asyncio.CancelledError:
        raise typer.Exit(130) from None


def until_stopped(work: Coroutine[Any, Any, object]) -> None:
    """Run something until Ctrl-C or SIGTERM, which are its normal end."""
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_stoppable(work))


async def _stoppable(work: Coroutine[Any, Any, T]) -> T:
    """Let a signal cancel something, so that it can clean up. A second signal ends the process immediately."""
    loop = asyncio.get_running_loop()
    task = cast("asyncio.Task[T]", asyncio.current_task())

    def stop() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
        task.cancel()

    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` ignores it.
        signals.append(signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, stop)
    return await work
