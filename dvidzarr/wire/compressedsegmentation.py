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

_SCANS = 24
"""Labels of a sub-block that are found one by one; a sub-block with more is sorted."""

_SLOTS = 1 << 13
_HASH_SHIFT = np.uint64(64 - 13)
_FACTORS = tuple(map(np.uint64, (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)))
"""Odd numbers without pattern: the high bits of a product with one are a hash; one without collision is looked for."""

Labels = NDArray[np.uint64]
Numbers = NDArray[np.unsignedinteger[Any]]
Indices = NDArray[np.uint8] | NDArray[np.uint16]
Places = NDArray[np.int64]
Words = NDArray[np.uint32]


def encode_segmentation(volume: NDArray[Any]) -> bytes:
    """Return a volume of uint64, axes (z, y, x), as compressed segmentation.

    Raises
    ------
    InvalidInputError
        A side is no multiple of 8, or the result is too large for 24-bit offsets.
    """
    check_sides(volume.shape)
    grid: ZYX = tuple(size // SIDE for size in volume.shape)
    total = grid[0] * grid[1] * grid[2]
    layers = max(1, _AT_ONCE // (grid[1] * grid[2]))
    at = 2 * total
    heads, bodies = [], []
    for low in range(0, grid[0], layers):
        numbers, labels = _numbered(volume[low * SIDE : (low + layers) * SIDE])
        head, body = _encode_blocks(_sub_blocks(numbers, grid), labels, at)
        at += len(body)
        heads.append(head)
        bodies.append(body)
    return b"".join([np.array([1], "<u4"), *heads, *bodies])


def check_sides(shape: ZYX) -> None:
    """Raise `InvalidInputError` if a side is no multiple of 8."""
    if any(size % SIDE or not size for size in shape):
        raise InvalidInputError("volume must be a multiple of the block size")


def _numbered(volume: NDArray[Any]) -> tuple[Numbers, Labels]:
    """Replace the labels by small numbers; return them and the label of each number.

    Only the first voxels of runs along x are looked at: labels are long runs, and bytes are an eighth of the labels.
    """
    flat = np.ascontiguousarray(volume, np.uint64).ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    labels, numbers = _distinct(flat[starts])
    small = numbers.astype(np.min_scalar_type(len(labels) - 1))
    lengths = np.diff(starts, append=flat.size)
    return np.repeat(small, lengths).reshape(volume.shape), labels


def _distinct(labels: Labels) -> tuple[Labels, Places]:
    """Return the distinct labels and the place of each label among them: by hashing where few differ, else sorting."""
    for factor in _FACTORS:
        slots = labels * factor >> _HASH_SHIFT
        table = np.zeros(_SLOTS, np.uint64)
        table[slots] = labels
        if np.array_equal(table[slots], labels):
            used = np.zeros(_SLOTS, bool)
            used[slots] = True
            return table[used], (np.cumsum(used) - 1)[slots]
    distinct, numbers = np.unique(labels, return_inverse=True)
    return distinct, numbers


def _sub_blocks(numbers: Numbers, grid: ZYX) -> Numbers:
    """Return the sub-blocks as rows (n, 512), each C-contiguous."""
    _, ny, nx = grid
    lines = numbers.view([("", numbers.dtype, SIDE)]).reshape(-1, SIDE, ny, SIDE, nx)
    rows: Numbers = np.ascontiguousarray(lines.transpose(0, 2, 4, 1, 3)).view(numbers.dtype)
    return rows.reshape(-1, _VOXELS)


def _encode_blocks(blocks: Numbers, names: Labels, start: int) -> "tuple[Words, Words]":
    """Return the headers and the data of sub-blocks of numbered labels; the data begin at word `start`."""
    indices, rows, ranks, numbers = _tables(blocks)
    labels = names[numbers]
    counts = np.bincount(rows, minlength=len(blocks))
    bits = _WIDTHS[np.searchsorted(1 << _WIDTHS, counts)]
    sizes = bits * (_VOXELS // 32)
    ends = np.cumsum(sizes + 2 * counts)
    values_at = ends - sizes - 2 * counts
    tables_at = values_at + sizes
    if start + int(ends[-1]) > _MAX_OFFSET:
        raise InvalidInputError(
            f"the compressed segmentation exceeds {4 * _MAX_OFFSET} bytes; ask for a smaller volume"
        )
    body = np.empty(int(ends[-1]), "<u4")
    for width in np.unique(bits[bits > 0]).tolist():
        members = np.flatnonzero(bits == width)
        packed = _packed(indices[members], width)
        body[values_at[members, None] + np.arange(packed.shape[1])] = packed
    places = tables_at[rows] + 2 * ranks
    body[places] = labels & np.uint64(0xFFFFFFFF)
    body[places + 1] = labels >> np.uint64(32)
    head = np.empty((len(blocks), 2), "<u4")
    head[:, 0] = (tables_at + start) | bits << 24
    head[:, 1] = values_at + start
    return head, body


def _tables(blocks: Numbers) -> "tuple[Indices, Places, Places, Numbers]":
    """Return, per sub-block, its labels in order of first appearance, and the place of each voxel among them.

    Returns
    -------
    indices : (n, 512), the index of each voxel in the table of its sub-block.
    rows, ranks, numbers : per entry of all tables, its sub-block, its place in there, and its label.
    """
    indices: Indices = np.zeros(blocks.shape, np.uint8)
    everything = np.arange(len(blocks))
    found: list[tuple[Places, Places, Numbers]] = [
        (everything, np.zeros(len(blocks), np.int64), blocks[:, 0])
    ]
    rows, left = everything, blocks
    fresh = left != left[:, :1]
    for rank in range(1, _SCANS):
        some = fresh.any(axis=1)
        rows, left, fresh = rows[some], left[some], fresh[some]
        if not len(rows):
            break
        number = left[np.arange(len(rows)), fresh.argmax(axis=1)]
        found.append((rows, np.full(len(rows), rank), number))
        # indices grow with appearance: what is fresh now gets at least this one
        indices[rows] += fresh
        fresh &= left != number[:, None]
    many = rows[fresh.any(axis=1)]
    if len(many):
        indices = indices.astype(np.uint16)
        indices[many], members, ranks, numbers = _sorted_tables(blocks[many])
        new = ranks >= _SCANS
        found.append((many[members[new]], ranks[new], numbers[new]))
    return indices, *(np.concatenate(column) for column in zip(*found, strict=True))  # type: ignore[return-value]


def _sorted_tables(blocks: Numbers) -> "tuple[Indices, Places, Places, Numbers]":
    """Do what `_tables` does by sorting: for sub-blocks of many labels."""
    base = np.arange(len(blocks))[:, None]
    keys = base << 32 | blocks
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rows = first[order] // _VOXELS
    ranks = np.arange(len(order)) - np.searchsorted(rows, rows)
    rank_of = np.empty(len(order), np.uint16)
    rank_of[order] = ranks
    return rank_of[inverse].reshape(blocks.shape), rows, ranks, blocks.reshape(-1)[first[order]]


def _packed(indices: Indices, width: int) -> Words:
    """Return the words of the values: `width` bits per voxel, the first in the lowest bits."""
    if width == 16:
        return indices.view("<u4")
    small: Numbers = indices.astype(np.uint8, copy=False)
    if width == 1:
        small = np.packbits(small, axis=1, bitorder="little")
    while width in (2, 4):
        small = small[:, ::2] | small[:, 1::2] << np.uint8(width)
        width *= 2
    return np.ascontiguousarray(small).view("<u4")


def decode_segmentation(data: "Buffer", shape: ZYX) -> Labels:
    """Return the (z, y, x) labels of a compressed segmentation of one channel.

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
