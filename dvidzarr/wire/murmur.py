"""MurmurHash3 (x86, 32 bits, seed 0) of 8-byte words, vectorised: the colours of labels (spec-voxels §7.5).

Source: Austin Appleby's public-domain MurmurHash3.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

_C1, _C2 = np.uint32(0xCC9E2D51), np.uint32(0x1B873593)
_FIVE, _ADDED = np.uint32(5), np.uint32(0xE6546B64)
_LENGTH = np.uint32(8)


def murmur3(labels: NDArray[Any]) -> Words:
    """Return the hash of the 8 little-endian bytes of each uint64."""
    given = np.asarray(labels, np.uint64)
    low = (given & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    high = (given >> np.uint64(32)).astype(np.uint32)
    state = _mixed(_mixed(np.zeros_like(low), low), high) ^ _LENGTH
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        state ^= state >> np.uint32(shift)
        state *= np.uint32(factor)
    return state ^ (state >> np.uint32(16))


def _mixed(state: Words, word: Words) -> Words:
    turned = _rotated(word * _C1, 15) * _C2
    return _rotated(state ^ turned, 13) * _FIVE + _ADDED


def _rotated(words: Words, bits: int) -> Words:
    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))


def pseudocolors(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return DVID's colour of each label as opaque RGBA, one axis more: the three high bytes of its hash."""
    hashes = murmur3(labels)
    colors = np.full((*hashes.shape, 4), 255, np.uint8)
    for channel, shift in enumerate((24, 16, 8)):
        colors[..., channel] = hashes >> np.uint32(shift)
    return colors
