"""Packs: files that hold the chunks written again in an open version, one behind the other.

A write that replaces chunks then costs two syncs, one of the pack and one of the log, and those who write at the same
time share them. A pack is written by one process, and only at its end. What is superseded is given back to the file
system piece by piece, and when its version is finished, the pack goes. Design: storage §4, §5, §9.
"""

import re
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from contextlib import AbstractContextManager

from dvidzarr.core.errors import StorageError
from dvidzarr.storage.backend import Part, whole_blocks
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.openfiles import AppendFile

PACK_BYTES = 64 << 20
"""A pack of this size takes no more."""

OPEN = 32
"""So many packs of a store that nobody writes to just now stay open: opening one costs as much as a small write."""
IDLE_S = 10.0
"""They are closed after this time."""
_SUPERSEDED = 1 << 14
"""Of so many pieces the place is kept until the page cache is told of them."""

_OFFSET_BITS = 32
_NUMBER_BITS = 31


PACK_SPAN = 1 << _OFFSET_BITS
"""Locations in one pack."""


def first_location(key: str) -> int | None:
    """Return the location of the first byte of a pack, None if the key is not that of a pack."""
    name = key.rpartition("/")[2]
    return int(name, 16) << _OFFSET_BITS if re.fullmatch("[0-9a-f]{8}", name) else None


def pack_of(folder: str, location: int) -> tuple[str, int]:
    """Return key and offset of a piece: a location holds the number of a pack and the offset in it, and is never 0."""
    number, offset = divmod(location, PACK_SPAN)
    return f"{folder}/{number:08x}", offset


class Pack:
    """One file. `size` and `written` are for `Packs`, whether it is open is for `OpenPacks`; their locks guard that."""

    def __init__(self, backend: LocalBackend, folder: str, first: int) -> None:
        self.first = first
        """Location of offset 0."""
        self.folder = folder
        self.key, _ = pack_of(folder, first)
        self.size = 0
        self.written = 0
        """Pieces that were written whole."""
        self.problem = ""
        """Why nothing more can be made durable."""
        self._backend = backend
        self._file: AppendFile | None = backend.open_append(self.key, create=True)
        self.users = 0
        self.ended = False
        """Whether nothing more is to be appended."""
        self._syncing = threading.Lock()
        self._synced = 0
        self._named = False

    def open(self) -> None:
        """Open the file again if it was closed."""
        if self._file is None:
            self._file = self._backend.open_append(self.key, create=False)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def file(self) -> AppendFile:
        """The open file."""
        if self._file is None:
            raise StorageError(f"{self.key} is not open")
        return self._file

    def sync(self) -> None:
        """Make durable what was written before; whoever comes while another one syncs shares the next time."""
        wanted = self.written
        with self._syncing:
            if self._synced >= wanted:
                return
            if self.problem:  # another try would succeed without anything being on the disk
                raise StorageError(self.problem)
            upto = self.written
            try:
                self.file.sync()
                if not self._named:
                    self._backend.sync_folder(self.folder)
                    self._named = True
            except StorageError as error:
                self.problem = str(error)
                raise
            self._synced = upto


