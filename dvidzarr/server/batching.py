"""Requests that go together: those that arrive while others are made durable share the next write.

A batch runs on a thread, or on the event loop itself (see `Turns`).
"""

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from time import monotonic
from typing import Any

from dvidzarr.server.threads import bearable
from dvidzarr.server.turns import Turns

Function = Callable[[list[Any]], object]
Run = Callable[[Function, tuple[object, ...]], "asyncio.Future[Any]"]
"""Calls a function with arguments on a thread."""

_Batch = list[tuple[Any, "asyncio.Future[None]"]]

_FEW = 16
"""Requests that the loop may do at once: of more, somebody's patience is asked too much."""


class Batches:
    """Lives on one event loop, which guards it.

    Parameters
    ----------
    run
        Runs a batch on a thread.
    turns
        Tells which ones the loop runs itself.
    """

    def __init__(self, run: Run, turns: Turns) -> None:
        self._run = run
        self._turns = turns
        self._waiting: dict[Hashable, _Batch] = {}
        """By key, while a batch of it runs or is about to."""
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
        if self._inside <= _FEW and self._turns.may_hold_up(key, len(batch), self._inside):
            self._run_here(key, function, batch, begun)
            return
        try:
            running = self._run(function, ([item for item, _ in batch],))
        except Exception as error:  # noqa: BLE001 - handed to who waits
            self._settle(batch, error)
            self._begin(key, function)
        else:
            running.add_done_callback(partial(self._ran, key, function, batch, begun))

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
        self._turns.took(key, count, monotonic() - begun)
        self._begin(key, function)
