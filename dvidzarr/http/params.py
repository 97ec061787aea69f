"""Text to numbers and geometry, with the words DVID has for what is wrong."""

import math
import re
from dataclasses import dataclass

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import Box

_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_SHOWN = 40
_MAX_POINT_TEXT = 200


def quoted(value: str) -> str:
    """Return a text in double quotes, shortened when long."""
    return f'"{value if len(value) <= _SHOWN else value[:_SHOWN] + "…"}"'


def parse_int(text: str, bits: int = 32, parser: str = "ParseInt") -> int:
    """Parse a signed decimal integer as Go's strconv does.

    Raises
    ------
    InvalidInputError
        `strconv.<parser>: parsing "a": invalid syntax`, or `value out of range` beyond `bits`.
    """
    if not _INTEGER.fullmatch(text):
        raise InvalidInputError(f"strconv.{parser}: parsing {quoted(text)}: invalid syntax")
    digits = text.lstrip("+-").lstrip("0")
    # int() of thousands of digits is slow, and refused by Python itself beyond 4,300
    value = int(text) if len(digits) <= 20 and len(text) <= _MAX_POINT_TEXT else 1 << bits
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise InvalidInputError(f"strconv.{parser}: parsing {quoted(text)}: value out of range")
    return value


def parse_float(text: str) -> float:
    """Parse a finite decimal number as Go's strconv does."""
    text = text.strip()
    if len(text) > _MAX_POINT_TEXT or not _FLOAT.fullmatch(text):
        raise InvalidInputError(f"strconv.ParseFloat: parsing {quoted(text)}: invalid syntax")
    value = float(text)
    if not math.isfinite(value):
        raise InvalidInputError(f"strconv.ParseFloat: parsing {quoted(text)}: value out of range")
    return value


def parse_point(text: str) -> tuple[int, ...]:
    """Parse a point of at least two int32 coordinates, in the order of the text; blanks around each are allowed."""
    if "_" not in text:
        raise InvalidInputError(f"cannot convert '{quoted(text)[1:-1]}' into a Point.")
    if text.count("_") > 1_000_000:
        raise InvalidInputError(f"more than a million numbers in {quoted(text)}")
    parts = text.split("_")
    if text.isascii() and all(map(str.isdigit, parts)) and len(max(parts, key=len)) < 10:  # nearly always
        return tuple(map(int, parts))
    return tuple(parse_int(part.strip()) for part in parts)


def parse_point3(text: str) -> tuple[int, int, int]:
    """Parse exactly three coordinates (x, y, z)."""
    point = parse_point(text)
    if len(point) != 3:
        raise InvalidInputError(f"{quoted(text)} is not a 3d point")
    return (point[0], point[1], point[2])


def parse_floats3(text: str) -> tuple[float, float, float]:
    """Parse exactly three decimal numbers (x, y, z)."""
    parts = text.split("_")
    if len(parts) != 3:
        raise InvalidInputError(f"{quoted(text)} is not three numbers separated by '_'")
    return (parse_float(parts[0]), parse_float(parts[1]), parse_float(parts[2]))


@dataclass(frozen=True, slots=True)
class Shape:
    """A data shape of a URL: a plane or the volume.

    Attributes
    ----------
    name
        As DVID prints it: `XY slice`, `XZ slice`, `YZ slice`, `3d volume`.
    axes
        Axis numbers in x, y, z order (0 = x): for a plane (image width, image height).
    """

    name: str
    axes: tuple[int, ...]

    @property
    def is_plane(self) -> bool:
        """Whether it is one of the three planes."""
        return len(self.axes) == 2


_XY = Shape("XY slice", (0, 1))
_XZ = Shape("XZ slice", (0, 2))
_YZ = Shape("YZ slice", (1, 2))
_VOLUME = Shape("3d volume", (0, 1, 2))
SHAPES = {
    **dict.fromkeys(("xy", "0_1", "0,1"), _XY),
    **dict.fromkeys(("xz", "0_2", "0,2"), _XZ),
    **dict.fromkeys(("yz", "1_2", "1,2"), _YZ),
    **dict.fromkeys(("vol", "0_1_2", "0,1,2"), _VOLUME),
}


def parse_shape(text: str) -> Shape:
    """Parse the `<dims>` of a URL; any letter case."""
    lower = text.lower()
    if lower == "arb":
        raise InvalidInputError("DVID currently supports shapes of only 2 and 3 dimensions")
    shape = SHAPES.get(lower)
    if shape is None:
        raise InvalidInputError(f"Unknown data shape specification ({quoted(text)[1:-1]})")
    return shape


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a `<dims>/<size>/<offset>` names.

    Attributes
    ----------
    size
        In the order of `shape.axes`: for a plane (width, height).
    offset
        x, y, z.
    """

    shape: Shape
    size: tuple[int, ...]
    offset: tuple[int, int, int]

    @property
    def size_xyz(self) -> tuple[int, int, int]:
        """Extent per axis, 1 across a plane."""
        extent = [1, 1, 1]
        for axis, length in zip(self.shape.axes, self.size, strict=True):
            extent[axis] = length
        return (extent[0], extent[1], extent[2])

    @property
    def box(self) -> Box:
        """The voxels, (z, y, x)."""
        return Box.from_xyz(self.offset, self.size_xyz)

    def check(self, bytes_per_voxel: int, limit: int) -> "Geometry":
        """Return self; `InvalidInputError` if a size is not positive or there are more than `limit` bytes."""
        if min(self.size) <= 0:
            raise InvalidInputError(f"Illegal geometry requested: {self}")
        check_payload(math.prod(self.size) * bytes_per_voxel, limit)
        return self

    def __str__(self) -> str:
        offset = ",".join(map(str, self.offset))
        if self.shape.is_plane:
            return f"{self.shape.name} @ offset ({offset}), size ({self.size[0]}, {self.size[1]})"
        return f"{self.shape.name} ({','.join(map(str, self.size))}) at offset ({offset})"


def parse_geometry(dims: str | Shape, size: str, offset: str) -> Geometry:
    """Parse the three path words of `raw` and its kin; the offset is looked at first, as in DVID."""
    shape = dims if isinstance(dims, Shape) else parse_shape(dims)
    place = parse_point(offset)
    if len(place) != 3:
        raise InvalidInputError(f"Offset must be 3d coordinate, not {len(place)}-d coordinate")
    extent = parse_point(size)
    if len(extent) != len(shape.axes):
        if shape.is_plane:
            raise InvalidInputError("cannot parse into a 2d point")
        raise InvalidInputError(f"Size must be 3 (not {len(extent)}) dimensions")
    return Geometry(shape, extent, (place[0], place[1], place[2]))


def check_payload(count: int, limit: int) -> None:
    """Raise `InvalidInputError` if there are more bytes than the limit: 400 as in DVID, not 413 (voxels/bad-geometry)."""
    if count > limit:
        raise InvalidInputError(
            f"Requested payload ({count} bytes) exceeds this DVID server's set limit ({limit})"
        )


def block_refusal(verb: str, box: Box) -> str:
    """Return DVID's words for a box that is not block aligned: inclusive end, x, y, z order."""
    (x, y, z), (w, h, d) = box.to_xyz()
    return f"{verb} in non-block aligned geometry ({x},{y},{z}) -> ({x + w - 1},{y + h - 1},{z + d - 1})"


def is_throttle(value: str | None) -> bool:
    """Tell whether a `throttle` query value asks for throttling."""
    return value in ("on", "true")
