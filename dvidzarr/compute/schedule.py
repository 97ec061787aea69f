"""Threads that work off many chunks. One task per thread, never one per chunk."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from dvidzarr.core.interrupts import interrupts_later
from dvidzarr.storage.backend import in_turn

T = TypeVar("T")

_INLINE = 4  # as many chunks are encoded sooner than a second thread wakes up
_WORTH_THREADS, _ALONE_INLINE = 256 << 10, 8 << 20
"""Bytes of a chunk, and of so many as are decoded sooner than a second thread wakes up. Of smaller chunks each is decoded in
less time than threads need to hand each other the interpreter: with two of them, 512³ is read in 1.03 to 1.4 times the time
that one needs from chunks of 48³ uint8, in 0.87 to 1.37 times from 56³, 0.66 to 1.0 from 64³, 0.6 from 128³ (measured).
"""
_ALWAYS_WORTH_THREADS, _ALWAYS_INLINE = 512 << 10, 2 << 20
"""The same for chunks that are worth threads even where others need the processors too. With 64³ uint8, who reads beside
other readers takes 1.1 to 1.3 times the time then, and over HTTP, where others send meanwhile, 1.0 to 1.15 (measured).
"""
_WRITERS = 16  # syncing waits for the disk most of the time
_FEW = 4  # more would mostly wait for the interpreter; two encode in 0.7 of the time of one (measured)


class Scheduler:
    """Two pools, started when first used: one reads, the other encodes and writes. `_lock` guards them and `_readers`.

    Attributes
    ----------
    busy
        Whether the processors have other work while something is read: a server sends.
    """

    def __init__(self, threads: int) -> None:
        self.busy = False
        self._threads = threads
        self._readers = 0
        self._lock = threading.Lock()
        self._pools: dict[str, ThreadPoolExecutor] = {}

    def _pool(self, name: str, size: int) -> ThreadPoolExecutor:
        with self._lock:
            if name not in self._pools:
                self._pools[name] = ThreadPoolExecutor(size, thread_name_prefix=f"dvidzarr-{name}")
            return self._pools[name]

    def read(self, work: Callable[[int], object], count: int, chunk_bytes: int) -> None:
        """Call `work(0)` … `work(count−1)`, in the calling thread and for more than a few large chunks in others too."""
        with self._lock:
            alone = not (self._readers or self.busy)
            self._readers += 1
        try:
            threads = self._readers_for(count, chunk_bytes, alone=alone)
            if threads <= 1:
                in_turn(work, count)
            else:
                self._drain("read", self._threads, threads, work, count)
        finally:
            with self._lock:
                self._readers -= 1

    def _readers_for(self, count: int, chunk_bytes: int, *, alone: bool) -> int:
        if chunk_bytes >= _ALWAYS_WORTH_THREADS:
            return min(self._threads, -(-count * chunk_bytes // _ALWAYS_INLINE))
        if alone and chunk_bytes >= _WORTH_THREADS:
            return min(self._threads, _FEW, -(-count * chunk_bytes // _ALONE_INLINE))
        return 1

    def write(self, work: Callable[[int], T], count: int) -> list[T]:
        """Return `[work(0), …, work(count−1)]`; all calls have ended when it returns or raises."""
        return self._collect(_WRITERS, work, count)

    def encode(self, work: Callable[[int], T], count: int) -> list[T]:
        """Do as `write` does, for work that is bound by the processor."""
        return self._collect(min(self._threads, _FEW, max(1, count // _INLINE)), work, count)

    def _collect(self, threads: int, work: Callable[[int], T], count: int) -> list[T]:
        if min(threads, count) <= 1:
            return in_turn(work, count)
        results: dict[int, T] = {}

        def keep(index: int) -> None:
            results[index] = work(index)

        self._drain("write", _WRITERS, min(threads, count), keep, count)
        return [results[index] for index in range(count)]

    def _drain(self, name: str, size: int, threads: int, work: Callable[[int], object], count: int) -> None:
        """Let the calling thread and others of a pool take one index after the other; after a failure no more."""
        indices = iter(range(count))  # shared: whoever is free takes the next one

        def drain() -> None:
            for index in indices:
                try:
                    work(index)
                except BaseException:
                    deque(indices, 0)
                    raise

        futures: list[Future[None]] = []
        try:
            with interrupts_later():  # else a thread may be at work of which the pool does not know
                for _ in range(threads - 1):
                    futures.append(self._pool(name, size).submit(drain))  # noqa: PERF401 - a failure keeps the others
            drain()
        except BaseException:
            deque(indices, 0)
            raise
        finally:  # whoever has not begun yet would find nothing left
            running = [future for future in futures if not future.cancel()]
            _wait_through(running, indices)
        for future in running:
            future.result()

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            for pool in self._pools.values():
                pool.shutdown()
            self._pools.clear()


def _wait_through(running: list[Future[None]], indices: Iterator[int]) -> None:
    """Wait until all have ended; Ctrl-C ends them soon, but what they work on is needed until they have."""
    interrupt: BaseException | None = None
    while not all(future.done() for future in running):
        try:
            wait(running)
        except BaseException as error:  # noqa: BLE001 - raised when nothing runs any more
            interrupt = error
            deque(indices, 0)
    if interrupt is not None:
        raise interrupt
