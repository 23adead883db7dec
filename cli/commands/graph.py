"""`presence graph`: writes a backup of everything that was given to a service, and restores it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.options import choosing_a_service
from cli.target import Target
from cli.terminal import finish, plural, progress, reading, writing

app = typer.Typer(
    help="Back up contacts, privacy and statuses, and restore them.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("export")
@choosing_a_service("url", "stack", "region", "profile")
def export_graph(
    target: Target,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write; - is stdout.", show_default=False)] = "-",
) -> None:
    """Write everything that the application or its users gave to FILE, as a line of JSON for each user.

    That is contacts, hidden users, blocks, custom statuses and claims. FILE is replaced when everything is written.
    """
    from cli.graph_files import export

    async def write() -> int:
        count = 0
        with writing(file) as out:
            async with target.backend() as backend:
                async for line in export(backend):
                    out.write(line + "\n")
                    count += 1
        return count

    count = finish(write())
    if file != "-":
        sys.stdout.write(f"wrote {plural(count, 'user')} to {file}\n")


@app.command("import")
@choosing_a_service("url", "stack", "region", "profile")
def import_graph(
    target: Target,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `export` wrote; - is stdin.", show_default=False)],
    replace: Annotated[
        bool, typer.Option("--replace", help="Also delete what is in the service and not in FILE.")
    ] = False,
) -> None:
    """Restore a backup: first what is hidden, then contacts; then mark the contacts as loaded.

    All lines are checked first. If one is invalid, nothing is written. Data in the service that is not in FILE stays.
    With --replace it is deleted, so that the service holds exactly the contents of FILE.
    """
    from cli.graph_files import read_backup, restore

    with reading(file) as lines:
        users = read_backup(lines, file)

    async def load() -> None:
        async with target.backend() as backend:
            with progress() as show:
                await restore(backend, users, show, replace=replace)

    finish(load())
    sys.stdout.write(f"imported {plural(len(users), 'user')}\n")
