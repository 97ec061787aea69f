"""Finishing a locked version's overlay: afterwards it holds exactly what the version wrote, under plain Zarr keys.

Chunks that were written again are copied from their packs over their Zarr keys; keys without a live entry are removed; one
`finished` record says that this version's locations are its Zarr keys; then, after the grace period, its packs go. All steps
can be repeated: an interrupted finishing simply runs again. Design: storage §5.

A version that is written although it is locked (a store opened with `full_write`) is unfinished again. Nobody writes it
while it is finished: the caller holds its gate alone.
"""

from collections.abc import Iterator
from itertools import islice
from typing import cast

import numpy as np

from dvidzarr.core.errors import CorruptionError
from dvidzarr.core.geometry import CHUNK_LIMIT
from dvidzarr.core.ids import NO_AUTHOR
from dvidzarr.storage.backend import Part
from dvidzarr.storage.chunkkeys import pack_one, unpack_one
from dvidzarr.storage.chunks import ChunkStore
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.durability import discard
from dvidzarr.storage.frames import Kind
from dvidzarr.storage.runs import LOCATION, Row

_AT_ONCE = 1 << 16
_PORTION = 32
"""Chunks that are copied at a time: others write too."""


def finish(dataset: Dataset, ordinal: int) -> None:
    """Finish the overlay of a locked version, unless it is finished."""
    if ordinal in dataset.finished or not dataset.writable or dataset.log.damage:
        return
    dataset.log.check_writable()  # after a failed sync, what no applied record names may be named at the next start
    for store in dataset.arrays.values():
        _finish_array(dataset, store, ordinal)
    folder = f"{dataset.prefix}/rewrites/{dataset.versions.id_of(ordinal)}"
    dataset.packs.end(folder)
    # what is written there from now on is not settled
    settled = [Part(key) for key in dataset.context.backend.keys(folder)]
    done = dataset.append(Kind.FINISHED, ordinal, NO_AUTHOR, {})
    dataset.log.flush()  # with durability `fast` too: once the rewrites are gone, only this record leads to the chunks
    dataset.later(("rewrites", folder, str(done.sequence)), lambda: discard(dataset, settled))


def _finish_array(dataset: Dataset, store: ChunkStore, ordinal: int) -> None:
    keys, rows = store.postings.written_by(ordinal)
    live = rows["flags"] == 0
    again = np.flatnonzero(live & (rows["location"] != 0))
    for start in range(0, len(again), _PORTION):
        portion = again[start : start + _PORTION]
        _copy(dataset, store, ordinal, keys[portion].tolist(), rows[portion].tolist())
    folder = f"{store.folder(ordinal)}/c"
    gone = _orphans(f"{folder}/", dataset.context.backend.keys(folder), keys[live])
    discard(dataset, [Part(key) for key in gone])


def _copy(dataset: Dataset, store: ChunkStore, ordinal: int, keys: list[int], rows: list[Row]) -> None:
    """Copy pieces of packs over the Zarr keys of their chunks."""

    def copy(index: int) -> None:
        coord, row = unpack_one(keys[index]), rows[index]
        data, problem = store.stored(keys[index], row)
        if problem is not None:
            there = cast("Row", (*row[:LOCATION], 0, *row[LOCATION + 1 :]))
            if store.stored(keys[index], there)[1] is None:  # the record that said so is lost
                return
            raise CorruptionError(f"chunk {coord} (z, y, x) cannot be put under its Zarr key: {problem}")
        dataset.context.backend.replace(store.part(ordinal, coord, 0, len(data)).key, data.tobytes())

    dataset.context.run_all(copy, len(keys))


def _orphans(folder: str, present: Iterator[str], live: np.ndarray) -> list[str]:
    """Return those objects in a folder whose chunk is not among `live`, sorted packed keys. Needs little memory."""
    found: list[str] = []
    while names := list(islice(present, _AT_ONCE)):
        packed = np.array([_packed(name.removeprefix(folder)) for name in names])
        named = np.zeros(len(names), bool)
        if len(live):
            named = live.take(live.searchsorted(packed), mode="clip") == packed
        found += [name for name, kept in zip(names, named.tolist(), strict=True) if not kept]
    return found


def _packed(place: str) -> int:
    """Return the packed key of a chunk `z/y/x`, −1 if it is none."""
    try:
        z, y, x = map(int, place.split("/"))
    except ValueError:
        return -1
    inside = min(z, y, x) >= -CHUNK_LIMIT and max(z, y, x) < CHUNK_LIMIT
    return pack_one((z, y, x)) if inside and place == f"{z}/{y}/{x}" else -1
