"""Requests that go together: those that arrive while others are made durable share the next write."""

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

Function = Callable[[list[Any]], object]
Run = Callable[[Function, tuple[object, ...]], "asyncio.Future[Any]"]
"""Calls a function with arguments on a thread."""

_Batch = list[tuple[Any, "asyncio.Future[None]"]]


class Batches:
    """Lives on one event loop, which guards it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waiting: dict[Hashable, _Batch] = {}
        """By key, while a batch of it runs or is about to."""

    async def together(self, key: Hashable, function: Function, item: object) -> None:
        """Have `function` called on a thread with this item and the others that were given for the key meanwhile.

        Returns when that call has ended; its failure is the failure of each of its items.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if key in self._waiting:
            self._waiting[key].append((item, done))
        else:
            self._waiting[key] = [(item, done)]
            loop.call_soon(self._begin, key, function)  # with what else has arrived by now
        await done

    def _begin(self, key: Hashable, function: Function) -> None:
        batch = self._waiting[key]
        if not batch:
            del self._waiting[key]
            return
        self._waiting[key] = []
        try:
            running = self._run(function, ([item for item, _ in batch],))
        except Exception as error:  # noqa: BLE001 - handed to who waits
            running = asyncio.get_running_loop().create_future()
            running.set_exception(error)
        running.add_done_callback(partial(self._ended, key, function, batch))

    def _ended(
        self, key: Hashable, function: Function, batch: _Batch, running: "asyncio.Future[object]"
    ) -> None:
        failure = None if running.cancelled() else running.exception()
        for _, done in batch:
            if done.done():  # its client left
                continue
            if running.cancelled():  # the server ends
                done.cancel()
            elif failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)
        self._begin(key, function)
