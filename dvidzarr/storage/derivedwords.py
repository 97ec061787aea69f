"""What merge versions show where they differ from their first parents: it follows from others, so it is not stored."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dvidzarr.core.lineage import Lineage
from dvidzarr.storage.merging import CONFLICTING, DELETIONS, NOTHING, Versions
from dvidzarr.storage.places import CONFLICT, DELETED, VALUE, Place


class DerivedWords:
    """Derived words by merge version and key; None = nothing. The caller guards it."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self._pending: set[int] = set()
        self.places: Mapping[int, Mapping[bytes, Place | None]] = {}
        """Replaced, never changed: who took it may go on with it."""

    def has(self, merges: Iterable[int]) -> bool:
        """Tell whether these merge versions are all worked out."""
        return all(merge in self.places for merge in merges)

    def begin(self, merge: int) -> None:
        """Announce that a merge version is being worked out; `keep` must follow."""
        self._pending.add(merge)

    def keep(self, merge: int, places: Mapping[bytes, Place | None]) -> None:
        """Take what was worked out, unless something it follows from was written meanwhile."""
        if merge in self._pending:
            self._pending.remove(merge)
            self.places = {**self.places, merge: places}

    def drop(self, written: Iterable[int]) -> set[int]:
        """Forget what follows from versions that were written, and return these merges: they were made when locked."""
        gone = {
            merge
            for merge in self.places.keys() | self._pending
            if any(at < merge and at in self._versions.ancestors(merge) for at in written)
        }
        if gone:
            self._pending -= gone
            self.places = {merge: places for merge, places in self.places.items() if merge not in gone}
        return gone

    def best(self, key: bytes, lineage: Lineage, own: Place | None) -> Place | None:
        """Return the word of the nearest version on a lineage, of the derived ones and the best of the others, `own`."""
        best, nearest = own, -1 if own is None else own.ordinal
        for merge, places in self.places.items():
            if merge > nearest and key in places and merge in lineage:
                best, nearest = places[key], merge
        return best


def differing(
    merge: int, keys: Sequence[bytes], seen: Sequence[Sequence[Place | None]], winners: Sequence[int]
) -> dict[bytes, Place | None]:
    """Return what a merge shows of the keys, seen so by its parents, where it differs from the first of them."""
    own = {
        NOTHING: None,
        CONFLICTING: Place(merge, 0, CONFLICT, None, 0, 0, 0, 0),
        DELETIONS: Place(merge, 0, DELETED, None, 0, 0, 0, 0),
    }
    return {
        key: own[winner] if winner in own else seen[winner][index]
        for index, (key, winner) in enumerate(zip(keys, winners, strict=True))
        if winner != 0
    }


def offers(seen: Sequence[Sequence[Place | None]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what each parent of a merge offers: origin (−1 for nothing), whether it is a deletion, or a conflict."""
    shape = (len(seen), len(seen[0]))
    origins = np.array([[-1 if p is None else p.ordinal for p in row] for row in seen], np.int32)
    states = np.array([[VALUE if p is None else p.state for p in row] for row in seen], np.int8)
    deleted, conflicting = (states.reshape(shape) == state for state in (DELETED, CONFLICT))
    return origins.reshape(shape), deleted, conflicting
