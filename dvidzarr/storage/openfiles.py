"""Files that stay open: those that grow (segments of logs, packs), and numbers shared with other processes."""

import errno
import mmap
import os
from contextlib import suppress
from typing import NoReturn

from dvidzarr.core.errors import NoDescriptorError, NoSpaceError, StorageError

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags for a file that must not exist yet."""


_KINDS: dict[int | None, type[StorageError]] = {
    errno.ENOSPC: NoSpaceError,
    errno.EDQUOT: NoSpaceError,
    errno.EMFILE: NoDescriptorError,
    errno.ENFILE: NoDescriptorError,
}


def fail(key: str, error: OSError) -> NoReturn:
    """Raise what a failed system call means for the file of a key."""
    raise _KINDS.get(error.errno, StorageError)(f"{key}: {error.strerror or error}") from error


def sync_path(path: str, key: str, flags: int) -> None:
    """Make what lies at the path of a key durable: the bytes of a file, or the entries of a folder."""
    try:
        fd = os.open(path, flags)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        fail(key, error)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` behind what was written before."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


class AppendFile:
    """A file that grows: a log segment, a pack."""

    def __init__(self, path: str, key: str, *, create: bool) -> None:
        self._key = key
        flags = CREATE if create else os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o644)
        except OSError as error:
            fail(key, error)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` at `offset`."""
        try:
            view = memoryview(data)
            while view:
                done = os.pwrite(self._fd, view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            fail(self._key, error)

    def sync(self) -> None:
        """Make the contents and the length durable."""
        try:
            os.fdatasync(self._fd) if hasattr(os, "fdatasync") else os.fsync(self._fd)
        except OSError as error:
            fail(self._key, error)

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            fail(self._key, error)

    def close(self) -> None:
        """Close the file; nothing is synced, and nothing that matters can fail any more."""
        with suppress(OSError):
            os.close(self._fd)


class SharedWord:
    """One 64-bit number in a small file, mapped into every process that follows a log."""

    def __init__(self, path: str, key: str, *, writable: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        try:
            fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                if writable:  # where a file has a hole, a full disk would end the process (SIGBUS)
                    os.pwrite(fd, os.pread(fd, 8, 0).ljust(8, b"\0"), 0)
                access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
                self._map = mmap.mmap(fd, 8, access=access)
            finally:
                os.close(fd)
        except OSError as error:
            fail(key, error)
        except ValueError as error:
            raise StorageError(f"{key}: {error}") from error
        self._view = memoryview(self._map).cast("Q")

    @property
    def value(self) -> int:
        """The number; reading and writing it is one aligned access."""
        return self._view[0]

    @value.setter
    def value(self, number: int) -> None:
        self._view[0] = number
