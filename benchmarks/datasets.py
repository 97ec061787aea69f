"""The volumes that are measured: real EM where the test data lies beside the checkout, else EM-like from a seed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from dvidzarr.cli.synthetic import Synthetic
from dvidzarr.core.geometry import Box

SHARED = Path(__file__).resolve().parents[2] / "shared"
_STACKS = [SHARED / "data" / "em" / f"vnc-stack{number}.tif" for number in (1, 2)]
_SEGMENTATION = SHARED / "data" / "labels" / "pinky-512.npz"
_SEED_CUBE = 128
_GRAY_STEP = 4
"""Gray levels of the seeded volume: at this step lz4 gains the factor 1.3 that it gains on the real one."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A cube of voxels (z, y, x) and where it comes from."""

    name: str
    voxels: np.ndarray


def gray(size: int, *, real: bool = True, seed: int = 1) -> Dataset:
    """Return an EM image of `size`³ voxels, uint8; `real` prefers the recorded stacks to the generator."""
    if real and all(path.is_file() for path in _STACKS):
        sections = np.concatenate([tifffile.imread(path) for path in _STACKS])[:, :size, :size]
        return Dataset("vnc-stack", _mirrored(sections, size))
    return Dataset(f"seed {seed}", _mirrored(_seeded(min(size, _SEED_CUBE), seed), size))


def labels(size: int, *, real: bool = True, seed: int = 1) -> Dataset:
    """Return a segmentation of `size`³ voxels, uint64; `real` prefers the recorded one to the generator."""
    if real and _SEGMENTATION.is_file():
        with np.load(_SEGMENTATION) as file:
            corner = file["labels"][:size, :size, :size].astype(np.uint64)
        return Dataset("pinky", _mirrored(corner, size))
    base = min(size, _SEED_CUBE)
    cells = Synthetic(seed).labels(Box((0, 0, 0), (base,) * 3)).astype(np.uint64)
    return Dataset(f"seed {seed}", _mirrored(cells, size))


def _seeded(size: int, seed: int) -> np.ndarray:
    """Return a generated image, smoothed in-plane as a microscope does: plain pixel noise does not compress."""
    sharp = Synthetic(seed).grayscale(Box((0, 0, 0), (size,) * 3)).astype(np.float32)
    shifted = [np.roll(sharp, (dy, dx), (1, 2)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    smooth: np.ndarray = np.mean(shifted, axis=0)
    return (smooth // _GRAY_STEP * _GRAY_STEP).astype(np.uint8)


def _mirrored(block: np.ndarray, size: int) -> np.ndarray:
    """Return a cube filled with a block and its mirror images: no edges that the block does not have."""
    for axis in range(3):
        length = block.shape[axis]
        at = np.arange(size) % (2 * length)
        block = block.take(np.where(at < length, at, 2 * length - 1 - at), axis)
    return np.ascontiguousarray(block)
