"""The command line, `presence`: reads what was typed, and says in one line what is wrong with it.

What a command does is in the module that it calls; these are imported when they are needed, so that every command
begins at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from cli.errors import Complaint
from cli.home import Home
from cli.identity_provider import TOKEN_VARIABLE, seconds, user_id_of
from cli.target import Target
from cli.terminal import complaining, finish, progress, reading, remark, until_stopped, writing

app = typer.Typer(
    help="Who is online: the presence service on this machine or in AWS, and what an application's backend asks of it."
    "\n\nBegin with `presence run`.",
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
WsUrl = Annotated[
    str | None,
    typer.Option(
        "--ws-url",
        metavar="URL",
        help="The service's WebSocket side, like wss://HOST/STAGE. Default: what belongs to --url or --stack.",
        show_default=False,
    ),
]
StackName = Annotated[
    str | None,
    typer.Option(
        "--stack",
        metavar="NAME",
        help="A deployed stack: CloudFormation tells its addresses, and your AWS credentials are used.",
        show_default=False,
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        metavar="REGION", help="Where the stack is. Default: AWS_REGION, or your profile's.", show_default=False
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The AWS profile to use. Default: AWS_PROFILE, or your default one.", show_default=False
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        envvar=TOKEN_VARIABLE,
        help="A token of your identity provider. Default: one is made, with the secret of the run or the stack, or "
        "with PRESENCE_JWT_SECRET.",
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
    with complaining():
        from rich.console import Console

        from cli.run import run as run_service

        os.environ.pop(TOKEN_VARIABLE, None)  # The service takes what begins with PRESENCE_ for a setting.
        until_stopped(run_service(Home(), Console(highlight=False), port=port, redis_url=redis, in_process=in_process))


@app.command()
def token(
    user: User,
    ttl: Annotated[str, typer.Option(metavar="TIME", help="How long it is good: 90s, 15m, 1h, 7d.")] = "1h",
    stack: StackName = None,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Print a token of USER, and nothing else.

    It is signed with the secret that a stack made for itself, else with PRESENCE_JWT_SECRET, else with the secret of
    the run in this directory.
    """
    with complaining():
        life = seconds(ttl)
        user_id_of(user)
        provider = Target(Home(), os.environ, stack=stack, region=region, profile=profile).identity_provider()
        sys.stdout.write(provider.token(user, life) + "\n")


