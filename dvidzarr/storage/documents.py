"""Versioned key → bytes, ordered by key. The log holds the truth; the rows here are a disposable index in SQLite.

A row is one version's word on one key: a small value itself, the place of a larger one in the log, the id of a blob, or
a deletion. Derived rows of merge versions are kept apart and rebuilt when needed. Design: storage §3, §8.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from dvidzarr.core.lineage import Lineage
from dvidzarr.storage.merging import CONFLICTING, NOTHING, Versions, choose, contested

INLINE = 1024
"""Values up to this many bytes lie in the index itself; up to `LOGGED` in the log; larger ones in blobs."""
LOGGED = 64 << 10

_SCHEMA = """
CREATE TABLE IF NOT EXISTS stamp (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    key BLOB NOT NULL, ordinal INTEGER NOT NULL, sequence INTEGER NOT NULL, state INTEGER NOT NULL,
    value BLOB, segment INTEGER, start INTEGER, length INTEGER, checksum INTEGER,
    PRIMARY KEY (key, ordinal)) WITHOUT ROWID;
"""
_COLUMNS = "key, ordinal, sequence, state, value, segment, start, length, checksum"
_PUT = f"""INSERT INTO rows ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (key, ordinal) DO UPDATE SET
    sequence=excluded.sequence, state=excluded.state, value=excluded.value, segment=excluded.segment,
    start=excluded.start, length=excluded.length, checksum=excluded.checksum
    WHERE excluded.sequence >= rows.sequence"""

VALUE, DELETED = 0, 1
_SILENT = -1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is: in `value`, in the log at (segment, start), or in the blob named by `value` (segment 0)."""

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
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._derived: dict[int, dict[bytes, Place | None]] = {}
        self._dirty = False
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError:
            self._db.close()
            raise

    # --- the index as a cache --------------------------------------------------------------------------------

    def stamp(self) -> str:
        """Return what the index was last marked with, "" if never."""
        with self._lock:
            row = self._db.execute("SELECT value FROM stamp").fetchone()
            return str(row[0]) if row else ""

    def mark(self, stamp: str) -> None:
        """Commit what was applied, together with the stamp that describes it."""
        with self._lock:
            self._begin()
            self._db.execute("INSERT OR REPLACE INTO stamp VALUES ('stamp', ?)", (stamp,))
            self._db.execute("COMMIT")
            self._dirty = False

    def check(self) -> bool:
        """Tell whether SQLite finds the index whole."""
        with self._lock:
            return bool(self._db.execute("PRAGMA quick_check").fetchone() == ("ok",))

    def copy_from(self, path: str) -> None:
        """Take over the committed contents of another index (followers start from the writer's)."""
        source = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            with self._lock:
                source.backup(self._db)
        finally:
            source.close()

    def copy_to(self, other: "Documents") -> None:
        """Put all rows, also those not yet committed, into an empty index."""
        with self._lock:
            if self._dirty:
                self._db.execute("COMMIT")
                self._dirty = False
            self._db.backup(other._db)

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
        with self._lock:
            self._begin()
            self._db.execute(_PUT, (key, *astuple(place)))

    # --- looking up ------------------------------------------------------------------------------------------

    def find(self, key: bytes, lineage: Lineage) -> Place | None:
        """Return where the value of a key lies as a lineage sees it, None if there is none."""
        self._derive(lineage.ordinal)
        with self._lock:
            places = self._places(key)
        place = self._best(key, places, lineage)
        return None if place is None or place.state == DELETED else place

    def _places(self, key: bytes) -> list[Place]:
        query = (
            "SELECT ordinal, sequence, state, value, segment, start, length, checksum FROM rows WHERE key = ?"
        )
        return [Place(*row) for row in self._db.execute(query, (key,))]

    def _best(self, key: bytes, places: list[Place], lineage: Lineage) -> Place | None:
        """Return the word of the nearest version, deletions included; derived ones lose to the merge version's own."""
        best, rank = None, _SILENT
        for place in places:
            mine = int(lineage.ranks[place.ordinal]) if place.ordinal < len(lineage.ranks) else -1
            if mine > rank:
                best, rank = place, mine
        for merge, derived in self._derived.items():
            if key in derived and merge in lineage and int(lineage.ranks[merge]) > rank:
                best, rank = derived[key], int(lineage.ranks[merge])
        return best

    def range(
        self, lineage: Lineage, first: bytes = b"", last: bytes | None = None
    ) -> Iterator[tuple[bytes, Place]]:
        """Yield (key, place) of all keys in [first, last] that a lineage sees, in order of the bytes."""
        self._derive(lineage.ordinal)
        query = f"SELECT {_COLUMNS} FROM rows WHERE key >= ?" + (" AND key <= ?" if last is not None else "")
        with self._lock:
            rows = self._db.execute(
                query + " ORDER BY key", (first,) if last is None else (first, last)
            ).fetchall()
        grouped: dict[bytes, list[Place]] = {}
        for key, *rest in rows:
            grouped.setdefault(key, []).append(Place(*rest))
        for key, places in grouped.items():
            place = self._best(key, places, lineage)
            if place is not None and place.state != DELETED:
                yield key, place

    def all_rows(self) -> list[tuple[bytes, Place]]:
        """Return every version's word on every key."""
        with self._lock:
            return [(key, Place(*rest)) for key, *rest in self._db.execute(f"SELECT {_COLUMNS} FROM rows")]

    # --- merge versions --------------------------------------------------------------------------------------

    def _derive(self, ordinal: int) -> None:
        for merge in self._versions.merges(ordinal):
            if merge not in self._derived:
                with self._lock:
                    if merge not in self._derived:
                        self._derived = {**self._derived, merge: self._derived_places(merge)}

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
        versions = contested(self._versions, parents)
        with self._lock:
            rows = self._db.execute("SELECT key, ordinal FROM rows")
            keys = {key for key, ordinal in rows if ordinal in versions}
            keys |= {key for older in versions & self._derived.keys() for key in self._derived[older]}
            ordered = sorted(keys)
            lines = [self._versions.lineage(parent) for parent in parents]
            seen = [[self._best(key, self._places(key), line) for key in ordered] for line in lines]
        origins = np.array([[-1 if p is None else p.ordinal for p in row] for row in seen], np.int32)
        deleted = np.array([[p is not None and p.state == DELETED for p in row] for row in seen], bool)
        shape = (len(lines), len(ordered))
        winners = choose(origins.reshape(shape), deleted.reshape(shape), self._versions)
        return ordered, seen, winners.tolist()

    def _derived_places(self, merge: int) -> dict[bytes, Place | None]:
        """Return what a merge version shows where it differs from its first parent; None = nothing, or a conflict."""
        keys, seen, winners = self.contest(self._versions.parents(merge))
        return {
            key: None if winner in (NOTHING, CONFLICTING) else seen[winner][index]
            for index, (key, winner) in enumerate(zip(keys, winners, strict=True))
            if winner != 0
        }
