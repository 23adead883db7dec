"""Functions with a scripted handler, in each of the ways to run them, and a connection to the handler.

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
"""Seconds that a test waits for what happens soon when all is well."""
HANDLER = "tests.support.handlers.handler"
WORKERS = ("extension", "plain Python") if importlib.util.find_spec("runtime_client") else ("plain Python",)
"""The ways to run a worker: with the extension of AWS's client where there is one, and with its stand-in."""
MODES = (*WORKERS, "in process")


class Lines:
    """What functions wrote; waits for a line."""

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
    """Where the handler's `call` arrives: a test holds it as long as it likes, and hears when its process ends."""

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
    """One call of a handler."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, word: str) -> None:
        """Let the handler go on."""
        self._writer.write(word.encode() + b"\n")

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
    """An invoker of `functions`, by default of one that is called `f`."""
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
    """Invoke a function without waiting for its answer."""
    return asyncio.create_task(invoker.invoke(name, event))
