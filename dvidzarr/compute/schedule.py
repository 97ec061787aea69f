"""Threads that work off many chunks. One Python call per batch, never one task per chunk."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")

_BATCHES_PER_THREAD = 4
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

    def read(self, work: Callable[[int, int], None], count: int) -> None:
        """Call `work(start, stop)` for batches that cover 0 … count−1; small counts run in the calling thread."""
        if count <= _INLINE or self._threads == 1:
            work(0, count)
            return
        batches = min(count, self._threads * _BATCHES_PER_THREAD)
        edges = [count * number // batches for number in range(batches + 1)]
        pool = self._pool("read", self._threads)
        futures = [pool.submit(work, a, b) for a, b in pairwise(edges[1:])]
        try:
            work(edges[0], edges[1])
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
