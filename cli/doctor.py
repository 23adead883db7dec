"""`presence doctor`: is a service well, and if not, what is to be done?

It asks as a stranger, as the application's backend and as two throw-away users, who are nobody's contacts afterwards.
What it finds is told one finding at a time; how findings look is not decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from cli.backend import Backend
from cli.errors import Complaint
from cli.identity_provider import GivenToken, Tokens
from cli.probe import Probe, status_without_token
from cli.target import Target
from load.state import Frame

if TYPE_CHECKING:
    from cli.account import Stack

SAMPLES = 5
"""How often a round trip is measured. The first meets functions that have to start."""
PAUSE = 0.15
"""Seconds between two changes: those that come faster are held back, and would measure that."""
PATIENCE = 20.0
"""Seconds that an answer may take: two functions may have to start behind it."""
LOGS = "; the functions' logs say more"
USABLE = re.compile(r"(CREATE|UPDATE|IMPORT)_COMPLETE|UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
UNDONE = re.compile(r"(UPDATE|IMPORT)_ROLLBACK_COMPLETE")
OUTPUTS = ("WebSocketUrl", "HttpUrl", "TokenSource")
"""What a stack must tell, so that anybody can use it."""


class Finding(NamedTuple):
    """What one look has shown."""

    verdict: Literal["ok", "note", "failed"]
    """`note`: nothing is broken, and yet something is to be known or done."""
    subject: str
    words: str


class Doctor:
    """Looks at a service.

    Args:
        target: which one.
        tell: is told each finding, as soon as it is made.
        token: a test user's token, for services whose tokens cannot be made here.
        patience: seconds that an answer may take.
    """

    def __init__(
        self, target: Target, tell: Callable[[Finding], None], token: str | None = None, patience: float = PATIENCE
    ) -> None:
        self._target, self._tell, self._token, self._patience = target, tell, token, patience
        self._failures = 0

    async def examine(self) -> bool:
        """Look at everything that can be looked at; gives whether nothing has failed."""
        if self._stack():
            with self._looking("credentials"):
                async with self._target.backend() as backend:
                    loaded = await self._health(backend)
                    await self._strangers(backend)
                    await self._users(backend, loaded=loaded)
        return not self._failures

    # As the operator

    def _stack(self) -> bool:
        """Whether the stack, if it is one, can be used at all."""
        try:
            stack = self._target.stack
        except Complaint as complaint:
            self._fail("stack", str(complaint))
            return False
        if stack is None:
            return True
        words = f"{stack.name} in {stack.region} is {stack.status}"
        if UNDONE.fullmatch(stack.status):
            self._note("stack", f"{words}: the last change failed and was undone; what ran before it still runs")
        elif USABLE.fullmatch(stack.status):
            self._ok("stack", words)
        elif stack.status.endswith("_IN_PROGRESS"):
            self._fail("stack", f"{words}: look again when CloudFormation is done with it")
            return False
        else:
            why = f" ({stack.why})" if stack.why else ""
            self._fail("stack", f"{words}{why}: its events in CloudFormation say more; mend that and deploy again")
            return False
        return self._outputs(stack)

    def _outputs(self, stack: Stack) -> bool:
        missing = [name for name in OUTPUTS if not stack.outputs.get(name)]
        if missing:
            words = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: is this the presence stack?"
            self._fail("outputs", words)
        else:
            self._ok("outputs", f"{self._target.ws_url} and {self._target.url}")
        return not missing

    # As a stranger

    async def _health(self, backend: Backend) -> bool:
        """Whether contacts are loaded: unless they are, nobody sees anybody."""
        with self._looking("health", "; the log of the function `api` says more"):
            health = await backend.health()
            self._ok("health", f"Redis answers, and whoever was due was settled {health['dueLate']} ms late at most")
            self._eviction(health.get("evictionPolicy"))
            if health["graph"] == "loaded":
                return True
            self._note(
                "contacts",
                "not marked as loaded, so nobody sees anybody: bring them with `presence contacts load FILE` or "
                "`presence graph import FILE` (for a new application an empty FILE), which marks them",
            )
        return False

    def _eviction(self, policy: str | None) -> None:
        if policy and policy.startswith("allkeys-"):
            self._fail(
                "eviction",
                f"{policy} lets Redis forget contacts when memory is short: set maxmemory-policy to volatile-lru",
            )
        elif policy:
            self._ok("eviction", f"{policy}: what was given is never evicted")

    async def _strangers(self, backend: Backend) -> None:
        """Nobody gets in without a token or a signature."""
        with self._looking("no token"):
            status = await status_without_token(self._target.ws_url, self._target.token_source)
            if status == 401:
                self._ok("no token", "a handshake without a token is refused")
            else:
                self._fail(
                    "no token",
                    f"a handshake without a token is answered {status}, and not 401: "
                    "is the authorizer on $connect, with the token as its only identity source?",
                )
        with self._looking("no signature"):
            status = await backend.status_unsigned("GET", "/v1/users/doctor/contacts")
            if status == 403:
                self._ok("no signature", "a backend's call without a signature is refused")
            else:
                self._fail(
                    "no signature",
                    f"a backend's call without a signature is answered {status}, and not 403: "
                    "has its route IAM authorization?",
                )

    # As users

    async def _users(self, backend: Backend, *, loaded: bool) -> None:
        with self._looking("tokens"):
            tokens = self._target.tokens(self._token)
            mark = secrets.token_hex(4)
            if isinstance(tokens, GivenToken):
                await self._alone(tokens.user_id, tokens)
            elif loaded:
                await self._together(backend, f"doctor-{mark}-a", f"doctor-{mark}-b", tokens)
            else:
                await self._alone(f"doctor-{mark}-a", tokens)

    async def _alone(self, user: str, tokens: Tokens) -> None:
        """One user connects, changes, asks and leaves."""
        with self._looking("one user", LOGS):
            async with Probe.open(self._target.ws_url, user, tokens, self._patience) as probe:
                began = time.perf_counter()
                own = (await probe.sync())["self"]
                self._ok("connect", f"{user} is connected, and was answered after {_ms(began)} ms")
                await probe.send({"action": "heartbeat"})
                if len(own["devices"]) > 1 or own["claim"] or own["status"] == "busy":
                    self._note(
                        "update",
                        f"not tried: {user} has other devices or a claim, which a change here would not show "
                        "against; give a token of a user who has neither",
                    )
                else:
                    began = time.perf_counter()
                    await probe.ask(_update(1, "busy"), lambda frame: _own_status(frame) == "busy", "presence_self")
                    self._ok("update", f"a change was confirmed after {_ms(began)} ms")
                await self._query(probe, user)
                await self._leave(probe)
                self._ok("leave", f"{user} has left, and the service has closed the connection")

    async def _together(self, backend: Backend, alice: str, bob: str, tokens: Tokens) -> None:
        """Two users see each other."""
        with self._looking("contacts"):
            async with self._contacts(backend, alice, bob):
                self._ok("contacts", "the backend's signed calls are taken; two throw-away users see each other")
                with self._looking("round trip", LOGS):
                    await self._round_trips(alice, bob, tokens)

    async def _round_trips(self, alice: str, bob: str, tokens: Tokens) -> None:
        ws_url, patience = self._target.ws_url, self._patience
        async with Probe.open(ws_url, bob, tokens, patience) as watching:
            await watching.sync()
            async with Probe.open(ws_url, alice, tokens, patience) as acting:
                await acting.sync()
                self._ok("connect", "both are connected")
                await watching.hear(lambda frame: _status_of(frame, alice) == "online", f"word that {alice} is online")
                times = []
                for n in range(1, SAMPLES + 1):
                    await asyncio.sleep(PAUSE)
                    await watching.send({"action": "heartbeat"})  # as any client that has nothing else to say
                    times.append(await self._change(acting, watching, n, "busy" if n % 2 else "online"))
                self._ok("round trip", f"a change reaches a contact in {_median(times)} ms ({_first(times)})")
                await self._query(watching, alice)
                began = time.perf_counter()
                await self._leave(acting)
                await watching.hear(
                    lambda frame: _status_of(frame, alice) == "offline", f"word that {alice} is offline"
                )
                self._ok("leave", f"who leaves is offline for a contact within {_ms(began)} ms")
            await watching.send({"action": "leave"})

    async def _change(self, acting: Probe, watching: Probe, n: int, status: str) -> int:
        """How long the `n`th update of a user takes to a contact, in ms."""
        began = time.perf_counter()
        await acting.send(_update(n, status))
        user = acting.user
        await watching.hear(lambda frame: _status_of(frame, user) == status, f"word of {user}'s change")
        return _ms(began)

    async def _query(self, probe: Probe, about: str) -> None:
        """Measure a question about a user."""
        times = []
        for _ in range(SAMPLES):
            await asyncio.sleep(PAUSE)
            began = time.perf_counter()
            question = {"action": "get_presence", "userIds": [about]}
            await probe.ask(question, lambda frame: frame.get("type") == "presence", "an answer to get_presence")
            times.append(_ms(began))
        self._ok("query", f"get_presence is answered in {_median(times)} ms ({_first(times)})")

    async def _leave(self, probe: Probe) -> None:
        await probe.send({"action": "leave"})
        await probe.until_closed()

    @contextlib.asynccontextmanager
    async def _contacts(self, backend: Backend, alice: str, bob: str) -> AsyncIterator[None]:
        """Let two users see each other for as long as the block lasts, however it ends."""
        added = False
        try:
            await backend.set_contacts(alice, [bob], mutual=True)
            added = True
            yield
        finally:
            try:
                await backend.set_contacts(alice, remove=[bob], mutual=True)
            except Complaint as complaint:
                if added:  # Else it was told already why nothing of the backend's works.
                    self._fail("clean-up", f"{alice} and {bob} are still contacts: {complaint}")

    # Telling

    @contextlib.contextmanager
    def _looking(self, subject: str, advice: str = "") -> Iterator[None]:
        """A look that fails as soon as something cannot be had."""
        try:
            yield
        except Complaint as complaint:
            self._fail(subject, str(complaint) + advice)

    def _ok(self, subject: str, words: str) -> None:
        self._tell(Finding("ok", subject, words))

    def _note(self, subject: str, words: str) -> None:
        self._tell(Finding("note", subject, words))

    def _fail(self, subject: str, words: str) -> None:
        self._failures += 1
        self._tell(Finding("failed", subject, words))


def _update(n: int, status: str) -> dict[str, object]:
    return {"action": "presence_update", "status": status, "n": n}


def _own_status(frame: Frame) -> str | None:
    return frame["self"]["status"] if frame.get("type") == "presence_self" else None


def _status_of(frame: Frame, user: str) -> str | None:
    """Which status of a user a frame tells, if any."""
    told = [*frame.get("events", ()), *frame.get("users", ()), frame]
    return next((str(record["status"]) for record in told if record.get("userId") == user), None)


def _ms(began: float) -> int:
    return round((time.perf_counter() - began) * 1000)


def _median(times: list[int]) -> int:
    return round(statistics.median(times))


def _first(times: list[int]) -> str:
    return f"median of {len(times)}; the first {times[0]} ms"
