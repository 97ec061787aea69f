"""Which versions wrote which chunk of one array, and which of them a lineage sees. Design: storage §3.

Rows live in three layers: a big sorted run (it may be mapped from a cache), a small sorted run, and a dictionary of the
newest rows. A look-up takes, per chunk, the row whose version has the highest rank; between equal ranks (the same
version wrote again) the newer layer. What merge versions derive from their parents is a run of its own below the others.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from dvidzarr.core.geometry import CHUNK_LIMIT, ZYX, ChunkSpan
from dvidzarr.core.lineage import Lineage

TOMBSTONE = 1
"""Flag: the version deleted the chunk."""
CONFLICT = 2
"""Flag: a merge version sees several values, which reads as absent."""

ROW = np.dtype(
    [
        ("sequence", "<i8"),
        ("location", "<i8"),
        ("ordinal", "<i4"),
        ("origin", "<i4"),
        ("length", "<u4"),
        ("checksum", "<u4"),
        ("flags", "u1"),
    ]
)
"""One chunk version. `ordinal` ranks it, `origin` (the same but in merges) wrote it; location 0 = its Zarr key."""

Row = tuple[int, int, int, int, int, int, int]
"""A `ROW` as Python numbers: sequence, location, ordinal, origin, length, checksum, flags."""

_NEWEST_LIMIT = 1024
_RATIO = 8
_LOWEST = np.full(3, -CHUNK_LIMIT, np.int64)
_NONE = np.zeros((), ROW)
_NONE["ordinal"] = -1
_NONE["flags"] = TOMBSTONE


def pack(coords: np.ndarray) -> np.ndarray:
    """Return chunk coordinates (n, 3), axes (z, y, x), as sortable int64 keys; coordinates must be within ±2²⁰."""
    shifted = np.asarray(coords, np.int64) + CHUNK_LIMIT
    return shifted[..., 0] << 42 | shifted[..., 1] << 21 | shifted[..., 2]


def unpack(keys: np.ndarray) -> np.ndarray:
    """Return the chunk coordinates (n, 3), axes (z, y, x), of packed keys."""
    mask = (1 << 21) - 1
    keys = np.asarray(keys, np.int64)
    return np.stack((keys >> 42, keys >> 21 & mask, keys & mask), axis=-1) - CHUNK_LIMIT


def pack_one(coord: ZYX) -> int:
    """Return one chunk coordinate as a key."""
    z, y, x = coord
    return (z + CHUNK_LIMIT) << 42 | (y + CHUNK_LIMIT) << 21 | (x + CHUNK_LIMIT)


def pack_span(span: ChunkSpan) -> np.ndarray:
    """Return the keys of all chunks of a span, sorted (x fastest); the span must be within ±2²⁰."""
    (z0, y0, x0), (z1, y1, x1) = span.start, span.stop
    z, y, x = (np.arange(a + CHUNK_LIMIT, b + CHUNK_LIMIT) for a, b in ((z0, z1), (y0, y1), (x0, x1)))
    return (z[:, None, None] << 42 | y[:, None] << 21 | x).ravel()


def unpack_one(key: int) -> ZYX:
    """Return the chunk coordinate of one key."""
    mask = (1 << 21) - 1
    return (key >> 42) - CHUNK_LIMIT, (key >> 21 & mask) - CHUNK_LIMIT, (key & mask) - CHUNK_LIMIT


def present(rows: np.ndarray) -> np.ndarray:
    """Return which of the resolved rows hold a chunk (bool)."""
    there: np.ndarray = (rows["ordinal"] >= 0) & (rows["flags"] == 0)
    return there


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Rows sorted by key, each (key, ordinal) once."""

    keys: np.ndarray
    rows: np.ndarray

    @staticmethod
    def empty() -> "Run":
        """Return a run of nothing."""
        return Run(np.zeros(0, np.int64), np.zeros(0, ROW))

    @staticmethod
    def build(keys: np.ndarray, rows: np.ndarray) -> "Run":
        """Sort rows; of several for one (key, ordinal) keep the highest sequence."""
        order = np.lexsort((rows["sequence"], rows["ordinal"], keys))
        keys, rows = keys[order], rows[order]
        last = np.ones(len(keys), bool)
        last[:-1] = (keys[1:] != keys[:-1]) | (rows["ordinal"][1:] != rows["ordinal"][:-1])
        return Run(np.ascontiguousarray(keys[last]), rows[last])

    def merged(self, newer: "Run") -> "Run":
        """Return one run of both, where `newer` replaces what it has of the same (key, ordinal)."""
        if not len(self.keys) or not len(newer.keys):
            return self if len(self.keys) else newer
        gone = self._same(newer)
        keys, rows = np.delete(self.keys, gone), np.delete(self.rows, gone)
        at = keys.searchsorted(newer.keys, "right")
        return Run(np.insert(keys, at, newer.keys), np.insert(rows, at, newer.rows))

    def _same(self, other: "Run") -> np.ndarray:
        """Return the indices of the rows whose (key, ordinal) the other run has too."""
        owner, index = self._among(other.keys)
        same: np.ndarray = index[self.rows["ordinal"][index] == other.rows["ordinal"][owner]]
        return same

    def _among(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (index into `keys`, index into the rows) of all rows that have one of these keys."""
        low = self.keys.searchsorted(keys, "left")
        count = self.keys.searchsorted(keys, "right") - low
        owner = np.flatnonzero(count)
        if not len(owner) or int(count.max()) == 1:
            return owner, low[owner]
        each = count[owner]
        first = np.repeat(low[owner] - np.cumsum(each) + each, each)
        return np.repeat(owner, each), first + np.arange(len(first))

    def offer(self, keys: np.ndarray, lineage: Lineage, ranks: np.ndarray, rows: np.ndarray) -> None:
        """Replace, in place, each answer for which this run has a row of the same or a higher rank."""
        if not len(self.keys):
            return
        owner, picked = self._among(keys)
        if not len(owner):
            return
        rank = lineage.rank_of(self.rows["ordinal"][picked])
        repeated = owner[1:] == owner[:-1]
        if repeated.any():
            order = np.lexsort((rank, owner))
            owner, picked, rank = owner[order], picked[order], rank[order]
            last = np.append(~repeated, True)
            owner, picked, rank = owner[last], picked[last], rank[last]
        better = (rank >= 0) & (rank >= ranks[owner])
        ranks[owner[better]] = rank[better]
        rows[owner[better]] = self.rows[picked[better]]

    def find(self, key: int, lineage: Lineage) -> tuple[int, int]:
        """Return (rank, index) of the row of one key that a lineage sees in this run; rank −1 if there is none."""
        low = int(self.keys.searchsorted(key))
        if low == len(self.keys) or self.keys[low] != key:
            return -1, low
        high = int(self.keys.searchsorted(key, "right"))
        if high - low == 1:
            return lineage.rank(int(self.rows[low]["ordinal"])), low
        ranks = lineage.rank_of(self.rows["ordinal"][low:high])
        best = int(ranks.argmax())
        return int(ranks[best]), low + best

    def settled(self, origin: int, before: int) -> "Run":
        """Return the run with the chunks that a version wrote before a record under their Zarr keys."""
        chosen = (self.rows["origin"] == origin) & (self.rows["location"] != 0)
        chosen &= self.rows["sequence"] < before
        if not chosen.any():
            return self
        rows = self.rows.copy()
        rows["location"][chosen] = 0
        return Run(self.keys, rows)


class Postings:
    """The rows of one array.

    Runs are immutable. `_lock` guards the dictionary and the replacement of runs; look-ups hold it while they read the
    dictionary, so that the rows of one request appear together.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._base = Run.empty()
        self._young = Run.empty()
        self._newest: dict[int, list[Row]] = {}
        self._count = 0
        self._highest: tuple[dict[int, np.ndarray], set[int]] | None = None
        self._derived: dict[int, Run] = {}
        self._derived_run = Run.empty()
        self._deriving: set[int] = set()
        self.epoch = 0
        """Changes when derived rows are dropped: what was looked up meanwhile may lack them."""

    def load(self, run: Run) -> None:
        """Start from the rows of a cache."""
        self._base = run

    def publish(
        self, keys: np.ndarray, rows: np.ndarray, inherits: Callable[[int], bool] = lambda _merge: False
    ) -> list[tuple[int, Row]]:
        """Add the rows of one record at once; return the (key, row) that they supersede in their own version.

        `inherits` tells of a merge version whether what it shows follows from the version written: then what was
        derived for it is dropped in the same moment.
        """
        old = []
        with self._lock:
            for key, row in zip(keys.tolist(), rows.tolist(), strict=True):
                previous = self._own(key, row[2])
                if previous is not None:
                    if previous[0] >= row[0]:
                        continue  # replayed from before a cache's stamp
                    old.append((key, previous))
                mine = self._newest.setdefault(key, [])
                mine[:] = [other for other in mine if other[2] != row[2]]
                mine.append(row)
                self._count += 1
                self._raise_highest(key, row)
            if self._count > _NEWEST_LIMIT:
                self._fold()
            if self._derived or self._deriving:
                self._drop_derived(inherits)
        return old

    def _drop_derived(self, inherits: Callable[[int], bool]) -> None:
        gone = {merge for merge in self._derived.keys() | self._deriving if inherits(merge)}
        if gone:
            self._deriving -= gone
            self._set_derived({merge: run for merge, run in self._derived.items() if merge not in gone})
            self.epoch += 1

    def _raise_highest(self, key: int, row: Row) -> None:
        if self._highest is not None:
            known, deleted = self._highest
            known[row[2]] = np.maximum(known.get(row[2], _LOWEST), unpack_one(key))
            if row[6]:
                deleted.add(row[2])

    def _own(self, key: int, ordinal: int) -> Row | None:
        for row in self._newest.get(key, ()):
            if row[2] == ordinal:
                return row
        for run in (self._young, self._base):
            low = int(run.keys.searchsorted(key, "left"))
            while low < len(run.keys) and run.keys[low] == key:
                if run.rows["ordinal"][low] == ordinal:
                    return run.rows[low].tolist()  # type: ignore[no-any-return]
                low += 1
        return None

    def own(self, keys: Iterable[int], ordinal: int) -> list[Row | None]:
        """Return, per key, the row that the version itself wrote, None if it did not."""
        with self._lock:
            return [self._own(key, ordinal) for key in keys]

    def _fold(self) -> None:
        young = self._young.merged(self._newest_run())
        if len(young.keys) > max(16 * _NEWEST_LIMIT, len(self._base.keys) // _RATIO):
            self._base, young = self._base.merged(young), Run.empty()
        self._young, self._newest, self._count = young, {}, 0

    def _newest_run(self) -> Run:
        keys = np.array([key for key, rows in self._newest.items() for _ in rows], np.int64)
        rows = np.array([row for rows in self._newest.values() for row in rows], ROW)
        return Run.build(keys, rows)

    def _layers(self) -> tuple[Run, Run, Run]:
        """Return all rows but derived ones, as runs; of the same (key, ordinal) the later run's row counts."""
        with self._lock:
            return self._base, self._young, self._newest_run()

    def find(self, key: int, lineage: Lineage) -> Row | None:
        """Return the row that the lineage sees for one packed key, None if it holds no chunk: `resolve`, without arrays."""
        with self._lock:
            runs = (self._derived_run, self._base, self._young)
            newest = tuple(self._newest.get(key, ()))
        best, place, seen = -1, -1, None
        for run in runs:
            if len(run.keys):
                rank, index = run.find(key, lineage)
                if rank >= 0 and rank >= best:
                    best, place, seen = rank, index, run
        row: Row | None = None if seen is None else seen.rows[place].item()
        for other in newest:
            rank = lineage.rank(other[2])
            if rank >= 0 and rank >= best:
                best, row = rank, other
        return None if row is None or row[6] else row

    def resolve(self, keys: np.ndarray, lineage: Lineage) -> np.ndarray:
        """Return, per packed key, the row that the lineage sees.

        Parameters
        ----------
        keys : ndarray of int64, shape (n,)
        lineage : Lineage

        Returns
        -------
        ndarray of ROW, shape (n,)
            Where nothing is seen: ordinal −1 (never written) or a flag (deleted, conflicting); see `present`.
        """
        rows = np.full(len(keys), _NONE, ROW)
        ranks = np.full(len(keys), -1, np.int32)
        with self._lock:
            runs = (self._derived_run, self._base, self._young)
            newest = self._look_up(keys, lineage) if self._newest else ()
        for run in runs:
            run.offer(keys, lineage, ranks, rows)
        for index, rank, row in newest:
            if rank >= ranks[index]:
                rows[index] = row
        return rows

    def _look_up(self, keys: np.ndarray, lineage: Lineage) -> list[tuple[int, int, Row]]:
        found = []
        length, ranks = len(lineage.ranks), lineage.ranks
        for index, key in enumerate(keys.tolist()):
            best, chosen = -1, None
            for row in self._newest.get(key, ()):
                rank = int(ranks[row[2]]) if row[2] < length else -1
                if rank > best:
                    best, chosen = rank, row
            if chosen is not None:
                found.append((index, best, chosen))
        return found

    def snapshot(self) -> Run:
        """Return all rows, without derived ones, as one run."""
        with self._lock:
            self._fold()
            return self._base.merged(self._young)

    def keys_written_in(self, ordinals: Iterable[int]) -> np.ndarray:
        """Return the keys that any of these versions wrote or derived, sorted."""
        wanted = np.fromiter(frozenset(ordinals), np.int64)
        layers = [run.keys[np.isin(run.rows["ordinal"], wanted)] for run in self._layers()]
        chosen = set(wanted.tolist())
        layers += [run.keys for ordinal, run in self._derived.items() if ordinal in chosen]
        return np.unique(np.concatenate(layers))

    def visible(self, lineage: Lineage) -> np.ndarray:
        """Return the keys of all chunks that a lineage sees, sorted."""
        runs = (*self._layers(), self._derived_run)
        keys = np.unique(np.concatenate([run.keys for run in runs]))
        seen: np.ndarray = keys[present(self.resolve(keys, lineage))]
        return seen

    def hull(self, lineage: Lineage, ordinals: Iterable[int]) -> np.ndarray:
        """Return one past the highest chunk coordinate (z, y, x) that a lineage sees, zeros if it sees none.

        Parameters
        ----------
        ordinals
            Its version and all ancestors. Where none of them deleted a chunk, their own hulls tell, at any size.
        """
        with self._lock:
            if self._highest is None:
                self._highest = _highest(self._base.merged(self._young).merged(self._newest_run()))
            known, deleted = self._highest
            among = set(ordinals)
            tops = [known[ordinal] for ordinal in among & known.keys()]
            exact = not among & deleted
        if not exact:
            tops = list(unpack(self.visible(lineage)))
        return np.max(tops, axis=0) + 1 if tops else np.zeros(3, np.int64)

    # --- merge versions --------------------------------------------------------------------------------------

    def is_derived(self, ordinal: int) -> bool:
        """Tell whether the rows of a merge version are there."""
        return ordinal in self._derived

    def begin_deriving(self, ordinal: int) -> None:
        """Announce `derive`: it comes to nothing if what the merge version inherits is written meanwhile."""
        with self._lock:
            self._deriving.add(ordinal)

    def derive(self, ordinal: int, keys: np.ndarray, rows: np.ndarray) -> None:
        """Set what a merge version shows where it differs from its first parent."""
        rows = rows.copy()
        rows["ordinal"] = ordinal
        with self._lock:
            if ordinal in self._deriving:
                self._deriving.remove(ordinal)
                self._set_derived({**self._derived, ordinal: Run.build(keys, rows)})

    def _set_derived(self, derived: dict[int, Run]) -> None:
        empty = Run.empty()
        self._derived_run = Run.build(
            np.concatenate([empty.keys, *(run.keys for run in derived.values())]),
            np.concatenate([empty.rows, *(run.rows for run in derived.values())]),
        )
        self._derived = derived

    # --- finishing -------------------------------------------------------------------------------------------

    def writers(self) -> list[int]:
        """Return the ordinals of the versions that wrote anything."""
        ordinals = np.concatenate([run.rows["ordinal"] for run in self._layers()])
        return np.unique(ordinals).tolist()  # type: ignore[no-any-return]

    def written_by(self, ordinal: int) -> tuple[np.ndarray, np.ndarray]:
        """Return all (keys, rows) of a version, sorted by key."""
        found = Run.empty()
        for run in self._layers():
            chosen = run.rows["ordinal"] == ordinal
            found = found.merged(Run(run.keys[chosen], run.rows[chosen]))
        return found.keys, found.rows

    def settle(self, ordinal: int, before: int) -> None:
        """Note that all chunks that a version wrote before a record now lie under their Zarr keys."""
        with self._lock:
            self._fold()
            self._base, self._young = (run.settled(ordinal, before) for run in (self._base, self._young))
            if self._derived:
                settled = {merge: run.settled(ordinal, before) for merge, run in self._derived.items()}
                self._set_derived(settled)

    def __len__(self) -> int:
        return len(self._base.keys) + len(self._young.keys) + self._count


def _highest(run: Run) -> tuple[dict[int, np.ndarray], set[int]]:
    """Return, per version, the highest chunk coordinates that it wrote; and which versions deleted any."""
    order = np.argsort(run.rows["ordinal"], kind="stable")
    ordinals, first = np.unique(run.rows["ordinal"][order], return_index=True)
    deleted = set(np.unique(run.rows["ordinal"][run.rows["flags"] != 0]).tolist())
    if not len(ordinals):
        return {}, deleted
    tops = np.maximum.reduceat(unpack(run.keys[order]), first, axis=0)
    return dict(zip(ordinals.tolist(), tops, strict=True)), deleted