class OpenPacks:
    """Those packs of a store whose files are open: all that are in use, and a few that were in use last.

    `_lock` guards which are; whoever takes it may hold the lock of a `Packs`. Also keeps in mind which pieces were
    superseded lately, for `forget` of the backend; nothing depends on those.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: OrderedDict[Pack, float] = OrderedDict()
        self._superseded: deque[Part] = deque(maxlen=_SUPERSEDED)

    def enter(self, pack: Pack) -> None:
        """Keep the file open until `leave`."""
        with self._lock:
            pack.open()
            pack.users += 1
            self._idle.pop(pack, None)

    def leave(self, pack: Pack) -> None:
        """Need the file no longer: it may stay open, for who comes next."""
        with self._lock:
            pack.users -= 1
            if pack.users:
                return
            if pack.ended:
                pack.close()
                return
            self._idle[pack] = time.monotonic()
            if len(self._idle) > OPEN:
                self._idle.popitem(last=False)[0].close()

    def end(self, pack: Pack) -> None:
        """Close the file as soon as nobody needs it."""
        with self._lock:
            pack.ended = True
            if self._idle.pop(pack, None) is not None or not pack.users:
                pack.close()

    def close_idle(self) -> bool:
        """Close what nobody needed for long; tell whether any stay open."""
        with self._lock:
            while self._idle:
                pack, since = next(iter(self._idle.items()))
                if since > time.monotonic() - IDLE_S:
                    return True
                del self._idle[pack]
                pack.close()
            return False

    def supersede(self, parts: Iterable[Part]) -> None:
        """Note pieces that hardly anybody will read again."""
        self._superseded.extend(parts)

    def take_superseded(self) -> list[Part]:
        """Return what was noted since the last call."""
        return [self._superseded.popleft() for _ in range(len(self._superseded))]


class Packs:
    """The packs of one instance that this process writes: one at a time for each folder. `_lock` guards them."""

    def __init__(self, backend: LocalBackend, opened: OpenPacks) -> None:
        self._backend = backend
        self._opened = opened
        self._lock = threading.Lock()
        self._current: dict[str, Pack] = {}
        self._own: set[str] = set()

    def batch(self, folder: str) -> "Batch":
        """Return what appends the pieces of one request to packs in a folder."""
        return Batch(self, folder)

    def append(self, folder: str, data: bytes, used: set[Pack]) -> int:
        """Append a piece and return its location; the pack is added to `used`, and stays open until `leave`."""
        with self._lock:
            pack = self._current.get(folder)
            if pack is not None and (pack.problem or pack.size + len(data) > max(PACK_BYTES, len(data))):
                self._opened.end(pack)
                pack = None
            if pack is None:
                pack = self._current[folder] = self._begin(folder)
            if pack not in used:
                self._opened.enter(pack)
                used.add(pack)
            offset = pack.size
            pack.size += whole_blocks(len(data))
        try:
            pack.file.write_at(offset, data)
        except StorageError:
            self._backend.discard([Part(pack.key, offset, len(data))])
            raise
        with self._lock:
            pack.written += 1
        return pack.first + offset

    def _begin(self, folder: str) -> Pack:
        """Make a pack, which is known as ours before it is there: who tidies up must never find it without an owner."""
        first = (secrets.randbelow((1 << _NUMBER_BITS) - 1) + 1) << _OFFSET_BITS
        self._own.add(pack_of(folder, first)[0])
        return Pack(self._backend, folder, first)

    def leave(self, used: set[Pack]) -> None:
        """Need the packs no longer."""
        for pack in used:
            self._opened.leave(pack)

    def end(self, folder: str) -> None:
        """Begin a new pack with the next piece in a folder."""
        with self._lock:
            pack = self._current.pop(folder, None)
            if pack is not None:
                self._opened.end(pack)

    def close(self) -> None:
        """End all packs."""
        for folder in tuple(self._current):
            self.end(folder)

    def is_own(self, key: str) -> bool:
        """Tell whether this process made a pack: what no record names in it may be about to be recorded."""
        return key in self._own


class Batch(AbstractContextManager["Batch"]):
    """The pieces of one request; threads may append at the same time."""

    def __init__(self, packs: Packs, folder: str) -> None:
        self._packs = packs
        self._folder = folder
        self._used: set[Pack] = set()

    def append(self, data: bytes) -> int:
        """Append a piece and return its location, which is not 0."""
        return self._packs.append(self._folder, data, self._used)

    def sync(self) -> None:
        """Make all pieces durable."""
        for pack in self._used:
            pack.sync()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was appended."""
        return not self._used

    def __exit__(self, *_: object) -> None:
        self._packs.leave(self._used)
