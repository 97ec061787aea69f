"""Stores of any size without their chunks: the records of many writes, for what never reads an object."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import dvidzarr
from benchmarks.volumes import BLOCK, GRAY, settings
from dvidzarr.core.ids import Author
from dvidzarr.storage.chunkrecords import Receipt, payload_of
from dvidzarr.storage.frames import Kind
from dvidzarr.storage.runs import ROW

_RECORD = 512
"""Chunks in one record: a 512³ box of 64³ chunks."""
_ENCODED = 197_000
_EDGE = 1 << 10


def coords_of(first: int, count: int) -> np.ndarray:
    """Return `count` chunk coordinates (z, y, x) from the `first` on, along a volume of 1024 × 1024 columns."""
    numbers = np.arange(first, first + count)
    return np.stack((numbers // (_EDGE * _EDGE), numbers // _EDGE % _EDGE, numbers % _EDGE), axis=1)


def rows_of(count: int, ordinals: int) -> np.ndarray:
    """Return rows of `count` chunks spread over versions."""
    rows = np.zeros(count, ROW)
    rows["sequence"] = np.arange(1, count + 1)
    rows["ordinal"] = rows["origin"] = np.arange(count) % ordinals
    rows["length"] = _ENCODED
    return rows


def make(store: Path, chunks: int) -> None:
    """Make a store whose log names `chunks` chunks that were never written."""
    with dvidzarr.open(store, "w", settings("fast")) as catalog:
        repo = catalog.create_repo("synthetic")
        instance = repo.create_instance("uint8blk", GRAY, {"BlockSize": ",".join([str(BLOCK)] * 3)})
        dataset = instance.dataset
        for payload in _payloads(chunks):
            dataset.append(Kind.CHUNKS, 0, Author(), {"s": 0}, payload)


def _payloads(chunks: int) -> Iterator[bytes]:
    """Yield the payloads of the records: one as it is written, with other coordinates (after the number of chunks)."""
    for first in range(0, chunks, _RECORD):
        count = min(_RECORD, chunks - first)
        payload = bytearray(payload_of([Receipt((0, 0, 0), 0, _ENCODED, 0, 0, None)] * count))
        np.frombuffer(payload, "<i4", 3 * count, 4)[:] = coords_of(first, count).ravel()
        yield bytes(payload)
