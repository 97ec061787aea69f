"""Which versions wrote which chunk of one array, and which of them a lineage sees. Design: storage §3.

Rows live in a few sorted runs, each many times larger than the next, and a dictionary of the newest rows. A look-up
takes, per chunk, the row whose version has the highest rank; between equal ranks (the same version wrote again) the
newer layer. What merge versions derive from their parents is a run of its own below the others.
"""

import threading
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from dvidzarr.core.lineage import Lineage
from dvidzarr.storage.chunkkeys import unpack
from dvidzarr.storage.derivedrows import DerivedRows
from dvidzarr.storage.hulls import Hulls
from dvidzarr.storage.newest import NewestRows
from dvidzarr.storage.runs import CONFLICT, FLAGS, ORDINAL, ROW, SEQUENCE, TOMBSTONE, Row, Run
from dvidzarr.storage.runstack import RunStack
from dvidzarr.storage.settled import Settled

_NEWEST_LIMIT = 1024
_MANY = 64
"""A record of so many rows becomes a run at once."""
_SINGLY = 8
"""Fewer keys than this are looked up one after another: an array costs more than they do."""
_NONE = np.zeros((), ROW)
_NONE["ordinal"] = -1
_NONE["flags"] = TOMBSTONE


def present(rows: np.ndarray) -> np.ndarray:
    """Return which of the resolved rows hold a chunk (bool)."""
    there: np.ndarray = (rows["ordinal"] >= 0) & (rows["flags"] == 0)
    return there


def is_few(chunks: int) -> bool:
    """Tell whether a record of so many chunks is kept in the dictionary of the newest rows."""
    return chunks < _MANY


