"""The sorted runs of one array, each many times larger than the next.

Runs that came close in size are merged: small ones by who publishes, large ones in the background, so that each row is
copied a bounded number of times and neither readers nor writers wait for a large copy.
"""

import threading
from typing import TYPE_CHECKING

from dvidzarr.storage.runs import Run
from dvidzarr.storage.settled import Settled

if TYPE_CHECKING:
    from collections.abc import Callable

_RATIO = 32
"""A run is merged into the one before it unless that is more than so many times larger."""
_AT_ONCE = 1 << 17
"""Merges of more rows than this (some 10 ms) are left to the background."""


class RunStack:
    """Runs, the oldest and largest first. `lock` is the owner's; `_merging` is held by the one who merges large runs."""

    def __init__(self, lock: threading.Lock, settled: Settled) -> None:
        self.runs: tuple[Run, ...] = ()
        """Replaced under the lock; runs are immutable, so who took them needs no lock."""
        self.later: Callable[[Callable[[], None]], None] = lambda task: task()
        """Runs a task in the background."""
        self._lock = lock
        self._settled = settled
        self._merging = threading.Lock()
        self._held: tuple[Run, ...] = ()

    def push(self, run: Run) -> None:
        """Add the newest run; the caller holds the lock, and calls `compact` without it."""
        self.runs = (*self.runs, run)

    def compact(self) -> None:
        """Merge what came close in size: small runs now, large ones in the background."""
        while (pair := self._close_pair(_AT_ONCE)) is not None:
            self._merge(*pair)
        if self._close_pair(None) is not None:
            self.later(self._merge_large)

    def _merge_large(self) -> None:
        with self._merging:
            while (pair := self._close_pair(None)) is not None:
                self._held = pair
                self._merge(*pair)
                self._held = ()

    def _close_pair(self, limit: int | None) -> tuple[Run, Run] | None:
        """Return the newest two neighbours to be merged, with a limit only small ones that nobody is merging."""
        runs, held = self.runs, self._held
        for older, newer in zip(runs[-2::-1], runs[:0:-1], strict=True):
            left = limit is not None and (
                len(older.keys) + len(newer.keys) > limit or older in held or newer in held
            )
            if len(older.keys) <= _RATIO * len(newer.keys) and not left:
                return older, newer
        return None

    def _merge(self, older: Run, newer: Run) -> None:
        """Replace two neighbours by one run, unless somebody else did meanwhile."""
        merged = older.merged(newer)
        self._settled.correct(merged.rows)
        with self._lock:
            runs = self.runs
            at = next((index for index, run in enumerate(runs) if run is older), len(runs))
            if runs[at + 1 : at + 2] == (newer,):
                self.runs = (*runs[:at], merged, *runs[at + 2 :])
