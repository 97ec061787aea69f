"""What a merge version shows, from what its parents show. Design: storage §3.

Each parent offers, per key, its winner by the version that wrote it (its origin). An origin that is an ancestor of
another one is superseded; a deletion loses to a surviving value of another line; one left wins; several values are a
conflict, which reads as absent (as DVID does). To later merges a conflict is a value that the merge version wrote: it
goes on until somebody who saw it writes or deletes the key. Likewise several deletions are one that the merge version
made: each of them hides what it deleted from later merges. Rejected: logging the outcome at merge time. It is a pure
function of locked versions, so a log record could only disagree with it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from dvidzarr.core.lineage import Lineage

NOTHING = -1
CONFLICTING = -2
DELETIONS = -3

Groups = tuple[tuple[int, ...], ...]
"""Indices of parents that show values in conflict: one group per value, in the order of their first parents.

The first one's value wins if the conflict is resolved. Who shows a conflict of an earlier merge comes last, and after an
empty group if nobody shows a value that was not written before it: then it stays.
"""


class Versions(Protocol):
    """What storage must know about the versions of its data. Ordinals grow along the DAG: parents before children."""

    @property
    def incomplete(self) -> bool:
        """Whether versions were given up: records may name some that are unknown."""
        ...

    def id_of(self, ordinal: int) -> str:
        """Return the id of a version, as logs and paths name it."""
        ...

    def ordinal_of(self, version_id: str) -> int | None:
        """Return the ordinal of a version, None if it is unknown."""
        ...

    def lineage(self, ordinal: int) -> Lineage:
        """Return the first-parent chain of a version."""
        ...

    def parents(self, ordinal: int) -> Sequence[int]:
        """Return the parents of a version."""
        ...

    def ancestors(self, ordinal: int) -> frozenset[int]:
        """Return a version and all its ancestors through every parent."""
        ...

    def merges(self, ordinal: int) -> Sequence[int]:
        """Return the merge versions among a version and its ancestors, oldest first."""
        ...

    def fingerprint(self, count: int | None = None) -> str:
        """Return a text that is the same as long as the first `count` ordinals mean the same versions (default: all)."""
        ...


class Unversioned:
    """The one pseudo-version of unversioned data: outside the DAG, never locked."""

    incomplete = False

    def id_of(self, ordinal: int) -> str:
        """Return its id."""
        return "unversioned"

    def ordinal_of(self, version_id: str) -> int | None:
        """Return 0 for its id."""
        return 0 if version_id == "unversioned" else None

    def lineage(self, ordinal: int) -> Lineage:
        """Return a lineage of nothing but itself."""
        return Lineage.root(ordinal)

    def parents(self, ordinal: int) -> Sequence[int]:
        """Return none."""
        return ()

    def ancestors(self, ordinal: int) -> frozenset[int]:
        """Return itself."""
        return frozenset((ordinal,))

    def merges(self, ordinal: int) -> Sequence[int]:
        """Return none."""
        return ()

    def fingerprint(self, count: int | None = None) -> str:
        """Return a constant."""
        return "1 unversioned"


def contested(versions: Versions, parents: Iterable[int]) -> frozenset[int]:
    """Return the versions whose entries, written or derived, can make these parents of a merge differ.

    What a version shows follows from the entries along its first-parent chain alone, and two chains that meet stay
    together. (All ancestors, less the common ones, would miss a key in conflict at one parent that is an ancestor of
    the other.)
    """
    lines = [frozenset(np.flatnonzero(versions.lineage(parent).ranks >= 0).tolist()) for parent in parents]
    return frozenset.union(*lines) - frozenset.intersection(*lines)


def writers_shown(versions: Versions, writers: Collection[int], ordinal: int) -> frozenset[int]:
    """Return which versions wrote what a version shows of one thing: several only below a merge.

    A merge shows what its parents show, less what one of them replaced in its own line.

    Parameters
    ----------
    writers
        Ordinals of all versions that wrote the thing.
    """
    shown: dict[int, frozenset[int]] = {writer: frozenset((writer,)) for writer in writers}
    for merge in versions.merges(ordinal):
        if merge not in shown:
            parents = [_nearest(versions, parent, shown) for parent in versions.parents(merge)]
            found = frozenset[int]().union(*parents)
            shown[merge] = found.difference(*(versions.ancestors(writer) - {writer} for writer in found))
    return _nearest(versions, ordinal, shown)


def _nearest(versions: Versions, ordinal: int, shown: Mapping[int, frozenset[int]]) -> frozenset[int]:
    candidates = np.array(list(shown), np.int64)
    nearest = versions.lineage(ordinal).nearest(candidates)
    return frozenset() if nearest is None else shown[int(candidates[nearest])]


def choose(origins: np.ndarray, deleted: np.ndarray, versions: Versions) -> np.ndarray:
    """Decide which parent's value a merge version shows.

    Parameters
    ----------
    origins : ndarray of int32, shape (parents, keys)
        Ordinal of the version that wrote what the parent shows (of a conflict: where it arose), −1 where it shows nothing.
    deleted : ndarray of bool, shape (parents, keys)
        Whether what it shows is a deletion.

    Returns
    -------
    ndarray of int64, shape (keys,)
        Index of the parent that wins, `NOTHING`, `CONFLICTING`, or `DELETIONS`: of several lines, and no value.
    """
    alive = _unbeaten(origins, versions)
    for one in range(len(origins)):
        for other in range(one):
            alive[one] &= ~((origins[one] == origins[other]) & (origins[one] >= 0))
    values = alive & ~deleted
    alive &= ~deleted | ~values.any(axis=0)
    number = alive.sum(axis=0)
    several = np.where(values.any(axis=0), CONFLICTING, DELETIONS)
    return np.where(number == 0, NOTHING, np.where(number > 1, several, alive.argmax(axis=0)))


def disputes(
    origins: np.ndarray, deleted: np.ndarray, conflicting: np.ndarray, winners: np.ndarray, versions: Versions
) -> list[tuple[int, Groups]]:
    """Return the indices of the keys that a merge would show as conflicts, and who shows what; see `choose`.

    `conflicting` (bool, shape (parents, keys)) tells where what a parent shows is a conflict. One that all parents show
    is none of this merge.
    """
    shown = conflicting[np.maximum(winners, 0), np.arange(len(winners))] & (winners >= 0)
    left = (winners == CONFLICTING) | (shown & (origins != origins[0]).any(axis=0))
    origins, conflicting = origins[:, left], conflicting[:, left]
    unbeaten = _unbeaten(origins, versions) & ~deleted[:, left]
    return [
        (key, _groups(origins[:, place], unbeaten[:, place], conflicting[:, place]))
        for place, key in enumerate(left.nonzero()[0].tolist())
    ]


def _groups(origins: np.ndarray, unbeaten: np.ndarray, conflicting: np.ndarray) -> Groups:
    by_origin: dict[int, list[int]] = {}
    for parent in (unbeaten & ~conflicting).nonzero()[0].tolist():
        by_origin.setdefault(int(origins[parent]), []).append(parent)
    groups = tuple(map(tuple, by_origin.values()))
    broken = tuple((unbeaten & conflicting).nonzero()[0].tolist())
    return (*(groups or ((),)), broken) if broken else groups


def _unbeaten(origins: np.ndarray, versions: Versions) -> np.ndarray:
    alive: np.ndarray = origins >= 0
    for one in range(len(origins)):
        for other in range(len(origins)):
            if one != other:
                alive[one] &= ~_superseded(origins[one], origins[other], versions)
    return alive


def _superseded(mine: np.ndarray, theirs: np.ndarray, versions: Versions) -> np.ndarray:
    """Tell where the version in `mine` is a proper ancestor of the one in `theirs`."""
    both = (mine >= 0) & (theirs >= 0) & (mine != theirs)
    result = np.zeros(len(mine), bool)
    for origin in np.unique(theirs[both]).tolist():
        older = np.fromiter(versions.ancestors(origin), np.int64)
        where = both & (theirs == origin)
        result[where] = np.isin(mine[where], older)
    return result
