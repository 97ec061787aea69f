"""Chunk coordinates as int64 keys that sort as the coordinates do: 21 bits each of z, y, x."""

import numpy as np

from dvidzarr.core.geometry import CHUNK_LIMIT, ZYX, ChunkSpan


def pack(coords: np.ndarray) -> np.ndarray:
    """Return chunk coordinates (n, 3), axes (z, y, x), as sortable int64 keys; coordinates must be within ±2²⁰."""
    shifted = np.asarray(coords, np.int64) + CHUNK_LIMIT
    return shifted[..., 0] << 42 | shifted[..., 1] << 21 | shifted[..., 2]


def unpack(keys: np.ndarray) -> np.ndarray:
    """Return the chunk coordinates (n, 3), axes (z, y, x), of packed keys."""
    mask = (1 << 21) - 1
    keys = np.asarray(keys, np.int64)
    return np.stack((keys >> 42, keys >> 21 & mask, keys & mask), axis=-1) - CHUNK_LIMIT


def pack_one(coord: ZYX) -> int:
    """Return one chunk coordinate as a key."""
    z, y, x = coord
    return (z + CHUNK_LIMIT) << 42 | (y + CHUNK_LIMIT) << 21 | (x + CHUNK_LIMIT)


def pack_span(span: ChunkSpan) -> np.ndarray:
    """Return the keys of all chunks of a span, sorted (x fastest); the span must be within ±2²⁰."""
    (z0, y0, x0), (z1, y1, x1) = span.start, span.stop
    z, y, x = (np.arange(a + CHUNK_LIMIT, b + CHUNK_LIMIT) for a, b in ((z0, z1), (y0, y1), (x0, x1)))
    return (z[:, None, None] << 42 | y[:, None] << 21 | x).ravel()


def unpack_one(key: int) -> ZYX:
    """Return the chunk coordinate of one key."""
    mask = (1 << 21) - 1
    return (key >> 42) - CHUNK_LIMIT, (key >> 21 & mask) - CHUNK_LIMIT, (key & mask) - CHUNK_LIMIT
