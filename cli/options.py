"""Options that several commands share. No command is here.

`choosing_a_service` gives a command the options that name a service. Such options exist once, here.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cli.home import Home
from cli.identity_provider import TOKEN_VARIABLE
from cli.target import Target
from cli.terminal import reporting_errors

User = Annotated[str, typer.Argument(metavar="USER", help="A user id, like alice.", show_default=False)]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        envvar=TOKEN_VARIABLE,
        help="A token from your identity provider. Default: a new one, signed with the secret of the run or the stack, "
        "or with PRESENCE_JWT_SECRET.",
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The service's HTTP API. Default: the run in this directory, else http://127.0.0.1:8080. Calls to this "
        "machine are signed with the key pair in .presence, all others with your AWS credentials.",
        show_default=False,
    ),
]
WsUrl = Annotated[
    str | None,
    typer.Option(
        "--ws-url",
        metavar="URL",
        help="The service's WebSocket API, like wss://HOST/STAGE. Default: the one that belongs to --url or --stack.",
        show_default=False,
    ),
]
StackName = Annotated[
    str | None,
    typer.Option(
        "--stack",
        metavar="NAME",
        help="A deployed stack. Its URLs come from CloudFormation, and your AWS credentials are used.",
        show_default=False,
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        metavar="REGION", help="The stack's region. Default: AWS_REGION, or your profile's region.", show_default=False
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The AWS profile to use. Default: AWS_PROFILE, or your default profile.",
        show_default=False,
    ),
]
_OPTIONS: dict[str, Any] = {"url": Url, "ws_url": WsUrl, "stack": StackName, "region": Region, "profile": Profile}


def choosing_a_service(*options: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options of `Target`, by name, after its own.

    The command is called with the `Target` that they describe, as its argument `target`. Its errors are reported.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "target"]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_OPTIONS[name])
            for name in options
        ]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            chosen = {name: given.pop(name) for name in options}
            with reporting_errors():
                command(target=Target(Home(), os.environ, **chosen), **given)

        # Typer reads the options of a command from these.
        run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in (*own, *added)}
        return run

    return decorate
