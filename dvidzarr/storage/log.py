"""The log of a repo or an instance on local disk: group commit, replay, following, recovery. Design: storage §2."""

import logging
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from dvidzarr.core.errors import BusyError, DvidzarrError, NoSpaceError, StorageError
from dvidzarr.storage.frames import (
    HEADER_SIZE,
    START,
    Kind,
    Position,
    SegmentHeader,
    decode_frame,
    encode_frame,
    encode_record,
    next_frame,
)
from dvidzarr.storage.local import AppendFile, LocalBackend
from dvidzarr.storage.logreader import Apply, LogReader

SEGMENT_SIZE = 64 << 20
FRAME_SIZE = 32 << 20
"""Records queued beyond this go into the next frame."""
_CLOSING_S = 30.0

_logger = logging.getLogger("dvidzarr.storage")


Record = tuple[int, dict[str, Any], bytes]
"""Kind, header and payload of a record to be appended."""


class Log(Protocol):
    """A durable, ordered sequence of records with one writer."""

    def append(self, kind: int, header: dict[str, Any], payload: bytes = b"") -> Position:
        """Append a record; it is durable and applied on return."""
        ...

    def follow(self) -> None:
        """Apply what other processes appended and published since the last call."""
        ...

    @property
    def tail(self) -> Position:
        """The last applied record."""
        ...


@dataclass(slots=True)
class _Pending:
    records: Sequence[Record]
    done: threading.Event | None = None
    """Set when the records are durable, or when `lead` is passed on; None for whoever need not wait."""
    lead: bool = False
    error: BaseException | None = None
    position: Position = START

    @property
    def size(self) -> int:
        """Bytes of the payloads."""
        return sum(len(payload) for _, _, payload in self.records)


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


