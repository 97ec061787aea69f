"""Versioned key → bytes, ordered by key. The log holds the truth; the rows here are a disposable index in SQLite.

A row is one version's word on one key: a small value itself, the place of a larger one in the log, the id of a blob, or
a deletion. Derived rows of merge versions are kept apart and rebuilt when needed. Design: storage §3, §8.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np

from dvidzarr.core.lineage import Lineage
from dvidzarr.storage.listings import KeyList, KeyLists
from dvidzarr.storage.merging import CONFLICTING, NOTHING, Versions, choose, contested, rivals
from dvidzarr.storage.recent import RecentWords

INLINE = 1024
"""Values up to this many bytes lie in the index itself; up to `LOGGED` in the log; larger ones in blobs."""
LOGGED = 64 << 10

_SCHEMA = """
CREATE TABLE IF NOT EXISTS stamp (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    key BLOB NOT NULL, ordinal INTEGER NOT NULL, sequence INTEGER NOT NULL, state INTEGER NOT NULL,
    value BLOB, segment INTEGER, start INTEGER, length INTEGER, checksum INTEGER,
    PRIMARY KEY (key, ordinal)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS written ON rows (ordinal);
"""
_COLUMNS = "key, ordinal, sequence, state, value, segment, start, length, checksum"
_PUT = f"""INSERT INTO rows ({_COLUMNS}) VALUES {{}} ON CONFLICT (key, ordinal) DO UPDATE SET
    sequence=excluded.sequence, state=excluded.state, value=excluded.value, segment=excluded.segment,
    start=excluded.start, length=excluded.length, checksum=excluded.checksum
    WHERE excluded.sequence >= rows.sequence"""
_MARKS = "(?,?,?,?,?,?,?,?,?)"

_FIND = """SELECT ordinal, sequence, state, value, segment, start, length, checksum FROM rows
    WHERE key = ? AND ordinal <= ? ORDER BY ordinal DESC"""
_PAGE = """SELECT key, ordinal, state FROM rows WHERE (key, ordinal) > (?, ?) ORDER BY key, ordinal LIMIT ?"""
_WRITTEN = "SELECT key FROM rows WHERE ordinal = ?"
_ROWS_AT_ONCE = 5000

_PENDING = 2000
"""So many words are held in memory before they are written into the index."""

_WORDS_AT_ONCE = 64
"""Words per statement: SQLite lets go of the interpreter for each, and with busy threads it is slow to come back."""

_PAGES_KIB = 8 << 10
"""Pages that SQLite may keep: with its 2 MiB, keys in random order are written to the disk again and again."""

ONE_STATE = 2000
"""So many keys of a range are looked up in one go."""

VALUE, DELETED = 0, 1
_SILENT = -1

T = TypeVar("T")


class Place(NamedTuple):
    """Where a value is: in `value`, in the log at (segment, start), or in the blob named by `value` (segment −1).

    The order is that of the columns. A tuple, because a look-up makes one per row.
    """

    ordinal: int
    sequence: int
    state: int
    value: bytes | None
    segment: int
    start: int
    length: int
    checksum: int


class Documents:
    """The index of one instance's documents.

    One connection under one lock: a look-up takes microseconds, and what was applied is seen at once. `path` is a file
    (kept over restarts, committed now and then, checked by its stamp) or ":memory:".
    """

    def __init__(self, path: str, versions: Versions) -> None:
        self._versions = versions
        self._lock = threading.RLock()
        self._db = _connect(path)
        self._deriving = threading.RLock()
        self._derived: dict[int, dict[bytes, Place | None]] = {}
        self._pending: set[int] = set()
        self._collecting = threading.Lock()
        self._lists = KeyLists()
        self._recent = RecentWords()
        self._dirty = False

    # --- the index as a cache --------------------------------------------------------------------------------

    def stamp(self) -> str:
        """Return what the index was last marked with, "" if never."""
        with self._lock:
            row = self._db.execute("SELECT value FROM stamp").fetchone()
            return str(row[0]) if row else ""

    def mark(self, stamp: str) -> None:
        """Commit what was applied, together with the stamp that describes it."""
        with self._lock:
            self._write_out()
            self._begin()
            self._db.execute("INSERT OR REPLACE INTO stamp VALUES ('stamp', ?)", (stamp,))
            self._db.execute("COMMIT")
            self._dirty = False
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def load(self, data: bytes) -> None:
        """Take over the bytes of another index (followers start from the writer's file)."""
        with self._lock:
            self._db.deserialize(
                data[:18] + b"\1\1" + data[20:]
            )  # a database in memory has no write-ahead log
            self._recent = RecentWords()

    def move_to(self, path: str) -> None:
        """Go on in a new file, with all rows: who looks something up meanwhile waits, and nobody sees a difference."""
        with self._lock:
            self._write_out()
            if self._dirty:
                self._db.execute("COMMIT")
                self._dirty = False
            moved = _connect(path)
            try:
                self._db.backup(moved)
            except sqlite3.Error:
                moved.close()
                raise
            self._db.close()
            self._db = moved

    def close(self) -> None:
        """Close the index; what was applied since the last `mark` comes from the log again."""
        with self._lock:
            if self._dirty:
                self._db.execute("ROLLBACK")
            self._db.close()

    def _begin(self) -> None:
        if not self._dirty:
            self._db.execute("BEGIN")
            self._dirty = True

    # --- applying records ------------------------------------------------------------------------------------

    def put(self, key: bytes, place: Place) -> None:
        """Note a version's word on a key; an older one of the same version is replaced."""
        self.put_all([(key, place)])

    def put_all(self, words: Iterable[tuple[bytes, Place]]) -> None:
        """Note several words; a reader sees all of them or none."""
        with self._lock:
            written = set()
            for key, place in words:
                self._recent.note(key, place)
                self._lists.note(key, place.ordinal, there=place.state == VALUE)
                written.add(place.ordinal)
                if self._recent.count >= _PENDING:
                    self._write_out()
            if self._derived or self._pending:
                self._drop_derived(written)

    def _write_out(self) -> None:
        """Put the pending words into the index."""
        if not self._recent.count:
            return
        self._begin()
        words = self._recent.pending()
        while some := list(islice(words, _WORDS_AT_ONCE)):
            marks = ",".join([_MARKS] * len(some))
            self._db.execute(_PUT.format(marks), [cell for key, place in some for cell in (key, *place)])
        self._recent.written()

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
        return None if place is None or place.state == DELETED else place

    def _best(self, key: bytes, lineage: Lineage) -> Place | None:
        """Return the word of the nearest version, deletions included; derived ones lose to the merge version's own."""
        known = self._recent.answer(key, lineage.ordinal)
        if known is not None:
            return known[0]
        if self._recent.is_pending(key):
            self._write_out()
        best = self._look_up(key, lineage)
        self._recent.keep(key, lineage.ordinal, best)
        return best

    def _look_up(self, key: bytes, lineage: Lineage) -> Place | None:
        """Do as `_best`, from the index.

        Along a lineage a nearer version has a higher ordinal, so the first row on it, from above, is the answer.
        """
        best, ordinal = None, _SILENT
        for row in self._db.execute(_FIND, (key, lineage.ordinal)):
            if row[0] in lineage:
                best, ordinal = Place(*row), row[0]
                break
        for merge, derived in self._derived.items():
            if merge > ordinal and key in derived and merge in lineage:
                best, ordinal = derived[key], merge
        return best

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
            fresh, derivations = self._lists.begin(lineage), self._derived
        chain = frozenset(np.flatnonzero(lineage.ranks >= 0).tolist())
        words: dict[bytes, tuple[int, bool]] = {}
        place: tuple[bytes, int] | None = (b"", -1)
        while place is not None:
            with self._lock:
                rows = self._db.execute(_PAGE, (*place, _ROWS_AT_ONCE)).fetchall()
            for key, ordinal, state in rows:  # of one key in ascending order: the nearest version comes last
                if ordinal in chain:
                    words[key] = (ordinal, state == VALUE)
            place = rows[-1][:2] if len(rows) == _ROWS_AT_ONCE else None
        for merge in sorted(chain & derivations.keys()):
            for key, derived in derivations[merge].items():
                if words.get(key, (_SILENT, False))[0] < merge:
                    words[key] = (merge, derived is not None and derived.state == VALUE)
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
        listed = self._listed(lineage)

        def look_up() -> tuple[list[bytes], list[Place | None]]:
            keys = listed.between(first, last)
            return keys, [self._visible(key, lineage) for key in keys[:ONE_STATE]]

        keys, places = self._when_complete(lineage, look_up)
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
            return [(key, Place(*rest)) for key, *rest in self._db.execute(f"SELECT {_COLUMNS} FROM rows")]

    # --- merge versions --------------------------------------------------------------------------------------

    def _derive(self, ordinal: int) -> None:
        merges = self._versions.merges(ordinal)
        while not all(merge in self._derived for merge in merges):
            with self._deriving:
                for merge in merges:
                    if merge not in self._derived:
                        self._derive_one(merge)

    def _derive_one(self, merge: int) -> None:
        """Work out what a merge version shows; comes to nothing if what it inherits is written meanwhile."""
        with self._lock:
            self._pending.add(merge)
        places = self._derived_places(merge)
        with self._lock:
            if merge in self._pending:
                self._pending.remove(merge)
                self._derived = {**self._derived, merge: places}

    def _drop_derived(self, written: set[int]) -> None:
        """Forget what follows from versions that were written: their merges were made when they were locked."""
        gone = {
            merge
            for merge in self._derived.keys() | self._pending
            if any(at < merge and at in self._versions.ancestors(merge) for at in written)
        }
        if gone:
            self._pending -= gone
            self._derived = {merge: places for merge, places in self._derived.items() if merge not in gone}
            self._lists.drop(gone)

    def _is_complete(self, lineage: Lineage) -> bool:
        return all(merge in self._derived for merge in self._versions.merges(lineage.ordinal))

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
            Per parent and key what it shows, deletions included.
        winner
            Per key, see `merging.choose`.
        """
        lines = [self._versions.lineage(parent) for parent in parents]
        derivations: dict[int, dict[bytes, Place | None]] = {}
        for line in lines:
            derivations |= self._when_complete(line, lambda: self._derived)
        versions = contested(self._versions, parents)
        keys: set[bytes] = set()
        for ordinal in versions:
            with self._lock:
                self._write_out()
                keys.update(key for (key,) in self._db.execute(_WRITTEN, (ordinal,)))
        keys |= {key for older in versions & derivations.keys() for key in derivations[older]}
        ordered = sorted(keys)
        seen = [self._words(ordered, line) for line in lines]
        return ordered, seen, choose(*_offers(seen), self._versions).tolist()

    def rivals(self, seen: list[list[Place | None]]) -> np.ndarray:
        """Return (bool, shape (parents, keys)) which parents show a value that none of the others supersedes."""
        return rivals(*_offers(seen), self._versions)

    def _words(self, keys: list[bytes], lineage: Lineage) -> list[Place | None]:
        return self._when_complete(lineage, lambda: [self._best(key, lineage) for key in keys])

    def _derived_places(self, merge: int) -> dict[bytes, Place | None]:
        """Return what a merge version shows where it differs from its first parent; None = nothing, or a conflict."""
        keys, seen, winners = self.contest(self._versions.parents(merge))
        return {
            key: None if winner in (NOTHING, CONFLICTING) else seen[winner][index]
            for index, (key, winner) in enumerate(zip(keys, winners, strict=True))
            if winner != 0
        }


def _connect(path: str) -> sqlite3.Connection:
    """Open an index, an empty one if there is none."""
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        # Only the writing process opens the file with SQLite: no locks, which reading the file would drop, and
        # no shared memory, which would kill this process if somebody cut it.
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(f"PRAGMA cache_size=-{_PAGES_KIB}")
        db.executescript(_SCHEMA)
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db


def _offers(seen: list[list[Place | None]]) -> tuple[np.ndarray, np.ndarray]:
    """Return what each parent of a merge offers: origin (−1 for nothing), and whether it is a deletion."""
    shape = (len(seen), len(seen[0]))
    origins = np.array([[-1 if p is None else p.ordinal for p in row] for row in seen], np.int32)
    deleted = np.array([[p is not None and p.state == DELETED for p in row] for row in seen], bool)
    return origins.reshape(shape), deleted.reshape(shape)
