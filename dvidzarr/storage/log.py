"""The log of a repo or an instance on local disk: appending with group commit. Design: storage §2."""

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dvidzarr.core.errors import BusyError, DvidzarrError, NoDescriptorError, NoSpaceError, StorageError
from dvidzarr.core.interrupts import interrupts_later
from dvidzarr.storage.frames import (
    HEADER_SIZE,
    START,
    Position,
    SegmentHeader,
    decode_frame,
    encode_frame,
    encode_record,
)
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.logreader import Apply
from dvidzarr.storage.logrecovery import LogRecovery
from dvidzarr.storage.segmentfile import SegmentFile

SEGMENT_SIZE = 64 << 20
FRAME_SIZE = 32 << 20
"""Records queued beyond this go into the next frame."""
_CLOSING_S = 30.0


Record = tuple[int, dict[str, Any], bytes]
"""Kind, header and payload of a record to be appended."""


@dataclass(slots=True)
class _Pending:
    records: list[bytes]
    """Encoded by who appends them: what cannot be encoded concerns nobody else."""
    done: threading.Event | None = None
    """Set when the records are durable, or when `lead` is passed on; None for whoever need not wait."""
    lead: bool = False
    error: BaseException | None = None
    position: Position = START

    @property
    def size(self) -> int:
        """Bytes of the records."""
        return sum(map(len, self.records))


class LocalLog(LogRecovery):
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
        self._failed: str | None = None
        self.durable = True
        """False: frames are written but not synced until `flush` (durability `fast`)."""

    def append(self, kind: int, header: dict[str, Any], payload: bytes = b"") -> Position:
        """Append a record and apply it; on return it is durable (unless `durable` is off) and visible.

        Raises
        ------
        InvalidInputError
            The header holds what JSON cannot, such as a text that is no Unicode.
        NoSpaceError
            The disk is full; nothing was changed.
        StorageError
            The log failed or is damaged; nothing was acknowledged.
        """
        return self.append_all([(kind, header, payload)])

    def append_all(self, records: Sequence[Record]) -> Position:
        """Append records in one frame: all of them become durable, or none. Returns the position of the last."""
        item = _Pending([encode_record(*record) for record in records])
        # else nobody knows whether the frame is there, or nobody writes it: the log takes no more, or others wait for ever
        with interrupts_later():
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

    @property
    def refusal(self) -> DvidzarrError | None:
        """Why records cannot be appended: the log is damaged, failed, closed or only followed. None if they can."""
        if self.damage:
            return BusyError(
                f"{self._prefix} is damaged and takes no writes until `dvidzarr verify --repair`: {self.damage[0]}"
            )
        if self._failed is not None:
            return StorageError(f"{self._prefix} takes no writes until restart: {self._failed}")
        return None if self._writing else StorageError(f"{self._prefix} is not open for appending")

    def check_writable(self) -> None:
        """Raise if records cannot be appended."""
        refusal = self.refusal
        if refusal is not None:
            raise refusal

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
        records = [record for item in items for record in item.records]
        frame = encode_frame(first, records, self._salt)
        if self._file is None or (self._offset > HEADER_SIZE and self._offset + len(frame) > SEGMENT_SIZE):
            self._next_segment(first)
            frame = encode_frame(first, records, self._salt)
        self._put_frame(frame)
        try:
            self._take_in(frame, items)
        except Exception as error:  # no such error may say that nothing was changed
            self._failed = f"a record that is durable could not be applied: {type(error).__name__}: {error}"
            raise StorageError(f"{self._prefix} takes no writes until restart: {self._failed}") from error

    def _take_in(self, frame: bytes, items: list[_Pending]) -> None:
        """Apply the records of a frame that was put at the end, and publish them."""
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
            self._file.append(self._offset, frame, SEGMENT_SIZE if self.durable else 0)
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
                self._file.cut(self._offset)
                self._file.sync()
        except StorageError as second:
            self._failed = str(second)
        if not isinstance(error, (NoSpaceError, NoDescriptorError)):
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
        self._let_go(cut=True)
        self._file = SegmentFile(file, HEADER_SIZE)
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

    def _let_go(self, *, cut: bool) -> None:
        """Close the file, without the zeros behind its last frame if nobody can be writing there (`cut`)."""
        with self._syncing:
            if self._file is not None:
                self._file.close(self._offset if cut else None)
                self._file = None

    def demote(self) -> None:
        """Follow as before `recover`; nobody appends."""
        with self._following:
            super().close()
            self._writing = self._looked = False
            self._let_go(cut=True)

    def close(self) -> None:
        """Let a running append end, refuse later ones, close the files; nothing is flushed."""
        with self._idle:
            self.refuse("it was closed")
            ended = self._idle.wait_for(lambda: not self._leading, _CLOSING_S)
        super().close()
        self._let_go(cut=ended)
