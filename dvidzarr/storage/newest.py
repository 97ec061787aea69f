"""The newest rows of an array, before they become a run: a dictionary, so that a small write costs little."""

import numpy as np

from dvidzarr.core.lineage import Lineage
from dvidzarr.storage.runs import ORDINAL, ROW, Row, Run

_NO_ROWS: dict[int, Row] = {}


class NewestRows:
    """Rows by key and ordinal. The owner guards it."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[int, Row]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return how many rows were added."""
        return self._count

    def add(self, key: int, row: Row) -> None:
        """Take in a row; it replaces the older one of its version."""
        self._rows.setdefault(key, {})[row[ORDINAL]] = row
        self._count += 1

    def find_own(self, key: int, ordinal: int) -> Row | None:
        """Return the row of one key of that very version, None if there is none."""
        return self._rows.get(key, _NO_ROWS).get(ordinal)

    def offer_own(self, keys: np.ndarray, ordinal: int, rows: np.ndarray) -> None:
        """Replace, in place, each answer for which there is a row of that very version."""
        if not self._rows:
            return
        for index, key in enumerate(keys.tolist()):
            row = self.find_own(key, ordinal)
            if row is not None:
                rows[index] = row

    def find(self, key: int, lineage: Lineage) -> tuple[int, Row | None]:
        """Return (rank, row) of what a lineage sees of one key; rank −1 if it sees nothing."""
        mine = self._rows.get(key, _NO_ROWS)
        nearest = max((ordinal for ordinal in mine if ordinal in lineage), default=None)
        if nearest is None:  # along a lineage a nearer version has a higher ordinal
            return -1, None
        return lineage.rank(nearest), mine[nearest]

    def look_up(self, keys: np.ndarray, lineage: Lineage) -> list[tuple[int, int, Row]]:
        """Return (index into `keys`, rank, row) of what a lineage sees of it."""
        found = []
        for index, key in enumerate(keys.tolist() if self._rows else ()):
            rank, row = self.find(key, lineage)
            if row is not None:
                found.append((index, rank, row))
        return found

    def run(self, writers: frozenset[int] | None = None) -> Run:
        """Return all rows, or those of some versions, as a run."""
        chosen = [
            (key, row)
            for key, rows in self._rows.items()
            for row in rows.values()
            if writers is None or row[ORDINAL] in writers
        ]
        keys = np.array([key for key, _ in chosen], np.int64)
        return Run.build(keys, np.array([row for _, row in chosen], ROW))
