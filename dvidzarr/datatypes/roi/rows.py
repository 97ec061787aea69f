"""One row of an optimized partition: where the pieces are cut along x. Source: spec-roi §3.5.2."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

_END = 1 << 62
"""Behind everything."""


class Row:
    """The spans of a row, (n, 4) z, y, x0, x1, seen along x."""

    def __init__(self, rows: NDArray[np.int64]) -> None:
        order = np.argsort(rows[:, 2], kind="stable")
        starts, highest = rows[order, 2], np.maximum.accumulate(rows[order, 3])
        self._first, self._last = int(starts[0]), int(highest[-1])
        # columns without any block: between what ends and what starts next, and behind the last one
        gap = np.flatnonzero(starts[1:] > highest[:-1] + 1)
        self._gap_starts = [*(highest[gap] + 1).tolist(), self._last + 1]
        self._gap_ends = [*(starts[gap + 1] - 1).tolist(), _END]
        self._starts = sorted(rows[:, 2].tolist())
        self._stops = sorted((rows[:, 3] + 1).tolist())
        self._start_sums = [0, *accumulate(self._starts)]
        self._stop_sums = [0, *accumulate(self._stops)]

    def covered(self, first: int, last: int) -> int:
        """Return how many blocks of the spans lie in the columns first … last; where spans overlap, each counts."""
        return self._below(last + 1) - self._below(first)

    def _below(self, x: int) -> int:
        begun: int = bisect_left(self._starts, x)
        ended: int = bisect_left(self._stops, x)
        inside: int = begun * x - self._start_sums[begun] - (ended * x - self._stop_sums[ended])
        return inside

    def pieces(self, size: int) -> Iterator[tuple[tuple[int, int], bool]]:
        """Yield (first, last column) of the pieces, and whether each is a box: else it was cut off before a hole."""
        spare = (self._last - self._first + 1) % size
        x = self._first
        while x <= self._last:
            stop = x + size - (spare == 0)
            spare = max(spare - 1, 0)
            hole = self._widest_hole(x, stop)
            if hole is None:
                yield (x, stop), True
                x = stop + 1
                continue
            if hole[0] > x:
                yield (x, hole[0] - 1), False
            x = hole[1] + 1
            if hole[1] == stop:
                x, spare = self._over_hole(x, size, spare)

    def _widest_hole(self, first: int, last: int) -> tuple[int, int] | None:
        """Return the longest run of empty columns between two columns, the first one if there are several."""
        index = bisect_left(self._gap_ends, first)
        stop = bisect_right(self._gap_starts, last)
        holes = (
            (max(first, self._gap_starts[at]), min(last, self._gap_ends[at])) for at in range(index, stop)
        )
        return max(holes, key=lambda hole: hole[1] - hole[0], default=None)

    def _over_hole(self, x: int, size: int, spare: int) -> tuple[int, int]:
        """Go on over all boxes that lie in the hole x is in: nothing comes of them but a place and spare columns."""
        index = bisect_left(self._gap_ends, x)
        if x > self._last or self._gap_starts[index] > x:
            return x, spare
        left = min(self._gap_ends[index], self._last) - x + 1
        wide = min(spare, left // (size + 1))
        x, left = x + wide * (size + 1), left - wide * (size + 1)
        if wide < spare:
            return x, spare - wide
        return x + left // size * size, 0
