"""Which versions a version inherits from, as ranks: the only resolution rule there is."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Lineage:
    """The first-parent chain of one version.

    Attributes
    ----------
    ranks : ndarray of int32
        Rank per version ordinal: -1 = not on the chain, the root 0, higher = nearer to the version itself.
    ordinal : int
        The version itself (`UNVERSIONED` for the lineage of unversioned data).
    """

    ranks: np.ndarray
    ordinal: int

    def child(self, ordinal: int) -> "Lineage":
        """Return the lineage of a new version whose first parent is this one."""
        ranks = np.full(max(ordinal + 1, len(self.ranks)), -1, np.int32)
        ranks[: len(self.ranks)] = self.ranks
        ranks[ordinal] = self.ranks[self.ordinal] + 1
        return Lineage(ranks, ordinal)

    @staticmethod
    def root(ordinal: int) -> "Lineage":
        """Return the lineage of a version without parents."""
        ranks = np.full(ordinal + 1, -1, np.int32)
        ranks[ordinal] = 0
        return Lineage(ranks, ordinal)

    def rank(self, ordinal: int) -> int:
        """Return the rank of one version ordinal, −1 if it is not on the chain."""
        return int(self.ranks[ordinal]) if ordinal < len(self.ranks) else -1

    def rank_of(self, ordinals: np.ndarray) -> np.ndarray:
        """Return the rank of each version ordinal (int32, -1 = not on the chain); ordinals may be newer than this value."""
        inside = ordinals < len(self.ranks)
        return np.where(inside, self.ranks[np.where(inside, ordinals, 0)], np.int32(-1))

    def nearest(self, ordinals: np.ndarray) -> int | None:
        """Return the index of the nearest of these versions, None if none is on the chain."""
        if not len(ordinals):
            return None
        ranks = self.rank_of(np.asarray(ordinals))
        best = int(ranks.argmax())
        return best if ranks[best] >= 0 else None

    def __contains__(self, ordinal: int) -> bool:
        return self.rank(ordinal) >= 0
