"""Versioned key → bytes, ordered by key: what a version sees of the words on keys that the rows of `KeyIndex` hold.

A word is one version's word on one key: a small value itself, the place of a larger one in the log, the id of a blob, or
a deletion. Derived ones of merge versions are kept apart and rebuilt when needed. Design: storage §3, §8.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from dvidzarr.core.lineage import Lineage
from dvidzarr.storage.derivedwords import differing, offers
from dvidzarr.storage.documentindex import DocumentIndex
from dvidzarr.storage.listings import KeyList
from dvidzarr.storage.merging import Groups, Versions, choose, contested, disputes
from dvidzarr.storage.places import VALUE, Place

_ROWS_AT_ONCE = 5000

ONE_STATE = 2000
"""So many keys of a range are looked up in one go."""

T = TypeVar("T")


class Documents(DocumentIndex):
    """What versions see of an instance's documents.

    One index under one lock: a look-up takes microseconds, and what was applied is seen at once. `_deriving` and
    `_collecting` see to it that one thread alone works out what merges show, and collects keys for a list.
    """

    def __init__(self, path: str, versions: Versions, *, loading: bool = False) -> None:
        super().__init__(path, versions, loading=loading)
        self._deriving = threading.RLock()
        self._collecting = threading.Lock()

    # --- looking up ------------------------------------------------------------------------------------------

    def find(self, key: bytes, lineage: Lineage) -> Place | None:
        """Return where the value of a key lies as a lineage sees it, None if there is none."""
        return self._when_complete(lineage, lambda: self._visible(key, lineage))

    def find_now(self, key: bytes, lineage: Lineage) -> tuple[bool, Place | None]:
        """Do as `find` if that needs no waiting: (True, what it returns), else (False, None). For event loops."""
        if not self._lock.acquire(blocking=False):
            return False, None
        try:
            known = self._is_complete(lineage)
            return known, self._visible(key, lineage) if known else None
        finally:
            self._lock.release()

    def find_all(self, keys: Sequence[bytes], lineage: Lineage) -> list[Place | None]:
        """Return where the values of keys lie, all of one state."""
        return self._when_complete(lineage, lambda: [self._visible(key, lineage) for key in keys])

    def _visible(self, key: bytes, lineage: Lineage) -> Place | None:
        place = self._best(key, lineage)
        return None if place is None or place.state != VALUE else place

    def _best(self, key: bytes, lineage: Lineage) -> Place | None:
        """Return the nearest version's word, also that it is deleted; derived ones lose to the merge version's own."""
        self._loading = False
        known = self._recent.answer(key, lineage.ordinal)
        if known is not None:
            return known[0]
        if self._recent.is_pending(key):
            self._move([key])
        best = self._look_up(key, lineage)
        self._recent.keep(key, lineage.ordinal, best)
        return best

    def _look_up(self, key: bytes, lineage: Lineage) -> Place | None:
        """Do as `_best`, from the index.

        Along a lineage a nearer version has a higher ordinal, so the first row on it, from above, is the answer.
        """
        rows = self._index.words_on(key, lineage.ordinal)
        own = next((Place(*row[1:]) for row in rows if row[1] in lineage), None)
        return self._derived.best(key, lineage, own)

    def keys(self, lineage: Lineage, first: bytes = b"", last: bytes | None = None) -> list[bytes]:
        """Return the keys in [first, last] that a lineage sees, in order of the bytes."""
        listed = self._listed(lineage)
        with self._lock:
            return listed.between(first, last)

    def _listed(self, lineage: Lineage) -> KeyList:
        with self._collecting:
            while True:
                known = self._when_complete(lineage, lambda: self._lists.get(lineage.ordinal))
                known = self._collect(lineage) if known is None else known
                if known is not None:
                    return known

    def _collect(self, lineage: Lineage) -> KeyList | None:
        """Go through all rows once, a page at a time so that others get their turn.

        None if an ancestor was written meanwhile, or before the list took notes: then what is collected is of no use.
        """
        with self._lock:
            if not self._is_complete(lineage):
                return None
            self._write_out()
            fresh, derived = self._lists.begin(lineage), self._derived.places
        chain = frozenset(np.flatnonzero(lineage.ranks >= 0).tolist())
        words: dict[bytes, tuple[int, bool]] = {}
        behind: tuple[bytes, int] | None = (b"", -1)
        while behind is not None:
            with self._lock:
                rows = self._index.page(behind, _ROWS_AT_ONCE)
            for key, ordinal, state in rows:  # of one key in ascending order: the nearest version comes last
                if ordinal in chain:
                    words[key] = (ordinal, state == VALUE)
            behind = rows[-1][:2] if len(rows) == _ROWS_AT_ONCE else None
        for merge in sorted(chain & derived.keys()):
            for key, place in derived[merge].items():
                if words.get(key, (-1, False))[0] < merge:
                    words[key] = (merge, place is not None and place.state == VALUE)
        with self._lock:
            if self._lists.get(lineage.ordinal) is not fresh:
                return None
            self._lists.keep(fresh, sorted(key for key, (_, there) in words.items() if there))
        return fresh

    def range(
        self, lineage: Lineage, first: bytes = b"", last: bytes | None = None
    ) -> Iterator[tuple[bytes, Place]]:
        """Yield (key, place) of all keys in [first, last] that a lineage sees, in order of the bytes.

        What is yielded shows one state up to `ONE_STATE` keys; a longer range is looked up in parts of that many.
        """
        epoch, listed = self._epoch, self._listed(lineage)

        def look_up() -> tuple[list[bytes], list[Place | None]] | None:
            keys = listed.between(first, last)
            return (
                None
                if epoch != self._epoch
                else (keys, [self._visible(key, lineage) for key in keys[:ONE_STATE]])
            )

        while (found := self._when_complete(lineage, look_up)) is None:
            epoch, listed = self._epoch, self._listed(lineage)
        keys, places = found
        for start in range(0, len(keys), ONE_STATE):
            part = keys[start : start + ONE_STATE]
            places = self.find_all(part, lineage) if start else places
            for key, place in zip(part, places, strict=True):
                if place is not None:
                    yield key, place

    def all_rows(self) -> list[tuple[bytes, Place]]:
        """Return every version's word on every key."""
        with self._lock:
            self._write_out()
            return [(row[0], Place(*row[1:])) for row in self._index.all_rows()]

    # --- merge versions --------------------------------------------------------------------------------------

    def _derive(self, ordinal: int) -> None:
        merges = self._versions.merges(ordinal)
        while not self._derived.has(merges):
            with self._deriving:
                for merge in merges:
                    if not self._derived.has([merge]):
                        self._derive_one(merge)

    def _derive_one(self, merge: int) -> None:
        """Work out what a merge version shows; comes to nothing if what it inherits is written meanwhile."""
        with self._lock:
            self._derived.begin(merge)
        places = differing(merge, *self.contest(self._versions.parents(merge)))
        with self._lock:
            self._derived.keep(merge, places)

    def _is_complete(self, lineage: Lineage) -> bool:
        return self._derived.has(self._versions.merges(lineage.ordinal))

    def _when_complete(self, lineage: Lineage, look_up: Callable[[], T]) -> T:
        """Look something up, under the lock, when all that it needs is derived."""
        while True:
            self._derive(lineage.ordinal)
            with self._lock:
                if self._is_complete(lineage):
                    return look_up()

    def contest(self, parents: Sequence[int]) -> tuple[list[bytes], list[list[Place | None]], list[int]]:
        """Return what a merge of these versions would show for every key in which they can differ.

        Returns
        -------
        keys
            Sorted.
        seen
            Per parent and key what it shows, deletions and conflicts included.
        winner
            Per key, see `merging.choose`.
        """
        lines = [self._versions.lineage(parent) for parent in parents]
        derivations: dict[int, Mapping[bytes, Place | None]] = {}
        for line in lines:
            derivations |= self._when_complete(line, lambda: self._derived.places)
        versions = contested(self._versions, parents)
        keys: set[bytes] = set()
        for ordinal in versions:
            with self._lock:
                self._write_out()
                keys.update(self._index.written_by(ordinal))
        keys |= {key for older in versions & derivations.keys() for key in derivations[older]}
        ordered = sorted(keys)
        seen = [self._words(ordered, line) for line in lines]
        return ordered, seen, choose(*offers(seen)[:2], self._versions).tolist()

    def conflicts(self, parents: Sequence[int]) -> list[tuple[bytes, Groups]]:
        """Return the keys, sorted, that a merge of these versions would show as conflicts, and who shows what."""
        keys, seen, winners = self.contest(parents)
        found = disputes(*offers(seen), np.array(winners, np.int64), self._versions)
        return [(keys[index], groups) for index, groups in found]

    def _words(self, keys: list[bytes], lineage: Lineage) -> list[Place | None]:
        return self._when_complete(lineage, lambda: [self._best(key, lineage) for key in keys])
