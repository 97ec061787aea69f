"""What `info` and `metadata` say about a voxel instance (spec-voxels §6.2, §6.3)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dvidzarr.core.geometry import ZYX, Box

Json = dict[str, object]

_GO_PLAIN_LIMIT = 1e21
"""Below, Go writes whole floats as integers; from here on with an exponent."""


def float32_json(value: float) -> int | float:
    """Return a number that JSON writes like Go's float32: shortest digits, no `.0`."""
    shortest = float(str(np.float32(value)))
    return int(shortest) if shortest.is_integer() and abs(shortest) < _GO_PLAIN_LIMIT else shortest


def points(extents: "Box | None") -> Json:
    """Return `MinPoint` and `MaxPoint` (inclusive, x, y, z), null without extents."""
    if extents is None:
        return {"MinPoint": None, "MaxPoint": None}
    return {
        "MinPoint": list(extents.start[::-1]),
        "MaxPoint": [stop - 1 for stop in extents.stop[::-1]],
    }


def indices(extents: "Box | None", chunk: "ZYX") -> Json:
    """Return `MinIndex` and `MaxIndex`: the blocks of the extreme voxels, x, y, z."""
    if extents is None:
        return {"MinIndex": None, "MaxIndex": None}
    return {
        "MinIndex": [a // c for a, c in zip(extents.start[::-1], chunk[::-1], strict=True)],
        "MaxIndex": [(b - 1) // c for b, c in zip(extents.stop[::-1], chunk[::-1], strict=True)],
    }


def axes(extents: "Box | None", voxel_size_xyz: Sequence[float], units_xyz: Sequence[str]) -> list[Json]:
    """Return the `Axes` of the nd-data JSON: without extents Size and Offset are 0."""
    offset, size = extents.to_xyz() if extents is not None else ((0, 0, 0), (0, 0, 0))
    rows = zip("XYZ", voxel_size_xyz, units_xyz, size, offset, strict=True)
    return [
        {"Label": label, "Resolution": float32_json(step), "Units": unit, "Size": length, "Offset": low}
        for label, step, unit, length, low in rows
    ]


def metadata(extended: Mapping[str, object], nd_axes: list[Json]) -> Json:
    """Return the `metadata` object (the nd-data schema that pydvid and ilastik read)."""
    return {"Axes": nd_axes, "Properties": extended}
