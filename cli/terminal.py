"""What commands have in common at a terminal: complaints in one line, files or pipes, progress, and Ctrl-C.

No command is here, and nothing is known of presence.
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

from cli.errors import Complaint
from load.errors import LoadError
from shared.settings import SettingsError

T = TypeVar("T")


@contextlib.contextmanager
def complaining() -> Iterator[None]:
    """Turn what is expected to go wrong into one line (or one for each bad line of a file) and exit code 1."""
    try:
        yield
    except (Complaint, LoadError, SettingsError) as error:
        _refuse(str(error))
    except UnicodeDecodeError as error:
        _refuse(f"not a text in UTF-8: {error.reason} at byte {error.start}")
    except BrokenPipeError:
        # Whoever read has had enough, like `head`; Python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _refuse(words: str) -> NoReturn:
    for line in words.splitlines():
        remark(line)
    raise typer.Exit(1) from None


def remark(line: str) -> None:
    """Tell something that is not what was asked for: on stderr, so that a pipe carries only that."""
    sys.stderr.write(f"presence: {line}\n")


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
    """Where to write lines; `-` is stdout. A file is replaced only when the block has ended well, since a backup that
    is half there is worse than the one before.

    Raises:
        Complaint: there cannot be such a file.
    """
    if file == "-":
        yield sys.stdout
        return
    if Path(file).is_dir():
        raise Complaint(f"{file}: Is a directory")
    draft = Path(f"{file}.{os.getpid()}")
    try:
        lines = draft.open("w", encoding="utf-8")
    except OSError as error:
        raise Complaint(f"{file}: {error.strerror}") from None
    try:
        with lines:
            yield lines
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def progress(what: str = "writing") -> Iterator[Callable[[float, float], None]]:
    """A bar on stderr, where that is a terminal; it is told how many steps are done, and how many there are."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Do something that ends by itself; Ctrl-C and SIGTERM end it early."""
    try:
        return asyncio.run(_stoppable(work))
    except asyncio.CancelledError:
        raise typer.Exit(130) from None


def until_stopped(work: Coroutine[Any, Any, object]) -> None:
    """Do something until Ctrl-C or SIGTERM, which are its ordinary end."""
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_stoppable(work))


async def _stoppable(work: Coroutine[Any, Any, T]) -> T:
    """Do something, and let signals cancel it, so that it can end in order. A second signal ends it at once."""
    loop = asyncio.get_running_loop()
    task = cast("asyncio.Task[T]", asyncio.current_task())

    def stop() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
        task.cancel()

    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` wants it ignored.
        signals.append(signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, stop)
    return await work
