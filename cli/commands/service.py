"""Commands that run a service, connect to one as a user, or examine it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from cli.home import Home
from cli.identity_provider import TOKEN_VARIABLE, seconds, user_id_of
from cli.options import Profile, Region, Token, User, choosing_a_service
from cli.target import Target
from cli.terminal import finish, reporting_errors, until_stopped


def run(
    port: Annotated[
        int, typer.Option(metavar="PORT", help="The port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)
    ] = 8080,
    redis: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Use this Redis or Valkey, like redis://127.0.0.1:6379/0. Default: PRESENCE_REDIS_URL, else an empty "
            "server that starts and ends with this run.",
            show_default=False,
        ),
    ] = None,
    in_process: Annotated[
        bool,
        typer.Option("--in-process", help="Run the functions in threads of this process, for a debugger."),
    ] = False,
) -> None:
    """Run the whole service on this machine, until Ctrl-C.

    It consists of API Gateway's WebSocket and HTTP APIs, the functions in processes of their own, their schedule, and
    Redis.

    Settings come from the environment, as PRESENCE_<NAME>; for example PRESENCE_HEARTBEAT_INTERVAL=5
    PRESENCE_DEVICE_TTL=15. The folder .presence holds the functions' log and what the other commands need.
    """
    with reporting_errors():
        from rich.console import Console

        from cli.run import run as run_service

        os.environ.pop(
            TOKEN_VARIABLE, None
        )  # The service reads every variable that begins with PRESENCE_ as a setting.
        until_stopped(run_service(Home(), Console(highlight=False), port=port, redis_url=redis, in_process=in_process))


@choosing_a_service("stack", "region", "profile")
def token(
    target: Target,
    user: User,
    ttl: Annotated[str, typer.Option(metavar="TIME", help="How long it is valid: 90s, 15m, 1h, 7d.")] = "1h",
) -> None:
    """Print a token of USER, and nothing else.

    The secret that signs it is the stack's own, else PRESENCE_JWT_SECRET, else that of the run in this directory.
    """
    life = seconds(ttl)
    user_id_of(user)
    sys.stdout.write(target.identity_provider().token(user, life) + "\n")


@choosing_a_service("url", "ws_url", "stack", "region", "profile")
def watch(
    target: Target,
    user: User,
    token: Token = None,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Print one line for each change, with tabs between fields. Default in a pipe."),
    ] = False,
) -> None:
    """Show the contacts of USER, live, until Ctrl-C.

    This connects as USER, so USER is online, and away after a while without activity. It reconnects when the connection
    is lost.
    """
    user_id_of(user)
    tokens = target.tokens(token)
    tokens.token(user)  # Fails early when there cannot be a token.
    from rich.console import Console

    from cli.watch import watch as show

    until_stopped(show(target.ws_url, user, tokens, Console(), sys.stderr, plain=plain))


@choosing_a_service("stack", "region", "profile", "url", "ws_url")
def doctor(target: Target, token: Token = None) -> None:
    """Check whether a service works, and say what to do where it does not.

    It prints a line for each check: the stack, its health, refused strangers, and two temporary users who see each
    other, with the time that this takes. They are not contacts afterwards. The exit code is 1 if a check failed.

    If tokens come from an identity provider, pass a test user's token with --token; it connects for a moment.
    Without --stack, the run in this directory is checked, or the service at --url and --ws-url.
    """
    from rich.console import Console
    from rich.text import Text

    from cli.doctor import Doctor, Finding

    console = Console(highlight=False)
    colors = {"ok": "green", "note": "yellow", "failed": "bold red"}

    def show(finding: Finding) -> None:
        verdict = (f"{finding.verdict:<8}", colors[finding.verdict])
        console.print(Text.assemble(verdict, (f"{finding.subject:<14}", "bold"), finding.text), soft_wrap=True)

    if not finish(Doctor(target, show, token).examine()):
        raise typer.Exit(1)


def account(region: Region = None, profile: Profile = None) -> None:
    """Print the AWS account and region that a deployment would go to, or why there is none."""
    with reporting_errors():
        from cli.account import Account

        operator = Account(region, profile)
        sys.stdout.write(f"account {operator.number()}, {operator.region}\n")
