"""Labels at a version, as Python: a uint64 volume, look-up at points. No web in here."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from dvidzarr.core.geometry import CHUNK_LIMIT
from dvidzarr.core.ids import Author
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.storage.chunkkeys import pack
from dvidzarr.storage.postings import present

if TYPE_CHECKING:
    from dvidzarr.datatypes.labelblk.model import LabelInstance
    from dvidzarr.storage.dataset import Dataset


class LabelView(VoxelView):
    """Labels at a version: a volume of uint64, (z, y, x)."""

    instance: "LabelInstance"

    def labels_at(self, points: np.ndarray) -> np.ndarray:
        """Return the labels (uint64) at points (n, 3), z, y, x; 0 where nothing was written."""
        points = np.asarray(points, np.int64).reshape(-1, 3)
        grid = np.array(self.instance.chunk)
        chunks, local = np.divmod(points, grid)
        places = np.ravel_multi_index(tuple(local.T), tuple(grid))
        labels = np.zeros(len(points), np.uint64)
        inside = np.flatnonzero(((chunks >= -CHUNK_LIMIT) & (chunks < CHUNK_LIMIT)).all(axis=1))
        keys, which = np.unique(pack(chunks[inside]), return_inverse=True)
        lineage = self.lineage()
        rows = self.chunks.resolve(keys, lineage)
        members = np.split(inside[np.argsort(which, kind="stable")], np.cumsum(np.bincount(which))[:-1])

        def look_up(index: int) -> None:
            if not there[index]:
                return
            chunk = self.chunks.read(packed[index], found[index], lineage, keep=True)
            if chunk is not None:
                labels[members[index]] = chunk.reshape(-1)[places[members[index]]]

        there, packed, found = present(rows).tolist(), keys.tolist(), rows.tolist()
        self.instance.repo.catalog.scheduler.read(look_up, len(packed), self.chunks.codec.nbytes)
        return labels

    @contextmanager
    def writing(self) -> Iterator["Dataset"]:
        """Pass the gates; until the end, followers do not claim to have seen what is written meanwhile."""
        with super().writing() as dataset:
            _ = self.instance.followers()  # opened, or else nothing is written
            with self.instance.tickets.open(dataset.log.tail.sequence):
                yield dataset

    def written(self, coords: np.ndarray, author: Author) -> None:
        """Bring the followers up to date: before the writer is answered, and before the version can be locked."""
        with ExitStack() as each:  # one that fails does not keep the others from it
            for follower in self.instance.followers():
                each.callback(follower.take, self.instance, self.version, coords, author)
