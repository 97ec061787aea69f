"""What a running server owns, and lends to handlers."""

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from dvidzarr.server.activity import Activity
from dvidzarr.server.admission import Admission, Throttle
from dvidzarr.server.batching import Batches

if TYPE_CHECKING:
    from dvidzarr.core.settings import Settings
    from dvidzarr.repo.catalog import Catalog

T = TypeVar("T")

_THREADS_PER_CORE = 4
"""Handlers' threads mostly wait for the disk; decoding batches run on the engine's own pool."""


class Runtime:
    """The open store, the pool and the counters of one server.

    The pool is closed by `close`; the catalog belongs to the caller.
    """

    def __init__(self, catalog: "Catalog", settings: "Settings") -> None:
        self.catalog = catalog
        self.settings = settings
        self.activity = Activity()
        self.throttle = Throttle(settings.limits.max_throttled)
        self.gc_percent = 100
        self._admission = Admission(settings.limits.in_flight_budget, settings.limits.queue_timeout_s)
        workers = max(8, _THREADS_PER_CORE * settings.compute.thread_count)
        self._batches = Batches(self.offload)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="request")

    async def offload(self, function: Callable[..., T], *args: object) -> T:
        """Run a blocking function on the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    async def together(self, key: Hashable, function: Callable[[list[Any]], object], item: object) -> None:
        """Run a blocking function on the pool, once for all items that came while it ran before."""
        await self._batches.together(key, function, item)

    def admit(self, size: int) -> AbstractAsyncContextManager[None]:
        """Hold `size` bytes of the budget of all requests in flight."""
        return self._admission.admit(size)

    def throttled(self) -> AbstractContextManager[None]:
        """Hold one of the slots for throttled requests."""
        return self.throttle.slot()

    def close(self) -> None:
        """End the pool after its running tasks."""
        self._pool.shutdown(wait=True, cancel_futures=True)
