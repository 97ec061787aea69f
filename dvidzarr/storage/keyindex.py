"""The words on keys in SQLite, one row each, in the order of the keys: a disposable index. The log holds the truth.

Between two marks nothing is committed, so the file holds what its stamp says, whatever happens. Design: storage §8.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from operator import itemgetter

from dvidzarr.core.errors import StorageError

KeyRow = tuple[bytes, int, int, int, bytes | None, int, int, int, int]
"""A key, and the columns of a `Place`."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS stamp (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    key BLOB NOT NULL, ordinal INTEGER NOT NULL, sequence INTEGER NOT NULL, state INTEGER NOT NULL,
    value BLOB, segment INTEGER, start INTEGER, length INTEGER, checksum INTEGER,
    PRIMARY KEY (key, ordinal)) WITHOUT ROWID;
"""
_COLUMNS = "key, ordinal, sequence, state, value, segment, start, length, checksum"
_PUT = f"""INSERT INTO rows ({_COLUMNS}) VALUES {{}} ON CONFLICT (key, ordinal) DO UPDATE SET
    sequence=excluded.sequence, state=excluded.state, value=excluded.value, segment=excluded.segment,
    start=excluded.start, length=excluded.length, checksum=excluded.checksum
    WHERE excluded.sequence >= rows.sequence"""
_MARKS = "(?,?,?,?,?,?,?,?,?)"

_FIND = f"SELECT {_COLUMNS} FROM rows WHERE key = ? AND ordinal <= ? ORDER BY ordinal DESC"
_PAGE = """SELECT key, ordinal, state FROM rows WHERE (key, ordinal) > (?, ?) ORDER BY key, ordinal LIMIT ?"""
_BY_VERSION = "CREATE INDEX IF NOT EXISTS written ON rows (ordinal)"
_WRITTEN = "SELECT key FROM rows WHERE ordinal = ?"

_ROWS_AT_ONCE = 64
"""Rows per statement: SQLite lets go of the interpreter for each, and with busy threads it is slow to come back."""

_PAGES_KIB = 8 << 10
"""Pages that SQLite may keep: with its 2 MiB, keys in random order are written to the disk again and again."""

_GATHERED = 128 << 20
"""Bytes of rows that are gathered at most: written in the order of their keys, each page is written once per so many."""

_ROW_BYTES = 400  # what a row takes beside its key and its value


class KeyIndex:
    """The rows of one instance. The caller guards it.

    `path` is a file (kept over restarts, checked by its stamp) or ":memory:".

    When a change fails, SQLite may take back all since the last mark. Such an index raises from then on: it would show less.
    """

    def __init__(self, path: str) -> None:
        self._db = _connect(path)
        self._closed = False
        self._failure: sqlite3.Error | None = None
        self._gathered: list[KeyRow] = []
        self._gathered_bytes = 0

    # --- as a cache ------------------------------------------------------------------------------------------

    def stamp(self) -> str:
        """Return what the index was last marked with, "" if never."""
        row = self._db.execute("SELECT value FROM stamp").fetchone()
        return str(row[0]) if row else ""

    def mark(self, stamp: str) -> None:
        """Commit what was written, together with the stamp that describes it."""
        self._settle()
        with self._changing():
            self._db.execute("INSERT OR REPLACE INTO stamp VALUES ('stamp', ?)", (stamp,))
            self._db.execute("COMMIT")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def load(self, data: bytes) -> None:
        """Take over the bytes of another index."""
        # a database in memory has no write-ahead log
        self._db.deserialize(data[:18] + b"\1\1" + data[20:])

    def move_to(self, path: str) -> None:
        """Go on in a new file, with all rows."""
        self._settle()
        with self._changing():
            self._db.execute("COMMIT")
        moved = _connect(path)
        try:
            self._db.backup(moved)
        except sqlite3.Error:
            moved.close()
            raise
        self._db.close()
        self._db = moved

    def close(self) -> None:
        """Close it; what was written since the last `mark` is dropped."""
        self._closed = True
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._db.close()

    def check(self) -> None:
        """Raise if rows were lost, or it was closed while somebody still looks things up."""
        if self._closed:
            raise StorageError("the index of keys was closed")
        if self._failure is not None:
            raise StorageError(
                f"the index of keys lost rows ({self._failure}): it is made anew when the store is opened again"
            ) from self._failure

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self.check()
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
        try:
            yield
        except sqlite3.Error as error:
            if not self._db.in_transaction:
                self._failure = error
            raise

    # --- rows ------------------------------------------------------------------------------------------------

    def write(self, rows: Iterable[KeyRow]) -> None:
        """Write rows, fastest in the order of their keys; one replaces that of the same version unless it is older."""
        left = iter(rows)
        with self._changing():
            while some := list(islice(left, _ROWS_AT_ONCE)):
                marks = ",".join([_MARKS] * len(some))
                self._db.execute(_PUT.format(marks), list(chain.from_iterable(some)))

    def gather(self, rows: Iterable[KeyRow]) -> None:
        """Do as `write`, later and many at a time: for rows in any order that nobody asks for yet."""
        for row in rows:
            self._gathered.append(row)
            self._gathered_bytes += len(row[0]) + len(row[4] or b"") + _ROW_BYTES
        if self._gathered_bytes > _GATHERED:
            self._settle()

    def _settle(self) -> None:
        """Write what was gathered: before anything is looked up."""
        self.check()
        if self._gathered:
            self._gathered.sort(key=itemgetter(0))  # stable: of the rows of one key the newest stays last
            self.write(self._gathered)
            self._gathered, self._gathered_bytes = [], 0

    def words_on(self, key: bytes, last: int) -> Iterator[KeyRow]:
        """Yield the rows of a key for ordinals up to `last`, the highest first."""
        self._settle()
        return self._db.execute(_FIND, (key, last))

    def page(self, after: tuple[bytes, int], count: int) -> list[tuple[bytes, int, int]]:
        """Return the next (key, ordinal, state) behind a key and an ordinal, in their order."""
        self._settle()
        return self._db.execute(_PAGE, (*after, count)).fetchall()

    def written_by(self, ordinal: int) -> list[bytes]:
        """Return the keys on which a version has a word. Only merges ask: the first time costs a look at every row."""
        self._settle()
        with self._changing():
            self._db.execute(_BY_VERSION)
        return [key for (key,) in self._db.execute(_WRITTEN, (ordinal,))]

    def all_rows(self) -> list[KeyRow]:
        """Return every row."""
        self._settle()
        return self._db.execute(f"SELECT {_COLUMNS} FROM rows").fetchall()


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
