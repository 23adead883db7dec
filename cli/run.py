"""`presence run`: the whole service on this machine, put together from the files that stand for AWS services.

Nothing is decided here about any of them; this is the order in which they begin and end, and what a person is told.
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

from cli import garbage, open_files
from cli.backend import REGION, Backend
from cli.demo import Demo
from cli.errors import Complaint
from cli.home import Home, Run
from cli.run_log import RunLog
from local import elasticache
from local.apigateway.http_api import HttpApi
from local.apigateway.server import HOST, serve
from local.apigateway.websocket_api import WebSocketApi
from local.apigateway.websocket_events import STAGE
from local.awslambda.environment import OnLine
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
"""Files and sockets of a run: systems often begin with 1,024 or even 256, and each connection is one."""


@dataclass(frozen=True, slots=True)
class Running:
    """A run that is ready."""

    run: Run
    cache: Cache
    home: Home
    graph: str
    """`loaded` or `not_loaded`: then nobody sees anybody."""


async def run(home: Home, console: Console, *, port: int, redis_url: str | None, in_process: bool) -> NoReturn:
    """Run the service until cancelled, and say on `console` where it is and how to see it.

    Raises:
        Complaint: it could not be started, or its Redis has ended; everything that had been started is ended.
        SettingsError: a setting cannot work.
    """
    garbage.collect_rarely()
    async with running(home, console, os.environ, port=port, redis_url=redis_url, in_process=in_process) as ready:
        for line in [*_places(ready, in_process=in_process), Text(), *_first_steps(ready)]:
            console.print(line, soft_wrap=True)
        try:
            await _until_cache_ends(ready.cache)
        finally:
            console.print("\nstopping")
    raise AssertionError("a run ends by being cancelled, or in a complaint")


async def _until_cache_ends(cache: Cache) -> None:
    """Wait for the end of a Redis that was started for this run; of one that was given, functions tell.

    Raises:
        Complaint: it has ended.
    """
    if cache.server is None:
        await asyncio.get_running_loop().create_future()
        return
    await asyncio.to_thread(cache.server.wait)
    raise Complaint(
        f"the Redis of this run (process {cache.server.pid}) has ended, and what was in it is gone: start the run again"
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
    """The service, ready to be used while the block lasts.

    Args:
        home: where its keys, its log and what the other commands need are kept.
        console: is told what its functions warn of.
        environ: settings, as `PRESENCE_*`.
        port: of the loopback interface; 0 takes a free one.
        redis_url: the Redis to use, instead of `PRESENCE_REDIS_URL`; without either, one is started.
        in_process: run the functions in threads of this process.

    Raises:
        Complaint: it could not be started; everything that had been is ended.
        SettingsError: a setting cannot work.
    """
    open_files.allow_as_many_as_possible(MOST_OPEN_FILES)
    given = Settings.from_env(environ)
    wanted = redis_url or (given.redis_url if "redis_url" in given.model_fields_set else "")
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(home.claimed())
        listener = stack.enter_context(_claim(port))
        port = listener.getsockname()[1]
        try:
            cache = stack.enter_context(elasticache.cache(wanted))
        except CacheError as error:
            raise Complaint(str(error)) from None
        settings = _settings(environ, given, home, cache.url, port)
        keys = home.key_pair(make=True)
        log = stack.enter_context(RunLog(home.log, console))
        metrics = Metrics()

        def on_line(function: str, text: str) -> None:
            log.line(function, text)
            metrics.line(text)

        functions = Measured(
            await stack.enter_async_context(_functions(settings, keys, on_line, in_process=in_process)), metrics
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
        except OSError as error:  # Two may take a port until one of them listens.
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
    """Take the port without listening yet: who comes too early is refused, and nobody else can have it.

    Raises:
        Complaint: somebody else has it, or it is not for everybody.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise _port_taken(port, error) from None
        yield listener


def _port_taken(port: int, error: OSError) -> Complaint:
    if error.errno == errno.EADDRINUSE:
        return Complaint(f"port {port} is in use: end what uses it, or give another --port (0 takes a free one)")
    return Complaint(f"port {port} cannot be used: {error.strerror}")


def _settings(environ: Mapping[str, str], given: Settings, home: Home, redis_url: str, port: int) -> Settings:
    """The settings that the functions get: what was given, and what only this run knows."""
    known = {"PRESENCE_REDIS_URL": redis_url, "PRESENCE_CALLBACK_URL": f"http://{HOST}:{port}/{STAGE}"}
    if not (given.jwt_secret or given.jwks_url):
        known["PRESENCE_JWT_SECRET"] = home.secret()
    settings = Settings.from_env({**environ, **known})
    Authenticator(settings)  # Refuses now what would be refused at every handshake.
    return settings


@contextlib.asynccontextmanager
async def _functions(settings: Settings, keys: KeyPair, on_line: OnLine, *, in_process: bool) -> AsyncIterator[Invoker]:
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
    async with Functions(environment, on_line) as workers:
        dead = [name for name in FUNCTIONS if not workers.pids(name)]
        if dead:
            raise Complaint(f"these functions do not start: {', '.join(dead)}; why is in the log")
        yield workers


def _places(ready: Running, *, in_process: bool) -> list[Text]:
    """Where everything is."""
    log = "of this process only: functions write here" if in_process else "of the functions; their warnings appear here"
    return [
        Text("presence is ready", "bold green"),
        Text(),
        _place("demo", f"{ready.run.url}/", "open it in a browser: be anybody, and break things"),
        _place("WebSocket", ready.run.ws_url),
        _place("HTTP", f"{ready.run.url}/v1"),
        _place(
            "Redis",
            elasticache.redacted(ready.cache.url),
            "started for this run, gone with it" if ready.cache.server else "given",
        ),
        _place("log", str(ready.home.log), log),
        _place("key pair", str(ready.home.credentials), "signs the backend's calls; an AWS credentials file"),
    ]


def _first_steps(ready: Running) -> list[Text]:
    """What to type in two more terminals, to see it work."""
    presence = _command()
    steps = [
        Text("To see it, let two users see each other, and be one of them. In a second terminal:"),
        _typed(f"{presence} contacts add alice bob"),
        _typed(f"{presence} watch bob"),
        Text("and in a third the other one:"),
        _typed(f"{presence} watch alice"),
    ]
    if ready.run.token_source == "query":
        steps += [
            Text("or be her with any WebSocket client, and change her status by hand:"),
            _typed(f'npx wscat -c "{ready.run.ws_url}?token=$({presence} token alice)"'),
            _typed('{"action":"presence_update","status":"busy"}', "> "),
        ]
    if not ready.run.jwt_secret:
        steps = [Text("Tokens are those of the identity provider behind PRESENCE_JWKS_URL.")]
    if ready.graph != "loaded":
        words = f"Nobody sees anybody yet: `{presence} contacts load FILE` marks this Redis as loaded."
        steps.append(Text(words, "yellow"))
    return [*steps, Text(), Text("Ctrl-C ends everything.", "bright_black")]


def _place(name: str, where: str, remark: str = "") -> Text:
    return Text.assemble((f"  {name:<11}", "bold"), where, (f"  ({remark})" if remark else "", "bright_black"))


def _typed(command: str, prompt: str = "$ ") -> Text:
    return Text.assemble(("  " + prompt, "bright_black"), (command, "cyan"))


def _command() -> str:
    """How this program is called from here."""
    called = Path(sys.argv[0])
    if shutil.which(called.name) == str(called):
        return called.name
    with contextlib.suppress(ValueError):
        return shlex.quote(str(called.absolute().relative_to(Path.cwd())))
    return shlex.quote(str(called))
