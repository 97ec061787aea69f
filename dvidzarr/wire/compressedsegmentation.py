"""Neuroglancer's compressed segmentation of uint64 labels, one channel, sub-blocks of 8×8×8 voxels.

32-bit little-endian words: word 0 is the offset of the channel (1); then an 8-byte header per sub-block (x fastest):
24 bits table offset, 8 bits per voxel, 32 bits offset of the encoded values; then, per sub-block, its values and its
table of labels. Offsets count words from word 1. Source: Neuroglancer's format description; the order within a
sub-block is DVID's (spec-voxels §7.7).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import ZYX

SIDE = 8
_MAX_OFFSET = 1 << 24
_AT_ONCE = 2048
"""Sub-blocks encoded together (8 MiB of labels): bounds the memory."""


def encode_segmentation(volume: NDArray[Any]) -> bytes:
    """Return a volume of uint64, axes (z, y, x), as compressed segmentation.

    Raises
    ------
    InvalidInputError
        A side is no multiple of 8, or the result is too large for 24-bit offsets.
    """
    check_sides(volume.shape)
    from dvidzarr.wire.segmentationkernel import MOST_WORDS, encode_blocks  # noqa: PLC0415 - loads numba

    labels = np.ascontiguousarray(volume, np.uint64)[:]
    labels.flags.writeable = False  # chunks of the cache are read-only: one kind of array, compiled once
    depth, height, width = (size // SIDE for size in labels.shape)
    layers = max(1, _AT_ONCE // (height * width))
    heads = np.empty((depth * height * width, 2), np.uint32)
    largest = min(layers, depth) * height * width * MOST_WORDS
    buffer = np.empty(min(largest, _MAX_OFFSET + MOST_WORDS), np.uint32)
    at = heads.size
    bodies = []
    for low in range(0, depth, layers):
        slab = labels[low * SIDE : (low + layers) * SIDE]
        count = encode_blocks(slab, at, heads[low * height * width :], buffer)
        at += count
        if at > _MAX_OFFSET:
            raise InvalidInputError(
                f"the compressed segmentation exceeds {4 * _MAX_OFFSET} bytes; ask for a smaller volume"
            )
        bodies.append(buffer[:count].tobytes())
    return b"".join([np.array([1], "<u4"), heads.astype("<u4", copy=False), *bodies])


def check_sides(shape: ZYX) -> None:
    """Raise `InvalidInputError` if a side is no multiple of 8."""
    if any(size % SIDE or not size for size in shape):
        raise InvalidInputError("volume must be a multiple of the block size")
