"""Finishing a locked version's overlay: afterwards it holds exactly what the version wrote, under plain Zarr keys.

Chunks that were written again are linked over their Zarr keys; keys without a live entry are removed; one `finished`
record says that this version's locations are its Zarr keys; then, after the grace period, its rewrites go. All steps
can be repeated: an interrupted finishing simply runs again. Design: storage §5.

A version that is written although it is locked (a store opened with `full_write`) is unfinished again. Nobody writes it
while it is finished: the caller holds its gate alone.
"""

from dvidzarr.core.ids import Author
from dvidzarr.storage.chunks import ChunkStore
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.frames import Kind
from dvidzarr.storage.postings import unpack


def finish(dataset: Dataset, ordinal: int) -> None:
    """Finish the overlay of a locked version, unless it is finished."""
    if ordinal in dataset.finished or not dataset.writable or dataset.log.damage:
        return
    dataset.log.check_writable()  # after a failed sync, what no applied record names may be named at the next start
    for store in dataset.arrays.values():
        _finish_array(dataset, store, ordinal)
    folder = f"{dataset.prefix}/rewrites/{dataset.versions.id_of(ordinal)}"
    backend = dataset.context.backend
    settled = list(backend.keys(folder))  # what is written there from now on is not
    done = dataset.append(Kind.FINISHED, ordinal, Author(), {})
    dataset.log.flush()  # with durability `fast` too: once the rewrites are gone, only this record leads to the chunks
    dataset.later(("rewrites", folder, str(done.sequence)), lambda: backend.remove(settled))


def _finish_array(dataset: Dataset, store: ChunkStore, ordinal: int) -> None:
    backend = dataset.context.backend
    keys, rows = store.postings.written_by(ordinal)
    live = set()
    for coord, row in zip(unpack(keys).tolist(), rows.tolist(), strict=True):
        if row[6]:
            continue
        target = store.object_key(ordinal, coord, 0)
        live.add(target)
        if row[1]:
            backend.promote(store.object_key(ordinal, coord, row[1]), target)
    orphans = [key for key in backend.keys(f"{store.folder(ordinal)}/c") if key not in live]
    backend.remove(orphans)
