"""One Lambda sandbox: a worker process, and the Runtime API that it alone speaks to.

As in AWS, every sandbox has its own Runtime API (here: its own port of the loopback interface), so who asks is never a
question, and AWS's own runtime client works unmodified. How many sandboxes a function has is `awslambda.py`'s matter.

The API is AWS's "Lambda runtime API", version 2018-06-01: `GET invocation/next`, `POST invocation/{id}/response`,
`POST invocation/{id}/error`, `POST init/error`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from local.awslambda.invocation import (
    ROOT,
    Call,
    Function,
    FunctionError,
    environment_of,
    exit_error,
    function_arn,
    timeout_error,
)

API = "/2018-06-01/runtime/"
LONGEST_LINE = 256 * 1024
"""Bytes of one log line before it is broken: CloudWatch's limit of an event."""
INHERITED = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""What a sandbox keeps of this process's environment: enough to start Python and to trust the same certificates."""
SERVER: dict[str, Any] = {
    "access_log": None,
    "keepalive_timeout": 86400.0,  # A worker's connection is silent for as long as its handler works.
    "max_field_size": 2 * 1024 * 1024,  # The client puts a stack trace of up to 1 MiB into a header.
}
KILL_AFTER = 1.0
"""Seconds that a worker has to end after it was asked to."""

OnLine = Callable[[str, str], None]
"""Takes a function's name and one line of what it wrote (stdout and stderr together, as CloudWatch has them)."""


class Owner(Protocol):
    """Who is told what becomes of a sandbox."""

    def started(self, sandbox: Sandbox) -> None:
        """`sandbox` is about to ask for its first event."""

    def ready(self, sandbox: Sandbox) -> None:
        """`sandbox` asks for an event."""

    def ended(self, sandbox: Sandbox) -> None:
        """The process of `sandbox` is gone."""


