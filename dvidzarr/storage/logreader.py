"""Reading a log on local disk: from the first record, from a cursor, and behind a writer. Design: storage §2, §7."""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dvidzarr.core.errors import CorruptionError
from dvidzarr.storage.frames import (
    HEADER_SIZE,
    START,
    Entry,
    Kind,
    Position,
    SegmentHeader,
    decode_frame,
    first_sequence,
    frame_end,
    frame_size,
    last_sequence,
    next_frame,
)
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.locks import WriterLock

if TYPE_CHECKING:
    from dvidzarr.storage.openfiles import SharedWord

_logger = logging.getLogger("dvidzarr.storage")

Apply = Callable[[Entry], None]

_PIECE = 16 << 10
"""So many bytes are read at first: behind the last frame may lie many zeros. Then twice as many each time."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place between two frames, kept in caches: where the last applied frame lies, and the record that ended it."""

    segment: int
    frame: int
    offset: int
    sequence: int
    checksum: int


class LogReader:
    """The segment files below `prefix`, read in order.

    `apply` is called with every record in sequence order, by one thread at a time (`_following` sees to it).
    """

    def __init__(self, backend: LocalBackend, prefix: str, ids: tuple[str, str], apply: Apply) -> None:
        self._backend = backend
        self._prefix = prefix
        self._ids = ids
        self._apply = apply
        self._following = threading.RLock()
        self._applying = False
        self._word: SharedWord | None = None
        self._segment = self._frame = self._offset = self._salt = 0
        self._tail = START
        self._cursor = Cursor(0, 0, 0, 0, 0)
        self._ends_at = (0, 0)
        self._looked = False
        self.sealed = 0
        """A commit vouches for the records up to this one: they are missed even if `applied` is lost with them."""
        self.unflushed_after: int | None = None
        """Sequence of the last checkpoint if the log was written with durability `fast` since, else None."""

    @property
    def tail(self) -> Position:
        """The last applied record."""
        return self._tail

    @property
    def cursor(self) -> Cursor:
        """The end of the last wholly applied frame."""
        return self._cursor

    @property
    def prefix(self) -> str:
        """The folder of the log."""
        return self._prefix

    def resume(self, cursor: Cursor) -> bool:
        """Start behind a cursor instead of at the first record; False (and unchanged) if the log does not hold it."""
        key = self._key(cursor.segment)
        header = self._read_header(cursor.segment, self._head(cursor.segment)) if cursor.segment else None
        if header is None or (self._backend.size(key) or 0) < cursor.offset:
            return False
        view = memoryview(self._backend.read_at(key, cursor.frame, cursor.offset - cursor.frame))
        if frame_end(view, 0, first_sequence(view, 0), header.salt) != len(view):
            return False
        last = decode_frame(view, 0, cursor.segment, cursor.frame)[-1]
        if last.position != Position(cursor.sequence, cursor.checksum):
            return False
        self._segment, self._frame, self._offset = cursor.segment, cursor.frame, cursor.offset
        self._salt, self._tail, self._cursor = header.salt, Position(cursor.sequence, cursor.checksum), cursor
        return True

    def _key(self, segment: int) -> str:
        return f"{self._prefix}/{segment:08d}.log"

    def _segments(self) -> list[int]:
        names = (key.rpartition("/")[2] for key in self._backend.keys(self._prefix))
        return sorted(int(name[:-4]) for name in names if name.endswith(".log") and name[:-4].isdigit())

    def _read_header(self, segment: int, data: bytes) -> SegmentHeader | None:
        header = SegmentHeader.unpack(data[:HEADER_SIZE])
        if header is not None and (header.store_id, header.log_id) != self._ids:
            raise CorruptionError(
                f"{self._key(segment)} belongs to another log (store {header.store_id}, log {header.log_id})"
            )
        return header

    def records(self, upto: int | None = None, after: int = 0) -> Iterator[Entry]:
        """Yield the readable records behind `after`, without applying them."""
        segments, sequence = self._segments_behind(after)
        for segment in segments:
            data = self._backend.get(self._key(segment)) or b""
            header = self._read_header(segment, data)
            view, offset = memoryview(data), HEADER_SIZE
            while header is not None:
                end = frame_end(view, offset, sequence + 1, header.salt)
                if end is None:
                    found = next_frame(view, offset, sequence + 1, header.salt)
                    if found is None:
                        break
                    offset, sequence = found, first_sequence(view, found) - 1
                    continue
                sequence = last_sequence(view, offset)
                for entry in decode_frame(view, offset, segment) if sequence > after else ():
                    if upto is not None and entry.sequence > upto:
                        return
                    if entry.sequence > after:
                        yield entry
                offset = end

    def _segments_behind(self, after: int) -> tuple[list[int], int]:
        """Return the segments that can hold records behind `after`, and the last record before them."""
        segments = self._segments()
        for index in reversed(range(1, len(segments))):
            header = self._read_header(segments[index], self._head(segments[index]))
            if header is not None and header.first <= after + 1:
                return segments[index:], header.first - 1
        return segments, 0

    def _head(self, segment: int) -> bytes:
        """Return the first bytes of a segment, as many as a header has; fewer if there are no more."""
        head = bytearray(HEADER_SIZE)
        return bytes(head[: self._backend.read_into(self._key(segment), memoryview(head)) or 0])

    def value(self, segment: int, offset: int, length: int) -> bytes:
        """Return bytes of a payload by their place (`Entry.segment`, `Entry.offset`)."""
        return self._backend.read_at(self._key(segment), offset, length)

    @property
    def behind(self) -> bool:
        """Whether the writer published records that are not applied here, as far as can be told without a lock."""
        word = self._word
        return word is None or word.value > self._tail.sequence

    def follow(self) -> None:
        """Apply the records that the writer published since the last call.

        A power loss, or who copies a store, may leave a published number that is too small, or none: at first all records
        count that are there, if nobody is writing the store.
        """
        if not self.behind and self._looked:
            return
        with self._following:  # another thread may have read on, or be about to recover the log
            word = self._published() or 0
            to_the_end = not self._looked and WriterLock.is_at_rest(f"{self._backend.root}/lock")
            # a model that looks at its data while it takes in a record sees what came before that
            if self._applying:
                return
            self._looked = not to_the_end
            if word <= self._tail.sequence and not to_the_end:
                return
            self._applying = True
            try:
                self._read_on(None if to_the_end else word)
            finally:
                self._applying = False
            if to_the_end:
                word = max(
                    (entry.sequence for entry in self.records(after=self._tail.sequence)), default=word
                )
            if self._tail.sequence < word and not self._awaits_recovery(word):
                raise CorruptionError(
                    f"{self._prefix} cannot be read beyond record {self._tail.sequence}, {word} are published"
                )
            self._looked = True

    def _awaits_recovery(self, word: int) -> bool:
        """Tell whether a power loss may have taken the rest, so that the log ends here until a writer recovers it."""
        if self.unflushed_after is None or self._backend.size(self._key(self._segment)) is None:
            return False  # a log that was read and is not there any more was deleted
        at = (word, self._tail.sequence)
        if at != self._ends_at:
            if self._flushed_later():
                return False
            self._ends_at = at
            _logger.warning(
                "%s ends at record %d of %d: later ones were acknowledged but not flushed; a writer settles that",
                self._prefix,
                self._tail.sequence,
                word,
            )
        return True

    def _flushed_later(self) -> bool:
        """Tell whether a checkpoint vouches for the record that cannot be read: then no power loss took it."""
        following = self._tail.sequence + 1
        return any(
            entry.kind == Kind.CHECKPOINT and entry.header["upto"] >= following
            for entry in self.records()
            if entry.sequence > following
        )

    def _published(self) -> int | None:
        if self._word is None:
            if (self._backend.size(f"{self._prefix}/applied") or 0) < 8:  # also what a power loss left of it
                return self.sealed or None
            self._word = self._backend.shared_word(f"{self._prefix}/applied", writable=False)
        return max(self._word.value, self.sealed)

    def _read_on(self, upto: int | None) -> None:
        """Apply records from the cursor on; stop at `upto`, or at the first frame that is not valid."""
        if self._segment == 0:
            segments = self._segments()
            if not segments:
                return
            self._enter(segments[0])
        while self._tail.sequence != upto:
            if not self._read_segment(upto) and not self._enter(self._segment + 1, self._tail.sequence + 1):
                return

    def _enter(self, segment: int, first: int | None = None) -> bool:
        """Go to the start of a segment, if it is whole and (when `first` is given) nothing is missing before it."""
        header = self._read_header(segment, self._head(segment))
        if header is None or first not in {None, header.first}:
            return False
        self._segment, self._frame, self._offset, self._salt = segment, 0, HEADER_SIZE, header.salt
        return True

    def _read_segment(self, upto: int | None) -> bool:
        """Apply what the current segment holds beyond the cursor; True if anything came."""
        moved, size = False, _PIECE
        while self._tail.sequence != upto:
            base, view, at = self._offset, self._piece(size), 0
            while self._tail.sequence != upto:
                end = frame_end(view, at, self._cursor.sequence + 1, self._salt)
                if end is None:
                    break
                for entry in decode_frame(view, at, self._segment, base):
                    if entry.sequence > self._tail.sequence:  # Ctrl-C may have left a part of it applied
                        self._take(entry)
                self._frame, self._offset = base + at, base + end
                self._mark()
                at, moved = end, True
            if not at:
                break
            size *= 2
        return moved

    def _piece(self, size: int) -> memoryview:
        """Return so many bytes of the current segment from the cursor on, but the next frame whole."""
        key = self._key(self._segment)
        left = (self._backend.size(key) or 0) - self._offset
        if left <= 0:
            return memoryview(b"")
        data = self._read(key, min(left, size))
        if len(data) < frame_size(data) <= left:
            data = self._read(key, frame_size(data))
        return data

    def _read(self, key: str, size: int) -> memoryview:
        """Return what a segment holds from the cursor on: less than `size` if its writer just cut off zeros."""
        buffer = memoryview(bytearray(size))
        return buffer[: self._backend.read_into(key, buffer, self._offset) or 0].toreadonly()

    def _take(self, entry: Entry) -> None:
        if entry.kind == Kind.CHECKPOINT:
            self.unflushed_after = entry.sequence if entry.header.get("mode") == "fast" else None
        self._apply(entry)
        self._tail = entry.position

    def _mark(self) -> None:
        self._cursor = Cursor(
            self._segment, self._frame, self._offset, self._tail.sequence, self._tail.checksum
        )

    def close(self) -> None:
        """Let go of the published position: it is unmapped when the last thread that looks at it is done."""
        self._word = None
