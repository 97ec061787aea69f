"""Half the resolution of labels: the most frequent one of each 2×2×2 group (spec-voxels §7.2)."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint64]

_GROUP = 8

# Batcher's odd-even merge sort of eight
_EXCHANGES = (
    (0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (1, 2), (5, 6),
    (0, 4), (1, 5), (2, 6), (3, 7), (2, 4), (3, 5), (1, 2), (3, 4), (5, 6),
)  # fmt: skip


def downsampled(labels: NDArray[Any]) -> Labels:
    """Return labels of even shape (z, y, x) at half the resolution; of equally frequent labels the largest wins.

    0 is a label like any other.

    Examples
    --------
    >>> downsampled(np.array([[[3, 3], [3, 9]], [[9, 9], [0, 0]]]))
    array([[[9]]], dtype=uint64)
    """
    nz, ny, nx = (size // 2 for size in labels.shape)
    groups = np.asarray(labels, np.uint64).reshape(nz, 2, ny, 2, nx, 2).transpose(1, 3, 5, 0, 2, 4)
    corners: Labels = np.ascontiguousarray(groups).reshape(_GROUP, -1)
    out: Labels = corners[0].copy()
    mixed = np.flatnonzero((corners[1:] != out).any(axis=0))
    if len(mixed):
        out[mixed] = _most_frequent(corners[:, mixed])
    return out.reshape(nz, ny, nx)


def _most_frequent(corners: Labels) -> Labels:
    """Return the most frequent label of each column, the largest of those."""
    for low, high in _EXCHANGES:
        smaller = np.minimum(corners[low], corners[high])
        np.maximum(corners[low], corners[high], out=corners[high])
        corners[low] = smaller
    best: Labels = corners[0].copy()
    length = np.ones(len(best), np.uint8)
    longest = length.copy()
    for before, label in pairwise(corners):
        length = np.where(label == before, length + 1, 1).astype(np.uint8)
        wins = length >= longest  # labels come in ascending order: a tie goes to the later one
        best[wins], longest[wins] = label[wins], length[wins]
    return best
