"""`python -m cost --users 10000 --contacts 50` prints a month's bill; `--markdown` rewrites the documents' tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import get_args, get_type_hints

from rich.console import Console
from rich.table import Table

from cost.prices import US_EAST_1
from cost.tables import PAGES, bill_rows, filled
from cost.workload import Workload


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("cost", description="What a month costs (list prices, us-east-1).")
    parser.add_argument("--markdown", action="store_true", help="rewrite the tables of the documents")
    kinds = get_type_hints(Workload)
    for each in fields(Workload):
        choices = get_args(kinds[each.name])
        kind = str if choices else kinds[each.name]
        flag = f"--{each.name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, choices=choices or None, default=each.default, help=f"({each.default})")
    given = vars(parser.parse_args(arguments))
    if given.pop("markdown"):
        for page in PAGES:
            page.write_text(filled(page.read_text("utf-8")), "utf-8")
        return
    workload = Workload(**given)
    shown = Table("", "units", "of what", "$", title=f"A month, at list prices of us-east-1 ({US_EAST_1.looked_up})")
    for row in bill_rows(workload):
        shown.add_row(*(cell.strip("*") for cell in row))
    Console().print(shown)


if __name__ == "__main__":
    main()
