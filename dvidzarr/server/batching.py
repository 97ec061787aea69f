"""Requests that go together: those that arrive while others are made durable share the next write.

A batch runs on a thread, or on the event loop itself if little is to be expected of it. Where a sync takes 0.3 ms, to wake
a thread and be woken by it costs as much again, and two threads that work at the same time lose more by handing each other
the interpreter; without, small writes per second are 1.2 times as many over one connection and 1.4 times over eight
(measured). So a batch is run at once when it is small, nobody but its clients is being served, and the one before it was
quick. After a slow one, on a slow disk or while much is flushed, batches of all keys go to threads until they are quick
there: the loop is held up once.
"""

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from time import monotonic
from typing import Any

from dvidzarr.server.threads import bearable

Function = Callable[[list[Any]], object]
Run = Callable[[Function, tuple[object, ...]], "asyncio.Future[Any]"]
"""Calls a function with arguments on a thread."""

_Batch = list[tuple[Any, "asyncio.Future[None]"]]

_QUICK_S = 0.005
"""So long the event loop may be held up in a turn, as far as can be foreseen."""
_FEW = 16
"""Requests that may share such a turn: of more, somebody's patience is asked too much."""
_KNOWN = 1000
"""Keys whose last batch is kept in mind."""


class Batches:
    """Lives on one event loop, which guards it.

    Parameters
    ----------
    run
        Runs a batch on a thread.
    is_alone
        Tells whether so many requests are all, and nothing else could keep a batch waiting for long.
    """

    def __init__(self, run: Run, is_alone: Callable[[int], bool]) -> None:
        self._run = run
        self._is_alone = is_alone
        self._waiting: dict[Hashable, _Batch] = {}
        """By key, while a batch of it runs or is about to."""
        self._took: dict[Hashable, tuple[float, int]] = {}
        """Seconds and items of the last batch, by key; of no other after a slow one."""
        self._expected = 0.0  # seconds for which this turn of the loop is held up
        self._inside = 0  # requests that wait here, or are about to go on

    async def together(self, key: Hashable, function: Function, item: object) -> None:
        """Have `function` called with this item and the others that were given for the key meanwhile.

        Returns when that call has ended; its failure is the failure of each of its items.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if key in self._waiting:
            self._waiting[key].append((item, done))
        else:
            self._waiting[key] = [(item, done)]
            loop.call_soon(self._begin, key, function)  # with what else has arrived by now
        self._inside += 1
        try:
            await done
        finally:
            self._inside -= 1

    def _begin(self, key: Hashable, function: Function) -> None:
        batch = self._waiting[key]
        if not batch:
            del self._waiting[key]
            return
        self._waiting[key] = []
        begun = monotonic()
        if self._may_hold_up(key, len(batch)):
            self._run_here(key, function, batch, begun)
            return
        try:
            running = self._run(function, ([item for item, _ in batch],))
        except Exception as error:  # noqa: BLE001 - handed to who waits
            self._settle(batch, error)
            self._begin(key, function)
        else:
            running.add_done_callback(partial(self._ran, key, function, batch, begun))

    def _may_hold_up(self, key: Hashable, count: int) -> bool:
        """Tell whether a batch may run on the loop."""
        seconds, items = self._took.pop(key, (_QUICK_S, 1))
        expected = self._expected + seconds * max(1.0, count / items)
        if expected >= _QUICK_S or self._inside > _FEW or not self._is_alone(self._inside):
            return False
        if not self._expected:
            asyncio.get_running_loop().call_soon(self._end_turn)
        self._expected = expected
        return True

    def _end_turn(self) -> None:
        self._expected = 0.0

    def _run_here(self, key: Hashable, function: Function, batch: _Batch, begun: float) -> None:
        failure: BaseException | None = None
        try:
            function([item for item, _ in batch])
        except BaseException as error:  # noqa: BLE001 - handed to who waits
            failure = error
        self._settle(batch, failure)
        self._ended(key, function, len(batch), begun)
        if isinstance(failure, KeyboardInterrupt | SystemExit):
            raise failure

    def _ran(
        self,
        key: Hashable,
        function: Function,
        batch: _Batch,
        begun: float,
        running: "asyncio.Future[object]",
    ) -> None:
        if running.cancelled():  # the server ends
            for _, done in batch:
                done.cancel()
            self._begin(key, function)
        else:
            self._settle(batch, running.exception())
            self._ended(key, function, len(batch), begun)

    @staticmethod
    def _settle(batch: _Batch, failure: BaseException | None) -> None:
        for _, done in batch:
            if done.done():  # its client left
                continue
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(bearable(failure))

    def _ended(self, key: Hashable, function: Function, count: int, begun: float) -> None:
        seconds = monotonic() - begun
        if seconds >= _QUICK_S or len(self._took) >= _KNOWN:  # what is slow for one key is so for others
            self._took.clear()
        self._took[key] = (seconds, count)
        self._begin(key, function)
