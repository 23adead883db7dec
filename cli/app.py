"""The command `presence`: puts its subcommands together. What each of them does is in `cli/commands/`."""

from __future__ import annotations

import typer

from cli.commands import contacts, graph, load, service

app = typer.Typer(
    help="Who is online: runs the presence service on this machine, and calls a running or deployed one as its backend "
    "or as a user.\n\nStart with `presence run`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (service.run, service.token):
    app.command()(command)
app.add_typer(contacts.app, name="contacts")
app.add_typer(graph.app, name="graph")
for command in (service.watch, service.doctor):
    app.command()(command)
app.command("load")(load.put_under_load)
app.command()(service.account)
