"""Requests that go together: those that arrive while others are made durable share the next write.

A batch runs on a thread, or on the event loop itself if little is to be expected of it. Where a sync takes 0.3 ms, to wake
a thread and be woken by it costs as much again, and two threads that work at the same time lose more by handing each other
the interpreter; without, small writes per second are 1.2 times as many over one connection and 1.4 times over eight
(measured). So a batch is run at once when it is small, nobody but its clients is being served, and the one before it was
quick. After a slow one, on a slow disk or while much is flushed, threads are used until they are quick again: the loop is
held up once.
"""

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from time import monotonic
from typing import Any

Function = Callable[[list[Any]], object]
Run = Callable[[Function, tuple[object, ...]], "asyncio.Future[Any]"]
"""Calls a function with arguments on a thread."""

_Batch = list[tuple[Any, "asyncio.Future[None]"]]

_QUICK_S = 0.005
"""So long the event loop may be held up."""
_FEW = 16
"""Items of a batch that may do so."""
_KNOWN = 1000
"""Keys whose last batch is kept in mind."""


class Batches:
    """Lives on one event loop, which guards it.

    Parameters
    ----------
    run
        Runs a batch on a thread.
    is_alone
        Tells whether nothing is going on but so many requests.
    """

    def __init__(self, run: Run, is_alone: Callable[[int], bool]) -> None:
        self._run = run
        self._is_alone = is_alone
        self._waiting: dict[Hashable, _Batch] = {}
        """By key, while a batch of it runs or is about to."""
        self._took: dict[Hashable, float] = {}
        """Seconds that the last batch took, by key."""
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
        items, begun = [item for item, _ in batch], monotonic()
        is_quick = self._took.pop(key, _QUICK_S) < _QUICK_S
        if is_quick and len(items) <= _FEW and self._is_alone(self._inside):
            failure = None
            try:
                function(items)
            except Exception as error:  # noqa: BLE001 - handed to who waits
                failure = error
            self._settle(batch, failure)
            self._ended(key, function, begun)
            return
        try:
            running = self._run(function, (items,))
        except Exception as error:  # noqa: BLE001 - as above
            self._settle(batch, error)
            self._ended(key, function, begun)
            return
        running.add_done_callback(partial(self._ran, key, function, batch, begun))

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
        else:
            self._settle(batch, running.exception())
        self._ended(key, function, begun)

    @staticmethod
    def _settle(batch: _Batch, failure: BaseException | None) -> None:
        for _, done in batch:
            if done.done():  # its client left
                continue
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)

    def _ended(self, key: Hashable, function: Function, begun: float) -> None:
        if len(self._took) >= _KNOWN:
            self._took.clear()
        self._took[key] = monotonic() - begun
        self._begin(key, function)
