"""Blocks as gray JPEG, for instances created with `Compression=jpeg` (spec-voxels §6.10)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import ZYX
from dvidzarr.wire.images import decode_jpeg_gray, encode_jpeg


def encode_block(block: NDArray[Any]) -> bytes:
    """Return a (z, y, x) block as one JPEG, its z planes stacked downwards."""
    return encode_jpeg(block.reshape(-1, block.shape[2]))


def lossy(voxels: NDArray[Any], chunk: ZYX) -> NDArray[Any]:
    """Return what is left of a block-aligned volume of uint8 after each block was stored as JPEG."""
    if voxels.dtype != np.uint8:
        raise InvalidInputError(f"JPEG compression holds 8-bit voxels only, not {voxels.dtype.name}")
    out = np.empty_like(voxels)
    for corner in np.ndindex(*(n // c for n, c in zip(voxels.shape, chunk, strict=True))):
        place = tuple(slice(i * c, (i + 1) * c) for i, c in zip(corner, chunk, strict=True))
        pixels = decode_jpeg_gray(encode_block(voxels[place]), chunk[0] * chunk[1], chunk[2])
        out[place] = pixels.reshape(chunk)
    return out
