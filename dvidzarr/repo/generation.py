"""One number for a whole store, mapped by every process that has it open: it grows with each record of a repo's log.

A follower compares it with the number it last looked at, and only if they differ does it list the repos and read their
logs: knowing that nothing happened costs one look at memory, for any number of repos. Instances have their own word each
(`applied`, see `LogReader`), which says the same of their logs.
"""

import threading
from typing import TYPE_CHECKING

from dvidzarr.storage.local import LocalBackend

if TYPE_CHECKING:
    from dvidzarr.storage.openfiles import SharedWord

KEY = "generation"


class Generation:
    """The number, as the writer (`begin`, `advance`) or a follower (`current`, `passed`) sees it.

    `_lock` makes an increment one step among the threads of the writer.
    """

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._word: SharedWord | None = None
        self._looked_at: int | None = None
        self._writing = False

    def begin(self) -> None:
        """Become the writer: followers look again."""
        self._word = self._backend.shared_word(KEY, writable=True)
        self._writing = True
        self.advance()

    def advance(self) -> None:
        """Make followers look; called when what they will find is published, before it is acknowledged."""
        if self._writing and self._word is not None:
            with self._lock:
                self._word.value += 1

    @property
    def current(self) -> int | None:
        """The number; None if no writer of this store has one yet: then followers must always look."""
        if self._word is None and (self._backend.size(KEY) or 0) >= 8:
            self._word = self._backend.shared_word(KEY, writable=False)
        return None if self._word is None else self._word.value

    @property
    def passed(self) -> bool:
        """Whether something may have happened since the number that was looked at last."""
        word = self._word
        return word is None or word.value != self._looked_at

    def look_at(self, number: int | None) -> None:
        """Note that everything up to a number, read before looking, was seen."""
        self._looked_at = number

    def close(self) -> None:
        """Let go of the number."""
        self._word, self._writing = None, False
