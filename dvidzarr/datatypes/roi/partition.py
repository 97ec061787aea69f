"""Cutting a region into boxes of blocks, in the two ways DVID has. Source: spec-roi §3.5.

Everything is counted in blocks, ranges are inclusive, and triples are x, y, z: this is DVID's answer as a value.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dvidzarr.core.errors import InvalidInputError, TooLargeError
from dvidzarr.core.geometry import ZYX
from dvidzarr.datatypes.roi.rows import Row
from dvidzarr.datatypes.roi.spans import Spans

XYZ = tuple[int, int, int]
Array = NDArray[np.int64]

MAX_SUBVOLUMES = 1 << 20
"""Boxes of one answer; that many take seconds."""

_MAX_CROSSED = 1 << 22
"""Pairs of span and box that are looked at: bounds the memory, about 100 bytes each."""

_NO_Z = (2**31 - 1, -(2**31))


@dataclass(frozen=True, slots=True)
class Subvolume:
    """One box: its corners in blocks and voxels, and how many blocks it has, and has inside the region."""

    min_chunk: XYZ
    max_chunk: XYZ
    min_point: XYZ
    max_point: XYZ
    total: int
    active: int


@dataclass(frozen=True, slots=True)
class Partition:
    """A region cut into boxes. The totals also count boxes without a block of the region, which are not listed."""

    total: int
    active: int
    min_chunk: XYZ
    max_chunk: XYZ
    subvolumes: tuple[Subvolume, ...]


def partition(
    spans: Spans, z_range: tuple[int, int] | None, batchsize: int, block: ZYX, *, optimized: bool
) -> Partition:
    """Cut a region into boxes.

    Parameters
    ----------
    z_range
        Lowest and highest z by which layers are counted: DVID keeps it for all versions together.
    batchsize
        Blocks along each side of a box.
    block
        Shape (z, y, x) of a block in voxels.

    Raises
    ------
    InvalidInputError
        A batch size that is not positive (DVID fails or never ends).
    TooLargeError
        More than `MAX_SUBVOLUMES` boxes.
    """
    if batchsize < 1:
        raise InvalidInputError(f"batchsize must be positive, it is {batchsize}")
    low, high = z_range or _NO_Z
    z, y, x0, x1 = spans.rows.astype(np.int64).T
    corners = [(int(a.min(initial=0)), int(b.max(initial=0))) for a, b in ((x0, x1), (y, y))]
    cut = _Cutting(spans.rows.astype(np.int64), z_range or spans.z_range or _NO_Z, batchsize, block)
    total, active, found = (cut.optimized if optimized else cut.simple)() if len(z) else (0, 0, [])
    (left, right), (top, bottom) = corners
    return Partition(total, active, (left, top, low), (right, bottom, high), tuple(found))


class _Cutting:
    """The work on one partition."""

    def __init__(self, rows: Array, z_range: tuple[int, int], batch: int, block: ZYX) -> None:
        self.rows = rows
        self.low, self.high = z_range
        self.batch = batch
        self.block_xyz = block[::-1]

    # --- boxes of one size, centred --------------------------------------------------------------------------

    def simple(self) -> tuple[int, int, list[Subvolume]]:
        """Return all blocks, those of the region, and the boxes."""
        size = self.batch
        z, y, x0, x1 = self.rows.T
        bottom = self.low - (self.high - self.low + 1) % size // 2
        layer = _caught_up((z - bottom) // size)
        group, (top, last_y) = _extremes(layer, y, y)
        top -= (last_y - top + 1) % size // 2
        row = (y - top[group]) // size
        order = np.lexsort((row, layer))
        layer, row, group, x0, x1 = (part[order] for part in (layer, row, group, x0, x1))
        line, (left, last_x) = _extremes(layer * (int(row.max()) + 1) + row, x0, x1)
        spare = (last_x - left + 1) % size
        boxes = (last_x - left + spare) // size + 1
        left -= spare // 2
        spans, box = _crossed((x0 - left[line]) // size, (x1 - left[line]) // size)
        begin = left[line][spans] + box * size
        overlap = np.minimum(x1[spans], begin + size - 1) - np.maximum(x0[spans], begin) + 1
        order = np.lexsort((begin, line[spans]))
        fresh = _starts(line[spans][order], begin[order])
        _check_count(len(fresh))
        held = np.add.reduceat(overlap[order], fresh).tolist()
        place = order[fresh]
        of = spans[place]
        lows = zip(
            begin[place].tolist(),
            (top[group] + row * size)[of].tolist(),
            (bottom + layer * size)[of].tolist(),
            strict=True,
        )
        volume = size**3
        found = [
            self._subvolume(low, (low[0] + size - 1, low[1] + size - 1, low[2] + size - 1), volume, active)
            for low, active in zip(lows, held, strict=True)
        ]
        return int(boxes.sum()) * volume, int(overlap.sum()), found

    def _subvolume(self, low: XYZ, high: XYZ, total: int, active: int) -> Subvolume:
        x, y, z = self.block_xyz
        first = (low[0] * x, low[1] * y, low[2] * z)
        last = ((high[0] + 1) * x - 1, (high[1] + 1) * y - 1, (high[2] + 1) * z - 1)
        return Subvolume(low, high, first, last, total, active)

    # --- boxes of two sizes, with holes left out -------------------------------------------------------------

    def optimized(self) -> tuple[int, int, list[Subvolume]]:
        """Return all blocks, those of the region, and the boxes."""
        found: list[Subvolume] = []
        total = active = 0
        for y, z, rows in self._rows():
            row = Row(rows)
            for (first, last), is_box in row.pieces(self.batch):
                low, high = (first, y[0], z[0]), (last, y[1], z[1])
                held = row.covered(first, last)
                volume = (last - first + 1) * (y[1] - y[0] + 1) * (z[1] - z[0] + 1)
                total, active = total + volume, active + held
                if is_box or not found:  # DVID fails if there is nothing to merge with
                    found.append(self._subvolume(low, high, volume, held))
                    _check_count(len(found))
                else:
                    found[-1] = self._merged(found[-1], high, volume, held)
        return total, active, found

    def _merged(self, box: Subvolume, high: XYZ, volume: int, held: int) -> Subvolume:
        x, y, z = self.block_xyz
        corner = (high[0] * x, high[1] * y, high[2] * z)  # the first voxel of the block, as in DVID
        return Subvolume(box.min_chunk, high, box.min_point, corner, box.total + volume, box.active + held)

    def _rows(self) -> Iterator[tuple[tuple[int, int], tuple[int, int], Array]]:
        """Yield y range, z range and spans of each row that has any."""
        size = self.batch
        z, y = self.rows.T[:2]
        spare = (self.high - self.low + 1) % size
        above = z - self.low - size  # the first layer never gets a slab more
        layer = _caught_up(np.where(above < 0, 0, 1 + _part_of(np.maximum(above, 0), size, spare)))
        group, (top, bottom) = _extremes(layer, y, y)
        more = (bottom - top + 1) % size
        row = _part_of(y - top[group], size, more[group])
        order = np.lexsort((row, layer))
        firsts = _starts(layer[order], row[order])
        for members in np.split(order, firsts[1:]):
            first = int(members[0])
            line = int(group[first])
            across = _range_of(int(row[first]), size, int(more[line]), int(top[line]))
            number = int(layer[first])
            deep = (self.low, self.low + size - 1)
            if number:
                deep = _range_of(number - 1, size, spare, self.low + size)
            yield across, deep, self.rows[members]


def _check_count(count: int) -> None:
    if count > MAX_SUBVOLUMES:
        raise TooLargeError(f"a partition of more than {MAX_SUBVOLUMES} boxes; take a larger batchsize")


def _caught_up(layer: Array) -> Array:
    """Return the layer each span is counted in: DVID goes on by one layer per span at most, also over wide gaps."""
    number = np.arange(len(layer))
    return number + np.minimum(1, np.minimum.accumulate(np.maximum(layer, 0) - number))


def _starts(*keys: Array) -> Array:
    """Return where, in arrays sorted by these keys, groups of equal ones start."""
    fresh = np.ones(len(keys[0]), bool)
    fresh[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return np.flatnonzero(fresh)


def _extremes(key: Array, low: Array, high: Array) -> tuple[Array, tuple[Array, Array]]:
    """Return the group of each element of a sorted key, and per group the lowest and the highest value."""
    starts = _starts(key)
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(key))))
    return group, (np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts))


def _crossed(first: Array, last: Array) -> tuple[Array, Array]:
    """Return (span, box) for every box from the first to the last that each span crosses."""
    counts = last - first + 1
    if counts.sum(dtype=np.float64) > _MAX_CROSSED:
        raise TooLargeError(f"spans cross more than {_MAX_CROSSED} boxes; take a larger batchsize")
    spans = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return spans, np.arange(len(spans)) - before[spans] + first[spans]


def _part_of(offset: Array, size: int, spare: "int | Array") -> Array:
    """Return the number of the part an offset lies in, if the first `spare` parts are one longer than `size`."""
    longer = spare * (size + 1)
    part: Array = np.where(offset < longer, offset // (size + 1), spare + (offset - longer) // size)
    return part


def _range_of(part: int, size: int, spare: int, start: int) -> tuple[int, int]:
    """Return the first and last place of such a part."""
    first = start + part * size + min(part, spare)
    return first, first + size - (part >= spare)
