"""What a copy reads from: a shape, a type, and a function from box to array."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dvidzarr.core.errors import InvalidInputError, StorageError
from dvidzarr.core.geometry import ZYX, Box

SPATIAL = 3


class ArrayLike(Protocol):
    """What numpy, h5py and zarr arrays share."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> "np.dtype[np.generic]":
        """Type of the elements."""

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - h5py, zarr and numpy differ
        """Read a slice."""


@dataclass(frozen=True, slots=True)
class Source:
    """Voxels to copy.

    Attributes
    ----------
    identity
        Tells this content from another (path, size, time of change, dataset): a resumed copy finds the same.
    read
        Box (z, y, x, from 0) to array. Safe to call from several threads.
    close
        Releases files, and temporary ones.
    voxel_size_xyz
        In nanometres, as far as the source says.
    """

    identity: str
    shape: ZYX
    dtype: "np.dtype[np.generic]"
    read: Callable[[Box], np.ndarray]
    close: Callable[[], None]
    voxel_size_xyz: tuple[float, float, float] | None = None

    @property
    def box(self) -> Box:
        """All of it."""
        return Box((0, 0, 0), self.shape)


class Mapped:
    """A memory-mapped array that is mapped anew for each read: else every page read stays in the process."""

    def __init__(self, opener: Callable[[], np.ndarray]) -> None:
        self._opener = opener
        first = opener()
        self.shape: tuple[int, ...] = first.shape
        self.dtype: np.dtype[np.generic] = first.dtype

    def __getitem__(self, key: Any) -> np.ndarray:  # noqa: ANN401 - as numpy
        """Return a copy of a part."""
        return np.array(self._opener()[key], subok=False)


def from_array(
    array: ArrayLike,
    identity: str,
    named: str,
    close: Callable[[], None],
    voxel_size: tuple[float, float, float] | None = None,
) -> Source:
    """Make a source of what slices like numpy; leading axes of length 1 (time, channel) are dropped."""
    extra = len(array.shape) - SPATIAL
    flat = extra == -1
    if extra < -1 or any(size != 1 for size in array.shape[: max(extra, 0)]) or 0 in array.shape:
        raise InvalidInputError(f"{named} has shape {tuple(array.shape)}: expected (z, y, x)")
    if np.dtype(array.dtype).kind not in "uif":
        raise InvalidInputError(f"{named} holds {array.dtype}: expected numbers")
    depth, height, width = (1, *array.shape) if flat else array.shape[max(extra, 0) :]

    def read(box: Box) -> np.ndarray:
        parts = box.slices((0, 0, 0))
        key = parts[1:] if flat else (*(0,) * extra, *parts)
        try:
            return np.asarray(array[key]).reshape(box.shape)
        except (OSError, ValueError, RuntimeError) as error:
            raise StorageError(f"cannot read the box {box} of {named}: {error}") from error

    return Source(
        identity, (int(depth), int(height), int(width)), np.dtype(array.dtype), read, close, voxel_size
    )


def triple(values: Sequence[float]) -> tuple[float, float, float]:
    """Return three numbers as floats."""
    x, y, z = (float(value) for value in values)
    return (x, y, z)


def nothing() -> None:
    """Close what needs no closing."""
