"""Functions with a scripted handler, in each execution mode, and a connection to the handler.

Used by the tests of `functions.py`, `environment.py` and `inprocess.py` in `local/awslambda/`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

from local.awslambda.functions import LAPTOP, Function, Functions, Invoker, Policy
from local.awslambda.inprocess import InProcess

PATIENCE = 20.0
"""Seconds that a test waits for what normally happens soon."""
HANDLER = "tests.support.handlers.handler"
WORKERS = ("extension", "plain Python") if importlib.util.find_spec("runtime_client") else ("plain Python",)
"""The execution modes of a worker: with AWS's runtime client if it is installed, and with its stand-in."""
MODES = (*WORKERS, "in process")


class Lines:
    """Lines that functions wrote. Tests can wait for one."""

    def __init__(self) -> None:
        self.written: list[tuple[str, str]] = []
        self._more = asyncio.Event()

    def __call__(self, name: str, line: str) -> None:
        self.written.append((name, line))
        self._more.set()

    async def until(self, name: str, line: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while (name, line) not in self.written:
                await self._more.wait()
                self._more.clear()


class Telephone:
    """Accepts the handler's `call`: a test can hold it as long as it likes, and can tell when its process ends."""

    def __init__(self) -> None:
        self._calls: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(lambda *ends: self._calls.put_nowait(ends), "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._writers: list[asyncio.StreamWriter] = []
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def answer(self) -> Line:
        """The next call."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await self._calls.get()
        self._writers.append(writer)
        return Line(reader, writer)


class Line:
    """A handler's open call."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, text: str) -> None:
        """Let the handler continue."""
        self._writer.write(text.encode() + b"\n")

    async def dead(self) -> None:
        """Wait until the handler's process has ended."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                await self._reader.read()


@contextlib.asynccontextmanager
async def running(
    mode: str = WORKERS[0],
    *,
    lines: Lines | None = None,
    policy: Policy = LAPTOP,
    environment: Mapping[str, str] | None = None,
    **functions: Function,
) -> AsyncIterator[Any]:
    """An invoker of `functions`, by default of one named `f`."""
    given = functions or {"f": Function(HANDLER)}
    environment = environment or {}
    if mode == "in process":
        async with InProcess(environment, functions=given, policy=policy) as invoker:
            yield invoker
    else:
        native = mode == "extension"
        on_log_line = lines or Lines()
        async with Functions(environment, on_log_line, functions=given, policy=policy, native=native) as invoker:
            yield invoker


def start(invoker: Invoker, event: dict[str, Any], name: str = "f") -> asyncio.Task[Any]:
    """Invoke a function without waiting for its response."""
    return asyncio.create_task(invoker.invoke(name, event))
