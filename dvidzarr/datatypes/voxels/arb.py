"""Slices in any orientation, by trilinear interpolation (spec-voxels §6.9)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import CHUNK_LIMIT, ZYX, ChunkSpan
from dvidzarr.http.params import check_payload

Vector = tuple[float, float, float]

TILE_PIXELS = 1 << 13
"""Pixels interpolated at once: bounds the memory, and fits the caches."""

_KEY_BITS = 21
"""Bits of a chunk coordinate relative to the lowest: three of them fit into an int64."""


class BlockSource(Protocol):
    """What is sampled: a `VoxelView`."""

    def blocks(self, span: ChunkSpan) -> Iterator[tuple[ZYX, NDArray[Any] | None]]:
        """Yield the decoded blocks of a span, None for absent ones."""


@dataclass(frozen=True, slots=True)
class ArbPlane:
    """A parallelogram of sample points in physical units (voxel times voxel size), x, y, z.

    Attributes
    ----------
    top_left : corner of pixel (0, 0).
    step_x, step_y : from a pixel to its right and lower neighbour.
    width, height : pixels; the far corners are included, so one more than there are steps.
    """

    top_left: Vector
    step_x: Vector
    step_y: Vector
    width: int
    height: int

    @classmethod
    def spanned(cls, top_left: Vector, top_right: Vector, bottom_left: Vector, res: float) -> "ArbPlane":
        """Build from three corners and the wanted distance of pixels."""
        if res <= 0:
            raise InvalidInputError(f"Bad arbitrary image size requested: resolution {res:g} is not positive")
        across, nx = _steps(top_left, top_right, res)
        down, ny = _steps(top_left, bottom_left, res)
        return cls(top_left, across, down, nx + 1, ny + 1)

    def check(self, limit: int) -> "ArbPlane":
        """Return self; `InvalidInputError` if there are more than `limit` pixels."""
        check_payload(self.width * self.height, limit)
        return self


def _steps(start: Vector, end: Vector, res: float) -> tuple[Vector, int]:
    difference = [b - a for a, b in zip(start, end, strict=True)]
    ratio = math.sqrt(sum(d * d for d in difference)) / res
    count = math.floor(min(ratio, 2.0**53))
    x, y, z = (d / count if count else 0.0 for d in difference)
    return (x, y, z), count


@dataclass(frozen=True, slots=True)
class Sampler:
    """Voxels to sample from: blocks, their shape, and the value where none was written.

    Attributes
    ----------
    source : VoxelView
        Where the blocks are.
    chunk : (z, y, x)
        Shape of a block.
    voxel_size : x, y, z in physical units, none of them 0.
    absent : value of voxels in missing blocks.
    """

    source: BlockSource
    chunk: ZYX
    voxel_size: Vector
    absent: int = 0

    def image(self, plane: ArbPlane) -> NDArray[np.uint8]:
        """Return the interpolated slice, uint8 (height, width)."""
        out = np.empty((plane.height, plane.width), np.uint8)
        starts = _walk(np.array([plane.top_left]), plane.step_y, plane.height)[0]
        rows = max(1, TILE_PIXELS // plane.width)
        for low in range(0, plane.height, rows):
            points = starts[low : low + rows]
            for left in range(0, plane.width, TILE_PIXELS):
                count = min(TILE_PIXELS, plane.width - left)
                walk = _walk(points, plane.step_x, count + 1)
                out[low : low + rows, left : left + count] = self._interpolate(walk[:, :count])
                points = walk[:, count]
        return out

    def _interpolate(self, points: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return values at physical points (…, 3), x, y, z."""
        farthest = (CHUNK_LIMIT + 1) * np.array(self.chunk[::-1])  # far enough: nothing lies there
        with np.errstate(over="ignore"):
            voxels = np.clip(points / np.array(self.voxel_size), -farthest, farthest)
        axes = np.moveaxis(voxels, -1, 0).reshape(3, -1)
        low = np.floor(axes)
        corners = np.stack((low, np.ceil(axes)), axis=1).astype(np.int64)[::-1]
        value = self._gather(corners).astype(np.float64)
        for weight in axes - low:  # first x, then y, then z: ties depend on the order
            value = value[..., 0, :] * (1 - weight) + value[..., 1, :] * weight
        return np.clip(np.floor(value + 0.5), 0, 255).astype(np.uint8).reshape(points.shape[:-1])

    def _gather(self, corners: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the eight neighbours of n points, (2, 2, 2, n); every block is asked for once.

        Parameters
        ----------
        corners : (3, 2, n): axis z, y, x; lower and upper neighbour.
        """
        key = place = np.zeros(corners.shape[-1], np.int64)
        beyond = np.zeros(corners.shape[-1], bool)
        first: list[int] = []
        for axis, size in zip(corners, self.chunk, strict=True):
            chunk, local = np.divmod(axis, size)
            beyond = beyond[..., None, :] | (chunk < -CHUNK_LIMIT) | (chunk >= CHUNK_LIMIT)
            chunk = np.clip(chunk, -CHUNK_LIMIT, CHUNK_LIMIT - 1)
            first.append(int(chunk.min()))
            key = (key[..., None, :] << _KEY_BITS) | (chunk - first[-1])
            place = place[..., None, :] * size + local
        order = np.argsort(key, axis=None, kind="stable")
        cuts = np.flatnonzero(np.diff(key.ravel()[order])) + 1
        out = np.empty(key.size, np.uint8)
        for members in np.split(order, cuts):
            packed = int(key.flat[members[0]])
            block = self._block(packed, first)
            out[members] = self.absent if block is None else block.reshape(-1)[place.reshape(-1)[members]]
        return np.where(beyond, np.uint8(self.absent), out.reshape(key.shape))

    def _block(self, packed: int, first: list[int]) -> NDArray[Any] | None:
        mask = (1 << _KEY_BITS) - 1
        shifts = (2 * _KEY_BITS, _KEY_BITS, 0)
        z, y, x = (low + (packed >> shift & mask) for low, shift in zip(first, shifts, strict=True))
        span = ChunkSpan((z, y, x), (z + 1, y + 1, x + 1))
        return next((block for _, block in self.source.blocks(span)), None)


def _walk(starts: NDArray[np.float64], step: Vector, count: int) -> NDArray[np.float64]:
    """Return (len(starts), count, 3): each start and what repeated addition reaches, rounding as in DVID."""
    steps = np.broadcast_to(np.array(step), (len(starts), count, 3)).copy()
    steps[:, 0] = starts
    return np.add.accumulate(steps, axis=1)
