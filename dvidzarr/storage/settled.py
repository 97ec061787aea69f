"""Which chunk versions were moved under their Zarr keys since they were recorded."""

import numpy as np

from dvidzarr.storage.runs import CHECKSUM, FLAGS, LENGTH, LOCATION, ORDINAL, ORIGIN, SEQUENCE, Row


class Settled:
    """Per version the last record whose chunks lie under their Zarr keys.

    Rows are not changed when that happens: whoever hands out rows has their locations put right here, so that finishing
    a version costs the same at any size.

    The array is replaced, never changed: readers need no lock.
    """

    def __init__(self) -> None:
        self._upto = np.zeros(1, np.int64)

    def add(self, ordinal: int, upto: int) -> None:
        """Note that what a version wrote up to a sequence lies under its Zarr keys."""
        grown = np.zeros(max(len(self._upto), ordinal + 1), np.int64)
        grown[: len(self._upto)] = self._upto
        grown[ordinal] = upto
        self._upto = grown

    def take_over(self, other: "Settled") -> None:
        """Know what another one knows instead."""
        self._upto = other._upto

    def correct(self, rows: np.ndarray) -> None:
        """Put the locations of rows right, in place."""
        moved = np.flatnonzero(rows["location"])
        if not len(moved):
            return
        upto, origins = self._upto, rows["origin"][moved]
        inside = origins < len(upto)
        last = np.where(inside, upto[np.where(inside, origins, 0)], 0)
        rows["location"][moved[rows["sequence"][moved] <= last]] = 0

    def corrected(self, row: Row) -> Row:
        """Return one row with its location put right."""
        upto = self._upto
        if not row[LOCATION] or row[ORIGIN] >= len(upto) or row[SEQUENCE] > upto[row[ORIGIN]]:
            return row
        return row[SEQUENCE], 0, row[ORDINAL], row[ORIGIN], row[LENGTH], row[CHECKSUM], row[FLAGS]
