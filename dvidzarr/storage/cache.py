"""Chunks kept in memory, least recently used first to go, and the files of disposable caches."""

import struct
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from crc32c import crc32c

from dvidzarr.storage.openfiles import fail
from dvidzarr.storage.runs import ROW, Run

CacheKey = tuple[int, int, int, str]
"""(array number, packed chunk key, sequence, encoding; "" = decoded): a chunk version never changes, so nothing is ever
invalidated."""


_REMEMBERED, _REMEMBERED_PART = 8192, 1 << 14
"""Chunks that were asked for but are not kept: so many at least, and one for so many bytes of the cache."""

_TIMES, _DEAR_TIMES = 5, 2
"""A chunk is kept when it was offered so often, or was dear to make and offered so often. New memory, which the kernel
clears page by page, costs as much as four to five hits save (256 KiB: 280 µs and 60 µs, measured): who goes on asking
then has paid for it already."""


class ChunkCache:
    """Chunks, decoded or as they are sent, up to a number of bytes; arrays in it are read-only.

    `_lock` guards the order and the size.

    A chunk is kept once it was asked for some times: who reads a volume through needs none of it again, and to keep it has
    its price too.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._remembered = max(_REMEMBERED, limit // _REMEMBERED_PART)
        self._asked: dict[CacheKey, int] = {}
        self._chunks: OrderedDict[CacheKey, np.ndarray] = OrderedDict()
        self._size = 0

    def get(self, key: CacheKey) -> np.ndarray | None:
        """Return a chunk, None if it is not there."""
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is not None:
                self._chunks.move_to_end(key)
            return chunk

    def put(self, key: CacheKey, chunk: np.ndarray, *, dear: bool = False) -> None:
        """Keep a chunk that nobody writes to any more, if it was offered often enough."""
        if chunk.nbytes > self._limit // 4:
            return
        with self._lock:
            times = self._asked.pop(key, 0) + 1
            if times < (_DEAR_TIMES if dear else _TIMES):
                self._asked[key] = times
                if len(self._asked) > self._remembered:
                    del self._asked[next(iter(self._asked))]
                return
            chunk.flags.writeable = False
            if key not in self._chunks:
                self._size += chunk.nbytes
            self._chunks[key] = chunk
            while self._size > self._limit:
                self._size -= self._chunks.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._chunks.clear()
            self._asked.clear()
            self._size = 0

    def __len__(self) -> int:
        return len(self._chunks)


class StateFile:
    """A disposable file: a stamp, small state and the runs of an instance's arrays, with a checksum over all of it."""

    MAGIC = b"DVZSTAT2"

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, stamp: dict[str, Any], state: dict[str, Any], runs: dict[int, tuple[Run, ...]]) -> None:
        """Write atomically; not synced: a torn file has a wrong checksum and is rebuilt."""
        about = {
            str(scale): [(len(run.keys), sorted(run.writers)) for run in some] for scale, some in runs.items()
        }
        head = orjson.dumps({"stamp": stamp, "state": state, "runs": about})
        parts: list[bytes | np.ndarray] = [self.MAGIC, struct.pack("<I", len(head)), head]
        parts += [column for some in runs.values() for run in some for column in (run.keys, run.rows)]
        checksum = 0
        temporary = self._path.with_suffix(".partial")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
                checksum = crc32c(part, checksum)
            file.write(struct.pack("<I", checksum))
        temporary.replace(self._path)

    def load(self) -> tuple[dict[str, Any], dict[str, Any], dict[int, tuple[Run, ...]]] | None:
        """Return (stamp, state, runs); None if the file is absent or not whole."""
        try:
            with self._path.open("rb", buffering=0) as file:
                data = bytearray(self._path.stat().st_size)
                if file.readinto(data) != len(data):
                    return None
        except OSError:
            return None
        start = len(self.MAGIC) + 4
        if len(data) < start + 4 or not data.startswith(self.MAGIC):
            return None
        if crc32c(memoryview(data)[:-4]) != struct.unpack_from("<I", data, len(data) - 4)[0]:
            return None
        end = start + struct.unpack_from("<I", data, len(self.MAGIC))[0]
        head = orjson.loads(data[start:end])
        runs: dict[int, tuple[Run, ...]] = {}
        for scale, about in head["runs"].items():
            runs[int(scale)] = ()
            for number, writers in about:
                # aligned: else each search would copy them
                keys = np.frombuffer(data, "<i8", number, end).copy()
                rows = np.frombuffer(data, ROW, number, end + 8 * number)
                runs[int(scale)] += (Run(keys, rows, frozenset(writers)),)
                end += (8 + ROW.itemsize) * number
        return head["stamp"], head["state"], runs

    def remove(self) -> None:
        """Drop the file."""
        remove_file(self._path)


def remove_file(path: Path) -> None:
    """Remove a file of a cache if there is one; `StorageError` if it is there and stays."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        fail(str(path), error)
