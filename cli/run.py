"""`presence run`: starts the whole service on this machine, from the emulators in `local/`.

This module decides in which order they start and stop, and what the terminal shows. What they do is in `local/`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shlex
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from cli import process_limits
from cli.backend import REGION, Backend
from cli.demo import Demo
from cli.errors import UserError
from cli.home import Home, Run
from cli.run_log import RunLog
from local import elasticache
from local.apigateway.http_api import HttpApi
from local.apigateway.server import HOST, serve
from local.apigateway.websocket_api import WebSocketApi
from local.apigateway.websocket_events import STAGE
from local.awslambda.environment import OnLogLine
from local.awslambda.functions import Functions
from local.awslambda.inprocess import InProcess
from local.awslambda.invocation import Invoker
from local.cloudwatch import Measured, Metrics
from local.elasticache import Cache, CacheError
from local.eventbridge import Scheduler
from local.iam import KeyPair, SignatureVerifier
from shared.auth import Authenticator
from shared.routes import AUTHORIZER, FUNCTIONS, HTTP_ROUTES, WEBSOCKET_ROUTES
from shared.settings import Settings

MOST_OPEN_FILES = 65_536
"""Open files of a run. Systems often allow 1,024 or even 256 by default, and each connection is one."""


@dataclass(frozen=True, slots=True)
class Running:
    """A run that is ready."""

    run: Run
    cache: Cache
    home: Home
    graph: str
    """`loaded`, or `not_loaded`: nobody sees anybody."""


async def run(home: Home, console: Console, *, port: int, redis_url: str | None, in_process: bool) -> NoReturn:
    """Run the service until canceled, and print on `console` where it is and how to try it.

    Raises:
        UserError: it could not start, or its Redis ended. Everything that had started is stopped.
        SettingsError: a setting is invalid.
    """
    process_limits.collect_garbage_rarely()
    async with running(home, console, os.environ, port=port, redis_url=redis_url, in_process=in_process) as ready:
        for line in [*_places(ready, in_process=in_process), Text(), *_first_steps(ready)]:
            console.print(line, soft_wrap=True)
        try:
            await _until_cache_ends(ready.cache)
        finally:
            console.print("\nstopping")
    raise AssertionError("a run ends when it is canceled, or with an error")


async def _until_cache_ends(cache: Cache) -> None:
    """Wait for the end of the Redis that was started for this run. If Redis was given, wait forever.

    Raises:
        UserError: it ended.
    """
    if cache.server is None:
        await asyncio.get_running_loop().create_future()
        return
    await asyncio.to_thread(cache.server.wait)
    raise UserError(
        f"the Redis of this run (process {cache.server.pid}) has ended, and its data is lost: start the run again"
    )


@contextlib.asynccontextmanager
async def running(
    home: Home,
    console: Console,
    environ: Mapping[str, str],
    *,
    port: int = 0,
    redis_url: str | None = None,
    in_process: bool = False,
) -> AsyncIterator[Running]:
    """The service, running while the block lasts.

    Args:
        home: the folder for its keys, its log, and what the other commands need.
        console: shows the functions' warnings.
        environ: settings, as `PRESENCE_*`.
        port: of the loopback interface; 0 takes a free one.
        redis_url: the Redis to use, instead of `PRESENCE_REDIS_URL`; without either, one is started.
        in_process: run the functions in threads of this process.

    Raises:
        UserError: it could not start. Everything that had started is stopped.
        SettingsError: a setting is invalid.
    """
    process_limits.allow_as_many_open_files_as_possible(MOST_OPEN_FILES)
    given = Settings.from_env(environ)
    wanted = redis_url or (given.redis_url if "redis_url" in given.model_fields_set else "")
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(home.claimed())
        listener = stack.enter_context(_claim(port))
        port = listener.getsockname()[1]
        try:
            cache = stack.enter_context(elasticache.cache(wanted))
        except CacheError as error:
            raise UserError(str(error)) from None
        settings = _settings(environ, given, home, cache.url, port)
        keys = home.key_pair(make=True)
        log = stack.enter_context(RunLog(home.log, console))
        metrics = Metrics()

        def on_log_line(function: str, text: str) -> None:
            log.line(function, text)
            metrics.line(text)

        functions = Measured(
            await stack.enter_async_context(_functions(settings, keys, on_log_line, in_process=in_process)), metrics
        )
        verifier = SignatureVerifier(keys, REGION)
        websocket_api = WebSocketApi(
            functions, verifier, routes=WEBSOCKET_ROUTES, authorizer=AUTHORIZER, token_source=settings.token_source
        )
        http_api = HttpApi(functions, verifier, routes=HTTP_ROUTES, cors_origins=settings.cors_origins)
        about = Run(
            url=f"http://{HOST}:{port}",
            ws_url=f"ws://{HOST}:{port}/{STAGE}",
            region=REGION,
            pid=os.getpid(),
            jwt_secret=settings.jwt_secret,
            jwt_issuer=settings.jwt_issuer,
            jwt_audience=settings.jwt_audience,
            token_source=settings.token_source,
        )
        demo = Demo(about, keys, websocket_api, metrics, own_redis=cache.server is not None)
        await stack.enter_async_context(demo.sampling())
        try:
            await stack.enter_async_context(serve(websocket_api, http_api, listener, demo))
        except OSError as error:  # Two processes can bind a port until one of them listens.
            raise _port_taken(port, error) from None
        await stack.enter_async_context(Scheduler(functions, REGION))
        stack.enter_context(home.running(about))
        async with Backend.open(about.url, keys.credentials, REGION) as backend:
            if cache.server:
                await backend.set_graph_loaded()
            health = await backend.health()
        yield Running(about, cache, home, health["graph"])


@contextlib.contextmanager
def _claim(port: int) -> Iterator[socket.socket]:
    """Bind the port without listening: no other process can take it, and early connections are refused.

    Raises:
        UserError: the port is in use, or this user may not bind it.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise _port_taken(port, error) from None
        yield listener