@contacts.command("add")
def add_contacts(
    user: User,
    others: Annotated[
        list[str], typer.Argument(metavar="OTHER...", help="Who sees USER and is seen by USER.", show_default=False)
    ],
    url: Url = None,
    stack: StackName = None,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Let USER and each OTHER see each other: `presence contacts add alice bob carol`."""
    with complaining():
        target = _target(url, stack, region, profile)
        wanted = _others(user, others)

        async def add() -> bool:
            async with target.backend() as backend:
                await backend.set_contacts(user, wanted, mutual=True)
                return (await backend.health()).get("graph") == "loaded"

        loaded = finish(add())
        sys.stdout.write(f"{_pairs(user, wanted)} see each other\n")
        if not loaded:
            remark(
                "but nobody sees anybody before the contacts of this Redis are marked as loaded: "
                "`presence contacts load FILE` and `presence graph import FILE` do that"
            )


@contacts.command("remove")
def remove_contacts(
    user: User,
    others: Annotated[
        list[str],
        typer.Argument(metavar="OTHER...", help="Who and USER see each other no more.", show_default=False),
    ],
    url: Url = None,
    stack: StackName = None,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Let USER and each OTHER see each other no more: `presence contacts remove alice bob carol`."""
    with complaining():
        target = _target(url, stack, region, profile)
        unwanted = _others(user, others)

        async def remove() -> None:
            async with target.backend() as backend:
                await backend.set_contacts(user, remove=unwanted, mutual=True)

        finish(remove())
        sys.stdout.write(f"{_pairs(user, unwanted)} no longer see each other\n")


@contacts.command("load")
def load_contacts(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A line `a,b` for each pair; - is stdin.", show_default=False)
    ],
    url: Url = None,
    stack: StackName = None,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Let the users of each pair in FILE see each other, and mark the contacts as loaded.

    All lines are checked first: where one is bad, nothing is written.
    """
    with complaining():
        from cli.graph_files import load, read_edges

        target = _target(url, stack, region, profile)
        with reading(file) as lines:
            edges = read_edges(lines, file)

        async def bring() -> None:
            async with target.backend() as backend:
                with progress() as tell:
                    await load(backend, edges, tell)

        finish(bring())
        sys.stdout.write(f"loaded {len(edges)} pair{_s(edges)}\n")


@graph.command("export")
def export_graph(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write; - is stdout.", show_default=False)] = "-",
    url: Url = None,
    stack: StackName = None,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Write everything that the application or users gave to FILE: a line of JSON for each user.

    That is contacts, what is hidden, blocks, custom statuses and claims. FILE is replaced when all is there.
    """
    with complaining():
        from cli.graph_files import export

        target = _target(url, stack, region, profile)

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
            sys.stdout.write(f"wrote {count} user{'' if count == 1 else 's'} to {file}\n")


@graph.command("import")
def import_graph(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `export` wrote; - is stdin.", show_default=False)],
    replace: Annotated[
        bool, typer.Option("--replace", help="Also take away what is in the service and not in FILE.")
    ] = False,
    url: Url = None,
    stack: StackName = None,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Bring a backup to the service: what is hidden first, then contacts; then mark the contacts as loaded.

    All lines are checked first: where one is bad, nothing is written. What is in the service and not in FILE stays,
    unless --replace is given: then the service knows afterwards what FILE knows, and nothing else.
    """
    with complaining():
        from cli.graph_files import read_backup, restore

        target = _target(url, stack, region, profile)
        with reading(file) as lines:
            users = read_backup(lines, file)

        async def bring() -> None:
            async with target.backend() as backend:
                with progress() as tell:
                    await restore(backend, users, tell, replace=replace)

        finish(bring())
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
    ws_url: WsUrl = None,
    token: Token = None,
    stack: StackName = None,
    region: Region = None,
    profile: Profile = None,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="A line for each change, its fields divided by tabs; also when piped."),
    ] = False,
) -> None:
    """Show the contacts of USER, live, until Ctrl-C.

    This connects as USER, who is thereby online, and away after a while, since nobody sees keys being pressed. A
    connection that is lost is made anew.
    """
    with complaining():
        user_id_of(user)
        target = Target(Home(), os.environ, url=url, ws_url=ws_url, stack=stack, region=region, profile=profile)
        tokens = target.tokens(token)
        tokens.token(user)  # Says at once when there cannot be one.
        from rich.console import Console

        from cli.watch import watch as show

        until_stopped(show(target.ws_url, user, tokens, Console(), sys.stderr, plain=plain))


@app.command()
def doctor(
    stack: StackName = None,
    region: Region = None,
    profile: Profile = None,
    url: Url = None,
    ws_url: WsUrl = None,
    token: Token = None,
) -> None:
    """See whether a deployed stack works, and what to do where it does not.

    A line for each look at it: the stack, its health, strangers who are refused, and two throw-away users who see each
    other, with the time that this takes. They are nobody's contacts afterwards. Exit code 1 when something failed.

    Where tokens come from an identity provider, give the one of a test user with --token: it connects for a moment.
    Without --stack it is the run in this directory that is looked at, or what --url and --ws-url lead to.
    """
    with complaining():
        target = Target(Home(), os.environ, url=url, ws_url=ws_url, stack=stack, region=region, profile=profile)
        from rich.console import Console
        from rich.text import Text

        from cli.doctor import Doctor, Finding

        console = Console(highlight=False)
        colours = {"ok": "green", "note": "yellow", "failed": "bold red"}

        def show(finding: Finding) -> None:
            verdict = (f"{finding.verdict:<8}", colours[finding.verdict])
            console.print(Text.assemble(verdict, (f"{finding.subject:<14}", "bold"), finding.words), soft_wrap=True)

        healthy = finish(Doctor(target, show, token).examine())
    if not healthy:
        raise typer.Exit(1)


@app.command("load")
def put_under_load(
    users: Annotated[int, typer.Option(metavar="N", help="How many users.", min=2)] = 100,
    contacts_each: Annotated[
        int, typer.Option("--contacts", metavar="N", help="How many contacts each of them has.", min=0)
    ] = 20,
    graph_file: Annotated[
        str | None,
        typer.Option(
            "--graph",
            metavar="FILE",
            help="Who sees whom instead, as `contacts load` takes it: a line `a,b` for each pair; - is stdin. Only the "
            "shape is taken: no user in it is touched.",
            show_default=False,
        ),
    ] = None,
    devices: Annotated[int, typer.Option(metavar="N", help="Connections of each user.", min=1, max=20)] = 1,
    rate: Annotated[float, typer.Option(metavar="R", help="Changes a second, of all together.", min=0)] = 10,
    churn: Annotated[
        float, typer.Option(metavar="R", help="Connections a second that are closed and made anew.", min=0)
    ] = 0,
    duration: Annotated[str, typer.Option(metavar="TIME", help="For how long changes are made: 90s, 15m, 1h.")] = "30s",
    connect_rate: Annotated[
        float, typer.Option(metavar="R", help="Handshakes a second, before changes begin.", min=0.1)
    ] = 50,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Also write the report there as JSON; - is stdout, and nothing else.",
            show_default=False,
        ),
    ] = None,
    clean_up: Annotated[
        bool, typer.Option("--clean-up", help="Only erase the users of earlier loads that were cut off.")
    ] = False,
    url: Url = None,
    ws_url: WsUrl = None,
    stack: StackName = None,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Put the service under load, and tell how soon changes reach contacts, and what is lost.

    That many users connect, beat as the service asks them to, and change their status in turn. They are made up for
    this, and erased in the end. Ctrl-C ends it early, with the report; a second one at once, without cleaning up.

    It makes their tokens itself: of a stack, with its own secret, or PRESENCE_JWT_SECRET. On a deployed stack each
    message and each frame costs money; docs/operations.md says how much.
    """
    with complaining():
        target = Target(Home(), os.environ, url=url, ws_url=ws_url, stack=stack, region=region, profile=profile)
        from cli.load_run import Plan, erase_left_over
        from cli.load_run import run as run_load
        from load.statistics import words

        if clean_up:
            count = finish(erase_left_over(target, progress))
            sys.stdout.write(f"erased {count:,} user{'' if count == 1 else 's'} of earlier loads\n")
            return
        plan = Plan(
            _contacts_of(users, contacts_each, graph_file),
            devices=devices,
            rate=rate,
            churn=churn,
            seconds=seconds(duration),
            connect_rate=connect_rate,
        )
        for doubt in plan.doubts():
            remark(doubt)
        with writing(json_file) if json_file else contextlib.nullcontext() as out:
            outcome = finish(run_load(plan, target, progress, remark))
            if out is not None:
                out.write(json.dumps(outcome.report, indent=1) + "\n")
        if outcome.connected and json_file != "-":
            sys.stdout.writelines(f"{line}\n" for line in words(outcome.report))
        if outcome.failure:
            raise Complaint(outcome.failure)


def _contacts_of(users: int, each: int, graph_file: str | None) -> list[list[int]]:
    from cli.graph_files import read_edges
    from load.contacts import of_pairs, ring

    if graph_file is None:
        return ring(users, each)
    with reading(graph_file) as lines:
        edges = read_edges(lines, graph_file)
    if not edges:
        raise Complaint(f"{graph_file} has no pairs: nobody would see anybody")
    return of_pairs(edges)


@app.command()
def account(region: Region = None, profile: Profile = None) -> None:
    """Say in which AWS account and region something would be deployed, or why in none."""
    with complaining():
        from cli.account import Account

        operator = Account(region, profile)
        sys.stdout.write(f"account {operator.number()}, {operator.region}\n")


def _target(url: str | None, stack: str | None, region: str | None, profile: str | None) -> Target:
    """The service that a call of the backend goes to."""
    return Target(Home(), os.environ, url=url, stack=stack, region=region, profile=profile)


def _others(user: str, others: Sequence[str]) -> list[str]:
    """Whom a command about the contacts of `user` names, each once."""
    user_id_of(user)
    named = list(dict.fromkeys(user_id_of(other) for other in others))
    if user in named:
        raise Complaint(f"{user} cannot be a contact of {user}")
    return named


def _pairs(user: str, others: Sequence[str]) -> str:
    return f"{user} and {'each of ' if len(others) > 1 else ''}{', '.join(others)}"


def _s(things: Sequence[object]) -> str:
    return "" if len(things) == 1 else "s"
