"""The keys that hot versions show, kept sorted, so that a listing costs what it answers and not what the store holds."""

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from dataclasses import dataclass, field

from dvidzarr.core.lineage import Lineage

KEPT_KEYS = 2_000_000
"""Lists are dropped, the longest unused first, when together they hold more keys than this."""

KEPT_LISTS = 32
"""Nor are there more lists than this: every write looks at each."""

_FEW = 64  # up to so many changes are put in one by one; more are merged, at the cost of the whole list


@dataclass(slots=True)
class KeyList:
    """The keys of one version. `changed` holds what was written since `keys` was last in order: key → whether it is there.

    A list takes notes from before its keys are collected: so nothing written meanwhile is missed.
    """

    lineage: Lineage
    keys: list[bytes] = field(default_factory=list)
    changed: dict[bytes, bool] = field(default_factory=dict)

    def between(self, first: bytes, last: bytes | None) -> list[bytes]:
        """Return the keys in [first, last], in order of the bytes."""
        self._settle()
        start = bisect_left(self.keys, first)
        stop = len(self.keys) if last is None else bisect_right(self.keys, last)
        return self.keys[start:stop]

    def _settle(self) -> None:
        if len(self.changed) > _FEW:
            gone = {key for key, there in self.changed.items() if not there}
            fresh = self.changed.keys() - gone
            kept = [key for key in self.keys if key not in self.changed]
            kept.extend(fresh)
            kept.sort()  # the sorted part is taken as it is: the cost is linear
            self.keys = kept
        else:
            for key, there in self.changed.items():
                self._put(key, there=there)
        self.changed = {}

    def _put(self, key: bytes, *, there: bool) -> None:
        at = bisect_left(self.keys, key)
        found = at < len(self.keys) and self.keys[at] == key
        if there and not found:
            insort(self.keys, key)
        elif found and not there:
            del self.keys[at]


class KeyLists:
    """The lists of the versions asked for last. The caller guards it."""

    def __init__(self) -> None:
        self._lists: OrderedDict[int, KeyList] = OrderedDict()

    def get(self, ordinal: int) -> KeyList | None:
        """Return the list of a version, None if it is not kept."""
        found = self._lists.get(ordinal)
        if found is not None:
            self._lists.move_to_end(ordinal)
        return found

    def begin(self, lineage: Lineage) -> KeyList:
        """Return a new list that takes notes from now on; `keep` must follow."""
        self._lists[lineage.ordinal] = fresh = KeyList(lineage)
        return fresh

    def keep(self, done: KeyList, keys: list[bytes]) -> None:
        """Fill a list that was begun, and drop those for which there is no room."""
        done.keys = keys
        while len(self._lists) > 1 and self._too_much():
            self._lists.popitem(last=False)

    def _too_much(self) -> bool:
        total = sum(len(each.keys) for each in self._lists.values())
        return total > KEPT_KEYS or len(self._lists) > KEPT_LISTS

    def drop(self, merges: set[int]) -> None:
        """Drop the lists of versions that inherit from any of these merge versions, theirs included."""
        for at in [at for at, each in self._lists.items() if any(merge in each.lineage for merge in merges)]:
            del self._lists[at]

    def note(self, key: bytes, ordinal: int, *, there: bool) -> None:
        """Take in a write. One that descendants inherit makes their lists useless (a follower may read on late)."""
        for at in list(self._lists):
            each = self._lists[at]
            if at == ordinal:
                each.changed[key] = there
            elif ordinal in each.lineage:
                del self._lists[at]
