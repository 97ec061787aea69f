"""The background threads of a store: one finishes overlays, removes superseded objects and writes caches, one flushes."""

import heapq
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import NamedTuple

from dvidzarr.core.errors import DvidzarrError

_logger = logging.getLogger("dvidzarr.storage")

_DUE_S = 0.001
"""A task counts as due so long before its time."""


class Housekeeper:
    """Runs tasks at their time: one after another, but prompt ones on a thread of their own. `_lock` guards the queues.

    A task that fails is logged and forgotten: everything done here is done again at the next start.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._ended = threading.Condition(self._lock)
        self._lane = _Lane("dvidzarr-housekeeper", self._lock)
        self._prompt = _Lane("dvidzarr-flusher", self._lock)
        self._waiting: set[Hashable] = set()
        self._numbers = count()
        self._closed = False

    def schedule(
        self,
        delay: float,
        name: Hashable,
        task: Callable[[], None],
        *,
        at_close: bool = True,
        prompt: bool = False,
    ) -> None:
        """Run `task` in `delay` seconds, unless a task of that name waits already.

        Parameters
        ----------
        at_close
            Run it when closing, if its time has not come by then.
        prompt
            Its time was promised to somebody: it waits for other prompt tasks only, not for those that take long.
        """
        with self._lock:
            if self._closed or name in self._waiting:
                return
            self._waiting.add(name)
            lane, number = self._prompt if prompt else self._lane, next(self._numbers)
            heapq.heappush(lane.queue, _Task(time.monotonic() + delay, number, name, task, at_close))
            if lane.thread is None:
                lane.thread = threading.Thread(target=self._run, args=(lane,), name=lane.name, daemon=True)
                lane.thread.start()
            # to wake the thread for less would cost every write a fifth of its time
            if lane.queue[0].number == number:
                lane.wake.notify_all()

    @property
    def busy(self) -> bool:
        """Whether a task is running."""
        return self._lane.busy or self._prompt.busy

    @property
    def waiting(self) -> frozenset[Hashable]:
        """The names of the tasks that wait for their time."""
        with self._lock:
            return frozenset(self._waiting)

    def _run(self, lane: "_Lane") -> None:
        while True:
            with self._lock:
                lane.busy = False
                self._ended.notify_all()
                while not self._closed and (not lane.queue or lane.queue[0].due > time.monotonic()):
                    lane.wake.wait(lane.queue[0].due - time.monotonic() if lane.queue else None)
                if not lane.queue:
                    return
                task = heapq.heappop(lane.queue)
                self._waiting.discard(task.name)
                lane.busy = True
                if self._closed and not task.at_close:
                    continue
            self._perform(task)

    @staticmethod
    def _perform(task: "_Task") -> None:
        try:
            task.run()
        except (DvidzarrError, OSError) as error:
            _logger.warning("background task %s: %s", task.name, error)
        except Exception:
            _logger.exception("background task %s", task.name)

    def settle(self, timeout: float = 30.0) -> bool:
        """Wait until nothing that is due is left; True if so. For tests and for closing."""
        with self._lock:
            return self._ended.wait_for(lambda: self._lane.settled and self._prompt.settled, timeout)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep all tasks waiting, after the running ones have ended: for copying the files of a store."""
        with self._lock:
            self._ended.wait_for(lambda: not self._lane.busy and not self._prompt.busy)
            yield

    def close(self) -> None:
        """Run what must not wait for the next start, and end the threads."""
        with self._lock:
            self._closed = True
            lanes = (self._lane, self._prompt)
            for lane in lanes:
                lane.wake.notify_all()
        for lane in lanes:
            if lane.thread is not None:
                lane.thread.join()


class _Task(NamedTuple):
    """What runs when it is `due`; of tasks due at the same time the one with the lower `number` goes first."""

    due: float
    number: int
    name: Hashable
    run: Callable[[], None]
    at_close: bool


class _Lane:
    """A thread, started when first needed, and the tasks that wait for it. `Housekeeper` guards it."""

    def __init__(self, name: str, lock: threading.RLock) -> None:
        self.name = name
        self.wake = threading.Condition(lock)
        self.queue: list[_Task] = []
        self.thread: threading.Thread | None = None
        self.busy = False

    @property
    def settled(self) -> bool:
        """Whether nothing runs, and nothing is due."""
        return not self.busy and (not self.queue or self.queue[0].due > time.monotonic() + _DUE_S)
