"""Large buffers of answers, used again: pages that the kernel must clear first cost as much as decoding into them."""

import sys
import threading
import time

import numpy as np

SMALLEST = 32 << 20
"""Smaller ones the allocator keeps by itself (see `server.app`)."""

_UNUSED = 3  # references to a buffer that only the pool has: its list, the loop, the call that counts


class BufferPool:
    """Buffers that were given out, for the next who needs such a size.

    Nothing is given back: a buffer is free once nobody refers to it or to a part of it, neither a request nor a
    transport that still holds the last bytes of an answer. `_lock` guards the list.

    Parameters
    ----------
    limit
        Bytes that are kept at most; what exceeds them is given out and forgotten.
    keep_s
        Buffers unused for so long are let go by `purge`.
    """

    def __init__(self, limit: int, keep_s: float) -> None:
        self.keep_s = keep_s
        self._limit = limit
        self._lock = threading.Lock()
        self._buffers: list[np.ndarray] = []
        self._used: dict[int, float] = {}

    @property
    def held(self) -> int:
        """Bytes of all buffers that are kept."""
        with self._lock:
            return sum(buffer.nbytes for buffer in self._buffers)

    def take(self, size: int) -> np.ndarray:
        """Return `size` bytes (uint8) of any content, whose parts nobody else sees."""
        if size < SMALLEST:
            return np.empty(size, np.uint8)
        with self._lock:
            for buffer in self._buffers:
                if size <= buffer.nbytes <= 2 * size and sys.getrefcount(buffer) == _UNUSED:
                    self._used[id(buffer)] = time.monotonic()
                    return buffer[:size]
            fresh = np.empty(size, np.uint8)
            if sum(each.nbytes for each in self._buffers) + size <= self._limit:
                self._buffers.append(fresh)
                self._used[id(fresh)] = time.monotonic()
            return fresh[:]

    def purge(self) -> None:
        """Let go what was not used for a while."""
        oldest = time.monotonic() - self.keep_s
        with self._lock:
            kept = []
            for buffer in self._buffers:
                if sys.getrefcount(buffer) != _UNUSED:
                    self._used[id(buffer)] = time.monotonic()
                if self._used[id(buffer)] > oldest:
                    kept.append(buffer)
            self._buffers = kept
            self._used = {id(buffer): self._used[id(buffer)] for buffer in kept}
