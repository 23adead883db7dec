"""`python -m bench [NAME …] [--quick]`: runs benchmarks, and prints a table.

A full run of all benchmarks also writes docs/benchmarks.md and its plots.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path

import redis
from rich.console import Console

from bench.report import Chapter, Scale, machine, markdown, table
from local.elasticache import RedisServer

REGISTRY = (
    "fan_out",
    "events",
    "state_machine",
    "growth",
    "memory",
    "cold_start",
    "end_to_end",
    "connections",
    "storm",
)
"""The benchmarks. Each is a module of this folder: its docstring says what is measured and how, and it has
`run(scale) -> list[Row]` and, if there is a plot, `plot(rows) -> Plot`."""
DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("bench", description="Measure what the service costs, side by side.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or some of: {', '.join(REGISTRY)}")
    parser.add_argument("--quick", action="store_true", help="a short run that checks that it works")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in REGISTRY]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}; there are {', '.join(REGISTRY)}")
    scale = Scale.QUICK if given.quick else Scale.FULL
    console = Console(stderr=True)
    chapters = []
    for name in given.names or REGISTRY:
        with console.status(f"{name} …"):
            chapters.append(_chapter(name, scale))
    # Without a terminal, do not cut the table to the default width.
    Console(width=None if console.is_terminal else 240).print(table(chapters))
    if scale is Scale.FULL and not given.names:
        write(chapters)


def _chapter(name: str, scale: Scale) -> Chapter:
    module = importlib.import_module(f"bench.{name}")
    rows = module.run(scale)
    plot = module.plot(rows) if hasattr(module, "plot") else None
    return Chapter(name, inspect.cleandoc(module.__doc__ or ""), rows, plot)


def write(chapters: Sequence[Chapter], docs: Path = DOCS) -> None:
    """Write the report and its plots into a folder."""
    with RedisServer.start() as server, redis.Redis.from_url(server.url) as client:
        info = client.info()
    version = info.get("valkey_version", info["redis_version"])
    about = machine(info.get("server_name", "redis"), f"{version} with {info['mem_allocator']}'s malloc")
    (docs / "images").mkdir(exist_ok=True)
    (docs / "benchmarks.md").write_text(markdown(chapters, about), "utf-8")
    for chapter in chapters:
        if chapter.plot:
            (docs / "images" / f"bench-{chapter.name}.svg").write_text(chapter.plot.svg(), "utf-8")


if __name__ == "__main__":
    main()
