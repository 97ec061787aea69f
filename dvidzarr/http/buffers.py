"""Large buffers of answers, used again: pages that the kernel must clear first cost as much as decoding into them."""

import sys
import threading
import time

import numpy as np

SMALLEST = 32 << 20
"""Smaller ones the allocator keeps by itself (see `server.app`)."""


def _references(buffers: list[np.ndarray], index: int) -> int:
    return sys.getrefcount(buffers[index])


_UNUSED = _references([np.empty(0, np.uint8)], 0)
"""References to a buffer that nothing but a list refers to, as this interpreter counts them."""


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
            for index in range(len(self._buffers)):
                if self._is_free(index) and size <= self._buffers[index].nbytes <= 2 * size:
                    self._used[id(self._buffers[index])] = time.monotonic()
                    return self._buffers[index][:size]
            fresh = np.empty(size, np.uint8)
            if sum(each.nbytes for each in self._buffers) + size <= self._limit:
                self._buffers.append(fresh)
                self._used[id(fresh)] = time.monotonic()
            return fresh[:]

    def purge(self) -> None:
        """Let go what was not used for a while."""
        oldest = time.monotonic() - self.keep_s
        with self._lock:
            for index, key in enumerate(map(id, self._buffers)):
                if not self._is_free(index):
                    self._used[key] = time.monotonic()
            self._buffers = [buffer for buffer in self._buffers if self._used[id(buffer)] > oldest]
            self._used = {id(buffer): self._used[id(buffer)] for buffer in self._buffers}

    def _is_free(self, index: int) -> bool:
        return _references(self._buffers, index) == _UNUSED
