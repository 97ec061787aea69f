"""The imageblk family: one class and one record per type. Source: spec-voxels §2.4."""

from typing import TYPE_CHECKING, Any

import numpy as np

from dvidzarr.datatypes.voxels.model import VoxelInstance
from dvidzarr.datatypes.voxels.settings import VOXEL_SETTINGS
from dvidzarr.repo.datatype import DataType

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Uint8Instance(VoxelInstance):
    """8-bit grayscale."""

    dtype = np.dtype("<u1")
    values = (("uint8", "uint8"),)


class Uint16Instance(VoxelInstance):
    """16-bit grayscale."""

    dtype = np.dtype("<u2")
    values = (("uint16", "uint16"),)


class Uint32Instance(VoxelInstance):
    """32-bit integers."""

    dtype = np.dtype("<u4")
    values = (("uint32", "uint32"),)


class Uint64Instance(VoxelInstance):
    """64-bit integers."""

    dtype = np.dtype("<u8")
    values = (("uint64", "uint64"),)


class Float32Instance(VoxelInstance):
    """32-bit floats."""

    dtype = np.dtype("<f4")
    values = (("float32", "float32"),)


class Rgba8Instance(VoxelInstance):
    """Colour: a voxel is one uint32 whose little-endian bytes are red, green, blue, alpha.

    So every array keeps three axes, for Zarr readers, too; `array.view("u1").reshape(*array.shape, 4)` has the channels.
    """

    dtype = np.dtype("<u4")
    values = (("uint8", "red"), ("uint8", "green"), ("uint8", "blue"), ("uint8", "alpha"))

    @classmethod
    def samples(cls, plane: "NDArray[Any]") -> "NDArray[Any]":
        """Return the channels as the last axis."""
        flat: NDArray[Any] = np.ascontiguousarray(plane).view("u1").reshape(*plane.shape, 4)
        return flat


def _imageblk(name: str, version: str, instance: type[VoxelInstance]) -> DataType:
    return DataType(
        name=f"{name}blk",
        url=f"github.com/janelia-flyem/dvid/datatype/imageblk/{name}.go",
        version=version,
        instance=instance,
        endpoints="dvidzarr.datatypes.voxels.http:ENDPOINTS",
        help="datatypes/voxels/help.md",
        settings=VOXEL_SETTINGS,
    )


UINT8BLK = _imageblk("uint8", "0.2", Uint8Instance)
UINT16BLK = _imageblk("uint16", "0.1", Uint16Instance)
UINT32BLK = _imageblk("uint32", "0.1", Uint32Instance)
UINT64BLK = _imageblk("uint64", "0.1", Uint64Instance)
FLOAT32BLK = _imageblk("float32", "0.1", Float32Instance)
RGBA8BLK = _imageblk("rgba8", "0.2", Rgba8Instance)

IMAGEBLK = (UINT8BLK, UINT16BLK, UINT32BLK, UINT64BLK, FLOAT32BLK, RGBA8BLK)
"""All of the family."""