class Postings:
    """The rows of one array.

    `_lock` guards the dictionary and the replacement of runs; look-ups hold it while they read the dictionary, so that
    the rows of one request appear together.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._settled = Settled()
        self.stack = RunStack(self._lock, self._settled)
        self._newest = NewestRows()
        self._hulls = Hulls()
        self._unmeasured: tuple[Run, ...] = ()
        self._measuring = threading.Lock()
        self._derived = DerivedRows()

    def load(self, *runs: Run) -> None:
        """Start from the rows of a cache."""
        self.stack.runs = self._unmeasured = runs

    def take_over(self, other: "Postings") -> None:
        """Hold the rows of others instead, all at once; derived ones are made anew."""
        runs = other.runs()
        with self._measuring, self._lock:
            self.stack.runs = self._unmeasured = runs
            self._newest, self._hulls = NewestRows(), Hulls()
            self._settled.take_over(other._settled)
            self._derived.clear()

    # --- adding rows -----------------------------------------------------------------------------------------

    def publish(
        self, keys: np.ndarray, rows: np.ndarray, inherits: Callable[[int], bool] = lambda _merge: False
    ) -> list[tuple[int, Row]]:
        """Add the rows of one record, all of one version, at once; return the (key, row) that they supersede.

        `inherits` tells of a merge version whether what it shows follows from the version written: then what was
        derived for it is dropped in the same moment.
        """
        if is_few(len(keys)):
            return self.publish_few(list(zip(keys.tolist(), rows.tolist(), strict=True)), inherits)
        ordinal = int(rows["ordinal"][0])
        with self._lock:
            before = self._own(keys, ordinal)
            known = before["ordinal"] >= 0
            fresh = ~known | (before["sequence"] < rows["sequence"])  # else replayed, see `publish_few`
            old = list(zip(keys[known & fresh].tolist(), before[known & fresh].tolist(), strict=True))
            self._freeze()
            self.stack.push(Run.build(keys[fresh], rows[fresh]))
            self._hulls.add(ordinal, keys, rows)
            self._derived.drop(inherits)
        self.stack.compact()
        return old

    def publish_few(
        self, entries: Sequence[tuple[int, Row]], inherits: Callable[[int], bool] = lambda _merge: False
    ) -> list[tuple[int, Row]]:
        """Do as `publish` with the (key, row) of a record that `is_few`."""
        if not entries:
            return []
        old = []
        with self._lock:
            before = self._own_rows([key for key, _ in entries], entries[0][1][ORDINAL])
            for (key, row), own in zip(entries, before, strict=True):
                if own is None or own[SEQUENCE] < row[SEQUENCE]:  # else replayed from before a cache's stamp
                    self._newest.add(key, row)
                    if own is not None:
                        old.append((key, own))
                self._hulls.add_one(key, row)
            full = len(self._newest) > _NEWEST_LIMIT
            if full:
                self._freeze()
            self._derived.drop(inherits)
        if full:
            self.stack.compact()
        return old

    def _freeze(self) -> None:
        """Turn the newest rows into a run."""
        if self._newest:
            self.stack.push(self._newest.run())
            self._newest = NewestRows()

    def _own(self, keys: np.ndarray, ordinal: int) -> np.ndarray:
        """Return, per key, the row that the version itself wrote; ordinal −1 where it did not."""
        rows = np.full(len(keys), _NONE, ROW)
        for run in self.stack.runs:
            run.offer_own(keys, ordinal, rows)
        self._newest.offer_own(keys, ordinal, rows)
        self._settled.correct(rows)
        return rows

    def _own_row(self, key: int, ordinal: int) -> Row | None:
        row = self._newest.find_own(key, ordinal)
        for run in () if row is not None else reversed(self.stack.runs):
            row = run.find_own(key, ordinal)
            if row is not None:
                break
        return None if row is None else self._settled.corrected(row)

    def _own_rows(self, keys: Sequence[int], ordinal: int) -> list[Row | None]:
        if len(keys) < _SINGLY:
            return [self._own_row(key, ordinal) for key in keys]
        rows = self._own(np.array(keys, np.int64), ordinal)
        return [row if row[ORDINAL] >= 0 else None for row in rows.tolist()]

    def own(self, keys: Sequence[int], ordinal: int) -> list[Row | None]:
        """Return, per key, the row that the version itself wrote, None if it did not."""
        with self._lock:
            return self._own_rows(keys, ordinal)

    # --- looking up ------------------------------------------------------------------------------------------

    def find(self, key: int, lineage: Lineage) -> Row | None:
        """Return the row that the lineage sees for one packed key, None if it holds no chunk: `resolve`, without arrays."""
        with self._lock:
            runs = (self._derived.run, *self.stack.runs)
            newest_rank, newest = self._newest.find(key, lineage)
        best, place, seen = -1, -1, None
        for run in runs:
            if len(run.keys):
                rank, index = run.find(key, lineage)
                if rank >= 0 and rank >= best:
                    best, place, seen = rank, index, run
        found = newest
        if newest_rank < best and seen is not None:
            found = seen.rows[place].item()
        if found is None or found[FLAGS]:
            return None
        return self._settled.corrected(found)

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
            runs = (self._derived.run, *self.stack.runs)
            newest = self._newest.look_up(keys, lineage)
        for run in runs:
            run.offer(keys, lineage, ranks, rows)
        for index, rank, row in newest:
            if rank >= ranks[index]:
                rows[index] = row
        self._settled.correct(rows)
        return rows

    def runs(self) -> tuple[Run, ...]:
        """Return all rows, without derived ones, for a cache: what `load` takes."""
        with self._lock:
            self._freeze()
            runs = self.stack.runs
        self.stack.compact()
        for run in runs:
            self._settled.correct(run.rows)
        return runs

    def _layers(self, writers: frozenset[int] | None = None) -> tuple[Run, ...]:
        """Return all rows, or those of some versions; of the same (key, ordinal) the later run's row counts."""
        with self._lock:
            runs, newest = self.stack.runs, self._newest.run(writers)
        return (*(run if writers is None else run.of_versions(writers) for run in runs), newest)

    def snapshot(self) -> Run:
        """Return all rows, without derived ones, as one run."""
        whole = Run.empty()
        for run in reversed(self.runs()):  # from the small end: the large one is copied once
            whole = run.merged(whole)
        return whole

    def keys_written_in(self, ordinals: Iterable[int]) -> np.ndarray:
        """Return the keys that any of these versions wrote or derived, sorted."""
        wanted = frozenset(ordinals)
        layers = [run.keys for run in self._layers(wanted)]
        layers += [run.keys for ordinal, run in self._derived.runs.items() if ordinal in wanted]
        return np.unique(np.concatenate(layers))

    def visible(self, lineage: Lineage) -> np.ndarray:
        """Return the keys of all chunks that a lineage sees, sorted."""
        runs = (*self._layers(), self._derived.run)
        keys = np.unique(np.concatenate([run.keys for run in runs]))
        seen: np.ndarray = keys[present(self.resolve(keys, lineage))]
        return seen

    def hull(self, lineage: Lineage, ordinals: Iterable[int]) -> np.ndarray:
        """Return one past the highest chunk coordinate (z, y, x) that a lineage sees, zeros if it sees none.

        Parameters
        ----------
        ordinals
            Its version and all ancestors. Where none of them hides a chunk, their own hulls tell, at any size.
        """
        with self._measuring:
            past = Hulls.of(self._unmeasured)
            with self._lock:
                self._hulls.unite(past)
                self._unmeasured = ()
                top, exact = self._hulls.top(frozenset(ordinals))
        if not exact:
            coords = unpack(self.visible(lineage))
            top = coords.max(axis=0) if len(coords) else None
        return np.zeros(3, np.int64) if top is None else top + 1

    # --- merge versions --------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Changes when derived rows are dropped: what was looked up meanwhile may lack them."""
        return self._derived.epoch

    def is_derived(self, ordinal: int) -> bool:
        """Tell whether the rows of a merge version are there."""
        return ordinal in self._derived.runs

    def begin_deriving(self, ordinal: int) -> None:
        """Announce `derive`: it comes to nothing if what the merge version inherits is written meanwhile."""
        with self._lock:
            self._derived.begin(ordinal)

    def derive(self, ordinal: int, keys: np.ndarray, rows: np.ndarray) -> None:
        """Set what a merge version shows where it differs from its first parent."""
        with self._lock:
            if (rows["flags"] & CONFLICT).any():
                self._hulls.hide(ordinal)
            self._derived.keep(ordinal, keys, rows)

    # --- finishing -------------------------------------------------------------------------------------------

    def writers(self) -> frozenset[int]:
        """Return the ordinals of the versions that wrote anything."""
        return frozenset[int]().union(*(run.writers for run in self._layers()))

    def written_by(self, ordinal: int) -> tuple[np.ndarray, np.ndarray]:
        """Return all (keys, rows) of a version, sorted by key."""
        found = Run.empty()
        for run in self._layers(frozenset((ordinal,))):
            found = found.merged(run)
        self._settled.correct(found.rows)
        return found.keys, found.rows

    def settle(self, ordinal: int, upto: int) -> None:
        """Note that what a version wrote up to a sequence now lies under its Zarr keys."""
        with self._lock:
            self._settled.add(ordinal, upto)

    def __len__(self) -> int:
        return sum(len(run.keys) for run in self.stack.runs) + len(self._newest)
