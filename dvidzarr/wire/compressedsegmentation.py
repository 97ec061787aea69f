"""Neuroglancer's compressed segmentation of uint64 labels, one channel, sub-blocks of 8×8×8 voxels.

32-bit little-endian words: word 0 is the offset of the channel (1); then an 8-byte header per sub-block (x fastest):
24 bits table offset, 8 bits per voxel, 32 bits offset of the encoded values; then, per sub-block, its values and its
table of labels. Offsets count words from word 1. Source: Neuroglancer's format description; the order within a
sub-block is DVID's (spec-voxels §7.7).
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dvidzarr.core.errors import FormatError, InvalidInputError
from dvidzarr.core.geometry import ZYX

if TYPE_CHECKING:
    from typing_extensions import Buffer

SIDE = 8
_VOXELS = SIDE**3
_WIDTHS = np.array([0, 1, 2, 4, 8, 16], np.int64)
_MAX_OFFSET = 1 << 24
_AT_ONCE = 2048
"""Sub-blocks encoded together (8 MiB of labels): bounds the memory."""

Labels = NDArray[np.uint64]
Words = NDArray[np.uint32]


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


def decode_segmentation(data: "Buffer", shape: ZYX) -> Labels:
    """Return the (z, y, x) labels of a compressed segmentation of one channel; for clients and tests.

    Raises
    ------
    FormatError
        Offsets point outside the data, or a width is unknown.
    """
    check_sides(shape)
    nz, ny, nx = (size // SIDE for size in shape)
    total = nz * ny * nx
    view = memoryview(data).cast("B")
    if len(view) % 4 or len(view) < 4 * (1 + 2 * total) or int.from_bytes(view[:4], "little") != 1:
        raise FormatError(f"{len(view)} bytes are no compressed segmentation of {shape} (z, y, x)")
    words = np.frombuffer(view, "<u4", offset=4)
    heads = words[: 2 * total].reshape(-1, 2).astype(np.int64)
    tables, widths, values = heads[:, 0] & (_MAX_OFFSET - 1), heads[:, 0] >> 24, heads[:, 1]
    if not np.isin(widths, _WIDTHS).all() or (values + widths * 16 > len(words)).any():
        raise FormatError("a sub-block has values of unknown width or outside the data")
    blocks = np.empty((total, _VOXELS), np.uint64)
    for row in range(total):
        blocks[row] = _looked_up(words, int(tables[row]), int(widths[row]), int(values[row]))
    split = blocks.reshape(nz, ny, nx, SIDE, SIDE, SIDE).transpose(0, 3, 1, 4, 2, 5)
    return split.reshape(shape)


def _looked_up(words: Words, table: int, width: int, at: int) -> Labels:
    indices = np.zeros(_VOXELS, np.int64)
    if width:
        packed = words[at : at + 16 * width, None]
        shifts = np.arange(0, 32, width, dtype=np.uint32)
        indices = (packed >> shifts & np.uint32((1 << width) - 1)).astype(np.int64).ravel()
    places = table + 2 * indices
    if int(places.max()) + 1 >= len(words):
        raise FormatError(f"a table of labels at word {table} reaches beyond the data")
    return words[places].astype(np.uint64) | words[places + 1].astype(np.uint64) << np.uint64(32)
