"""How far the chunks reach that each version wrote."""

from collections.abc import Iterable

import numpy as np

from dvidzarr.core.geometry import CHUNK_LIMIT
from dvidzarr.storage.chunkkeys import unpack, unpack_one
from dvidzarr.storage.runs import FLAGS, ORDINAL, Row, Run

_PIECE = 1 << 20
"""Rows measured at a time, so that measuring needs little memory."""
_LOWEST = np.full(3, -CHUNK_LIMIT, np.int64)


class Hulls:
    """The highest chunk coordinates (z, y, x) that each version wrote, and which versions hide any chunk of others."""

    def __init__(self) -> None:
        self._tops: dict[int, tuple[int, ...]] = {}
        self._hiding: set[int] = set()

    @staticmethod
    def of(runs: Iterable[Run]) -> "Hulls":
        """Measure runs."""
        hulls = Hulls()
        for run in runs:
            for start in range(0, len(run.keys), _PIECE):
                hulls._measure(run.keys[start : start + _PIECE], run.rows[start : start + _PIECE])
        return hulls

    def _measure(self, keys: np.ndarray, rows: np.ndarray) -> None:
        ordinals, which = np.unique(rows["ordinal"], return_inverse=True)
        tops = np.repeat(_LOWEST[None], len(ordinals), axis=0)
        coords = unpack(keys)
        for axis in range(3):
            np.maximum.at(tops[:, axis], which, coords[:, axis])
        for ordinal, top in zip(ordinals.tolist(), tops.tolist(), strict=True):
            self._raise(ordinal, tuple(top))
        self._hiding |= set(np.unique(rows["ordinal"][rows["flags"] != 0]).tolist())

    def add(self, ordinal: int, keys: np.ndarray, rows: np.ndarray) -> None:
        """Take in what a version wrote; `keys` must not be empty."""
        self._raise(ordinal, tuple(unpack(keys).max(axis=0).tolist()))
        if rows["flags"].any():
            self.hide(ordinal)

    def add_one(self, key: int, row: Row) -> None:
        """Take in one row."""
        self._raise(row[ORDINAL], unpack_one(key))
        if row[FLAGS]:
            self.hide(row[ORDINAL])

    def hide(self, ordinal: int) -> None:
        """Note that a version hides chunks of its ancestors: it deleted them, or it is a merge in which they conflict."""
        self._hiding.add(ordinal)

    def unite(self, other: "Hulls") -> None:
        """Take in what others measured."""
        for ordinal, top in other._tops.items():
            self._raise(ordinal, top)
        self._hiding |= other._hiding

    def _raise(self, ordinal: int, top: tuple[int, ...]) -> None:
        known = self._tops.get(ordinal)
        self._tops[ordinal] = top if known is None else tuple(map(max, known, top))

    def top(self, ordinals: frozenset[int]) -> tuple[np.ndarray | None, bool]:
        """Return the highest coordinates of these versions together, and whether none of them hides a chunk."""
        tops = [self._tops[ordinal] for ordinal in ordinals & self._tops.keys()]
        return np.max(tops, axis=0) if tops else None, not ordinals & self._hiding
