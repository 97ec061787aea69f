"""The settings of a voxel instance, from DVID's configuration texts. Source: spec-voxels §2.3."""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dvidzarr.core.errors import InvalidInputError, TooLargeError
from dvidzarr.core.geometry import ZYX, Box
from dvidzarr.repo.config import text_setting

XYZ = tuple[int, int, int]

VOXEL_SETTINGS = (
    "BlockSize",
    "VoxelSize",
    "VoxelUnits",
    "Background",
    "MinPoint",
    "MaxPoint",
    "GridStore",
    "ScaleLevel",
)
"""What `parse_settings` knows."""

_INT = re.compile(r"[+-]?[0-9]{1,10}")
_UINT = re.compile(r"[0-9]{1,10}")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""What Go's parsers take, not Python's: no blanks, no "_", no digits but these."""

_AXES = 3
_CHUNK_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class VoxelSettings:
    """Unversioned properties of a voxel instance. Sizes and points in x, y, z order say so; voxel sizes are in units."""

    block_size_zyx: ZYX = (32, 32, 32)
    voxel_size_xyz: tuple[float, float, float] = (8.0, 8.0, 8.0)
    voxel_units_xyz: tuple[str, str, str] = ("nanometers", "nanometers", "nanometers")
    background: int = 0
    min_point: XYZ | None = None
    max_point: XYZ | None = None
    grid_store: str = ""
    scale_level: int = 0

    @property
    def extents(self) -> Box | None:
        """The extents given at creation, None unless both points were."""
        if self.min_point is None or self.max_point is None:
            return None
        size = [b - a + 1 for a, b in zip(self.min_point, self.max_point, strict=True)]
        return Box.from_xyz(self.min_point, size)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON for the log."""
        return asdict(self)

    @classmethod
    def from_json(cls, members: dict[str, Any]) -> "VoxelSettings":
        """Return the settings from what the log says."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in members.items()
        }
        return cls(**values)


def parse_settings(config: dict[str, Any], itemsize: int) -> VoxelSettings:
    """Parse DVID's configuration; keys are lower-case, values text.

    Parameters
    ----------
    itemsize
        Bytes per voxel.

    Raises
    ------
    InvalidInputError
        A value that is no text, cannot be parsed, or cannot work.
    TooLargeError
        A block of more than 256 MiB.
    """
    block = _ints(text_setting(config, "BlockSize", "32,32,32"), "BlockSize")
    if min(block) < 1:
        raise InvalidInputError(f"BlockSize {block} must be three positive numbers")
    if math.prod(block) * itemsize > _CHUNK_BYTES:
        raise TooLargeError(
            f"a block of BlockSize {block} has {math.prod(block) * itemsize} bytes, limit {_CHUNK_BYTES}"
        )
    grid = text_setting(config, "GridStore", "")
    if grid:
        raise InvalidInputError(f'GridStore "{grid}" is not among the stores of this server')
    return VoxelSettings(
        block_size_zyx=(block[2], block[1], block[0]),
        voxel_size_xyz=_voxel_size(text_setting(config, "VoxelSize", "8,8,8")),
        voxel_units_xyz=_units(text_setting(config, "VoxelUnits", "nanometers,nanometers,nanometers")),
        background=_background(text_setting(config, "Background", "0")),
        min_point=_point(config, "MinPoint"),
        max_point=_point(config, "MaxPoint"),
        scale_level=_int(text_setting(config, "ScaleLevel", "0"), "ScaleLevel"),
    )


def parse_voxel_size(values: "list[str] | list[float]") -> tuple[float, float, float]:
    """Return three voxel sizes (x, y, z), kept as float32 as in DVID; raise unless they are finite numbers."""
    try:
        with np.errstate(over="ignore"):
            sizes = [float(np.float32(value)) for value in values]
    except (TypeError, ValueError):
        raise InvalidInputError(f"VoxelSize {values} must be three numbers") from None
    if len(sizes) != _AXES or not all(math.isfinite(size) for size in sizes):
        raise InvalidInputError(f"VoxelSize {values} must be three finite numbers")
    return sizes[0], sizes[1], sizes[2]


def _voxel_size(text: str) -> tuple[float, float, float]:
    pieces = _pieces(text, "VoxelSize")
    if not all(map(_FLOAT.fullmatch, pieces)):
        raise InvalidInputError(f"VoxelSize {text[:80]!r} must be three numbers")
    return parse_voxel_size(pieces)


def _pieces(text: str, name: str) -> list[str]:
    pieces = [piece.strip() for piece in text.split(",")]
    if len(pieces) != _AXES:
        raise InvalidInputError(f"{name} {text[:80]!r} must have three values, x,y,z")
    return pieces


def _int(text: str, name: str) -> int:
    if not _INT.fullmatch(text) or not -(1 << 31) <= int(text) < 1 << 31:
        raise InvalidInputError(f"{name}: {text[:80]!r} is no 32-bit integer")
    return int(text)


def _ints(text: str, name: str) -> XYZ:
    x, y, z = (_int(piece, name) for piece in _pieces(text, name))
    return x, y, z


def _point(config: dict[str, Any], name: str) -> XYZ | None:
    text = text_setting(config, name, "")
    return _ints(text, name) if text else None


def _units(text: str) -> tuple[str, str, str]:
    pieces = text.split(",")  # spaces are kept, as DVID does
    if len(pieces) != _AXES:
        raise InvalidInputError(f"VoxelUnits {text[:80]!r} must have three values, x,y,z")
    return pieces[0], pieces[1], pieces[2]


def _background(text: str) -> int:
    if not _UINT.fullmatch(text) or int(text) > 255:
        raise InvalidInputError(f"Background {text[:80]!r} must be a number from 0 to 255, without a sign")
    return int(text)
