"""The loops of `compressedsegmentation` as machine code: sub-blocks of labels into tables and packed indices.

Importing this loads numba (100 MB): so that is done when a loop is first called.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

SIDE = 8
VOXELS = SIDE**3
MOST_WORDS = VOXELS // 2 + 2 * VOXELS
"""What a sub-block takes at most: 16 bits per voxel, and each label in its table."""

_SLOT_BITS = 10  # twice as many slots as there can be labels
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(64 - _SLOT_BITS)
_LOW, _HIGH = np.uint64(0xFFFFFFFF), np.uint64(32)

Labels = NDArray[np.uint64]
Words = NDArray[np.uint32]

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Return a function that is compiled at its first call, and lets other threads run meanwhile.

    The code is kept beside the source, or in the user's cache folder; where neither can be written, each process
    compiles anew.
    """
    try:
        return cast("F", njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba found no folder for its cache
        return cast("F", njit(nogil=True)(function))


@compiled
def encode_blocks(volume: Labels, start: int, heads: Words, body: Words) -> int:
    """Encode the sub-blocks of a volume (z, y, x), x fastest; return how many words of `body` were used.

    Parameters
    ----------
    start
        Offset of the first word of `body`, as headers count.
    heads : (sub-blocks, 2)
        Filled with the headers.
    body : (words,)
        Filled with the values and the table of each sub-block, as long as there is room for the largest one; what is
        returned then is more than `body` has.
    """
    table = np.empty(VOXELS, np.uint64)
    indices = np.empty(VOXELS, np.uint32)
    slots = np.empty(1 << _SLOT_BITS, np.uint16)
    at = block = 0
    for z in range(0, volume.shape[0], SIDE):
        for y in range(0, volume.shape[1], SIDE):
            for x in range(0, volume.shape[2], SIDE):
                if at + MOST_WORDS > len(body):
                    return len(body) + 1
                count = _number(volume[z : z + SIDE, y : y + SIDE, x : x + SIDE], table, indices, slots)
                width = _width(count)
                size = width * (VOXELS // 32)
                heads[block, 0] = (start + at + size) | width << 24
                heads[block, 1] = start + at
                _pack(indices, width, body, at)
                at += size
                for rank in range(count):
                    body[at] = table[rank] & _LOW
                    body[at + 1] = table[rank] >> _HIGH
                    at += 2
                block += 1
    return at


@compiled
def _number(voxels: Labels, table: Labels, indices: Words, slots: NDArray[np.uint16]) -> int:
    """Fill `table` with the labels in order of first appearance and `indices` with their places; return their number."""
    label = voxels[0, 0, 0]
    table[0] = label
    slots[:] = 0
    slots[(label * _FACTOR) >> _SHIFT] = 1
    count, rank, at = 1, 0, 0
    for plane in voxels:
        for row in plane:
            if _uniform(row, label):  # labels come in runs
                indices[at : at + SIDE] = rank
            else:
                for x in range(SIDE):
                    if row[x] != label:
                        label = row[x]
                        rank = _rank(label, table, count, slots)
                        count = max(count, rank + 1)
                    indices[at + x] = rank
            at += SIDE
    return count


@compiled
def _uniform(row: Labels, label: Any) -> bool:  # noqa: ANN401 - a numpy scalar, which mypy takes for a float
    differences = label ^ label
    for x in range(SIDE):
        differences |= row[x] ^ label
    return bool(differences == 0)


@compiled
def _rank(label: Any, table: Labels, count: int, slots: NDArray[np.uint16]) -> int:  # noqa: ANN401 - as above
    """Return the place of a label in the table, to which it is added if it is new."""
    slot = np.int64((label * _FACTOR) >> _SHIFT)
    while slots[slot]:
        rank = np.int64(slots[slot]) - 1
        if table[rank] == label:
            return int(rank)
        slot = (slot + 1) & ((1 << _SLOT_BITS) - 1)
    slots[slot] = count + 1
    table[count] = label
    return count


@compiled
def _width(count: int) -> int:
    """Return the bits per voxel that tell so many labels apart."""
    width = 0
    while 1 << width < count:
        width = max(1, 2 * width)
    return width


@compiled
def _pack(indices: Words, width: int, body: Words, at: int) -> None:
    """Write the indices into words, `width` bits each, the first in the lowest bits."""
    if not width:
        return
    per_word = 32 // width
    for word in range(VOXELS // per_word):
        packed = np.uint32(0)
        for place in range(per_word):
            packed |= indices[word * per_word + place] << np.uint32(place * width)
        body[at + word] = packed
