"""Noise that is a function of seed and position alone, so that any box can be made on its own."""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = np.uint64(0x9E3779B97F4A7C15)


def hashed(seed: int, *coords: Array) -> Array:
    """Return a 64-bit hash of integer coordinates (any sign, broadcast together)."""
    state: Array = np.array(seed & (2**64 - 1), np.uint64)
    for axis in coords:
        state = _mixed(state + np.asarray(axis).astype(np.int64).view(np.uint64) * _STEP + _STEP)
    return state


def _mixed(value: Array) -> Array:
    """Scramble 64-bit words (the finalizer of splitmix64: Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * _MIX[0]
    value = (value ^ (value >> np.uint64(27))) * _MIX[1]
    last: Array = value ^ (value >> np.uint64(31))
    return last


def uniform(seed: int, *coords: Array) -> Array:
    """Return float32 numbers in [0, 1) hashed from integer coordinates."""
    return (hashed(seed, *coords) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


@dataclass(frozen=True, slots=True)
class Grid:
    """Positions of the voxels of a box, per axis z, y, x, in units of the x voxel size."""

    z: Array
    y: Array
    x: Array

    @property
    def axes(self) -> tuple[Array, Array, Array]:
        """All three axes, z first."""
        return (self.z, self.y, self.x)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels per axis."""
        return (len(self.z), len(self.y), len(self.x))


def smooth(seed: int, grid: Grid, spacing: float) -> Array:
    """Return band-limited noise of about unit variance: cubic B-splines over hashed knots.

    Parameters
    ----------
    spacing
        Distance of the knots, in the units of `grid`.

    Returns
    -------
    ndarray of float32, shape of `grid`
    """
    weights, knots = zip(*(_spline(axis, spacing) for axis in grid.axes), strict=True)
    z, y, x = np.meshgrid(*knots, indexing="ij", sparse=True)
    field = uniform(seed, z, y, x) - np.float32(0.5)
    field = np.tensordot(field, weights[2], (2, 1))
    field = np.matmul(weights[1], field)
    field = np.tensordot(weights[0], field, (1, 0))
    return field * np.float32(10.0)  # a spline of uniform knots has a standard deviation near 0.1


def _spline(axis: Array, spacing: float) -> tuple[Array, Array]:
    """Return the weight of each knot for each position (float32, positions by knots), and the knots."""
    place = axis / spacing
    low = np.floor(place).astype(np.int64)
    part = (place - low).astype(np.float32)
    knots = np.arange(low.min() - 1, low.max() + 3)
    taps = (
        (1 - part) ** 3,
        3 * part**3 - 6 * part**2 + 4,
        -3 * part**3 + 3 * part**2 + 3 * part + 1,
        part**3,
    )
    weights = np.zeros((len(axis), len(knots)), np.float32)
    rows = np.arange(len(axis))
    for tap, value in enumerate(taps):
        weights[rows, low - knots[0] - 1 + tap] = value / 6
    return weights, knots


def grain(seed: int, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Array:
    """Return white noise, near normal with unit variance, one value per voxel index (float32)."""
    z, y, x = np.meshgrid(
        *(np.arange(low, low + size) for low, size in zip(start, shape, strict=True)),
        indexing="ij",
        sparse=True,
    )
    octets = hashed(seed, z, y, x).view(np.uint8).reshape(*shape, 8)[..., :4]
    white: Array = (octets.sum(axis=-1, dtype=np.float32) - np.float32(510.0)) * np.float32(1 / 147.8)
    return white
