"""Counters of all processes of a server in memory that they share: each writes its own row and reads all."""

import mmap
from collections.abc import Iterator

CLOSED, ACTIVE, SECOND, READS, READS_BEFORE, WRITES, WRITES_BEFORE = range(7)
"""Places in a row: connections that ended, requests running, requests begun in the second `SECOND` and in the one before."""

_WORDS = 8
_WORD_BYTES = 8


class Board:
    """Rows of 64-bit numbers. A row has one writer; reading and writing a number is one aligned access.

    Parameters
    ----------
    rows
        One per process.
    file
        Descriptor of a file that the processes share; without one the memory is this process's own.
    """

    def __init__(self, rows: int = 1, file: int = -1) -> None:
        flags = mmap.MAP_SHARED if file >= 0 else mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
        self._words = memoryview(mmap.mmap(file, self.size(rows), flags)).cast("q")
        self._rows = rows

    @staticmethod
    def size(rows: int) -> int:
        """Return the bytes that the file must have."""
        return rows * _WORDS * _WORD_BYTES

    def row(self, number: int) -> memoryview:
        """Return the row of one process."""
        return self._words[number * _WORDS : (number + 1) * _WORDS]

    def rows(self) -> Iterator[memoryview]:
        """Yield all rows."""
        return map(self.row, range(self._rows))

    def clear(self, number: int) -> None:
        """Set a row to zeros: its process is gone."""
        row = self.row(number)
        for place in range(_WORDS):
            row[place] = 0
