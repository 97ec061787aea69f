"""What storage asks about the versions of a repo, answered from its DAG with small caches."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from dvidzarr.core.lineage import Lineage
from dvidzarr.repo.dag import VersionDAG
from dvidzarr.repo.state import RepoState

T = TypeVar("T")


class RepoVersions:
    """The `Versions` of a repo. Parents never change, so nothing cached here is ever wrong.

    `state` gives the current state, `catch_up` reads on in the repo log (followers). `_lock` guards the cache.
    """

    def __init__(self, state: Callable[[], RepoState], catch_up: Callable[[], None], keep: int) -> None:
        self._state = state
        self._catch_up = catch_up
        self._keep = keep
        self._lock = threading.Lock()
        self._cache: OrderedDict[Hashable, object] = OrderedDict()

    @property
    def incomplete(self) -> bool:
        """Whether records of the repo's log were given up, so that a version may be unknown."""
        return self._state().incomplete

    def _dag(self) -> VersionDAG:
        return self._state().dag

    def _cached(self, kind: str, ordinal: int, make: Callable[[int], T]) -> T:
        key = (kind, ordinal)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]  # type: ignore[return-value]
        value = make(ordinal)
        with self._lock:
            self._cache[key] = value
            while len(self._cache) > self._keep:
                self._cache.popitem(last=False)
        return value

    def id_of(self, ordinal: int) -> str:
        """Return the id of a version, as logs and paths name it."""
        return self._dag().versions[ordinal].id

    def ordinal_of(self, version_id: str) -> int | None:
        """Return the ordinal of a version; an unknown one makes a follower read on first."""
        ordinal = self._dag().by_id.get(version_id)
        if ordinal is None:
            self._catch_up()
            ordinal = self._dag().by_id.get(version_id)
        return ordinal

    def lineage(self, ordinal: int) -> Lineage:
        """Return the first-parent chain of a version."""
        return self._cached("lineage", ordinal, self._lineage)

    def _lineage(self, ordinal: int) -> Lineage:
        dag = self._dag()
        parents = dag.versions[ordinal].parents
        with self._lock:
            above = self._cache.get(("lineage", parents[0])) if parents else None
        return above.child(ordinal) if isinstance(above, Lineage) else dag.lineage(ordinal)

    def parents(self, ordinal: int) -> Sequence[int]:
        """Return the parents of a version."""
        return self._dag().versions[ordinal].parents

    def ancestors(self, ordinal: int) -> frozenset[int]:
        """Return a version and all its ancestors through every parent."""
        return self._cached("ancestors", ordinal, self._dag().ancestors)

    def merges(self, ordinal: int) -> Sequence[int]:
        """Return the merge versions among a version and its ancestors, oldest first."""
        return self._cached("merges", ordinal, self._merges) if self._dag().merge_ordinals else ()

    def _merges(self, ordinal: int) -> Sequence[int]:
        parents = self.parents(ordinal)
        with self._lock:
            above = self._cache.get(("merges", parents[0])) if len(parents) == 1 else None
        if isinstance(above, tuple):
            return above
        older = self.ancestors(ordinal)
        return tuple(merge for merge in self._dag().merge_ordinals if merge in older)

    def fingerprint(self, count: int | None = None) -> str:
        """Return a text that stays the same while the first `count` ordinals mean the same versions."""
        number = len(self._dag()) if count is None else min(count, len(self._dag()))
        return self._cached("fingerprint", number, lambda first: self._dag().fingerprint(first))
