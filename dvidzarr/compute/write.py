"""Writing a box: cut it on the chunk grid; partly covered chunks are read, changed and written under their locks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dvidzarr.compute.rows import copy_rows
from dvidzarr.compute.schedule import Scheduler
from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import ZYX, Box, ChunkSpan
from dvidzarr.core.ids import NO_AUTHOR, Author
from dvidzarr.core.lineage import Lineage
from dvidzarr.storage.chunkkeys import pack_one
from dvidzarr.storage.chunks import ChunkStore
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.writing import ChunkWrite, write_chunks


@dataclass(frozen=True, slots=True)
class BoxWrite:
    """What one request writes: the voxels of a box, axes (z, y, x)."""

    box: Box
    voxels: np.ndarray
    author: Author = NO_AUTHOR


def chunks_of_box(
    store: ChunkStore, lineage: Lineage, write: BoxWrite, places: np.ndarray, header: dict[str, Any]
) -> ChunkWrite:
    """Return the chunks that a request writes into the version that `lineage` ends in.

    Parameters
    ----------
    places : ndarray of int, shape (n, 3)
        Those chunks (z, y, x) of the box that are to be written.

    Raises
    ------
    InvalidInputError
        Shape or dtype do not fit.
    """
    box, voxels = write.box, write.voxels
    if voxels.shape != box.shape or voxels.dtype != store.codec.dtype:
        raise InvalidInputError(
            f"voxels of shape {voxels.shape} and type {voxels.dtype} do not fit box {box} "
            f"of shape {box.shape} and type {store.codec.dtype}"
        )
    grid = store.codec.shape
    coords: list[ZYX] = [tuple(coord) for coord in places.tolist()]

    def chunk_of(index: int) -> np.ndarray:
        coord = coords[index]
        whole = Box.of_chunk(coord, grid)
        part = whole.intersect(box)
        if part is None:
            raise InvalidInputError(f"chunk {coord} lies outside box {box}")
        piece = voxels[part.slices(box.start)]
        if part.shape == grid and piece.flags.c_contiguous:
            return piece
        if part.shape == grid:
            chunk = store.scratch()
            copy_rows(chunk, piece)
            return chunk
        chunk = _current(store, coord, lineage)
        copy_rows(chunk[part.slices(whole.start)], piece)
        return chunk

    return ChunkWrite(coords, chunk_of, write.author, header)


def _current(store: ChunkStore, coord: ZYX, lineage: Lineage) -> np.ndarray:
    """Return a copy of what the version shows for a chunk now, zeros where it shows nothing."""
    key = pack_one(coord)
    row = store.find(key, lineage)
    chunk = None if row is None else store.read(key, row, lineage)
    return np.zeros(store.codec.shape, store.codec.dtype) if chunk is None else chunk.copy()


def write_chunk_arrays(
    dataset: Dataset,
    store: ChunkStore,
    version: int,
    coords: np.ndarray,
    chunks: np.ndarray,
    scheduler: Scheduler,
    *,
    author: Author,
    header: dict[str, Any],
) -> None:
    """Write whole chunks (n, z, y, x) at chunk coordinates (n, 3) as one request; of equal ones the last wins."""
    grid, dtype = store.codec.shape, store.codec.dtype
    if chunks.shape != (len(coords), *grid) or chunks.dtype != dtype:
        raise InvalidInputError(
            f"chunks of shape {chunks.shape} and type {chunks.dtype} do not fit {len(coords)} of {grid} and {dtype}"
        )
    last = {(int(z), int(y), int(x)): index for index, (z, y, x) in enumerate(np.asarray(coords).tolist())}
    if not last:
        return
    places = list(last)
    low, high = (
        tuple(edge) for edge in (np.min(places, axis=0).tolist(), (np.max(places, axis=0) + 1).tolist())
    )
    ChunkSpan(low, high).check()
    sources = list(last.values())
    write_chunks(
        dataset,
        store,
        version,
        places,
        lambda index: np.ascontiguousarray(chunks[sources[index]]),
        author=author,
        header=header,
        run_all=scheduler.encode,
    )
