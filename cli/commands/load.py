"""`presence load`: puts simulated users on a service and reports how fast their changes reach their contacts."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Annotated

import typer

from cli.errors import UserError
from cli.identity_provider import seconds
from cli.options import choosing_a_service
from cli.target import Target
from cli.terminal import finish, plural, progress, reading, remark, writing


@choosing_a_service("url", "ws_url", "stack", "region", "profile")
def put_under_load(
    target: Target,
    users: Annotated[int, typer.Option(metavar="N", help="How many users.", min=2)] = 100,
    contacts_each: Annotated[
        int, typer.Option("--contacts", metavar="N", help="How many contacts each user has.", min=0)
    ] = 20,
    graph_file: Annotated[
        str | None,
        typer.Option(
            "--graph",
            metavar="FILE",
            help="Take the contacts from a file for `contacts load`: a line `a,b` for each pair; - is stdin. Only the "
            "shape of the graph is used: the users in the file are not touched.",
            show_default=False,
        ),
    ] = None,
    devices: Annotated[int, typer.Option(metavar="N", help="Connections of each user.", min=1, max=20)] = 1,
    rate: Annotated[float, typer.Option(metavar="R", help="Changes a second, of all users together.", min=0)] = 10,
    churn: Annotated[
        float, typer.Option(metavar="R", help="Connections a second that close and reconnect.", min=0)
    ] = 0,
    duration: Annotated[str, typer.Option(metavar="TIME", help="How long users make changes: 90s, 15m, 1h.")] = "30s",
    connect_rate: Annotated[
        float, typer.Option(metavar="R", help="Handshakes a second, before changes start.", min=0.1)
    ] = 50,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Also write the report to FILE as JSON. With -, only the JSON is printed, to stdout.",
            show_default=False,
        ),
    ] = None,
    clean_up: Annotated[
        bool, typer.Option("--clean-up", help="Only erase the users of earlier loads that were interrupted.")
    ] = False,
) -> None:
    """Put the service under load, and report how fast changes reach contacts, and what is lost.

    Simulated users connect, send heartbeats and change their status in turn. They exist only for this load and are
    erased at the end. Ctrl-C ends the load early, with a report; a second Ctrl-C ends it without cleaning up.

    Their tokens are made here, with the stack's own secret or PRESENCE_JWT_SECRET. On a deployed stack each message and
    each frame costs money; docs/operations.md says how much.
    """
    from cli.load_run import Plan, erase_left_over
    from cli.load_run import run as run_load
    from load.statistics import lines_of

    if clean_up:
        count = finish(erase_left_over(target, progress))
        sys.stdout.write(f"erased {plural(count, 'user')} of earlier loads\n")
        return
    plan = Plan(
        _contacts(users, contacts_each, graph_file),
        devices=devices,
        rate=rate,
        churn=churn,
        seconds=seconds(duration),
        connect_rate=connect_rate,
    )
    for warning in plan.warnings():
        remark(warning)
    with writing(json_file) if json_file else contextlib.nullcontext() as out:
        outcome = finish(run_load(plan, target, progress, remark))
        if out is not None:
            out.write(json.dumps(outcome.report, indent=1) + "\n")
    if outcome.connected and json_file != "-":
        sys.stdout.writelines(f"{line}\n" for line in lines_of(outcome.report))
    if outcome.failure:
        raise UserError(outcome.failure)


def _contacts(users: int, each: int, graph_file: str | None) -> list[list[int]]:
    from cli.graph_files import read_pairs
    from load.contacts import from_pairs, ring

    if graph_file is None:
        return ring(users, each)
    with reading(graph_file) as lines:
        pairs = read_pairs(lines, graph_file)
    if not pairs:
        raise UserError(f"{graph_file} has no pairs: nobody would see anybody")
    return from_pairs(pairs)
