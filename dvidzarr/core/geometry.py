"""Boxes of voxels and the chunk grid. Everything is (z, y, x); x, y, z order exists only in `from_xyz` and `to_xyz`."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import floordiv, lt

import numpy as np

from dvidzarr.core.errors import InvalidInputError

ZYX = tuple[int, int, int]

CHUNK_LIMIT = 1 << 20
"""Chunk coordinates lie in [-CHUNK_LIMIT, CHUNK_LIMIT) per axis."""


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """A box of chunk coordinates, half-open, (z, y, x)."""

    start: ZYX
    stop: ZYX

    @property
    def count(self) -> int:
        """Number of chunks."""
        return math.prod(b - a for a, b in zip(self.start, self.stop, strict=True))

    def coords(self) -> np.ndarray:
        """Return the chunk coordinates, int64 array of shape (count, 3), axes (z, y, x), x fastest."""
        z, y, x = (np.arange(a, b, dtype=np.int64) for a, b in zip(self.start, self.stop, strict=True))
        coords = np.empty((len(z), len(y), len(x), 3), np.int64)
        coords[..., 0], coords[..., 1], coords[..., 2] = z[:, None, None], y[:, None], x
        return coords.reshape(-1, 3)

    def box(self, chunk: ZYX) -> "Box":
        """Return the voxels of the chunks."""
        (z, y, x), (c, b, a) = self.start, chunk
        return Box((z * c, y * b, x * a), (self.stop[0] * c, self.stop[1] * b, self.stop[2] * a))

    @property
    def is_writable(self) -> bool:
        """Whether all of it lies within ±2²⁰: beyond, nothing is ever written."""
        return min(self.start) >= -CHUNK_LIMIT and max(self.stop) <= CHUNK_LIMIT

    def check(self) -> "ChunkSpan":
        """Return self; raise `InvalidInputError` if a coordinate is beyond ±2²⁰."""
        if not self.is_writable:
            raise InvalidInputError(
                f"chunk coordinates (z, y, x) {self.start} to {self.stop} exceed the limit of ±{CHUNK_LIMIT}"
            )
        return self


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open box of voxels.

    Attributes
    ----------
    start, stop : (z, y, x) of Python ints
        Lowest voxel, and one past the highest. Any sign; arithmetic cannot overflow.
    """

    start: ZYX
    stop: ZYX

    @classmethod
    def of(cls, start: Iterable[int], stop: Iterable[int]) -> "Box":
        """Build from two corners of three numbers each."""
        (z, y, x), (d, h, w) = start, stop
        return cls((z, y, x), (d, h, w))

    @classmethod
    def of_chunk(cls, coord: ZYX, chunk: ZYX) -> "Box":
        """Return the voxels of one chunk, given its coordinate and the size of chunks."""
        (z, y, x), (c, b, a) = coord, chunk
        return cls((z * c, y * b, x * a), (z * c + c, y * b + b, x * a + a))

    @classmethod
    def from_xyz(cls, offset: Sequence[int], size: Sequence[int]) -> "Box":
        """Build from DVID's x, y, z offset and size."""
        start = (int(offset[2]), int(offset[1]), int(offset[0]))
        return cls(start, (start[0] + int(size[2]), start[1] + int(size[1]), start[2] + int(size[0])))

    def to_xyz(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return (offset, size), each in x, y, z order."""
        z, y, x = self.start
        d, h, w = self.shape
        return (x, y, z), (w, h, d)

    @property
    def shape(self) -> ZYX:
        """Extent per axis, (z, y, x)."""
        return (self.stop[0] - self.start[0], self.stop[1] - self.start[1], self.stop[2] - self.start[2])

    @property
    def volume(self) -> int:
        """Number of voxels; 0 if any extent is not positive."""
        return math.prod(self.shape) if min(self.shape) > 0 else 0

    def check(self) -> "Box":
        """Return self; raise `InvalidInputError` if a size is not positive."""
        if min(self.shape) <= 0:
            raise InvalidInputError(f"box {self} has a size that is not positive: {self.shape} (z, y, x)")
        return self

    def intersect(self, other: "Box") -> "Box | None":
        """Return the common box, None if there is none."""
        start, stop = tuple(map(max, self.start, other.start)), tuple(map(min, self.stop, other.stop))
        return Box.of(start, stop) if all(map(lt, start, stop)) else None

    def union(self, other: "Box") -> "Box":
        """Return the smallest box that holds both."""
        return Box.of(map(min, self.start, other.start), map(max, self.stop, other.stop))

    def is_aligned(self, chunk: ZYX) -> bool:
        """Tell whether every face lies on the chunk grid."""
        return all(a % c == 0 and b % c == 0 for a, b, c in zip(self.start, self.stop, chunk, strict=True))

    def aligned(self, chunk: ZYX) -> "Box":
        """Return the box of all chunks that this one touches."""
        return self.chunks(chunk).box(chunk)

    def chunks(self, chunk: ZYX) -> ChunkSpan:
        """Return the span of chunks that the box touches."""
        (d, h, w), (c, b, a) = self.stop, chunk
        return ChunkSpan(tuple(map(floordiv, self.start, chunk)), (-(-d // c), -(-h // b), -(-w // a)))

    def only_chunk(self, chunk: ZYX) -> ZYX | None:
        """Return the chunk that the box lies in; None if it is empty, touches several or lies beyond ±2²⁰."""
        (z, y, x), (c, b, a) = self.start, chunk
        coord = (z // c, y // b, x // a)
        inside = (
            z < self.stop[0] <= (coord[0] + 1) * c
            and y < self.stop[1] <= (coord[1] + 1) * b
            and x < self.stop[2] <= (coord[2] + 1) * a
        )
        return coord if inside and min(coord) >= -CHUNK_LIMIT and max(coord) < CHUNK_LIMIT else None

    def slices(self, origin: Sequence[int]) -> tuple[slice, slice, slice]:
        """Return where the box lies in an array whose first voxel is `origin` (z, y, x)."""
        (z, y, x), (d, h, w), (c, b, a) = self.start, self.stop, origin
        return slice(z - c, d - c), slice(y - b, h - b), slice(x - a, w - a)

    def slabs(self, chunk: ZYX, max_voxels: int) -> Iterator["Box"]:
        """Yield boxes along z that tile this one, cut on the chunk grid, at least one chunk layer each."""
        layer = self.shape[1] * self.shape[2] * chunk[0]
        layers = max(1, max_voxels // max(1, layer))
        low = self.start[0]
        while low < self.stop[0]:
            high = min((low // chunk[0] + layers) * chunk[0], self.stop[0])
            yield Box((low, *self.start[1:]), (high, *self.stop[1:]))
            low = high

    def __str__(self) -> str:
        return f"{list(self.start)} to {list(self.stop)} (z, y, x)"
