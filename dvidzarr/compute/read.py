"""Reading a box: resolve all its chunks once, then decode and place them."""

from collections.abc import Callable, Iterator
from itertools import product
from operator import mul
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dvidzarr.compute.rows import copy_rows
from dvidzarr.compute.schedule import Scheduler
from dvidzarr.core.errors import BusyError, TooLargeError
from dvidzarr.core.geometry import CHUNK_LIMIT, ZYX, Box, ChunkSpan
from dvidzarr.core.lineage import Lineage
from dvidzarr.storage.chunkkeys import pack_one, pack_span, unpack, unpack_one
from dvidzarr.storage.chunks import ChunkStore, SupersededError
from dvidzarr.storage.postings import present
from dvidzarr.storage.runs import ROW, Row
from dvidzarr.wire.compression import lz4_encode

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

Encode = Callable[[np.ndarray], bytes]
"""Makes the bytes that are sent of voxels, (z, y, x)."""

CHUNKS_PER_REQUEST = 1 << 22
"""Largest number of chunks that one request may touch."""
_ATTEMPTS = 100
_KEPT = 32
"""Chunks of a box of up to so many stay decoded: who looks at data asks again for what is near. A bulk read does not."""


def resolvable(span: ChunkSpan) -> ChunkSpan:
    """Return the part of a span that can hold chunks; beyond ±2²⁰ nothing was ever written."""
    start = tuple(min(max(a, -CHUNK_LIMIT), CHUNK_LIMIT) for a in span.start)
    stop = tuple(max(min(b, CHUNK_LIMIT), a) for a, b in zip(start, span.stop, strict=True))
    return ChunkSpan(start, stop)  # type: ignore[arg-type]


def read_inside(
    chunks: ChunkStore, coord: ZYX, box: Box, lineage: Lineage, *, shared: bool = False
) -> np.ndarray:
    """Return the voxels of a box that lies inside one chunk: a `Reader` without its arrays.

    Parameters
    ----------
    coord : (z, y, x)
        The chunk, within ±2²⁰.
    shared : bool
        Whether the result may be memory that others read too; nobody may write to it then.
    """
    grid = chunks.codec.shape
    whole = box.shape == grid
    key = pack_one(coord)
    row = chunks.find(key, lineage)
    if row is None:
        return np.zeros(box.shape, chunks.codec.dtype)
    out = np.empty(grid, chunks.codec.dtype) if whole and not shared else None
    chunk = chunks.read(key, row, lineage, out, keep=out is None)
    if chunk is None:
        return np.zeros(box.shape, chunks.codec.dtype)
    if whole:
        return chunk
    part = box.slices(tuple(map(mul, coord, grid)))
    return chunk[part].copy()  # a view would keep the whole chunk while a small answer is sent


def encoded_chunk(
    chunks: ChunkStore, coord: ZYX, lineage: Lineage, name: str, encode: Encode
) -> np.ndarray | None:
    """Return the bytes (uint8) that `encode` makes of one chunk, kept under the name of the encoding.

    None if there is no such chunk, or it is written again right now.
    """
    key = pack_one(coord)
    row = chunks.find(key, lineage)
    try:
        return None if row is None else chunks.encoded_as(name, encode, key, row, lineage)
    except SupersededError:
        return None


def lz4_chunk(
    chunks: ChunkStore, key: int, row: Row, lineage: Lineage, *, exact: bool = False
) -> "Buffer | None":
    """Return one chunk as a bare LZ4 block, as it lies on the store if it does so; else as `ChunkStore.read`."""
    data = chunks.encoded(key, row, lineage, exact=exact)
    block = None if data is None else chunks.codec.lz4_block(data)
    if data is None or block is not None:
        return block
    voxels = chunks.read(key, row, lineage, exact=exact)
    return None if voxels is None else lz4_encode(voxels)


