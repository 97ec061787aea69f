"""The system calls that the engine makes, on a simulated disk: stands in for the modules `os`, `mmap` and `fcntl`."""

import errno
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from dvidzarr.storage import local, locks, openfiles, stretches
from tests.simulation.simanswers import Entry, Reading, Status, Word
from tests.simulation.simdisk import ROOT, Disk, File, Folder, Op


@dataclass(slots=True)
class Fault:
    """The `number`-th call of a kind from now on fails; of a write that fails, this share is done all the same."""

    call: str
    number: int
    code: int
    share: float = 0.5


@dataclass(slots=True)
class _Open:
    node: int
    position: int = 0


class SimOs:
    """`os` over a `Disk`. `trace` lists the operations done so far."""

    SEEK_SET = os.SEEK_SET

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.trace: list[Op] = []
        self.faults: list[Fault] = []
        self.path = self
        self._open: dict[int, _Open] = {}
        self._next_fd = 100
        self._next_node = max(disk.nodes) + 1
        self._words: dict[int, Word] = {}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - constants of os
        if name.startswith("O_") or name in {"getpid", "PathLike"}:
            return getattr(os, name)
        raise AttributeError(name)

    # --- what was done ---------------------------------------------------------------------------------------

    def do(self, *op: Any) -> None:  # noqa: ANN401 - operations hold numbers, names and bytes
        """Carry out an operation and remember it, after what was stored to mapped words."""
        self.note_words()
        self._do(op)

    def _do(self, op: Op) -> None:
        self.disk.apply(op)
        self.trace.append(op)

    def note_words(self) -> None:
        """Take in what was stored to mapped words since the last operation."""
        for node, word in self._words.items():
            if word != self.disk.file(node).content:
                self._do(("word", node, bytes(word)))

    def _fails(self, call: str) -> Fault | None:
        """Return the fault that strikes a call, None if none does."""
        for fault in self.faults:
            if fault.call == call:
                fault.number -= 1
                if fault.number <= 0:
                    self.faults.remove(fault)
                    return fault
        return None

    def _new(self, call: str, folder: int, name: str) -> int:
        number, self._next_node = self._next_node, self._next_node + 1
        self.do(call, folder, name, number)
        return number

    # --- names -----------------------------------------------------------------------------------------------

    def _find(self, path: str) -> int | None:
        number: int | None = ROOT
        nodes = self.disk.nodes
        for name in path.split("/"):
            if name:
                node = nodes[number or ROOT]
                if type(node) is File:
                    raise NotADirectoryError(errno.ENOTDIR, "Not a directory", path)
                number = node.entries.get(name)  # type: ignore[union-attr]
                if number is None:
                    return None
        return number

    def _there(self, path: str) -> int:
        number = self._find(path)
        if number is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return number

    def _parent(self, path: str) -> tuple[int, str]:
        above, _, name = path.rstrip("/").rpartition("/")
        return self._there(above), name

    def islink(self, path: str) -> bool:
        """There are no links."""
        return False

    def isdir(self, path: str) -> bool:
        """Tell whether a path is a folder."""
        number = self._find(path)
        return number is not None and isinstance(self.disk.nodes[number], Folder)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Create a folder and those above it."""
        place = ""
        for name in path.strip("/").split("/"):
            if self._find(f"{place}/{name}") is None:
                self._new("mkdir", self._there(place), name)
            place = f"{place}/{name}"

    def link(self, source: str, target: str) -> None:
        """Give a file one more name."""
        number = self._there(source)
        folder, name = self._parent(target)
        if name in self.disk.folder(folder).entries:
            raise FileExistsError(errno.EEXIST, "File exists", target)
        self.do("name", folder, name, number)

    def rename(self, source: str, target: str) -> None:
        """Give a file or a folder another name."""
        self._there(source)
        self.do("rename", *self._parent(source), *self._parent(target))

    def unlink(self, path: str) -> None:
        """Remove a name."""
        self._there(path)
        self.do("name", *self._parent(path), None)

    def scandir(self, path: str) -> Any:  # noqa: ANN401 - a context manager over entries
        """List a folder."""
        entries = self.disk.folder(self._there(path)).entries
        found = [Entry(name, isinstance(self.disk.nodes[n], Folder)) for name, n in entries.items()]
        return _listing(found)

    def walk(self, path: str, onerror: object = None) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield folder, its folders, its files; downwards. No folder fails to be listed here."""
        number = self._find(path)
        if number is None:
            return
        entries = dict(self.disk.folder(number).entries)
        folders = [name for name, n in entries.items() if isinstance(self.disk.nodes[n], Folder)]
        yield path, folders, [name for name in entries if name not in folders]
        for name in folders:
            yield from self.walk(f"{path}/{name}")

    def stat(self, path: str, *, follow_symlinks: bool = True) -> Status:
        """Return size and times; every operation is one tick of the clock."""
        return self._stat(self._there(path))

    def fstat(self, fd: int) -> Status:
        """Return size and times of an open file."""
        return self._stat(self._open[fd].node)

    def _stat(self, number: int) -> Status:
        node = self.disk.nodes[number]
        return Status(len(node.content) if isinstance(node, File) else 0, len(self.trace))

    # --- contents --------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        """Open a file or a folder, maybe creating it."""
        folder, name = self._parent(path) if path != "/" else (ROOT, "")
        number = self.disk.folder(folder).entries.get(name) if name else ROOT
        if number is None and not flags & os.O_CREAT:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        if number is not None and flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        if number is None:
            self._refuse("create")
            number = self._new("create", folder, name)
        self._next_fd += 1
        self._open[self._next_fd] = _Open(number)
        return self._next_fd

    def _refuse(self, call: str) -> None:
        if fault := self._fails(call):
            raise OSError(fault.code, os.strerror(fault.code))

    def close(self, fd: int) -> None:
        """Close; nothing is synced."""
        del self._open[fd]

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write behind what was written before."""
        handle = self._open[fd]
        done = self.pwrite(fd, data, handle.position)
        handle.position += done
        return done

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """Write at an offset."""
        fault, raw = self._fails("write"), bytes(data)
        if fault:
            self.do("write", self._open[fd].node, offset, raw[: int(len(raw) * fault.share)])
            raise OSError(fault.code, os.strerror(fault.code))
        self.do("write", self._open[fd].node, offset, raw)
        return len(raw)

    def ftruncate(self, fd: int, size: int) -> None:
        """Cut or extend."""
        self.do("truncate", self._open[fd].node, size)

    def fsync(self, fd: int) -> None:
        """Make contents or names durable."""
        node = self._open[fd].node
        if fault := self._fails("fsync"):
            self.do("doom", node)
            raise OSError(fault.code, os.strerror(fault.code))
        self.do("sync", node)

    fdatasync = fsync

    def _content(self, fd: int) -> bytes:
        self.note_words()
        return self.disk.file(self._open[fd].node).content

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """Read at an offset."""
        return self._content(fd)[offset : offset + length]

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        """Read from there on."""
        assert whence == self.SEEK_SET
        self._open[fd].position = offset
        return offset

    def readv(self, fd: int, buffers: Sequence[memoryview]) -> int:
        """Read into one buffer."""
        start = self._open[fd].position
        content = self._content(fd)[start : start + len(buffers[0])]
        buffers[0][: len(content)] = content
        return len(content)

    def punch_hole(self, fd: int, offset: int, length: int) -> None:
        """Put zeros where something is."""
        left = len(self._content(fd)) - offset
        self.do("write", self._open[fd].node, offset, bytes(max(0, min(length, left))))

    def fdopen(self, fd: int, mode: str, buffering: int) -> Reading:
        """Return a file object that closes `fd` at once: it was read whole."""
        content = self._content(fd)
        self.close(fd)
        return Reading(content)

    def mapped(self, fd: int) -> Word:
        """Return the mapping of a small file; all mappings of one file are the same."""
        node = self._open[fd].node
        return self._words.setdefault(node, Word(self._content(fd)))


class SimMmap:
    """`mmap` over a `SimOs`."""

    ACCESS_READ, ACCESS_WRITE = mmap.ACCESS_READ, mmap.ACCESS_WRITE

    def __init__(self, system: SimOs) -> None:
        self._system = system

    def mmap(self, fd: int, length: int, access: int) -> Word:
        """Map a file."""
        word = self._system.mapped(fd)
        if len(word) < length:
            raise ValueError("mmap length is greater than file size")
        return word


class SimFcntl:
    """`fcntl` where no other process ever holds a lock."""

    LOCK_EX, LOCK_NB, LOCK_UN = 0, 0, 0

    def flock(self, fd: int, operation: int) -> None:
        """Take the lock, or let go of it."""


@contextmanager
def _listing(entries: list[Entry]) -> Iterator[Iterator[Entry]]:
    yield iter(entries)


@contextmanager
def mounted(system: SimOs) -> Iterator[None]:
    """Let the engine run on a simulated disk."""
    with (
        patch.object(local, "os", system),
        patch.object(openfiles, "os", system),
        patch.object(openfiles, "mmap", SimMmap(system)),
        patch.object(stretches, "os", system),
        patch.object(stretches, "punch_hole", system.punch_hole),
        patch.object(locks, "os", system),
        patch.object(locks, "fcntl", SimFcntl()),
    ):
        yield
