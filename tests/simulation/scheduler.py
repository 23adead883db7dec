"""Virtual time: functions run side by side, and each waits where the real one would wait for the network.

A function is a greenlet. Between two of its waits nothing else happens, so a history depends on its seed alone. Time
jumps from one event to the next; nothing sleeps.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from greenlet import getcurrent, greenlet

from tests.support.clock import Clock


class Task(greenlet):
    """Something that runs and waits.

    Attributes:
        name: what it is, for messages.
        steps: the round trips and fan-outs that it has completed.
        reads: (viewer, user) → when it last read what the viewer may see of the user.
    """

    def __init__(self, name: str, work: Callable[[], None], parent: greenlet) -> None:
        super().__init__(work, parent)
        self.name, self.steps = name, 0
        self.reads: dict[tuple[str, str], int] = {}


class Scheduler:
    """Events in the order of their times, and tasks that wait for them.

    Attributes:
        running: tasks that have begun and not ended, oldest first.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hub = getcurrent()
        self._events: list[tuple[int, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self.running: list[Task] = []

    @property
    def next(self) -> int | None:
        """When the next event is; None if there is none."""
        return self._events[0][0] if self._events else None

    def after(self, ms: float, event: Callable[[], object]) -> None:
        """Let something happen after so many ms."""
        heapq.heappush(self._events, (self._clock() + max(0, round(ms)), next(self._order), event))

    def start(self, name: str, work: Callable[[], None], after: float = 0) -> None:
        """Begin a task after so many ms."""

        def run() -> None:
            self.running.append(task)
            work()
            self.running.remove(task)

        task = Task(name, run, self._hub)
        self.after(after, task.switch)

    def pause(self, ms: float) -> None:
        """Let other things happen for so many ms. Outside of a task, no time passes."""
        if self._hub is not getcurrent():
            self.after(ms, getcurrent().switch)
            self._hub.switch()

    def park(self) -> Callable[[], None]:
        """What wakes the current task, which is to call `wait` now; waking it again does nothing."""
        task, woken = getcurrent(), [False]

        def wake() -> None:
            if not woken[0]:
                woken[0] = True
                self.after(0, task.switch)

        return wake

    def wait(self) -> None:
        """Wait until something wakes the current task."""
        self._hub.switch()

    def step(self) -> None:
        """Let the next event happen; its time has come."""
        heapq.heappop(self._events)[2]()

    @property
    def current(self) -> Task | None:
        """The task that runs now."""
        task = getcurrent()
        return task if isinstance(task, Task) else None
