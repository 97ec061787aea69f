"""Recovering a log on local disk: where it ends, and what of it is damaged. Design: storage §2."""

import logging
from dataclasses import dataclass

from dvidzarr.storage.frames import HEADER_SIZE, Position, content_end, first_sequence, next_frame
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.logreader import Apply, LogReader
from dvidzarr.storage.segmentfile import SegmentFile

_logger = logging.getLogger("dvidzarr.storage")


@dataclass(frozen=True, slots=True)
class Damage:
    """A place in a log that cannot be read: what follows sequence `after` up to `before` is lost."""

    segment: int
    offset: int
    after: int
    before: int | None

    def __str__(self) -> str:
        upto = "the end" if self.before is None else str(self.before - 1)
        place = f"segment {self.segment:08d} is damaged at byte {self.offset}"
        return f"{place}: records {self.after + 1} to {upto} are lost"


class LogRecovery(LogReader):
    """A log that is read to its end in order to be appended to; `damage` tells what was found on the way."""

    def __init__(self, backend: LocalBackend, prefix: str, ids: tuple[str, str], apply: Apply) -> None:
        super().__init__(backend, prefix, ids, apply)
        self._file: SegmentFile | None = None
        self._writing = False
        self.damage: list[Damage] = []
        self.dropped = 0
        """Bytes of a torn tail that recovery cut off, without the zeros at its end."""

    def follow(self) -> None:
        """Apply what another process published; nothing to do for the writer itself."""
        if not self._writing:
            super().follow()

    def recover(self) -> None:
        """Replay from the cursor on, decide what the end is, and open for appending."""
        with self._following:
            word = self._published()
            super().close()
            self._read_on(None)
            self._settle(word)
            if not self.damage and self._segment:
                self._open_tail()
            self._word = self._backend.shared_word(f"{self._prefix}/applied", writable=True)
            if not self.damage:  # else it is the evidence that something is missing
                self._word.value = self._tail.sequence
            self._writing = True

    def _settle(self, word: int | None) -> None:
        """Decide between a torn tail, which is cut off, and damage, behind which valid frames are still applied."""
        while True:
            data = self._backend.get(self._key(self._segment)) if self._segment else None
            view = memoryview(data or b"")
            later = [number for number in self._segments() if number > self._segment]
            found = next_frame(view, self._offset, self._tail.sequence + 1, self._salt) if data else None
            acknowledged = word is not None and word > self._tail.sequence
            if found is None and not acknowledged and not self._readable(later):
                self._cut(view, later)
                return
            if self.unflushed_after is not None and not self._flushed_later():
                _logger.warning(
                    "%s ends at record %d: later ones were not flushed", self._prefix, self._tail.sequence
                )
                self._cut(view, later)
                return
            if not self._skip(view, found, later):
                return

    def _readable(self, segments: list[int]) -> bool:
        """Tell whether records were acknowledged here: a segment without frames was begun behind all that came before."""
        for number in segments:
            data = self._backend.get(self._key(number)) or b""
            header = self._read_header(number, data)
            if len(data) > HEADER_SIZE or (header is not None and header.first > self._tail.sequence + 1):
                return True
        return False

    def _cut(self, view: memoryview, later: list[int]) -> None:
        """Drop a torn tail: nothing of it was acknowledged. Zeros that were written ahead are none."""
        torn = [self._key(number) for number in later]
        if torn:
            self._backend.remove(torn)
            self._backend.sync_folder(self._prefix)
        self.dropped = content_end(view, self._offset) - self._offset if self._segment else 0
        if self.dropped > 0:
            _logger.warning("%s: dropped a torn tail of %d bytes", self._key(self._segment), self.dropped)

    def _skip(self, view: memoryview, found: int | None, later: list[int]) -> bool:
        """Note damage and go on behind it; False at the end of what can be read."""
        after, place = self._tail.sequence, (self._segment, self._offset)
        if found is not None:
            before = first_sequence(view, found)
            self._offset = found
        elif later and self._enter(later[0]):
            header = self._read_header(later[0], self._head(later[0]))
            before = header.first if header else after + 1
        else:
            self.damage.append(Damage(*place, after, None))
            return False
        self.damage.append(Damage(*place, after, before))
        self._tail = Position(before - 1, 0)
        self._mark()
        self._read_on(None)
        return True

    def _open_tail(self) -> None:
        """Write the last frame again in place and sync it: what the page cache showed may not have been on disk.

        Nor may the name of the segment, if it was begun by a process that was killed.
        """
        key = self._key(self._segment)
        start = self._frame if self._frame >= HEADER_SIZE else 0
        data = self._backend.read_at(key, start, self._offset - start)
        file = SegmentFile(self._backend.open_append(key, create=False), self._offset)
        file.cut(self._offset)
        file.append(start, data, 0)
        file.sync()
        self._backend.sync_folder(self._prefix)
        self._file = file
