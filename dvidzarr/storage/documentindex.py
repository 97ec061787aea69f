"""The words of one instance, as records bring them: pending ones in memory, the others in the index. Design: storage §8."""

import threading
from collections.abc import Callable, Iterable
from time import sleep

from dvidzarr.storage.derivedwords import DerivedWords
from dvidzarr.storage.keyindex import KeyIndex
from dvidzarr.storage.listings import KeyLists
from dvidzarr.storage.merging import Versions
from dvidzarr.storage.places import VALUE, Place
from dvidzarr.storage.recent import RecentWords

_PENDING = 2000
"""So many words are held in memory before it is time to write them into the index."""
_PORTION = 100
"""Keys that are written at a time, which takes a millisecond or two."""
_PAUSE_S = 0.001
"""Between portions."""
_MOST_PENDING = 4 * _PENDING
"""With so many, whoever brings them must do it."""


class DocumentIndex:
    """The index of one instance's documents; `Documents` adds what is looked up in it.

    Parameters
    ----------
    path
        The file of the index, or ":memory:".
    loading
        Whether a log is about to be read back. Until `loaded` is called, or something is looked up, words go to the
        index in large sorted portions: keys in random order would have its pages written again and again.
    """

    def __init__(self, path: str, versions: Versions, *, loading: bool) -> None:
        self._versions = versions
        self._lock = threading.RLock()
        self._index = KeyIndex(path)
        self._loading = loading
        self._derived = DerivedWords(versions)
        self._lists = KeyLists()
        self._recent = RecentWords()
        self._epoch = 0
        self._closed = False
        self._due = _PENDING  # with so many words, their writing is asked for
        self.later: Callable[[Callable[[], None]], None] = lambda task: task()
        """Called, under the lock, with what is to be done soon."""

    # --- the index as a cache --------------------------------------------------------------------------------

    def stamp(self) -> str:
        """Return what the index was last marked with, "" if never."""
        with self._lock:
            return self._index.stamp()

    def mark(self, stamp: str) -> None:
        """Commit what was applied, together with the stamp that describes it."""
        with self._lock:
            self._write_out()
            self._index.mark(stamp)

    def load(self, data: bytes) -> None:
        """Take over the bytes of another index (followers start from the writer's file)."""
        with self._lock:
            self._index.load(data)
            self._recent = RecentWords()

    def take_over(self, other: "DocumentIndex") -> None:
        """Hold the words of others instead, which nobody uses any more: all at once; derived ones are made anew."""
        with self._lock, other._lock:
            other._write_out()
            other._closed = True
            self._index.close()
            self._index = other._index
            self._derived, self._lists, self._recent = DerivedWords(self._versions), KeyLists(), RecentWords()
            self._epoch += 1

    def move_to(self, path: str) -> None:
        """Go on in a new file, with all rows: who looks something up meanwhile waits, and nobody sees a difference."""
        with self._lock:
            self._write_out()
            self._index.move_to(path)

    def close(self) -> None:
        """Close the index; what was applied since the last `mark` comes from the log again."""
        with self._lock:
            self._closed = True
            self._index.close()

    # --- applying records ------------------------------------------------------------------------------------

    def put(self, key: bytes, place: Place) -> None:
        """Note a version's word on a key; an older one of the same version is replaced."""
        self.put_all([(key, place)])

    def put_all(self, words: Iterable[tuple[bytes, Place]]) -> None:
        """Note several words; a reader sees all of them or none."""
        with self._lock:
            if self._loading:
                self._index.gather((key, *place) for key, place in words)
                return
            self._index.check()
            written = set()
            for key, place in words:
                self._recent.note(key, place)
                self._lists.note(key, place.ordinal, there=place.state == VALUE)
                written.add(place.ordinal)
                if self._recent.count >= _MOST_PENDING:
                    self._write_out()
            gone = self._derived.drop(written)
            if gone:
                self._lists.drop(gone)
            if self._recent.count >= self._due:
                self.later(self.write_out)

    def loaded(self) -> None:
        """Note that the log was read back."""
        with self._lock:
            self._loading = False

    def write_out(self) -> None:
        """Put the pending words into the index, in portions: nobody waits for more than one."""
        with self._lock:
            keys = self._recent.keys()
        for start in range(0, len(keys), _PORTION):
            with self._lock:
                if self._closed:
                    return
                self._move(keys[start : start + _PORTION])
            sleep(_PAUSE_S)  # who takes a lock again at once leaves it to nobody

    def _write_out(self) -> None:
        self._loading = False
        if self._recent.count:
            self._move(self._recent.keys())

    def _move(self, keys: list[bytes]) -> None:
        self._due = self._recent.count + _PENDING  # if it fails, it is not tried again for each word
        self._index.write(self._recent.pending(keys))
        self._recent.written(keys)
        self._due = _PENDING