class Sandbox:
    """A worker process from its start to its end; it has one event at a time."""

    def __init__(
        self,
        name: str,
        function: Function,
        given: Mapping[str, str],
        owner: Owner,
        on_line: OnLine,
        *,
        start_limit: float,
        native: bool,
    ) -> None:
        self.starting = True
        self.ending = False
        self.served = False
        """Whether it was ever given an event."""
        self.idle_since = 0.0
        """The loop's time when it last asked for an event."""
        self.failure: FunctionError | None = None
        """Why it never asked for an event, when nobody ended it."""
        self._name = name
        self._function = function
        self._given = given
        self._owner = owner
        self._on_line = on_line
        self._start_limit = start_limit
        self._native = native
        self._loop = asyncio.get_running_loop()
        self._process: asyncio.subprocess.Process | None = None
        self._asked: asyncio.Future[Call] | None = None
        self._connection: asyncio.Transport | None = None
        self._call: Call | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_line = ""
        self.life = self._loop.create_task(self._live())
        """Done when the process is gone and everything that belonged to it is closed."""

    @property
    def pid(self) -> int | None:
        """The worker's process id; None before it was started."""
        return self._process.pid if self._process else None

    def give(self, call: Call) -> bool:
        """Hand `call` to the worker; False when it is found dead, and so never saw it."""
        if self.ending or not self._asked or self._asked.done():
            return False
        if not self._connection or self._connection.is_closing():
            return False
        self.served = True
        self._call = call
        self._timer = self._loop.call_later(self._function.timeout, self._time_out)
        self._asked.set_result(call)
        return True

    def end(self) -> None:
        """Ask the worker to end, and kill it when it does not."""
        if not self.ending:
            self.ending = True
            self._signal(signal.SIGTERM)
            self._loop.call_later(KILL_AFTER, self.kill)

    def kill(self) -> None:
        """Kill the worker at once, whatever it does."""
        self.ending = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            self.life.cancel()
        elif self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def _live(self) -> None:
        try:
            self._over(await self._work())
        except OSError as error:
            self._over(str(error))
        finally:
            self._owner.ended(self)

    async def _work(self) -> str:
        """Run the worker from its start to its end, and say how it ended, in AWS's words."""
        api = web.Server(self._answer, **SERVER)
        listener = await self._loop.create_server(api, "127.0.0.1", 0)
        limit = self._loop.call_later(self._start_limit, self._start_over)
        try:
            self._process = await self._start(listener.sockets[0].getsockname()[1])
            await self._pass_lines(self._process.stdout)
            status = await self._process.wait()
            return f"exit status {status}" if status >= 0 else f"signal: {signal.strsignal(-status)}".lower()
        finally:
            if self._process:
                self._signal(signal.SIGKILL)
            limit.cancel()
            listener.close()
            if self._asked:
                self._asked.cancel()
            await api.shutdown(KILL_AFTER)

    async def _start(self, port: int) -> asyncio.subprocess.Process:
        environment = {
            **{key: os.environ[key] for key in INHERITED if key in os.environ},
            "PYTHONPATH": str(ROOT),
            **environment_of(self._name, self._function, self._given),
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
            "AWS_LAMBDA_LOG_STREAM_NAME": f"{time.strftime('%Y/%m/%d')}/[$LATEST]{uuid.uuid4().hex}",
        }
        client = ["--native"] if self._native else []
        # Its own session: Ctrl-C in the terminal is for the parent, which ends its children in order.
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "local.awslambda.worker",
            *client,
            self._function.handler,
            cwd=ROOT,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        what = request.path.removeprefix(API)
        if what == "invocation/next":
            return await self._next(request)
        body = await request.content.read()
        call = self._call
        if what == "init/error":
            self.failure = FunctionError.from_json(body)
        elif call and what == f"invocation/{call.request_id}/response":
            self._take()
            call.succeed(body)
        elif call and what == f"invocation/{call.request_id}/error":
            self._take()
            call.fail(FunctionError.from_json(body))
        else:
            return web.json_response({"errorType": "InvalidRequestID", "errorMessage": what}, status=400)
        return web.json_response({"status": "OK"}, status=202)

    async def _next(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.starting:
            self._owner.started(self)
            self.starting = False
        self.idle_since = self._loop.time()
        self._connection = request.transport
        self._asked = self._loop.create_future()
        self._owner.ready(self)
        call = await self._asked
        return web.Response(
            body=call.event,
            content_type="application/json",
            headers={
                "Lambda-Runtime-Aws-Request-Id": call.request_id,
                "Lambda-Runtime-Deadline-Ms": str(int((time.time() + self._function.timeout) * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": function_arn(self._name, self._given),
                "Lambda-Runtime-Trace-Id": trace_id(),
            },
        )

    def _take(self) -> Call | None:
        """The event in hand, which thereby no longer is."""
        call, self._call = self._call, None
        if self._timer:
            self._timer.cancel()
        return call

    def _time_out(self) -> None:
        if call := self._take():
            call.fail(timeout_error(call.request_id, self._function))
        self.kill()

    def _start_over(self) -> None:
        if self.starting:
            words = f"{self._name} did not start in {self._start_limit:g} seconds"
            self.failure = FunctionError("Sandbox.Timedout", words)
            self.kill()

    def _over(self, how: str) -> None:
        """The process ended `how`: say so to who waits for an answer, or for the start."""
        if call := self._take():
            call.fail(exit_error(call.request_id, how))
        elif self.starting and not self.ending and self.failure is None:
            words = f"{self._name} ended while starting ({how}): {self._last_line}"
            self.failure = FunctionError("Runtime.ExitError", words)

    async def _pass_lines(self, stream: asyncio.StreamReader | None) -> None:
        rest = b""
        while stream and (chunk := await stream.read(65536)):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LONGEST_LINE:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._pass(line)
        if rest:
            self._pass(rest)

    def _pass(self, line: bytes) -> None:
        self._last_line = line.decode(errors="replace")
        self._on_line(self._name, self._last_line)


def trace_id() -> str:
    """An X-Ray trace header that is not sampled: `Root=1-<seconds, hex>-<24 hex digits>;Sampled=0`."""
    return f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Sampled=0"
