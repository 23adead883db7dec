"""`presence doctor`: checks whether a service works, and says what to do where it does not.

It sends requests as a stranger, as the application's backend, and as two temporary users who have no contacts
afterwards. It reports one finding at a time. How a finding looks is decided in `cli/commands/service.py`.
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
from cli.errors import UserError
from cli.identity_provider import GivenToken, Tokens
from cli.probe import Probe, status_without_token
from cli.target import Target
from load.state import Frame

if TYPE_CHECKING:
    from cli.account import Stack

SAMPLES = 5
"""How often a time is measured. The first time may include the start of functions."""
PAUSE = 0.15
"""Seconds between two changes. Faster changes are batched, which would lengthen the measured times."""
PATIENCE = 20.0
"""Seconds that a response may take. It may have to wait until two functions have started."""
LOGS = "; see the functions' logs"
USABLE = re.compile(r"(CREATE|UPDATE|IMPORT)_COMPLETE|UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
UNDONE = re.compile(r"(UPDATE|IMPORT)_ROLLBACK_COMPLETE")
OUTPUTS = ("WebSocketUrl", "HttpUrl", "TokenSource")
"""The outputs that a usable stack has."""


class Finding(NamedTuple):
    """The result of one check."""

    verdict: Literal["ok", "note", "failed"]
    """`note`: nothing is broken, but there is something to know or to do."""
    subject: str
    text: str


class Doctor:
    """Checks a service.

    Args:
        target: the service.
        report: is called with each finding as soon as it is made.
        token: a test user's token, for services whose tokens cannot be made here.
        patience: seconds that a response may take.
    """

    def __init__(
        self, target: Target, report: Callable[[Finding], None], token: str | None = None, patience: float = PATIENCE
    ) -> None:
        self._target, self._report, self._token, self._patience = target, report, token, patience
        self._failures = 0

    async def examine(self) -> bool:
        """Run all checks that are possible. Returns whether none failed."""
        if self._stack():
            with self._checking("credentials"):
                async with self._target.backend() as backend:
                    loaded = await self._health(backend)
                    await self._strangers(backend)
                    await self._users(backend, loaded=loaded)
        return not self._failures

    # As the operator

    def _stack(self) -> bool:
        """Whether the stack, if there is one, can be used at all."""
        try:
            stack = self._target.stack
        except UserError as error:
            self._fail("stack", str(error))
            return False
        if stack is None:
            return True
        text = f"{stack.name} in {stack.region} is {stack.status}"
        if UNDONE.fullmatch(stack.status):
            self._note("stack", f"{text}: the last change failed and was rolled back; the previous version still runs")
        elif USABLE.fullmatch(stack.status):
            self._ok("stack", text)
        elif stack.status.endswith("_IN_PROGRESS"):
            self._fail("stack", f"{text}: check again when CloudFormation has finished")
            return False
        else:
            why = f" ({stack.why})" if stack.why else ""
            self._fail("stack", f"{text}{why}: see its events in CloudFormation, fix the cause and deploy again")
            return False
        return self._outputs(stack)

    def _outputs(self, stack: Stack) -> bool:
        missing = [name for name in OUTPUTS if not stack.outputs.get(name)]
        if missing:
            text = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: is this the presence stack?"
            self._fail("outputs", text)
        else:
            self._ok("outputs", f"{self._target.ws_url} and {self._target.url}")
        return not missing

    # As a stranger

    async def _health(self, backend: Backend) -> bool:
        """Whether contacts are loaded. Until they are, nobody sees anybody."""
        with self._checking("health", "; see the log of the function `api`"):
            health = await backend.health()
            self._ok("health", f"Redis responds, and users are settled at most {health['dueLate']} ms late")
            self._eviction(health.get("evictionPolicy"))
            if health["graph"] == "loaded":
                return True
            self._note(
                "contacts",
                "not marked as loaded, so nobody sees anybody: run `presence contacts load FILE` or "
                "`presence graph import FILE` (with an empty FILE for a new application)",
            )
        return False

    def _eviction(self, policy: str | None) -> None:
        if policy and policy.startswith("allkeys-"):
            self._fail(
                "eviction",
                f"{policy} lets Redis delete contacts when memory is short: set maxmemory-policy to volatile-lru",
            )
        elif policy:
            self._ok("eviction", f"{policy}: contacts and settings are never evicted")

    async def _strangers(self, backend: Backend) -> None:
        """Requests without a token or a signature must be refused."""
        with self._checking("no token"):
            status = await status_without_token(self._target.ws_url, self._target.token_source)
            if status == 401:
                self._ok("no token", "a handshake without a token is refused")
            else:
                self._fail(
                    "no token",
                    f"a handshake without a token returns {status} instead of 401: "
                    "is the authorizer on $connect, with the token as its only identity source?",
                )
        with self._checking("no signature"):
            status = await backend.status_unsigned("GET", "/v1/users/doctor/contacts")
            if status == 403:
                self._ok("no signature", "a backend's call without a signature is refused")
            else:
                self._fail(
                    "no signature",
                    f"a backend's call without a signature returns {status} instead of 403: "
                    "does its route have IAM authorization?",
                )

    # As users

    async def _users(self, backend: Backend, *, loaded: bool) -> None:
        with self._checking("tokens"):
            tokens = self._target.tokens(self._token)
            suffix = secrets.token_hex(4)
            if isinstance(tokens, GivenToken):
                await self._alone(tokens.user_id, tokens)
            elif loaded:
                await self._together(backend, f"doctor-{suffix}-a", f"doctor-{suffix}-b", tokens)
            else:
                await self._alone(f"doctor-{suffix}-a", tokens)

    async def _alone(self, user: str, tokens: Tokens) -> None:
        """One user connects, changes, queries and leaves."""
        with self._checking("one user", LOGS):
            async with Probe.open(self._target.ws_url, user, tokens, self._patience) as probe:
                began = time.perf_counter()
                own = (await probe.sync())["self"]
                self._ok("connect", f"{user} is connected and got its snapshot after {_ms(began)} ms")
                await probe.send({"action": "heartbeat"})
                if len(own["devices"]) > 1 or own["claim"] or own["status"] == "busy":
                    self._note(
                        "update",
                        f"not tested: {user} has other devices or a claim, which would hide a change; "
                        "give a token of a user who has neither",
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
        with self._checking("contacts"):
            async with self._contacts(backend, alice, bob):
                self._ok("contacts", "the backend's signed calls are accepted; two temporary users see each other")
                with self._checking("round trip", LOGS):
                    await self._round_trips(alice, bob, tokens)

    async def _round_trips(self, alice: str, bob: str, tokens: Tokens) -> None:
        ws_url, patience = self._target.ws_url, self._patience
        async with Probe.open(ws_url, bob, tokens, patience) as watching:
            await watching.sync()
            async with Probe.open(ws_url, alice, tokens, patience) as acting:
                await acting.sync()
                self._ok("connect", "both are connected")
                await watching.expect(
                    lambda frame: _status_of(frame, alice) == "online", f"a frame that {alice} is online"
                )
                times = []
                for n in range(1, SAMPLES + 1):
                    await asyncio.sleep(PAUSE)
                    await watching.send({"action": "heartbeat"})  # as any client does
                    times.append(await self._change(acting, watching, n, "busy" if n % 2 else "online"))
                self._ok("round trip", f"a change reaches a contact in {_median(times)} ms ({_first(times)})")
                await self._query(watching, alice)
                began = time.perf_counter()
                await self._leave(acting)
                await watching.expect(
                    lambda frame: _status_of(frame, alice) == "offline", f"a frame that {alice} is offline"
                )
                self._ok("leave", f"a contact sees that a user left within {_ms(began)} ms")
            await watching.send({"action": "leave"})

    async def _change(self, acting: Probe, watching: Probe, n: int, status: str) -> int:
        """How long the `n`th update of a user takes to reach a contact, in ms."""
        began = time.perf_counter()
        await acting.send(_update(n, status))
        user = acting.user
        await watching.expect(lambda frame: _status_of(frame, user) == status, f"a frame about {user}'s change")
        return _ms(began)

    async def _query(self, probe: Probe, about: str) -> None:
        """Measure a query about a user."""
        times = []
        for _ in range(SAMPLES):
            await asyncio.sleep(PAUSE)
            began = time.perf_counter()
            await probe.query(about)
            times.append(_ms(began))
        self._ok("query", f"get_presence takes {_median(times)} ms ({_first(times)})")

    async def _leave(self, probe: Probe) -> None:
        await probe.send({"action": "leave"})
        await probe.until_closed()

    @contextlib.asynccontextmanager
    async def _contacts(self, backend: Backend, alice: str, bob: str) -> AsyncIterator[None]:
        """Let two users see each other while the block lasts, however it ends."""
        added = False
        try:
            await backend.set_contacts(alice, [bob], mutual=True)
            added = True
            yield
        finally:
            try:
                await backend.set_contacts(alice, remove=[bob], mutual=True)
            except UserError as error:
                if added:  # Otherwise the failure of the first call is already reported.
                    self._fail("clean-up", f"{alice} and {bob} are still contacts: {error}")

    # Findings

    @contextlib.contextmanager
    def _checking(self, subject: str, advice: str = "") -> Iterator[None]:
        """A check that fails with the first error in it."""
        try:
            yield
        except UserError as error:
            self._fail(subject, str(error) + advice)

    def _ok(self, subject: str, text: str) -> None:
        self._report(Finding("ok", subject, text))

    def _note(self, subject: str, text: str) -> None:
        self._report(Finding("note", subject, text))

    def _fail(self, subject: str, text: str) -> None:
        self._failures += 1
        self._report(Finding("failed", subject, text))


def _update(n: int, status: str) -> dict[str, object]:
    return {"action": "presence_update", "status": status, "n": n}


def _own_status(frame: Frame) -> str | None:
    return frame["self"]["status"] if frame.get("type") == "presence_self" else None


def _status_of(frame: Frame, user: str) -> str | None:
    """The status of a user in a frame, if it contains one."""
    records = [*frame.get("events", ()), *frame.get("users", ()), frame]
    return next((str(record["status"]) for record in records if record.get("userId") == user), None)


def _ms(began: float) -> int:
    return round((time.perf_counter() - began) * 1000)


def _median(times: list[int]) -> int:
    return round(statistics.median(times))


def _first(times: list[int]) -> str:
    return f"median of {len(times)}; the first {times[0]} ms"
