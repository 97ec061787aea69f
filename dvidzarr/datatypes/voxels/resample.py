"""Slices with square pixels: what `isotropic` reads and how it is scaled (spec-voxels §5.3)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_AREA_DTYPES = ("u1", "u2")

_STRIPE_PIXELS = 1 << 20
"""Pixels scaled at once: bounds the memory (about 30 bytes per pixel)."""


def isotropic_size(size: tuple[int, int], resolution: tuple[float, float]) -> tuple[int, int]:
    """Return (width, height) of the raw slice that is to be scaled to `size`.

    Parameters
    ----------
    size : (width, height) asked for.
    resolution : voxel size along the image's width and height.
    """
    width, height = size
    across, down = resolution
    if across < down:
        return width, _scaled(height, across, down)
    if across > down:
        return _scaled(width, down, across), height
    return width, height


def _scaled(length: int, step: float, larger_step: float) -> int:
    # DVID computes in float32 and truncates; other roundings read another number of voxels
    return int(np.float32(length) * np.float32(step) / np.float32(larger_step) + np.float32(0.5))


def resize(plane: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Scale a slice to (width, height).

    8- and 16-bit samples (each channel of RGBA, too) by exact area, truncated, as DVID. Wider values by
    nearest neighbour: what DVID does there overflows, and averages of labels would be new labels.
    """
    width, height = size
    if plane.shape[:2] == (height, width):
        return plane
    if plane.dtype.str[1:] not in _AREA_DTYPES:
        return _nearest(plane, width, height)
    out = np.empty((height, width, *plane.shape[2:]), plane.dtype)
    source_height, source_width = plane.shape[:2]
    rows = max(1, _STRIPE_PIXELS * height // (source_height * source_width + height * width))
    for low in range(0, height, rows):
        parts = range(low, min(low + rows, height))
        sums = _area_sums(_area_sums(plane, height, parts, 0), width, range(width), 1)
        out[low : low + rows] = sums // np.uint64(source_height * source_width)
    return out


def _area_sums(values: NDArray[Any], length: int, parts: range, axis: int) -> NDArray[np.uint64]:
    """Return, for some of `length` equal parts of an axis, the sum of values times overlap.

    A source pixel is `length` units long and a part `n` units, so all overlaps are integers. A part is the
    difference of the integral at its two ends; uint64 wraps, so only the difference has to fit.
    """
    n = values.shape[axis]
    pixel, rest = np.divmod(np.arange(parts.start, parts.stop + 1) * n, length)
    first = int(pixel[0])
    used = np.moveaxis(values, axis, 0)[first : int(pixel[-1]) + 1].astype(np.uint64)
    whole = np.zeros((len(used) + 1, *used.shape[1:]), np.uint64)
    np.cumsum(used, axis=0, out=whole[1:])
    pixel -= first
    integral = whole[pixel] * np.uint64(length)
    fractions = rest.astype(np.uint64).reshape(-1, *[1] * (used.ndim - 1))
    integral += used[np.minimum(pixel, len(used) - 1)] * fractions  # the last end has no fraction
    return np.moveaxis(integral[1:] - integral[:-1], 0, axis)


def _nearest(plane: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    rows = np.arange(height) * plane.shape[0] // height
    columns = np.arange(width) * plane.shape[1] // width
    return plane[np.ix_(rows, columns)]
