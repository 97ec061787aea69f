"""A reader of Neuroglancer's compressed segmentation that shares no code with the encoder."""

import numpy as np


def decode_segmentation(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the (z, y, x) labels of one channel."""
    nz, ny, nx = (size // 8 for size in shape)
    words = np.frombuffer(data, "<u4")
    assert words[0] == 1
    words = words[1:]
    heads = words[: 2 * nz * ny * nx].reshape(-1, 2).tolist()
    blocks = [_block(words, head & 0xFFFFFF, head >> 24, at) for head, at in heads]
    split = np.reshape(blocks, (nz, ny, nx, 8, 8, 8)).transpose(0, 3, 1, 4, 2, 5)
    return split.reshape(shape)


def _block(words: np.ndarray, table: int, width: int, at: int) -> np.ndarray:
    indices = np.zeros(512, np.int64)
    if width:
        packed = words[at : at + 16 * width, None]
        shifts = np.arange(0, 32, width, dtype=np.uint32)
        indices = (packed >> shifts & np.uint32((1 << width) - 1)).astype(np.int64).ravel()
    places = table + 2 * indices
    return words[places].astype(np.uint64) | words[places + 1].astype(np.uint64) << np.uint64(32)
