"""The one background thread of a store: finishing overlays, removing superseded objects, writing derived files."""

import heapq
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from itertools import count

from dvidzarr.core.errors import DvidzarrError

_logger = logging.getLogger("dvidzarr.storage")


class Housekeeper:
    """Runs tasks at their time, one after another. `_changed` guards the queue.

    A task that fails is logged and forgotten: everything done here is done again at the next start.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, Hashable, Callable[[], None], bool]] = []
        self._waiting: set[Hashable] = set()
        self._numbers = count()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._closed = False

    def schedule(
        self, delay: float, name: Hashable, task: Callable[[], None], *, at_close: bool = True
    ) -> None:
        """Run `task` in `delay` seconds, unless a task of that name waits already; `at_close`: run it when closing."""
        with self._changed:
            if self._closed or name in self._waiting:
                return
            self._waiting.add(name)
            number = next(self._numbers)
            heapq.heappush(self._queue, (time.monotonic() + delay, number, name, task, at_close))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dvidzarr-housekeeper", daemon=True)
                self._thread.start()
            # to wake the thread for less would cost every write a fifth of its time
            if self._queue[0][1] == number:
                self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._closed and (not self._queue or self._queue[0][0] > time.monotonic()):
                    self._changed.wait(self._queue[0][0] - time.monotonic() if self._queue else None)
                if not self._queue:
                    return
                _, _, name, task, at_close = heapq.heappop(self._queue)
                self._waiting.discard(name)
                self._busy = True
                if self._closed and not at_close:
                    continue
            self._perform(name, task)

    @staticmethod
    def _perform(name: Hashable, task: Callable[[], None]) -> None:
        try:
            task()
        except (DvidzarrError, OSError) as error:
            _logger.warning("background task %s: %s", name, error)
        except Exception:
            _logger.exception("background task %s", name)

    def settle(self, timeout: float = 30.0) -> bool:
        """Wait until nothing that is due is left; True if so. For tests and for closing."""
        deadline = time.monotonic() + timeout
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._busy and (not self._queue or self._queue[0][0] > time.monotonic() + 0.001),
                deadline - time.monotonic(),
            )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep all tasks waiting, after the running one has ended: for copying the files of a store."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            yield

    def close(self) -> None:
        """Run what must not wait for the next start, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
