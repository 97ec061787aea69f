"""Two-dimensional pictures of a volume: which voxels, and in which format."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.datatypes.voxels.resample import isotropic_size, resize
from dvidzarr.http.params import Geometry, parse_int, quoted
from dvidzarr.wire.images import JPEG_QUALITY, ImageFormat, check_jpeg_size, encode_image, encode_jpeg

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvidzarr.datatypes.voxels.view import VoxelView

Samples = Callable[["NDArray[Any]"], "NDArray[Any]"]
"""Makes samples of a plane of voxels (height, width): channels are a third axis."""

MAX_PICTURE_BYTES = 1 << 30
"""A picture is made in one piece, so its limit is below that of streamed volumes (DVID: 3 GiB for both)."""

_FORMATS = {
    "": "png",
    "png": "png",
    "jpg": "jpeg",
    "jpeg": "jpeg",
    "tif": "tiff",
    "tiff": "tiff",
    "bmp": "bmp",
}


def parse_format(text: str) -> ImageFormat:
    """Parse `<format>[:<quality>]`; quality is a number even where it means nothing (spec-voxels §5.1)."""
    name, colon, number = text.partition(":")
    quality = parse_int(number, 64, "Atoi") if colon else JPEG_QUALITY
    if name not in _FORMATS:
        raise InvalidInputError(f"Illegal image format requested: {quoted(name)[1:-1]}")
    return ImageFormat(_FORMATS[name], quality)


def isotropic_geometry(geometry: Geometry, voxel_size_xyz: tuple[float, float, float]) -> Geometry:
    """Return the raw slice that is read for an isotropic one; the offset is not rescaled (§5.3).

    Raises
    ------
    InvalidInputError
        The plane's voxel sizes differ and one is not positive.
    """
    width, height = geometry.size
    across, down = (voxel_size_xyz[axis] for axis in geometry.shape.axes)
    if across != down and min(across, down) <= 0:
        raise InvalidInputError(
            f"isotropic needs positive voxel sizes, those of the plane are {across}, {down}"
        )
    return Geometry(geometry.shape, isotropic_size((width, height), (across, down)), geometry.offset)


def read_slice(view: "VoxelView", geometry: Geometry) -> "NDArray[Any]":
    """Return the voxels of a plane, (height, width): rows run along the plane's second axis."""
    across = ({0, 1, 2} - set(geometry.shape.axes)).pop()
    return np.squeeze(view.read(geometry.box), axis=2 - across)


def slice_image(
    view: "VoxelView",
    raw: Geometry,
    size: tuple[int, int],
    image: ImageFormat,
    samples: Samples | None = None,
) -> bytes:
    """Return the picture of a plane, scaled to (width, height); its samples are the instance's own, or `samples`."""
    if image.name == "jpeg":
        check_jpeg_size(size[1], size[0])
    plane = (samples or view.instance.samples)(read_slice(view, raw))
    return encode_image(resize(plane, size), image)


def volume_jpeg(view: "VoxelView", geometry: Geometry) -> bytes:
    """Return a volume as one JPEG, its z planes stacked downwards (spec-voxels §5.4)."""
    depth, height, width = geometry.box.shape
    check_jpeg_size(depth * height, width)
    voxels = view.read(geometry.box)
    return encode_jpeg(voxels.reshape(-1, *voxels.shape[2:]))
