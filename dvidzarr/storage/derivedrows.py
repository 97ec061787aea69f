"""What merge versions show of an array where they differ from their first parents: it follows from others."""

from collections.abc import Callable

import numpy as np

from dvidzarr.storage.runs import Run


class DerivedRows:
    """Derived rows by merge version. The caller guards it; `runs` and `run` are replaced, never changed."""

    def __init__(self) -> None:
        self.runs: dict[int, Run] = {}
        self.run = Run.empty()
        """All of them together."""
        self.epoch = 0
        """Changes when rows are dropped."""
        self._pending: set[int] = set()

    def begin(self, merge: int) -> None:
        """Announce that a merge version is being worked out; `keep` must follow."""
        self._pending.add(merge)

    def keep(self, merge: int, keys: np.ndarray, rows: np.ndarray) -> None:
        """Take what was worked out, unless something it follows from was written meanwhile."""
        if merge in self._pending:
            self._pending.remove(merge)
            rows = rows.copy()
            rows["ordinal"] = merge
            self._set({**self.runs, merge: Run.build(keys, rows)})

    def drop(self, inherits: Callable[[int], bool]) -> None:
        """Forget the merge versions of which `inherits` says that they follow from what was written."""
        if not self.runs and not self._pending:
            return
        gone = {merge for merge in self.runs.keys() | self._pending if inherits(merge)}
        if gone:
            self._pending -= gone
            self._set({merge: run for merge, run in self.runs.items() if merge not in gone})
            self.epoch += 1

    def clear(self) -> None:
        """Forget all."""
        self._pending = set()
        self._set({})
        self.epoch += 1

    def _set(self, runs: dict[int, Run]) -> None:
        empty = Run.empty()
        self.run = Run.build(
            np.concatenate([empty.keys, *(run.keys for run in runs.values())]),
            np.concatenate([empty.rows, *(run.rows for run in runs.values())]),
        )
        self.runs = runs
