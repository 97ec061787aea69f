"""What a follower may lack of the instances it follows: per source a record up to which surely nothing is missing."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Gap:
    """What a source wrote after record `upto` may be missing.

    Compared by identity: `close` drops only the gap it was given.
    """

    upto: int
    checked: bool = True
    """Whether it is known that no power loss took records of the source up to that one."""


class Gaps:
    """The gaps of a follower, by the id of the source. `_lock` guards them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gaps: dict[str, Gap] = {}

    def __contains__(self, source: str) -> bool:
        return source in self._gaps

    def suspect(self, seen: Mapping[str, int]) -> None:
        """Begin anew: of each source, what came after the record seen last may be missing."""
        with self._lock:
            self._gaps = {source: Gap(upto, checked=False) for source, upto in seen.items()}

    def find(self, source: str, tail: int, since: int) -> Gap | None:
        """Return the gap that a source leaves, if any.

        Parameters
        ----------
        tail
            The last record of the source when it was opened: a power loss took those beyond it.
        since
            The record after which it is followed: what came before is not missing.
        """
        with self._lock:
            gap = self._gaps.get(source)
            if gap is not None and not gap.checked:
                gap = self._gaps[source] = Gap(gap.upto if gap.upto <= tail else min(since, tail))
            return gap

    def add(self, source: str, seen: int) -> None:
        """Note that something was not taken in that came after the record `seen`."""
        with self._lock:
            gap = self._gaps.get(source, Gap(seen))
            self._gaps[source] = Gap(min(gap.upto, seen), gap.checked)

    def close(self, source: str, gap: Gap) -> None:
        """Note that nothing is missing any more, unless another gap was found meanwhile."""
        with self._lock:
            if self._gaps.get(source) is gap:
                del self._gaps[source]

    def forget(self, sources: Iterable[str]) -> None:
        """Drop what was missing of sources that are followed anew."""
        with self._lock:
            for source in sources:
                self._gaps.pop(source, None)
