"""`presence contacts`: adds, removes and loads contacts, as the application's backend does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from cli.errors import UserError
from cli.identity_provider import user_id_of
from cli.options import User, choosing_a_service
from cli.target import Target
from cli.terminal import finish, plural, progress, reading, remark

app = typer.Typer(help="Define who sees whom.", no_args_is_help=True, rich_markup_mode=None)

NOT_LOADED = (
    "nobody sees anybody until the contacts of this Redis are marked as loaded: "
    "run `presence contacts load FILE` or `presence graph import FILE`"
)


@app.command("add")
@choosing_a_service("url", "stack", "region", "profile")
def add_contacts(
    target: Target,
    user: User,
    others: Annotated[
        list[str],
        typer.Argument(metavar="OTHER...", help="Users who see USER, and whom USER sees.", show_default=False),
    ],
) -> None:
    """Let USER and each OTHER see each other: `presence contacts add alice bob carol`."""
    added = _others(user, others)

    async def add() -> bool:
        async with target.backend() as backend:
            await backend.set_contacts(user, added, mutual=True)
            return (await backend.health()).get("graph") == "loaded"

    loaded = finish(add())
    sys.stdout.write(f"{_pairs(user, added)} see each other\n")
    if not loaded:
        remark(f"but {NOT_LOADED}")


@app.command("remove")
@choosing_a_service("url", "stack", "region", "profile")
def remove_contacts(
    target: Target,
    user: User,
    others: Annotated[
        list[str], typer.Argument(metavar="OTHER...", help="Users who no longer see USER.", show_default=False)
    ],
) -> None:
    """Stop USER and each OTHER from seeing each other: `presence contacts remove alice bob carol`."""
    removed = _others(user, others)

    async def remove() -> None:
        async with target.backend() as backend:
            await backend.set_contacts(user, remove=removed, mutual=True)

    finish(remove())
    sys.stdout.write(f"{_pairs(user, removed)} no longer see each other\n")


@app.command("load")
@choosing_a_service("url", "stack", "region", "profile")
def load_contacts(
    target: Target,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A line `a,b` for each pair; - is stdin.", show_default=False)
    ],
) -> None:
    """Let the users of each pair in FILE see each other, and mark the contacts as loaded.

    All lines are checked first. If one is invalid, nothing is written.
    """
    from cli.graph_files import load_pairs, read_pairs

    with reading(file) as lines:
        pairs = read_pairs(lines, file)

    async def load() -> None:
        async with target.backend() as backend:
            with progress() as show:
                await load_pairs(backend, pairs, show)

    finish(load())
    sys.stdout.write(f"loaded {plural(len(pairs), 'pair')}\n")


def _others(user: str, others: Sequence[str]) -> list[str]:
    """The other users that a command names, each once."""
    user_id_of(user)
    named = list(dict.fromkeys(user_id_of(other) for other in others))
    if user in named:
        raise UserError(f"{user} cannot be a contact of {user}")
    return named


def _pairs(user: str, others: Sequence[str]) -> str:
    return f"{user} and {'each of ' if len(others) > 1 else ''}{', '.join(others)}"
