"""Requests that go together: those that arrive while others are made durable share the next write."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

Function = Callable[[list[Any]], object]


class Batches:
    """Lives on one event loop, which guards it."""

    def __init__(self, offload: Callable[[Function, list[Any]], Awaitable[object]]) -> None:
        self._offload = offload
        self._waiting: dict[Hashable, list[tuple[Any, asyncio.Future[None]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def together(self, key: Hashable, function: Function, item: object) -> None:
        """Have `function` called on the pool with this item and the others that were given for the key meanwhile.

        Returns when that call has ended; its failure is the failure of each of its items.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if key in self._waiting:
            self._waiting[key].append((item, done))
        else:
            self._waiting[key] = [(item, done)]
            task = loop.create_task(self._run(key, function))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await done

    async def _run(self, key: Hashable, function: Function) -> None:
        while batch := self._waiting[key]:
            self._waiting[key] = []
            failure: BaseException | None = None
            try:
                await self._offload(function, [item for item, _ in batch])
            except Exception as error:  # noqa: BLE001 - handed to who waits
                failure = error
            for _, done in batch:
                if done.done():  # its client left
                    continue
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)
        del self._waiting[key]
