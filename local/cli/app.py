"""The command line, `presence`: reads what was typed, and says in one line what is wrong with it.

What a command does is in the module that it calls; these are imported when they are needed, so that every command
begins at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO, TypeVar, cast
from urllib.parse import urlsplit

import typer

from local.cli.complaint import Complaint
from local.cli.home import Home
from local.cli.identity_provider import IdentityProvider, seconds, user_id_of
from shared.settings import SettingsError

if TYPE_CHECKING:
    from local.cli.backend import Backend
    from local.cli.graph_files import Progress

T = TypeVar("T")
DEFAULT_WS_URL = "ws://127.0.0.1:8080/live"

app = typer.Typer(
    help="Who is online: the presence service on this machine, and what an application's backend asks of it.\n\n"
    "Begin with `presence run`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
contacts = typer.Typer(help="Say who sees whom.", no_args_is_help=True, rich_markup_mode=None)
graph = typer.Typer(
    help="Back up what was given to the service, and bring it back.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(contacts, name="contacts")
app.add_typer(graph, name="graph")

User = Annotated[str, typer.Argument(metavar="USER", help="A user id, like alice.", show_default=False)]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The service's HTTP side. Default: the run in this directory, else http://127.0.0.1:8080. Calls to this "
        "machine are signed with the key pair in .presence, all others with your AWS credentials.",
        show_default=False,
    ),
]


@app.command()
def run(
    port: Annotated[
        int, typer.Option(metavar="PORT", help="The port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)
    ] = 8080,
    redis: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Use this Redis or Valkey, like redis://127.0.0.1:6379/0. Default: PRESENCE_REDIS_URL, else a server "
            "is started for this run, empty, and ends with it.",
            show_default=False,
        ),
    ] = None,
    in_process: Annotated[
        bool,
        typer.Option("--in-process", help="Run the functions in threads of this process, for a debugger."),
    ] = False,
) -> None:
    """Run the whole service on this machine, until Ctrl-C.

    That is API Gateway's two sides, the functions in processes of their own, their schedule, and Redis.

    Settings come from the environment, as PRESENCE_<NAME>: PRESENCE_HEARTBEAT_INTERVAL=5 PRESENCE_DEVICE_TTL=15, say.
    What the other commands need to find it, and the functions' log, are in the folder .presence.
    """
    with _complaining():
        from rich.console import Console

        from local.cli.run import run as run_service

        _until_stopped(run_service(Home(), Console(highlight=False), port=port, redis_url=redis, in_process=in_process))


@app.command()
def token(
    user: User,
    ttl: Annotated[str, typer.Option(metavar="TIME", help="How long it is good: 90s, 15m, 1h, 7d.")] = "1h",
) -> None:
    """Print a token of USER, and nothing else.

    It is signed with PRESENCE_JWT_SECRET where that is set, else with the secret of the run in this directory.
    """
    with _complaining():
        life = seconds(ttl)
        sys.stdout.write(IdentityProvider.find(Home(), os.environ).token(user_id_of(user), life) + "\n")


@contacts.command("add")
def add_contacts(
    user: User,
    others: Annotated[
        list[str], typer.Argument(metavar="OTHER...", help="Who sees USER and is seen by USER.", show_default=False)
    ],
    url: Url = None,
) -> None:
    """Let USER and each OTHER see each other: `presence contacts add alice bob carol`."""
    with _complaining():
        user_id_of(user)
        wanted = list(dict.fromkeys(user_id_of(other) for other in others))
        if user in wanted:
            raise Complaint(f"{user} cannot be a contact of {user}")

        async def add() -> bool:
            async with _backend(url) as backend:
                await backend.set_contacts(user, wanted, mutual=True)
                return (await backend.health()).get("graph") == "loaded"

        loaded = _finish(add())
        sys.stdout.write(f"{user} and {'each of ' if len(wanted) > 1 else ''}{', '.join(wanted)} see each other\n")
        if not loaded:
            _remark(
                "but nobody sees anybody before the contacts of this Redis are marked as loaded: "
                "`presence contacts load FILE` and `presence graph import FILE` do that"
            )


@contacts.command("load")
def load_contacts(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A line `a,b` for each pair; - is stdin.", show_default=False)
    ],
    url: Url = None,
) -> None:
    """Let the users of each pair in FILE see each other, and mark the contacts as loaded.

    All lines are checked first: where one is bad, nothing is written.
    """
    with _complaining():
        from local.cli.graph_files import load, read_edges

        with _reading(file) as lines:
            edges = read_edges(lines, file)

        async def bring() -> None:
            async with _backend(url) as backend:
                with _progress() as progress:
                    await load(backend, edges, progress)

        _finish(bring())
        sys.stdout.write(f"loaded {len(edges)} pair{_s(edges)}\n")


@graph.command("export")
def export_graph(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write; - is stdout.", show_default=False)] = "-",
    url: Url = None,
) -> None:
    """Write everything that the application or users gave to FILE: a line of JSON for each user.

    That is contacts, what is hidden, blocks, custom statuses and claims. FILE is replaced when all is there.
    """
    with _complaining():
        from local.cli.graph_files import export

        async def write() -> int:
            count = 0
            with _writing(file) as out:
                async with _backend(url) as backend:
                    async for line in export(backend):
                        out.write(line + "\n")
                        count += 1
            return count

        count = _finish(write())
        if file != "-":
            sys.stdout.write(f"wrote {count} user{'' if count == 1 else 's'} to {file}\n")


@graph.command("import")
def import_graph(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `export` wrote; - is stdin.", show_default=False)],
    url: Url = None,
) -> None:
    """Bring a backup to the service: what is hidden first, then contacts; then mark the contacts as loaded.

    All lines are checked first: where one is bad, nothing is written. Contacts that are not in FILE stay.
    """
    with _complaining():
        from local.cli.graph_files import read_backup, restore

        with _reading(file) as lines:
            users = read_backup(lines, file)

        async def bring() -> None:
            async with _backend(url) as backend:
                with _progress() as progress:
                    await restore(backend, users, progress)

        _finish(bring())
        sys.stdout.write(f"imported {len(users)} user{_s(users)}\n")


@app.command()
def watch(
    user: User,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The service's HTTP side, on this machine. Default: the run in this directory, else "
            "http://127.0.0.1:8080.",
            show_default=False,
        ),
    ] = None,
    ws_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The service's WebSocket side, like wss://HOST/STAGE. Default: what belongs to --url.",
            show_default=False,
        ),
    ] = None,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="A line for each change, its fields divided by tabs; also when piped."),
    ] = False,
) -> None:
    """Show the contacts of USER, live, until Ctrl-C.

    This connects as USER, who is thereby online, and away after a while, since nobody sees keys being pressed. A
    connection that is lost is made anew.
    """
    with _complaining():
        provider = IdentityProvider.find(Home(), os.environ)
        user_id_of(user)
        from rich.console import Console

        from local.cli.watch import watch as show

        where = _ws_url(url, ws_url)
        _until_stopped(show(where, user, provider, Console(), sys.stderr, plain=plain))


def _ws_url(url: str | None, ws_url: str | None) -> str:
    if ws_url:
        if urlsplit(ws_url).scheme not in ("ws", "wss"):
            raise Complaint(f"--ws-url begins with ws:// or wss://, and {ws_url} does not")
        return ws_url
    if url:
        from local.cli.backend import is_local

        if not is_local(url):
            raise Complaint("give --ws-url too: a deployed stack takes WebSockets at another address than --url")
        return f"ws://{urlsplit(url).netloc}/live"
    known = Home().run()
    return known.ws_url if known else DEFAULT_WS_URL


# What was typed and what goes wrong


@contextlib.contextmanager
def _complaining() -> Iterator[None]:
    """Turn what is expected to go wrong into one line (or one for each bad line of a file) and exit code 1."""
    try:
        yield
    except (Complaint, SettingsError) as error:
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
        _remark(line)
    raise typer.Exit(1) from None


def _remark(line: str) -> None:
    sys.stderr.write(f"presence: {line}\n")


def _s(things: Sequence[object]) -> str:
    return "" if len(things) == 1 else "s"


@contextlib.contextmanager
def _reading(file: str) -> Iterator[TextIO]:
    """The lines of a file; `-` is stdin. A byte order mark, as spreadsheets write one, is skipped."""
    if file == "-":
        yield sys.stdin
    else:
        with Path(file).open(encoding="utf-8-sig") as lines:
            yield lines


@contextlib.contextmanager
def _writing(file: str) -> Iterator[TextIO]:
    """Where to write lines; `-` is stdout. A file is replaced only when the block has ended well, since a backup that
    is half there is worse than the one before.
    """
    if file == "-":
        yield sys.stdout
        return
    draft = Path(f"{file}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as lines:
            yield lines
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


# What takes time


def _backend(url: str | None) -> contextlib.AbstractAsyncContextManager[Backend]:
    from local.cli.backend import Backend

    return Backend.find(Home(), url)


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("writing")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Do something that ends by itself; Ctrl-C and SIGTERM end it early."""
    try:
        return asyncio.run(_stoppable(work))
    except asyncio.CancelledError:
        raise typer.Exit(130) from None


def _until_stopped(work: Coroutine[Any, Any, object]) -> None:
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