class Reader:
    """One state of a box: what the chunks were when it was made, however long the reading takes.

    Raises
    ------
    InvalidInputError
        A size that is not positive.
    TooLargeError
        More than 2²² chunks.
    """

    def __init__(self, chunks: ChunkStore, box: Box, lineage: Lineage, scheduler: Scheduler) -> None:
        self.box = box.check()
        self._chunks = chunks
        self._lineage = lineage
        self._scheduler = scheduler
        self._grid: ZYX = chunks.codec.shape
        self._span = self._limited(resolvable(box.chunks(self._grid)))
        self._keys: np.ndarray
        self._rows: np.ndarray
        self._given = False  # whether somebody has seen a part of this state
        self._resolve()

    def _limited(self, span: ChunkSpan) -> ChunkSpan:
        if span.count > CHUNKS_PER_REQUEST:
            raise TooLargeError(
                f"box {self.box} touches {span.count} chunks, the limit is {CHUNKS_PER_REQUEST}"
            )
        return span

    def _resolve(self) -> None:
        if self._span.count == 1:
            key = pack_one(self._span.start)
            row = self._chunks.find(key, self._lineage)
            self._keys = np.array([key] if row else [], np.int64)
            self._rows = np.array([row] if row else [], ROW)
            return
        keys = pack_span(self._span)
        rows = self._chunks.resolve(keys, self._lineage)
        there = present(rows)
        self._keys = keys if there.all() else keys[there]
        self._rows = rows if there.all() else rows[there]

    def read(self, sub_box: Box | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """Return the voxels of the box, or of a box inside it.

        Parameters
        ----------
        sub_box : Box, optional
            Must lie inside the reader's box.
        out : ndarray, optional
            C-contiguous array to fill, of the shape (z, y, x) of the box.

        Returns
        -------
        ndarray
            Axes (z, y, x); voxels of absent chunks are 0.

        Raises
        ------
        SupersededError
            A part was read before, and the rest of that state is gone by now.
        """
        for _ in range(_ATTEMPTS):
            try:
                voxels = self._read(sub_box, out)
            except SupersededError:
                if self._given:
                    raise
                self._resolve()
            else:
                self._given = True
                return voxels
        raise BusyError(f"box {self.box} is written again and again while it is read; try again")

    def _read(self, sub_box: Box | None, out: np.ndarray | None) -> np.ndarray:
        box = sub_box or self.box
        chosen = slice(None) if sub_box is None else self._touching(box)
        keys, rows = self._keys[chosen].tolist(), self._rows[chosen].tolist()
        whole = len(keys) == box.chunks(self._grid).count
        if out is None:
            out = (np.empty if whole else np.zeros)(box.shape, self._chunks.codec.dtype)
        elif not whole:
            out.fill(0)

        def place(index: int) -> None:
            self._place(keys[index], rows[index], box, out)

        self._scheduler.read(place, len(keys), self._chunks.codec.nbytes)
        return out

    def _touching(self, box: Box) -> np.ndarray:
        span = box.chunks(self._grid)
        coords = unpack(self._keys)
        inside = (coords >= span.start) & (coords < span.stop)
        return np.flatnonzero(inside.all(axis=1))

    def _place(self, key: int, row: Row, box: Box, out: np.ndarray) -> None:
        """Decode one chunk and put the part inside the box into `out`."""
        source, target, full = [], [], True
        for at, size, low, high in zip(unpack_one(key), self._grid, box.start, box.stop, strict=True):
            begin = at * size
            a, b = max(begin, low), min(begin + size, high)
            full = full and b - a == size
            source.append(slice(a - begin, b - begin))
            target.append(slice(a - low, b - low))
        if full and out.shape == self._grid and out.flags.c_contiguous:
            if self._chunks.read(key, row, self._lineage, out, exact=True) is None:
                out.fill(0)
            return
        keep = not full or self._span.count <= _KEPT
        chunk = self._chunks.read(key, row, self._lineage, keep=keep, exact=True)
        if chunk is None:
            out[tuple(target)] = 0
        else:
            copy_rows(out[tuple(target)], chunk[tuple(source)])

    def blocks(self) -> Iterator[tuple[ZYX, np.ndarray | None]]:
        """Yield (chunk coordinate, whole decoded chunk or None) for all chunks that the box touches, x fastest."""
        return self._each(self._whole)

    def lz4_blocks(self) -> Iterator[tuple[ZYX, "Buffer | None"]]:
        """Yield (chunk coordinate, its voxels as one bare LZ4 block, or None): as they lie on the store where they do so."""
        return self._each(lambda key, row: lz4_chunk(self._chunks, key, row, self._lineage, exact=True))

    def encoded_blocks(self, name: str, encode: Encode) -> Iterator[tuple[ZYX, np.ndarray | None]]:
        """Yield (chunk coordinate, the bytes that `encode` makes of it, or None), kept under the name of the encoding."""
        return self._each(lambda key, row: self._chunks.encoded_as(name, encode, key, row, self._lineage))

    def _each(self, load: Callable[[int, Row], T | None]) -> Iterator[tuple[ZYX, T | None]]:
        span = self._limited(self.box.chunks(self._grid))
        keys, rows = self._keys.tolist(), self._rows.tolist()
        held = dict(zip(map(unpack_one, keys), zip(keys, rows, strict=True), strict=True))
        for z, y, x in product(*map(range, span.start, span.stop)):
            found = held.get((z, y, x))
            yield (z, y, x), None if found is None else load(*found)

    def _whole(self, key: int, row: Row) -> np.ndarray | None:
        chunk = self._chunks.read(key, row, self._lineage, exact=True)
        return None if chunk is None else chunk.copy()
