"""Upkeep: what happens because time passes, and not because somebody says something; and how the service is.

The sweeper calls `cleanup_stale_connections` once a minute. Who is due, and what becomes of them, is the state
machine's to say (`presence.lua`); what does not hang together is found by `consistency.py`.

Like the use cases in `presence.py` this knows neither Redis nor AWS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from shared import consistency
from shared.delivery import Delivery, Meter, Pusher, Request, Store, Unavailable, of_buckets
from shared.frames import Answer, as_list, as_map
from shared.settings import Settings

SWEEP_MS = 150_000
"""How long a sweeper works at most; the next one has taken over by then (EventBridge keeps its minute to ±60 s)."""
SWEEP_NAP_MS = 1_000
"""How long a sweeper looks away at most: new due times may be earlier than the one it waits for."""
SWEEP_PAUSE_MS = 100
"""How long it looks away at least, where it has seen to everybody: each look asks every bucket, and what waits for a
viewer's window waits as long."""
SWEEP_BATCH = 64
"""Due users that a sweep takes from one bucket at a time."""


class _Heads(NamedTuple):
    """The first of those who are due."""

    due: list[str]
    late: int
    """How late the first of them is, in ms."""
    following: int
    """When to look again at the latest, in ms."""
    cursor: str
    """Where this run is to go on checking."""


class Upkeep:
    """Arguments as for `PresenceService`. Both methods may raise `Unavailable`."""

    def __init__(
        self, store: Store, pusher: Pusher, settings: Settings, clock: Callable[[], int], meter: Meter
    ) -> None:
        self._store, self._clock, self._meter = store, clock, meter
        self._delivery = Delivery(store, pusher, settings, clock, meter)

    def cleanup_stale_connections(self, run: str, sleep: Callable[[float], object]) -> int:
        """Settle whoever is due, again and again, until a newer run has taken over.

        It stays even while nobody is there: the next who come may close, or change often, before the next run begins.
        A Redis that is away is waited for. Once in a run a slice of what is kept is held against itself.

        Args:
            run: names this run; the last one to begin has the turn.
            sleep: waits, in seconds.

        Returns:
            How many users were settled.
        """
        began, settled, latest = self._clock(), 0, 0
        news: dict[str, Any] = {"begin": True}
        while self._clock() - began < SWEEP_MS:
            try:
                heads = self._heads(run, news)
                if heads is None:
                    break
                latest = max(latest, heads.late)
                self._delivery.settle(heads.due, self._delivery.begin())
                settled += len(heads.due)
                following = min(SWEEP_NAP_MS, heads.following - self._clock())
                nap = 0 if len(heads.due) >= SWEEP_BATCH else max(SWEEP_PAUSE_MS, following)
                news = {"cursor": self._check(heads.cursor)} if "begin" in news else {}
            except Unavailable as error:
                nap = error.retry_after
            if nap > 0:
                sleep(nap / 1000)
        self._meter.time("DueLateness", latest)
        if settled:
            self._meter.count("Settled", settled)
        return settled

    def health(self) -> dict[str, Any]:
        """Whether the graph is loaded, how late the due queue is, in ms, and what Redis forgets, if it says.

        `inconsistencies` counts what was ever found not to hang together, and mended, by kind.
        """
        answers = self._ask(of_buckets(self._store, "bucket"))
        found = dict.fromkeys(consistency.INCONSISTENCIES, 0)
        for answer in answers:
            for kind, count in as_map(answer["found"]).items():
                found[kind] += count
        policy = self._store.eviction_policy()
        return {
            "graph": "loaded" if all(answer["loaded"] for answer in answers) else "not_loaded",
            "dueLate": max(answer["late"] for answer in answers),
            "inconsistencies": found,
            **({"evictionPolicy": policy} if policy else {}),
        }

    def _check(self, cursor: str) -> str:
        """Hold a slice of what is kept against itself, and carry out what mending asks for; gives where to go on."""
        checked = consistency.check(self._store, self._meter, self._clock(), cursor)
        work = self._delivery.begin()
        for user, answer in checked.answers:
            self._delivery.collect(work, user, answer)
        self._delivery.carry_out(work)
        return checked.cursor

    def _heads(self, run: str, news: Mapping[str, Any]) -> _Heads | None:
        """Who is due in any bucket; None when a newer run has the turn.

        `news` of a run: that it begins, or where the next one is to go on checking.
        """
        requests = of_buckets(self._store, "heads", horizon=SWEEP_NAP_MS, most=SWEEP_BATCH)
        requests[0] = requests[0]._replace(args={**requests[0].args, "run": run, **news})
        answers = self._ask(requests)
        if not answers[0]["turn"]:
            return None
        late = max(answer.get("late", 0) for answer in answers)
        due = [user for answer in answers for user in as_list(answer["due"])]
        following = min(answer.get("next", self._clock() + SWEEP_NAP_MS) for answer in answers)
        return _Heads(due, late, following, answers[0]["cursor"])

    def _ask(self, requests: list[Request]) -> list[Answer]:
        return self._store.call(requests, self._clock())