class LocalLog(LogReader):
    """A log as segment files below `prefix`, with one writer.

    `_lock` guards the queue and who leads; the leader alone writes to the files. `_syncing` keeps a file open while it
    is synced from outside (`flush`).
    """

    def __init__(self, backend: LocalBackend, prefix: str, ids: tuple[str, str], apply: Apply) -> None:
        super().__init__(backend, prefix, ids, apply)
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._syncing = threading.Lock()
        self._queue: list[_Pending] = []
        self._leading = False
        self._file: AppendFile | None = None
        self._failed: str | None = None
        self._writing = False
        self.durable = True
        """False: frames are written but not synced until `flush` (durability `fast`)."""
        self.damage: list[Damage] = []
        self.dropped = 0
        """Bytes of a torn tail that recovery cut off."""

    def follow(self) -> None:
        """Apply what another process published; nothing to do for the writer itself."""
        if not self._writing:
            super().follow()

    # --- recovery --------------------------------------------------------------------------------------------

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

    def _flushed_later(self) -> bool:
        """Tell whether a checkpoint vouches for the record that cannot be read: then no power loss took it."""
        following = self._tail.sequence + 1
        return any(
            entry.kind == Kind.CHECKPOINT and entry.header["upto"] >= following
            for entry in self.records()
            if entry.sequence > following
        )

    def _cut(self, view: memoryview, later: list[int]) -> None:
        """Drop a torn tail: nothing of it was acknowledged."""
        torn = [self._key(number) for number in later]
        if torn:
            self._backend.remove(torn)
            self._backend.sync_folder(self._prefix)
        self.dropped = len(view) - self._offset if self._segment else 0
        if self.dropped > 0:
            _logger.warning("%s: dropped a torn tail of %d bytes", self._key(self._segment), self.dropped)

    def _skip(self, view: memoryview, found: int | None, later: list[int]) -> bool:
        """Note damage and go on behind it; False at the end of what can be read."""
        after, place = self._tail.sequence, (self._segment, self._offset)
        if found is not None:
            before = int.from_bytes(view[found + 8 : found + 16], "little")
            self._offset = found
        elif later and self._enter(later[0]):
            header = self._read_header(later[0], self._backend.get(self._key(later[0])) or b"")
            before = header.first if header else after + 1
        else:
            self.damage.append(Damage(*place, after, None))
            return False
        self.damage.append(Damage(*place, after, before))
        self._tail = Position(before - 1, 0)
        self._read_on(None)
        return True

    def _open_tail(self) -> None:
        """Write the last frame again in place and sync it: what the page cache showed may not have been on disk.

        Nor may the name of the segment, if it was begun by a process that was killed.
        """
        key = self._key(self._segment)
        start = self._frame if self._frame >= HEADER_SIZE else 0
        data = self._backend.read_at(key, start, self._offset - start)
        file = self._backend.open_append(key, create=False)
        file.truncate(self._offset)
        file.write_at(start, data)
        file.sync()
        self._backend.sync_folder(self._prefix)
        self._file = file

    # --- appending -------------------------------------------------------------------------------------------

    def append(self, kind: int, header: dict[str, Any], payload: bytes = b"") -> Position:
        """Append a record and apply it; on return it is durable (unless `durable` is off) and visible.

        Raises
        ------
        NoSpaceError
            The disk is full; nothing was changed.
        StorageError
            The log failed or is damaged; nothing was acknowledged.
        """
        return self.append_all([(kind, header, payload)])

    def append_all(self, records: Sequence[Record]) -> Position:
        """Append records in one frame: all of them become durable, or none. Returns the position of the last."""
        item = _Pending(records)
        with self._lock:
            self.check_writable()
            self._queue.append(item)
            if self._leading:
                item.done = threading.Event()
            self._leading = True
        if item.done is None or self._wait(item, item.done):
            self._write_queue()
        if item.error is not None:
            raise item.error
        return item.position

    def _wait(self, item: _Pending, done: threading.Event) -> bool:
        """Wait until the records are durable; True if the caller is to write them itself."""
        try:
            done.wait()
        except BaseException:  # Ctrl-C: the record may be committed all the same; the lead must not be lost
            with self._lock:
                if item in self._queue:
                    self._queue.remove(item)
                elif not item.lead:
                    raise
                item.lead = False
                if done.is_set():
                    self._pass_on(self._queue[0] if self._queue else None)
            raise
        return item.lead

    def _pass_on(self, item: _Pending | None) -> None:
        """Let somebody who waits write the next frame, or nobody; the caller holds `_lock`."""
        if item is not None and item.done is not None:
            item.lead = True
            item.done.set()
        else:
            self._leading = False
            self._idle.notify_all()

    def check_writable(self) -> None:
        """Raise if records cannot be appended: the log is damaged, failed or closed."""
        if self.damage:
            raise BusyError(
                f"{self._prefix} is damaged and takes no writes until `dvidzarr verify --repair`: {self.damage[0]}"
            )
        if self._failed is not None:
            raise StorageError(f"{self._prefix} takes no writes until restart: {self._failed}")

    def _write_queue(self) -> None:
        """Write one frame with what is queued, then hand the lead to the first who waits for the next one."""
        with self._lock:
            items: list[_Pending] = []
            size = 0
            while self._queue and (not items or size + self._queue[0].size < FRAME_SIZE):
                items.append(self._queue.pop(0))
                size += items[-1].size
        try:
            self._commit(items)
        except DvidzarrError as error:
            for item in items:
                item.error = error
        except BaseException as error:
            self._failed = f"{type(error).__name__}: {error}"
            for item in items:
                item.error = error
            raise
        finally:
            self._hand_over(items)

    def _hand_over(self, items: list[_Pending]) -> None:
        with self._lock:
            if self._failed is not None:
                for item in self._queue:
                    item.error = StorageError(f"{self._prefix} takes no writes until restart: {self._failed}")
                items = [*items, *self._queue]
                self._queue.clear()
            self._pass_on(self._queue[0] if self._queue else None)
        for item in items:
            if item.done is not None:
                item.done.set()

    def _commit(self, items: list[_Pending]) -> None:
        first = self._tail.sequence + 1
        records = [encode_record(*record) for item in items for record in item.records]
        frame = encode_frame(first, records, self._salt)
        if self._file is None or (self._offset > HEADER_SIZE and self._offset + len(frame) > SEGMENT_SIZE):
            self._next_segment(first)
            frame = encode_frame(first, records, self._salt)
        self._put_frame(frame)
        start = self._frame = self._offset
        self._offset += len(frame)
        entries = iter(decode_frame(memoryview(frame), 0, self._segment, start))
        for item in items:
            for entry in islice(entries, len(item.records)):
                self._take(entry)
            item.position = self._tail
        self._mark()
        if self._word is not None:
            self._word.value = self._tail.sequence

    def _put_frame(self, frame: bytes) -> None:
        if self._file is None:
            raise StorageError(f"{self._prefix} is not open for appending")
        try:
            self._file.write_at(self._offset, frame)
        except StorageError as error:
            self._take_back(error)
            if self._failed is not None:
                raise StorageError(self._failed) from error  # also for a full disk: the record may come back
            raise
        if self.durable:
            try:
                self._file.sync()
            except StorageError as error:
                self._failed = str(error)  # the frame may or may not be durable: never retried on this file
                raise StorageError(self._failed) from error  # also for a full disk: the record may come back

    def _take_back(self, error: StorageError) -> None:
        """Cut off a frame that was not written whole, durably, so that it can never be taken for a record."""
        try:
            if self._file is not None:
                self._file.truncate(self._offset)
                self._file.sync()
        except StorageError as second:
            self._failed = str(second)
        if not isinstance(error, NoSpaceError):
            self._failed = str(error)

    def _next_segment(self, first: int) -> None:
        """Begin a segment; its name is durable before its first frame is acknowledged."""
        self.flush()
        number, salt = self._segment + 1, secrets.randbits(32)
        file = self._backend.open_append(self._key(number), create=True)
        try:
            file.write_at(0, SegmentHeader(*self._ids, first, salt).pack())
            file.sync()
            self._backend.sync_folder(self._prefix)
        except StorageError:
            file.close()
            self._backend.remove([self._key(number)])
            raise
        with self._syncing:
            if self._file is not None:
                self._file.close()
            self._file = file
        self._segment, self._offset, self._salt = number, HEADER_SIZE, salt

    def flush(self) -> None:
        """Make everything appended so far durable (durability `fast`)."""
        with self._syncing:
            if self._file is not None:
                try:
                    self._file.sync()
                except StorageError as error:
                    self.refuse(str(error))
                    raise

    def refuse(self, why: str) -> None:
        """Take no more records in this process."""
        self._failed = self._failed or why

    def close(self) -> None:
        """Let a running append end, refuse later ones, close the files; nothing is flushed."""
        with self._idle:
            self.refuse("it was closed")
            self._idle.wait_for(lambda: not self._leading, _CLOSING_S)
        super().close()
        with self._syncing:
            if self._file is not None:
                self._file.close()
                self._file = None
