"""Sets of blocks as spans along x: sorted arrays, and what is asked of them, vectorised. Source: spec-roi §1."""

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dvidzarr.core.errors import FormatError, InvalidInputError
from dvidzarr.core.geometry import ZYX, Box, ChunkSpan

if TYPE_CHECKING:
    from collections.abc import Sequence

_INT32 = np.iinfo(np.int32)
_STORED = np.dtype("<i4")
_NUMBERS = 4
_BYTES = _NUMBERS * _STORED.itemsize
_SIGN = 1 << 31
"""Added to an int32, makes its order that of unsigned numbers."""


class Spans:
    """A set of blocks: a value, never changed.

    Attributes
    ----------
    rows : ndarray of int32, shape (n, 4)
        z, y, x0, x1 in blocks, x1 inclusive; sorted in this order and distinct. Spans that overlap or touch are kept
        as they were given.
    """

    def __init__(self, rows: NDArray[np.int32]) -> None:
        self.rows = rows

    @classmethod
    def of(cls, rows: ArrayLike) -> "Spans":
        """Build from spans in any order, equal ones counted once; `InvalidInputError` if one cannot be."""
        given = np.asarray(rows)
        if not given.size:
            return cls(np.empty((0, _NUMBERS), np.int32))
        if given.ndim != 2 or given.shape[1] != _NUMBERS or given.dtype.kind not in "iu":
            raise InvalidInputError(
                f"spans must be integers of shape (n, 4), not {given.dtype} {given.shape}"
            )
        if given.min() < _INT32.min or given.max() > _INT32.max:
            raise InvalidInputError("block coordinates of spans must be 32-bit integers")
        reversed_ones = given[given[:, 3] < given[:, 2]]
        if len(reversed_ones):
            shown = ", ".join(map(str, reversed_ones[0].tolist()))
            raise InvalidInputError(f"Got weird span [{shown}].  span[3] (X1) < span[2] (X0)")
        ordered = given[np.lexsort(given.T[::-1])].astype(np.int32)
        fresh = np.concatenate(([True], (ordered[1:] != ordered[:-1]).any(axis=1)))
        return cls(np.ascontiguousarray(ordered[fresh]))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Spans":
        """Build from what `to_bytes` returned."""
        if len(data) % _BYTES:
            raise FormatError(f"{len(data)} bytes are no whole number of spans of {_BYTES} bytes")
        return cls(np.frombuffer(data, _STORED).reshape(-1, _NUMBERS).astype(np.int32, copy=False))

    def to_bytes(self) -> bytes:
        """Return the stored form: int32 little-endian, z, y, x0, x1 of each span."""
        return self.rows.astype(_STORED, copy=False).tobytes()

    @classmethod
    def union(cls, parts: "Sequence[Spans]") -> "Spans":
        """Return the spans of all parts."""
        return (
            parts[0]
            if len(parts) == 1
            else cls.of(np.concatenate([cls.of(()).rows, *(p.rows for p in parts)]))
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def z_range(self) -> tuple[int, int] | None:
        """Lowest and highest z, None if empty."""
        return (int(self.rows[0, 0]), int(self.rows[-1, 0])) if len(self) else None

    def within_z(self, low: int, high: int) -> "Spans":
        """Return the spans with low ≤ z ≤ high."""
        start, stop = np.searchsorted(self.rows[:, 0].astype(np.int64), (low, high + 1))
        return self if stop - start == len(self) else Spans(self.rows[start:stop])

    # --- questions -------------------------------------------------------------------------------------------

    @cached_property
    def _index(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
        """Distinct (z, y); and of each span (number of its (z, y), x0), and the highest (…, x1) up to it.

        Spans may overlap, hence the highest: a block lies in one of those that start before it if it lies below that.
        """
        z, y, x0, x1 = self.rows.T
        lines = _pack(z, y)
        fresh = np.concatenate(([True], lines[1:] != lines[:-1])) if len(lines) else np.zeros(0, bool)
        number = np.cumsum(fresh) - 1 - _SIGN
        return lines[fresh], _pack(number, x0), np.maximum.accumulate(_pack(number, x1))

    def contains(self, blocks: ArrayLike) -> NDArray[np.bool_]:
        """Tell of blocks (n, 3), z, y, x, whether they are in the set."""
        asked = np.asarray(blocks, np.int64).reshape(-1, 3)
        inside = np.zeros(len(asked), bool)
        if not len(self):
            return inside
        lines, starts, ends = self._index
        possible = np.flatnonzero(((asked >= _INT32.min) & (asked <= _INT32.max)).all(axis=1))
        z, y, x = asked[possible].T
        wanted = _pack(z, y)
        number = np.minimum(np.searchsorted(lines, wanted), len(lines) - 1)
        place = _pack(number - _SIGN, x)
        before = np.searchsorted(starts, place, side="right") - 1
        found = (lines[number] == wanted) & (before >= 0) & (ends[before] >= place)
        inside[possible] = found
        return inside

    def raster(self, span: ChunkSpan) -> NDArray[np.bool_]:
        """Return which blocks of a span are in the set, axes (z, y, x)."""
        (z0, y0, x0), (z1, y1, x1) = span.start, span.stop
        z, y, first, last = self.within_z(z0, z1 - 1).rows.astype(np.int64).T
        seen = (y >= y0) & (y < y1) & (last >= x0) & (first < x1)
        depth, height, width = z1 - z0, y1 - y0, x1 - x0
        line = (((z - z0) * height + y - y0) * (width + 1))[seen]
        # +1 where a span starts, −1 behind its end: each line has one more place for that
        change = np.zeros(depth * height * (width + 1), np.int32)
        np.add.at(change, line + np.maximum(first[seen], x0) - x0, 1)
        np.subtract.at(change, line + np.minimum(last[seen] + 1, x1) - x0, 1)
        depths = np.cumsum(change, out=change).reshape(depth, height, width + 1)
        inside: NDArray[np.bool_] = depths[:, :, :width] > 0
        return inside

    def mask(self, box: Box, block: ZYX) -> NDArray[np.bool_]:
        """Return which voxels of a box lie in the set, axes (z, y, x); `block` is the shape of a block."""
        if not box.volume:
            return np.zeros([max(size, 0) for size in box.shape], bool)
        span = box.chunks(block)
        mask = self.raster(span)
        for axis in (2, 1, 0):  # the cheapest order: what grows is copied in longer and longer runs
            places = np.arange(box.start[axis], box.stop[axis]) // block[axis] - span.start[axis]
            mask = np.take(mask, places, axis=axis)
        return mask

    def boxes(self, block: ZYX) -> NDArray[np.int64]:
        """Return the voxels of each span: shape (n, 2, 3), start and stop (half-open), z, y, x."""
        z, y, x0, x1 = self.rows.astype(np.int64).T
        start, stop = np.stack((z, y, x0), axis=1), np.stack((z, y, x1), axis=1) + 1
        boxes: NDArray[np.int64] = np.stack((start, stop), axis=1) * np.array(block, np.int64)
        return boxes


def _pack(high: NDArray[np.integer], low: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return one sortable number of two int32."""
    upper, lower = (part.astype(np.int64) + _SIGN for part in (high, low))
    packed: NDArray[np.uint64] = (upper.astype(np.uint64) << np.uint64(32)) | lower.astype(np.uint64)
    return packed