def _port_taken(port: int, error: OSError) -> UserError:
    if error.errno == errno.EADDRINUSE:
        return UserError(f"port {port} is in use: end what uses it, or give another --port (0 takes a free one)")
    return UserError(f"port {port} cannot be used: {error.strerror}")


def _settings(environ: Mapping[str, str], given: Settings, home: Home, redis_url: str, port: int) -> Settings:
    """The functions' settings: the given ones, and those that only this run knows."""
    known = {"PRESENCE_REDIS_URL": redis_url, "PRESENCE_CALLBACK_URL": f"http://{HOST}:{port}/{STAGE}"}
    if not (given.jwt_secret or given.jwks_url):
        known["PRESENCE_JWT_SECRET"] = home.secret()
    settings = Settings.from_env({**environ, **known})
    Authenticator(settings)  # Fails now instead of at every handshake.
    return settings


@contextlib.asynccontextmanager
async def _functions(
    settings: Settings, keys: KeyPair, on_log_line: OnLogLine, *, in_process: bool
) -> AsyncIterator[Invoker]:
    environment = {
        **settings.to_env(),
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_REGION": REGION,
    }
    if in_process:
        async with InProcess(environment) as threads:
            yield threads
        return
    async with Functions(environment, on_log_line) as workers:
        dead = [name for name in FUNCTIONS if not workers.pids(name)]
        if dead:
            raise UserError(f"these functions do not start: {', '.join(dead)}; see the log")
        yield workers


def _places(ready: Running, *, in_process: bool) -> list[Text]:
    """The lines that show where everything is."""
    log = "of this process; functions write here" if in_process else "of the functions; their warnings also appear here"
    return [
        Text("presence is ready", "bold green"),
        Text(),
        _place("demo", f"{ready.run.url}/", "open it in a browser, be any user, and break things"),
        _place("WebSocket", ready.run.ws_url),
        _place("HTTP", f"{ready.run.url}/v1"),
        _place(
            "Redis",
            elasticache.redacted(ready.cache.url),
            "started for this run, ends with it" if ready.cache.server else "given",
        ),
        _place("log", str(ready.home.log), log),
        _place("key pair", str(ready.home.credentials), "signs the backend's calls; an AWS credentials file"),
    ]


def _first_steps(ready: Running) -> list[Text]:
    """The lines that show what to type in two more terminals."""
    presence = _command()
    steps = [
        Text("To try it, let two users see each other. Be one of them in a second terminal:"),
        _typed(f"{presence} contacts add alice bob"),
        _typed(f"{presence} watch bob"),
        Text("and the other one in a third:"),
        _typed(f"{presence} watch alice"),
    ]
    if ready.run.token_source == "query":
        steps += [
            Text("or in any WebSocket client, where you can change the status by hand:"),
            _typed(f'npx wscat -c "{ready.run.ws_url}?token=$({presence} token alice)"'),
            _typed('{"action":"presence_update","status":"busy"}', "> "),
        ]
    if not ready.run.jwt_secret:
        steps = [Text("Tokens come from the identity provider at PRESENCE_JWKS_URL.")]
    if ready.graph != "loaded":
        text = f"Nobody sees anybody yet: `{presence} contacts load FILE` marks this Redis as loaded."
        steps.append(Text(text, "yellow"))
    return [*steps, Text(), Text("Ctrl-C ends everything.", "bright_black")]


def _place(name: str, where: str, remark: str = "") -> Text:
    return Text.assemble((f"  {name:<11}", "bold"), where, (f"  ({remark})" if remark else "", "bright_black"))


def _typed(command: str, prompt: str = "$ ") -> Text:
    return Text.assemble(("  " + prompt, "bright_black"), (command, "cyan"))


def _command() -> str:
    """How to call this program from the current directory."""
    called = Path(sys.argv[0])
    if shutil.which(called.name) == str(called):
        return called.name
    with contextlib.suppress(ValueError):
        return shlex.quote(str(called.absolute().relative_to(Path.cwd())))
    return shlex.quote(str(called))
