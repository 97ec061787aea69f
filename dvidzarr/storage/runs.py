"""Sorted rows of chunk versions: the immutable pieces that postings are made of."""

from dataclasses import dataclass

import numpy as np

from dvidzarr.core.lineage import Lineage

TOMBSTONE = 1
"""Flag: the version deleted the chunk."""
CONFLICT = 2
"""Flag: a merge version sees several values, which reads as absent."""

ROW = np.dtype(
    [
        ("sequence", "<i8"),
        ("location", "<i8"),
        ("ordinal", "<i4"),
        ("origin", "<i4"),
        ("length", "<u4"),
        ("checksum", "<u4"),
        ("flags", "u1"),
    ]
)
"""One chunk version. `ordinal` ranks it, `origin` (the same but in merges) wrote it; location 0 = its Zarr key."""

Row = tuple[int, int, int, int, int, int, int]
"""A `ROW` as Python numbers."""

SEQUENCE, LOCATION, ORDINAL, ORIGIN, LENGTH, CHECKSUM, FLAGS = range(7)
"""Places in a `Row`."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Rows sorted by key, each (key, ordinal) once. `writers`: the ordinals in it (after a merge of runs maybe more)."""

    keys: np.ndarray
    rows: np.ndarray
    writers: frozenset[int]

    @staticmethod
    def empty() -> "Run":
        """Return a run of nothing."""
        return Run(np.zeros(0, np.int64), np.zeros(0, ROW), frozenset())

    @staticmethod
    def build(keys: np.ndarray, rows: np.ndarray) -> "Run":
        """Sort rows; of several for one (key, ordinal) keep the highest sequence."""
        order = np.lexsort((rows["sequence"], rows["ordinal"], keys))
        keys, rows = keys[order], rows[order]
        last = np.ones(len(keys), bool)
        last[:-1] = (keys[1:] != keys[:-1]) | (rows["ordinal"][1:] != rows["ordinal"][:-1])
        writers = frozenset(np.unique(rows["ordinal"]).tolist())
        return Run(np.ascontiguousarray(keys[last]), rows[last], writers)

    def merged(self, newer: "Run") -> "Run":
        """Return one run of both, where `newer` replaces what it has of the same (key, ordinal).

        Needs the memory of the result, and little more.
        """
        if not len(self.keys) or not len(newer.keys):
            return self if len(self.keys) else newer
        writers = self.writers | newer.writers
        if newer.keys[0] > self.keys[-1]:
            keys, rows = np.concatenate((self.keys, newer.keys)), np.concatenate((self.rows, newer.rows))
            return Run(keys, rows, writers)
        owner, index = self._among(newer.keys)
        same = self.rows["ordinal"][index] == newer.rows["ordinal"][owner]
        owner, index = owner[same], index[same]
        fresh = np.ones(len(newer.keys), bool)
        fresh[owner] = False
        at = self.keys.searchsorted(newer.keys[fresh], "right")
        keys, rows = np.insert(self.keys, at, newer.keys[fresh]), np.insert(self.rows, at, newer.rows[fresh])
        rows[index + at.searchsorted(index, "right")] = newer.rows[owner]
        return Run(keys, rows, writers)

    def _among(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (index into `keys`, index into the rows) of all rows that have one of these keys."""
        low = self.keys.searchsorted(keys, "left")
        owner = np.flatnonzero(self.keys.take(low, mode="clip") == keys)
        if not len(owner):
            return owner, owner
        low = low[owner]
        each = self.keys.searchsorted(keys[owner], "right") - low
        if int(each.max()) == 1:
            return owner, low
        first = np.repeat(low - np.cumsum(each) + each, each)
        return np.repeat(owner, each), first + np.arange(len(first))

    def offer(self, keys: np.ndarray, lineage: Lineage, ranks: np.ndarray, rows: np.ndarray) -> None:
        """Replace, in place, each answer for which this run has a row of the same or a higher rank."""
        if not len(self.keys):
            return
        owner, picked = self._among(keys)
        if not len(owner):
            return
        rank = lineage.rank_of(self.rows["ordinal"][picked])
        repeated = owner[1:] == owner[:-1]
        if repeated.any():
            order = np.lexsort((rank, owner))
            owner, picked, rank = owner[order], picked[order], rank[order]
            last = np.append(~repeated, True)
            owner, picked, rank = owner[last], picked[last], rank[last]
        better = (rank >= 0) & (rank >= ranks[owner])
        ranks[owner[better]] = rank[better]
        rows[owner[better]] = self.rows[picked[better]]

    def find(self, key: int, lineage: Lineage) -> tuple[int, int]:
        """Return (rank, index) of the row of one key that a lineage sees in this run; rank −1 if there is none."""
        low = int(self.keys.searchsorted(key))
        if low == len(self.keys) or self.keys[low] != key:
            return -1, low
        high = int(self.keys.searchsorted(key, "right"))
        if high - low == 1:
            return lineage.rank(int(self.rows[low]["ordinal"])), low
        ranks = lineage.rank_of(self.rows["ordinal"][low:high])
        best = int(ranks.argmax())
        return int(ranks[best]), low + best

    def find_own(self, key: int, ordinal: int) -> Row | None:
        """Return the row of one key of that very version, None if there is none."""
        if ordinal not in self.writers:
            return None
        low, high = int(self.keys.searchsorted(key)), int(self.keys.searchsorted(key, "right"))
        for row in self.rows[low:high]:
            if row["ordinal"] == ordinal:
                found: Row = row.item()
                return found
        return None

    def offer_own(self, keys: np.ndarray, ordinal: int, rows: np.ndarray) -> None:
        """Replace, in place, each answer for which this run has a row of that very version."""
        if ordinal not in self.writers:
            return
        owner, picked = self._among(keys)
        mine = self.rows["ordinal"][picked] == ordinal
        rows[owner[mine]] = self.rows[picked[mine]]

    def of_versions(self, ordinals: frozenset[int]) -> "Run":
        """Return what these versions wrote of it; costs nothing where they wrote nothing."""
        wanted = self.writers & ordinals
        if not wanted:
            return Run.empty()
        member = np.zeros(max(self.writers) + 1, bool)
        member[list(wanted)] = True
        chosen = np.flatnonzero(member[self.rows["ordinal"]])
        return Run(self.keys[chosen], self.rows[chosen], wanted)
