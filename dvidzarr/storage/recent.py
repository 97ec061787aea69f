"""Words on keys in memory: those that the index does not hold yet, and what was looked up last. The caller guards it.

Writing them down many at a time costs a tenth of one by one, and a key that is asked for again costs a look into a dict.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from dvidzarr.storage.keyindex import KeyRow
from dvidzarr.storage.places import Place

KEPT = 2000
"""So many answers are kept: with values of at most 1 KiB in them, 3 MiB."""


class RecentWords:
    """Pending words by key and ordinal, and answers by key and the ordinal of the version that asked."""

    def __init__(self) -> None:
        self.count = 0
        """How many words are pending."""
        self._pending: dict[bytes, dict[int, Place]] = {}
        self._answers: OrderedDict[bytes, dict[int, Place | None]] = OrderedDict()
        self._kept = 0

    def note(self, key: bytes, place: Place) -> None:
        """Take a version's word on a key; an older one does not replace a newer one of the same version."""
        words = self._pending.setdefault(key, {})
        known = words.get(place.ordinal)
        if known is None:
            self.count += 1
        if known is None or place.sequence >= known.sequence:
            words[place.ordinal] = place
        if key in self._answers:
            self._kept -= len(self._answers.pop(key))

    def keys(self) -> list[bytes]:
        """Return the keys of the pending words, sorted: so the index is written from front to back."""
        return sorted(self._pending)

    def pending(self, keys: Iterable[bytes]) -> Iterator[KeyRow]:
        """Yield the pending words on these keys."""
        for key in keys:
            for place in self._pending.get(key, {}).values():
                yield (key, *place)

    def written(self, keys: Iterable[bytes]) -> None:
        """Forget the pending words on these keys: the index holds them now."""
        for key in keys:
            self.count -= len(self._pending.pop(key, ()))

    def is_pending(self, key: bytes) -> bool:
        """Tell whether the index lacks a word on this key."""
        return key in self._pending

    def answer(self, key: bytes, ordinal: int) -> tuple[Place | None] | None:
        """Return (what a version sees of a key,), None if that is not known here. Its own word is what it sees."""
        word = self._pending[key].get(ordinal) if key in self._pending else None
        if word is not None:
            return (word,)
        answers = self._answers.get(key)
        if answers is None or ordinal not in answers:
            return None
        self._answers.move_to_end(key)
        return (answers[ordinal],)

    def keep(self, key: bytes, ordinal: int, place: Place | None) -> None:
        """Remember what a version sees of a key until somebody writes that key, or others are asked for more lately."""
        answers = self._answers.setdefault(key, {})
        self._kept += ordinal not in answers
        answers[ordinal] = place
        while self._kept > KEPT:
            self._kept -= len(self._answers.popitem(last=False)[1])
