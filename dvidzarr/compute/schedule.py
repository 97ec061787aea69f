"""Threads that work off many chunks. One task per thread, never one per chunk."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")

_INLINE = 4  # as many chunks are read sooner than a second thread wakes up
_WRITERS = 16  # writing waits for fsync most of the time


class Scheduler:
    """Two pools, started when first used: `read` is bound by the processor, `write` by the disk."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._pools: dict[str, ThreadPoolExecutor] = {}

    def _pool(self, name: str, size: int) -> ThreadPoolExecutor:
        with self._lock:
            if name not in self._pools:
                self._pools[name] = ThreadPoolExecutor(size, thread_name_prefix=f"dvidzarr-{name}")
            return self._pools[name]

    def read(self, work: Callable[[int], None], count: int) -> None:
        """Call `work(0)` … `work(count−1)`, in the calling thread and for more than a few in others too."""
        indices = iter(range(count))  # shared: whoever is free takes the next one

        def drain() -> None:
            for index in indices:
                work(index)

        helpers = min(self._threads, -(-count // _INLINE)) - 1
        futures = [self._pool("read", self._threads).submit(drain) for _ in range(helpers)]
        try:
            drain()
        finally:
            wait(futures)
        for future in futures:
            future.result()

    def write(self, work: Callable[[int], T], count: int) -> list[T]:
        """Return `[work(0), …, work(count−1)]`; all calls have ended when it returns or raises."""
        if count <= 1:
            return [work(index) for index in range(count)]
        pool = self._pool("write", _WRITERS)
        futures = [pool.submit(work, index) for index in range(count)]
        wait(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            for pool in self._pools.values():
                pool.shutdown()
            self._pools.clear()
