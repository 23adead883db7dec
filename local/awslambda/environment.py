"""One Lambda execution environment: a worker process, and a Runtime API of its own.

As in AWS, every environment has its own Runtime API (here: its own port of the loopback interface). So it is always
clear which environment sends a request, and AWS's own runtime client works unmodified. How many environments a function
has is decided in `functions.py`.

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
    exit_error,
    function_arn,
    timeout_error,
    variables_of,
)

API = "/2018-06-01/runtime/"
LONGEST_LINE = 256 * 1024
"""Bytes after which a log line is split: CloudWatch's limit for an event."""
INHERITED = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""The variables that an environment inherits: enough to start Python and to trust the same certificates."""
SERVER: dict[str, Any] = {
    "access_log": None,
    "keepalive_timeout": 86400.0,  # A worker's connection is silent while its handler runs.
    "max_field_size": 2 * 1024 * 1024,  # The client puts a stack trace of up to 1 MiB into a header.
}
KILL_AFTER = 1.0
"""Seconds after SIGTERM at which a worker is killed."""

OnLogLine = Callable[[str, str], None]
"""Called with a function's name and a line of its output (stdout and stderr together, as in CloudWatch)."""


class Owner(Protocol):
    """Is notified when the state of an environment changes."""

    def started(self, environment: Environment) -> None:
        """`environment` is about to request its first event."""

    def ready(self, environment: Environment) -> None:
        """`environment` requests an event."""

    def ended(self, environment: Environment) -> None:
        """The process of `environment` has ended."""


class Environment:
    """A worker process from its start to its end. It handles one event at a time."""

    def __init__(
        self,
        name: str,
        function: Function,
        given: Mapping[str, str],
        owner: Owner,
        on_log_line: OnLogLine,
        *,
        start_limit: float,
        native: bool,
    ) -> None:
        self.starting = True
        self.ending = False
        self.served = False
        """Whether it ever received an event."""
        self.idle_since = 0.0
        """The loop's time at which it last requested an event."""
        self.failure: FunctionError | None = None
        """Why it failed to start."""
        self._name = name
        self._function = function
        self._given = given
        self._owner = owner
        self._on_line = on_log_line
        self._start_limit = start_limit
        self._native = native
        self._loop = asyncio.get_running_loop()
        self._process: asyncio.subprocess.Process | None = None
        self._next_call: asyncio.Future[Call] | None = None
        self._connection: asyncio.Transport | None = None
        self._call: Call | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_line = ""
        self.life = self._loop.create_task(self._live())
        """Done when the process has ended and its resources are closed."""

    @property
    def pid(self) -> int | None:
        """The worker's process id; None before it started."""
        return self._process.pid if self._process else None

    def give(self, call: Call) -> bool:
        """Give `call` to the worker. Returns False if the worker is dead and did not receive it."""
        if self.ending or not self._next_call or self._next_call.done():
            return False
        if not self._connection or self._connection.is_closing():
            return False
        self.served = True
        self._call = call
        self._timer = self._loop.call_later(self._function.timeout, self._time_out)
        self._next_call.set_result(call)
        return True

    def end(self) -> None:
        """Terminate the worker, and kill it if it does not end."""
        if not self.ending:
            self.ending = True
            self._signal(signal.SIGTERM)
            self._loop.call_later(KILL_AFTER, self.kill)

    def kill(self) -> None:
        """Kill the worker, even while it handles an event."""
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
            self._report_end(await self._work())
        except OSError as error:
            self._report_end(str(error))
        finally:
            self._owner.ended(self)

    async def _work(self) -> str:
        """Run the worker from its start to its end. Returns how it ended, in AWS's wording."""
        api = web.Server(self._handle, **SERVER)
        listener = await self._loop.create_server(api, "127.0.0.1", 0)
        limit = self._loop.call_later(self._start_limit, self._start_timed_out)
        try:
            self._process = await self._start(listener.sockets[0].getsockname()[1])
            await self._forward_lines(self._process.stdout)
            status = await self._process.wait()
            return f"exit status {status}" if status >= 0 else f"signal: {signal.strsignal(-status)}".lower()
        finally:
            if self._process:
                self._signal(signal.SIGKILL)
            limit.cancel()
            listener.close()
            if self._next_call:
                self._next_call.cancel()
            await api.shutdown(KILL_AFTER)

    async def _start(self, port: int) -> asyncio.subprocess.Process:
        variables = {
            **{key: os.environ[key] for key in INHERITED if key in os.environ},
            "PYTHONPATH": str(ROOT),
            **variables_of(self._name, self._function, self._given),
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
            "AWS_LAMBDA_LOG_STREAM_NAME": f"{time.strftime('%Y/%m/%d')}/[$LATEST]{uuid.uuid4().hex}",
        }
        client = ["--native"] if self._native else []
        # A session of its own: Ctrl-C in the terminal reaches only the parent, which ends its children in order.
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "local.awslambda.worker",
            *client,
            self._function.handler,
            cwd=ROOT,
            env=variables,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        what = request.path.removeprefix(API)
        if what == "invocation/next":
            return await self._next(request)
        body = await request.content.read()
        call = self._call
        if what == "init/error":
            self.failure = FunctionError.from_json(body)
        elif call and what == f"invocation/{call.request_id}/response":
            self._finish_call()
            call.succeed(body)
        elif call and what == f"invocation/{call.request_id}/error":
            self._finish_call()
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
        self._next_call = self._loop.create_future()
        self._owner.ready(self)
        call = await self._next_call
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

    def _finish_call(self) -> Call | None:
        """End the current event, and return it."""
        call, self._call = self._call, None
        if self._timer:
            self._timer.cancel()
        return call

    def _time_out(self) -> None:
        if call := self._finish_call():
            call.fail(timeout_error(call.request_id, self._function))
        self.kill()

    def _start_timed_out(self) -> None:
        if self.starting:
            text = f"{self._name} did not start in {self._start_limit:g} seconds"
            self.failure = FunctionError("Sandbox.Timedout", text)
            self.kill()

    def _report_end(self, how: str) -> None:
        """Report how the process ended to the caller that waits for a response, or for the start."""
        if call := self._finish_call():
            call.fail(exit_error(call.request_id, how))
        elif self.starting and not self.ending and self.failure is None:
            text = f"{self._name} ended while starting ({how}): {self._last_line}"
            self.failure = FunctionError("Runtime.ExitError", text)

    async def _forward_lines(self, stream: asyncio.StreamReader | None) -> None:
        rest = b""
        while stream and (chunk := await stream.read(65536)):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LONGEST_LINE:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._forward(line)
        if rest:
            self._forward(rest)

    def _forward(self, line: bytes) -> None:
        self._last_line = line.decode(errors="replace")
        self._on_line(self._name, self._last_line)


def trace_id() -> str:
    """An X-Ray trace header that is not sampled: `Root=1-<seconds, hex>-<24 hex digits>;Sampled=0`."""
    return f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Sampled=0"
