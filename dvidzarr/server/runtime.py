"""What a running server owns, and lends to handlers."""

from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from dvidzarr.http.buffers import BufferPool
from dvidzarr.server.activity import Activity
from dvidzarr.server.admission import LARGE, Admission, Share, Throttle
from dvidzarr.server.audit import AuditLog
from dvidzarr.server.batching import Batches
from dvidzarr.server.fleet import Fleet
from dvidzarr.server.httpserver import ConnectionCounts
from dvidzarr.server.meters import Meters
from dvidzarr.server.processlimits import connections_of_each
from dvidzarr.server.tables import load_all
from dvidzarr.server.threads import Threads
from dvidzarr.server.turns import Turns

if TYPE_CHECKING:
    from dvidzarr.core.settings import Settings
    from dvidzarr.repo.catalog import Catalog

T = TypeVar("T")

_THREADS_PER_CORE = 4
"""Handlers' threads mostly wait for the disk; decoding batches run on the engine's own pool."""

_LARGE_THREADS_PER_CORE = 2

_KEPT_BYTES, _KEPT_S = 512 << 20, 5.0
"""Buffers of large answers that wait for the next: how much, how long."""


class Runtime:
    """The open store, the threads and the counters of one server.

    The threads are ended by `close`; the catalog belongs to the caller.

    Parameters
    ----------
    shared
        Whether others in this process use the catalog too.
    """

    def __init__(
        self, catalog: "Catalog", settings: "Settings", fleet: Fleet | None = None, *, shared: bool = False
    ) -> None:
        self.catalog = catalog
        catalog.scheduler.busy = True
        # others may have a version for themselves for as long as they like, and so may the housekeeper with `full_write`
        self._waits_briefly = not shared and not catalog.full_write
        self.settings = settings
        self.fleet = fleet or Fleet(read_only=catalog.read_only)
        limits, count = settings.limits, self.fleet.count
        # What is limited for the server as a whole is divided among its processes. Not so the cache of decoded chunks,
        # which belongs to the catalog: all of them read the same chunks, and half a cache of each helps none.
        budget = max(1, limits.in_flight_budget // count)
        self.activity = Activity(self.fleet.board, self.fleet.number)
        self.meters = Meters()
        self.connections = ConnectionCounts(connections_of_each(limits.max_connections, count))
        self.draining = False
        self.throttle = Throttle(limits.max_throttled)
        self.gc_percent = 100
        self.admission = Admission(budget, limits.queue_timeout_s)
        self.buffers = BufferPool(min(_KEPT_BYTES, budget), _KEPT_S)
        audit_log = settings.server.audit_log
        self.audit = AuditLog(audit_log) if audit_log else None
        cores = settings.compute.thread_count
        small, large = max(8, _THREADS_PER_CORE * cores), _LARGE_THREADS_PER_CORE * cores
        self._threads = Threads(small, "request")
        self._large_threads = Threads(large, "large")
        self.senders = ThreadPoolExecutor(small + large, "sender")
        self.turns = Turns(self._is_alone)
        self._batches = {
            threads: Batches(threads.run, self.turns) for threads in (self._threads, self._large_threads)
        }

    @property
    def read_only(self) -> bool:
        """Whether the server takes no writes: of several processes, those that follow the writer forward them."""
        return self.fleet.read_only

    @property
    def crowded(self) -> bool:
        """Whether somebody waits for a thread."""
        return self._threads.crowded or self._large_threads.crowded

    async def offload(self, function: Callable[..., T], *args: object) -> T:
        """Run a blocking function on a thread; large requests have their own, so that small ones never queue behind."""
        result: T = await self._own_threads().run(function, args)
        return result

    async def together(self, key: Hashable, function: Callable[[list[Any]], object], item: object) -> None:
        """Run a blocking function, once for all items that came while it ran before. See `Turns` for where."""
        await self._batches[self._own_threads()].together(key, function, item)

    def _own_threads(self) -> Threads:
        return self._large_threads if LARGE.get() else self._threads

    def _is_alone(self, count: int) -> bool:
        """Tell whether this process has no more than so many requests, and nothing else may hold a lock for long."""
        return (
            self._waits_briefly
            and self.activity.running <= count
            and self._threads.idle
            and self._large_threads.idle
            and not self.catalog.context.housekeeper.busy
        )

    def load_all(self) -> None:
        """Begin to load what requests will need."""
        with suppress(RuntimeError):  # no thread is to be had: requests do it themselves
            self._threads.run(load_all, (self.catalog.registry.values(),))

    def admit(self, size: int) -> Share:
        """Hold `size` bytes of the budget of all requests in flight while the context lasts."""
        return self.admission.admit(size)

    def throttled(self) -> AbstractContextManager[None]:
        """Hold one of the slots for throttled requests."""
        return self.throttle.slot()

    def close(self) -> None:
        """End the threads after their running tasks."""
        self._threads.close()
        self._large_threads.close()
        self.senders.shutdown()
        self.catalog.scheduler.busy = False
        if self.audit is not None:
            self.audit.close()
