"""`python -m bench [NAME …] [--quick]`: run benchmarks, and print one table.

When all were run, and not quickly, docs/benchmarks.md and its plots are written anew.
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

REGISTRY = ("fan_out", "events", "growth", "memory", "cold_start", "end_to_end", "connections", "storm")
"""Each is a module of this folder: a docstring that says what is measured and how, `run(scale) -> list[Row]` and, if it
has a picture, `plot(rows) -> Plot`."""
DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser("bench", description="Measure what the service costs, side by side.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or some of: {', '.join(REGISTRY)}")
    parser.add_argument("--quick", action="store_true", help="see that it works; the numbers mean little")
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
    # Not cut to the width of a terminal that is none.
    Console(width=None if console.is_terminal else 240).print(table(chapters))
    if scale is Scale.FULL and not given.names:
        write(chapters)


def _chapter(name: str, scale: Scale) -> Chapter:
    module = importlib.import_module(f"bench.{name}")
    rows = module.run(scale)
    plot = module.plot(rows) if hasattr(module, "plot") else None
    return Chapter(name, inspect.cleandoc(module.__doc__ or ""), rows, plot)


def write(chapters: Sequence[Chapter], docs: Path = DOCS) -> None:
    """Write the report, with its pictures, into a folder."""
    with RedisServer.start() as server, redis.Redis.from_url(server.url) as client:
        told = client.info()
    version = told.get("valkey_version", told["redis_version"])
    about = machine(told.get("server_name", "redis"), f"{version} with {told['mem_allocator']}'s malloc")
    (docs / "images").mkdir(exist_ok=True)
    (docs / "benchmarks.md").write_text(markdown(chapters, about), "utf-8")
    for chapter in chapters:
        if chapter.plot:
            (docs / "images" / f"bench-{chapter.name}.svg").write_text(chapter.plot.svg(), "utf-8")


if __name__ == "__main__":
    main()
