"""What `view[…]` means: the box that an index names, and the voxels that a value becomes. No storage in here."""

from collections.abc import Callable
from typing import Any, SupportsIndex

import numpy as np

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import ZYX, Box


def box_of_index(index: object, shape: Callable[[], ZYX]) -> tuple[Box, list[bool]]:
    """Return the box of an index of integers, slices of step 1 and "...", and which axes integers drop.

    Numbers are coordinates, negative ones too; they do not count from the end. `shape` is asked where a slice has no end.
    Raises `InvalidInputError` for anything else, or more than three parts.
    """
    parts = _three_parts(index)
    sizes = shape() if any(isinstance(part, slice) and part.stop is None for part in parts) else (0, 0, 0)
    edges = [_edges(part, size) for part, size in zip(parts, sizes, strict=True)]
    return Box.of(*zip(*edges, strict=True)), [not isinstance(part, slice) for part in parts]


def _three_parts(index: object) -> list[Any]:
    parts = list(index) if isinstance(index, tuple) else [index]
    gaps = [at for at, part in enumerate(parts) if part is Ellipsis]
    at = gaps[0] if len(gaps) == 1 else len(parts)
    given = [*parts[:at], *parts[at + 1 :]]
    if len(given) > 3:
        raise InvalidInputError(f"index {index!r} has {len(given)} parts, a volume has 3 axes: z, y, x")
    return [*parts[:at], *[slice(None)] * (3 - len(given)), *parts[at + 1 :]]


def _edges(part: object, size: int) -> tuple[int, int]:
    if isinstance(part, slice) and part.step in {None, 1}:
        return (
            0 if part.start is None else _integer(part.start, part),
            size if part.stop is None else _integer(part.stop, part),
        )
    at = _integer(part, part)
    return at, at + 1


def _integer(number: object, part: object) -> int:
    # a truth value is an integer to Python, a mask to numpy; an array of one integer would drop its axis
    if isinstance(number, (bool, np.ndarray)) or not isinstance(number, SupportsIndex):
        raise InvalidInputError(f"index {part!r} is neither an integer nor a slice of step 1")
    return number.__index__()


def voxels_of(value: object, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Return what is assigned as an array of a shape: a number becomes the dtype, arrays must have it already.

    Raises `InvalidInputError` for a number that the dtype cannot hold, and for an array that does not fit the shape.
    """
    given = np.asarray(value)
    if given.ndim == 0:
        given = _number(given, dtype)
    try:
        return np.ascontiguousarray(np.broadcast_to(given, shape))
    except ValueError:
        raise InvalidInputError(f"voxels of shape {given.shape} do not fit a box of shape {shape}") from None


def given_box(box: object) -> Box:
    """Return a box; raise `InvalidInputError` for anything else, such as an index."""
    if isinstance(box, Box):
        return box
    raise InvalidInputError(
        f"a box is a dvidzarr.core.geometry.Box, not {type(box).__name__}; an index goes into view[...]"
    )


def coordinates(coords: object) -> np.ndarray:
    """Return coordinates of chunks (n, 3) as an array; raise `InvalidInputError` unless they are whole numbers."""
    given = np.asarray(coords)
    if given.ndim != 2 or given.shape[1] != 3 or given.dtype.kind not in "iu":
        raise InvalidInputError(
            f"coordinates of chunks must be integers of shape (n, 3), not {given.dtype} {given.shape}"
        )
    return given


def native(voxels: object) -> np.ndarray:
    """Return an array whose numbers have this machine's byte order: files of others hold them the other way round."""
    given = np.asarray(voxels)
    return given if given.dtype.isnative else given.astype(given.dtype.newbyteorder("="))


def _number(given: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if given.dtype.kind in "buif":
        with np.errstate(invalid="ignore", over="ignore"):
            cast = given.astype(dtype)
        same = np.isfinite(cast) == np.isfinite(given) if dtype.kind == "f" else cast == given
        if same:
            return cast
    raise InvalidInputError(f"{given.item()!r} is no voxel of type {dtype}")
