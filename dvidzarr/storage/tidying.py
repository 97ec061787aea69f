"""What earlier processes left in packs: pieces that were superseded, and packs that nobody needs any more.

Both go after a grace period (see `Dataset`, `finishing`), which a process that ends does not wait for.
"""

import numpy as np

from dvidzarr.storage.backend import Part, whole_blocks
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.durability import flush
from dvidzarr.storage.packs import PACK_SPAN, first_location


def tidy(dataset: Dataset) -> None:
    """Give back all of earlier processes' packs that no record names. The dataset is open for writing."""
    backend = dataset.context.backend
    if not dataset.writable or dataset.log.damage:  # the records that are lost may have named it
        return
    unused: list[Part] = []
    for name in backend.folders(f"{dataset.prefix}/rewrites"):
        ordinal = dataset.versions.ordinal_of(name)
        keys = list(backend.keys(f"{dataset.prefix}/rewrites/{name}"))
        if ordinal is not None and keys:
            starts, ends = _pieces(dataset, ordinal)
            unused += [part for key in keys for part in _unused(dataset, key, starts, ends)]
    if unused:
        flush(dataset)  # what superseded them must not be taken back by a power loss
        backend.discard(unused)


def _pieces(dataset: Dataset, ordinal: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the pieces that a version shows begin and end (locations, whole blocks), sorted."""
    found = [store.postings.written_by(ordinal)[1] for store in dataset.arrays.values()]
    rows = np.concatenate([each[(each["location"] != 0) & (each["flags"] == 0)] for each in found])
    rows = rows[rows["location"].argsort()]
    return rows["location"], rows["location"] + whole_blocks(rows["length"].astype(np.int64))


def _unused(dataset: Dataset, key: str, starts: np.ndarray, ends: np.ndarray) -> list[Part]:
    """Return what no piece needs of a pack."""
    first, size = first_location(key), dataset.context.backend.size(key)
    if first is None or size is None or dataset.packs.is_own(key):
        return []
    low, high = starts.searchsorted((first, first + PACK_SPAN))
    if low == high:
        return [Part(key)]
    begins = np.concatenate(([first], ends[low:high])) - first
    stops = np.concatenate((starts[low:high] - first, [size]))
    gaps = zip(begins.tolist(), stops.tolist(), strict=True)
    return [Part(key, begin, stop - begin) for begin, stop in gaps if stop > begin]
