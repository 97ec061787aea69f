"""Which chunks of an array each version shows, and where their objects lie; what merge versions show follows from that."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from dvidzarr.core.geometry import ZYX
from dvidzarr.core.lineage import Lineage
from dvidzarr.storage.chunkkeys import pack_one
from dvidzarr.storage.chunkrecords import count_of, row_tuples_of, rows_of
from dvidzarr.storage.merging import DELETIONS, Groups, Versions, choose, contested, disputes
from dvidzarr.storage.postings import Postings, is_few
from dvidzarr.storage.runs import CONFLICT, LOCATION, TOMBSTONE, Row

T = TypeVar("T")


class ChunkIndex:
    """What records said of the chunks of one array, and what follows. `Postings` guards it."""

    def __init__(self, versions: Versions) -> None:
        self.postings = Postings()
        self._versions = versions
        self._deriving = threading.RLock()

    def own(self, ordinal: int, coords: Sequence[ZYX]) -> list[Row | None]:
        """Return, per chunk, what the version itself recorded before, None if nothing; else a write is a rewrite."""
        return self.postings.own([pack_one(coord) for coord in coords], ordinal)

    def publish(self, payload: memoryview, ordinal: int, sequence: int) -> list[tuple[int, Row]]:
        """Make the chunks of a record visible, all at once; return what it supersedes in packs: (chunk key, row)."""
        inherits = partial(self._inherits, ordinal)
        if is_few(count_of(payload, sequence)):
            old = self.postings.publish_few(row_tuples_of(payload, ordinal, sequence), inherits)
        else:
            old = self.postings.publish(*rows_of(payload, ordinal, sequence), inherits)
        return [(key, row) for key, row in old if row[LOCATION]]

    # --- what a version shows --------------------------------------------------------------------------------

    def resolve(self, keys: np.ndarray, lineage: Lineage) -> np.ndarray:
        """Return the row (of `ROW`) that a lineage sees for each packed chunk key."""
        return self._complete(lineage.ordinal, lambda: self.postings.resolve(keys, lineage))

    def visible(self, lineage: Lineage) -> np.ndarray:
        """Return the packed keys of all chunks that a lineage sees, sorted."""
        return self._complete(lineage.ordinal, lambda: self.postings.visible(lineage))

    def hull(self, ordinal: int) -> np.ndarray:
        """Return one past the highest chunk coordinate (z, y, x) that a version shows, zeros if it shows none."""
        versions = self._versions
        lineage, above = versions.lineage(ordinal), versions.ancestors(ordinal)
        return self._complete(ordinal, lambda: self.postings.hull(lineage, above))

    def find(self, key: int, lineage: Lineage) -> Row | None:
        """Return the row that a lineage sees for one packed chunk key, None if it holds no chunk."""
        return self._complete(lineage.ordinal, lambda: self.postings.find(key, lineage))

    # --- merge versions --------------------------------------------------------------------------------------

    def derive(self, ordinal: int) -> None:
        """Complete what merge versions show, before the first look-up through them."""
        merges = self._versions.merges(ordinal)
        while not all(map(self.postings.is_derived, merges)):
            with self._deriving:
                for merge in merges:
                    if not self.postings.is_derived(merge):
                        self._derive(merge)

    def is_complete(self, ordinal: int) -> bool:
        """Tell whether look-ups through a version need not complete what merge versions show first."""
        return all(map(self.postings.is_derived, self._versions.merges(ordinal)))

    def _complete(self, ordinal: int, look_up: Callable[[], T]) -> T:
        """Look something up when all that it needs is derived; again if a write to an ancestor dropped some of it."""
        while True:
            epoch = self.postings.epoch
            self.derive(ordinal)
            found = look_up()
            if epoch == self.postings.epoch:
                return found

    def _inherits(self, ordinal: int, merge: int) -> bool:
        """Tell whether what a merge version shows follows from what this other version shows."""
        return ordinal < merge and ordinal in self._versions.ancestors(merge)

    def contest(self, parents: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what a merge of these versions would show for every chunk in which they can differ.

        Returns
        -------
        keys : ndarray of int64, shape (n,)
        rows : ndarray of ROW, shape (parents, n)
            What each parent shows.
        winner : ndarray of int64, shape (n,)
            See `merging.choose`.
        """
        keys = self.postings.keys_written_in(contested(self._versions, parents))
        rows = np.stack([self.postings.resolve(keys, self._versions.lineage(parent)) for parent in parents])
        return keys, rows, choose(*_offers(rows)[:2], self._versions)

    def conflicts(self, parents: Sequence[int]) -> list[tuple[int, Groups]]:
        """Return the packed keys, sorted, that a merge of these versions would show as conflicts, and who shows what."""
        for parent in parents:
            self.derive(parent)
        keys, rows, winner = self.contest(parents)
        found = disputes(*_offers(rows), winner, self._versions)
        return [(int(keys[index]), groups) for index, groups in found]

    def _derive(self, merge: int) -> None:
        self.postings.begin_deriving(merge)
        for parent in self._versions.parents(merge):
            self.derive(parent)  # after the announcement: what is dropped from now on drops this one too
        keys, rows, winner = self.contest(self._versions.parents(merge))
        chosen = rows[np.maximum(winner, 0), np.arange(len(keys))]
        nobody = winner < 0
        chosen["origin"][nobody] = merge
        chosen["flags"][nobody] = np.where(winner[nobody] == DELETIONS, TOMBSTONE, CONFLICT)
        differs = winner != 0
        self.postings.derive(merge, keys[differs], chosen[differs])


def _offers(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what each parent of a merge offers: origin (−1 for nothing), whether it is a deletion, or a conflict."""
    origins = np.where(rows["ordinal"] < 0, -1, rows["origin"])
    return origins, rows["flags"] & TOMBSTONE != 0, rows["flags"] & CONFLICT != 0
