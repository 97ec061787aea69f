"""How a label volume follows another as its half resolution.

The follower is brought up to date while the writer of its source still holds the gate of the version, so whoever was
answered sees both, and a version is never locked between the two. Its records say up to which record of the source it is
complete; after a crash it takes in what was written later, soon after it was opened, and at the latest before the version
is locked: if that fails, it is not locked. Until then its records say no more than before. The same holds for what could
not be written to the follower. Doing it twice changes nothing.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from dvidzarr.compute.read import Reader
from dvidzarr.core.geometry import ZYX, Box
from dvidzarr.core.ids import Author
from dvidzarr.core.lineage import Lineage
from dvidzarr.datatypes.labelblk.downsample import downsampled
from dvidzarr.storage.writing import write_chunks

if TYPE_CHECKING:
    from dvidzarr.datatypes.voxels.view import VoxelView


class Tickets:
    """Writes that run: per thread, the record after which its own comes. `_lock` guards them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._after: dict[int, int] = {}

    @contextmanager
    def open(self, tail: int) -> Iterator[None]:
        """Announce a write of this thread; the last record now is `tail`."""
        with self._lock:
            self._after[threading.get_ident()] = tail
        try:
            yield
        finally:
            with self._lock:
                del self._after[threading.get_ident()]

    def settled(self, tail: int) -> int:
        """Return up to which record, `tail` at most, only this thread's write can be unknown to the followers."""
        with self._lock:
            others = [after for thread, after in self._after.items() if thread != threading.get_ident()]
        return min([tail, *others])


def follow(
    source: "VoxelView",
    target: "VoxelView",
    coords: np.ndarray,
    upto: int,
    author: Author,
    *,
    restart: bool = False,
) -> np.ndarray:
    """Downsample chunks (n, 3) of a source into its follower; return the chunks of the follower that changed.

    Parameters
    ----------
    upto
        The record of the source up to which the follower is complete then.
    restart
        Whatever it was said to be complete up to before does not count.
    """
    grid = target.instance.chunk
    pieces = _pieces(coords, source.instance.chunk, grid)
    touched = list(pieces)
    if not touched:
        return np.empty((0, 3), np.int64)
    fine, coarse = source.lineage(), target.lineage()
    scheduler = target.instance.repo.catalog.scheduler

    def chunk_of(index: int) -> np.ndarray:
        whole = Box.of_chunk(touched[index], grid)
        chunk = Reader(target.chunks, whole, coarse, scheduler).read()
        for part in pieces[touched[index]]:
            chunk[part.slices(whole.start)] = downsampled(_doubled(source, fine, part))
        return chunk

    header = {"from": source.instance.id, "upto": upto} | ({"restart": 1} if restart else {})
    write_chunks(
        target.instance.dataset,
        target.chunks,
        target.ordinal,
        touched,
        chunk_of,
        author=author,
        header=header,
        run_all=scheduler.encode,
    )
    target.instance.hierarchy.write_later()
    return np.array(touched)


def _doubled(source: "VoxelView", lineage: Lineage, part: Box) -> np.ndarray:
    """Return the voxels of the source that a box of its follower shows."""
    box = Box.of(*((2 * at for at in edge) for edge in (part.start, part.stop)))
    return Reader(source.chunks, box, lineage, source.instance.repo.catalog.scheduler).read()


def _pieces(coords: np.ndarray, fine: ZYX, coarse: ZYX) -> dict[ZYX, list[Box]]:
    """Return, per chunk of the follower, the boxes of its voxels that chunks of the source lie in."""
    pieces: dict[ZYX, list[Box]] = defaultdict(list)
    for coord in {tuple(coord) for coord in np.asarray(coords).tolist()}:
        box = Box.of_chunk(coord, fine)
        # chunks of odd size share groups of voxels with their neighbours: all of such a group counts
        half = Box.of((at // 2 for at in box.start), (-(-at // 2) for at in box.stop))
        for place in half.chunks(coarse).coords().tolist():
            part = half.intersect(Box.of_chunk(tuple(place), coarse))
            if part is not None:
                pieces[tuple(place)].append(part)
    return pieces
