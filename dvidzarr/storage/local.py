"""A store in a folder. All file system calls of the engine are in this module, so that a simulated disk can stand in."""

import ctypes
import errno
import mmap
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import NoReturn

from dvidzarr.core.errors import NoSpaceError, StorageError
from dvidzarr.storage.backend import BLOCK, Part, RunAll, check_key, in_turn

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_fallocate = getattr(ctypes.CDLL(None), "fallocate", None)  # Linux
_KEEP_SIZE_PUNCH_HOLE = 1 | 2  # of its linux/falloc.h


def _fail(key: str, error: OSError) -> NoReturn:
    kind = NoSpaceError if error.errno in {errno.ENOSPC, errno.EDQUOT} else StorageError
    raise kind(f"{key}: {error.strerror or error}") from error


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give a stretch of a file back to the file system; nothing happens where that cannot be done."""
    if _fallocate is not None:
        _fallocate(fd, _KEEP_SIZE_PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(length))


def _punch(fd: int, part: Part) -> None:
    punch_hole(fd, part.offset, -(-part.length // BLOCK) * BLOCK)


def _drop_pages(fd: int, part: Part) -> None:
    os.posix_fadvise(fd, part.offset, part.length, os.POSIX_FADV_DONTNEED)


def _joined(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the stretches in order, those as one that lie one behind the other but for the rest of a block."""
    before: Part | None = None
    for part in sorted(parts):
        whole = part.length and -(-part.length // BLOCK) * BLOCK
        if before and whole and part.key == before.key and part.offset == before.offset + before.length:
            before = Part(part.key, before.offset, before.length + whole)
            continue
        if before:
            yield before
        before = Part(part.key, part.offset, whole)
    if before:
        yield before


class AppendFile:
    """A file that grows: a log segment, a pack."""

    def __init__(self, path: str, key: str, *, create: bool) -> None:
        self._key = key
        flags = _CREATE if create else os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o644)
        except OSError as error:
            _fail(key, error)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` at `offset`."""
        try:
            view = memoryview(data)
            while view:
                done = os.pwrite(self._fd, view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            _fail(self._key, error)

    def sync(self) -> None:
        """Make the contents and the length durable."""
        try:
            os.fdatasync(self._fd) if hasattr(os, "fdatasync") else os.fsync(self._fd)
        except OSError as error:
            _fail(self._key, error)

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            _fail(self._key, error)

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
                if writable and os.fstat(fd).st_size < 8:
                    os.ftruncate(fd, 8)
                access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
                self._map = mmap.mmap(fd, 8, access=access)
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            raise StorageError(f"{key}: {error}") from error
        self._view = memoryview(self._map).cast("Q")

    @property
    def value(self) -> int:
        """The number; reading and writing it is one aligned access."""
        return self._view[0]

    @value.setter
    def value(self, number: int) -> None:
        self._view[0] = number


class LocalBackend:
    """Objects as files below one folder. Symbolic links below the root are refused, never followed.

    Guards its two sets of known folders by the atomicity of `set.add`: a race only repeats a check.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = str(Path(root).resolve())
        self.url = self.root
        self._checked: set[str] = set()
        self._durable: set[str] = set()
        self._making = threading.Lock()

    def path(self, key: str) -> str:
        """Return the path of a key; raise if the key leaves the root or a folder on the way is a link."""
        check_key(key)
        folder = key.rpartition("/")[0]
        if folder and folder not in self._checked:
            self._check_folder(folder)
        return f"{self.root}/{key}"

    def _check_folder(self, folder: str) -> None:
        path = self.root
        for part in folder.split("/"):
            path = f"{path}/{part}"
            if os.path.islink(path):
                raise StorageError(f"{path} is a symbolic link: a store is never followed out of its folder")
        if os.path.isdir(path):
            self._checked.add(folder)

    def get(self, key: str) -> bytes | None:
        """Return the whole object, None if absent."""
        try:
            fd = os.open(self.path(key), _READ)
        except FileNotFoundError:
            return None
        except OSError as error:
            _fail(key, error)
        try:
            with os.fdopen(fd, "rb", buffering=0) as file:
                return file.readall()
        except OSError as error:
            _fail(key, error)

    def read_into(self, key: str, buffer: memoryview, offset: int = 0) -> int | None:
        """Fill `buffer` with one system call; return how many bytes came, None if the file is absent."""
        try:
            fd = os.open(self.path(key), _READ)
        except FileNotFoundError:
            return None
        except OSError as error:
            _fail(key, error)
        try:
            if offset:
                os.lseek(fd, offset, os.SEEK_SET)
            return os.readv(fd, [buffer])
        except OSError as error:
            _fail(key, error)
        finally:
            os.close(fd)

    def read_at(self, key: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`."""
        try:
            fd = os.open(self.path(key), _READ)
            try:
                data = os.pread(fd, length, offset)
            finally:
                os.close(fd)
        except OSError as error:
            _fail(key, error)
        if len(data) != length:
            raise StorageError(f"{key}: {len(data)} bytes at {offset}, {length} were expected")
        return data

    def create(self, key: str, data: bytes | memoryview, *, sync: bool) -> bool:
        """Create a file exclusively; False if it exists."""
        path = self.path(key)
        try:
            try:
                fd = os.open(path, _CREATE, 0o644)
            except FileNotFoundError:
                self.make_folder(key.rpartition("/")[0])
                fd = os.open(path, _CREATE, 0o644)
        except FileExistsError:
            return False
        except OSError as error:
            _fail(key, error)
        try:
            try:
                _write_all(fd, data)
                if sync:
                    os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            os.unlink(path)
            _fail(key, error)
        return True

    def is_empty(self) -> bool:
        """Tell whether the root is missing, or a folder with nothing in it (but what an interrupted creation left)."""
        try:
            with os.scandir(self.root) as entries:
                return all(entry.name == "lock" or entry.name.endswith(".partial") for entry in entries)
        except FileNotFoundError:
            return True
        except OSError as error:
            _fail(self.root, error)

    def make_root(self) -> None:
        """Create the root with its ancestors, durably."""
        missing = [self.root]
        while not os.path.isdir(parent := missing[-1].rpartition("/")[0] or "/"):
            missing.append(parent)
        try:
            os.makedirs(self.root, exist_ok=True)
        except OSError as error:
            _fail(self.root, error)
        for path in missing:
            self._sync_path(path.rpartition("/")[0] or "/", path, _FOLDER)

    def make_folder(self, folder: str) -> None:
        """Create a folder with its ancestors; refuse links on the way."""
        with self._making:
            try:
                os.makedirs(f"{self.root}/{folder}", exist_ok=True)
            except OSError as error:
                _fail(folder, error)
            self._check_folder(folder)

    def sync(self, keys: Sequence[str], *, contents: bool = False, run_all: RunAll = in_turn) -> None:
        """Sync the folders of these files as `sync_folder` does, each once; with `contents` the files first."""
        if contents:
            run_all(lambda index: self._sync_path(self.path(keys[index]), keys[index], _READ), len(keys))
        self._sync_folders({key.rpartition("/")[0] for key in keys}, run_all)

    def sync_folder(self, folder: str) -> None:
        """Make the entries of a folder durable, and once per process the names of it and its ancestors."""
        self._sync_folders({folder}, in_turn)

    def _sync_folders(self, folders: set[str], run_all: RunAll) -> None:
        fresh = self._not_durable(folders)
        todo = list(folders.union(folder.rpartition("/")[0] for folder in fresh))
        run_all(lambda index: self._sync_path(f"{self.root}/{todo[index]}", todo[index], _FOLDER), len(todo))
        self._durable |= fresh  # only now: others may rely on it from here on

    def _not_durable(self, folders: Iterable[str]) -> set[str]:
        """Return those of the folders and their ancestors whose names were not synced in this process yet."""
        fresh: set[str] = set()
        for folder in folders:
            above = folder
            while above and above not in self._durable and above not in fresh:
                fresh.add(above)
                above = above.rpartition("/")[0]
        return fresh

    @staticmethod
    def _sync_path(path: str, key: str, flags: int) -> None:
        try:
            fd = os.open(path, flags)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            _fail(key, error)

    def replace(self, key: str, data: bytes) -> None:
        """Write a temporary file and rename it over the old one, durably."""
        temporary = f"{key}.{secrets.token_hex(8)}.partial"
        self.create(temporary, data, sync=True)
        self._rename(temporary, key)

    def promote(self, source: str, target: str) -> None:
        """Link to a temporary name and rename that over the target."""
        temporary = f"{source}.{secrets.token_hex(8)}.partial"
        try:
            os.link(self.path(source), self.path(temporary))
        except OSError as error:
            _fail(source, error)
        self._rename(temporary, target)

    def _rename(self, source: str, target: str) -> None:
        folder = target.rpartition("/")[0]
        try:
            os.makedirs(f"{self.root}/{folder}", exist_ok=True)
            os.rename(self.path(source), self.path(target))
        except OSError as error:
            self.remove([source])
            _fail(target, error)
        self.sync_folder(folder)

    def remove(self, keys: Sequence[str]) -> None:
        """Remove files; absent ones are passed over."""
        for key in keys:
            try:
                os.unlink(self.path(key))
            except FileNotFoundError:
                continue
            except OSError as error:
                _fail(key, error)

    def discard(self, parts: Sequence[Part]) -> None:
        """Remove files, and give back stretches of others; absent ones are passed over."""
        self.remove([part.key for part in parts if not part.length])
        self._for_each([part for part in parts if part.length], os.O_RDWR, _punch)

    def forget(self, parts: Sequence[Part]) -> None:
        """Let the page cache drop what hardly anybody will read again."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            self._for_each(_joined(parts), os.O_RDONLY, _drop_pages)

    def _for_each(self, parts: Iterable[Part], access: int, act: Callable[[int, Part], None]) -> None:
        """Do something with stretches of files on which nothing but speed and room depends."""
        for key, stretches in groupby(sorted(parts), lambda part: part.key):
            with suppress(OSError):
                fd = os.open(self.path(key), access | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    for stretch in stretches:
                        act(fd, stretch)
                finally:
                    os.close(fd)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys below a folder."""
        base = len(self.root) + 1
        for folder, _, names in os.walk(f"{self.root}/{check_key(prefix)}"):
            for name in names:
                yield f"{folder[base:]}/{name}"

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders in a folder, sorted."""
        try:
            with os.scandir(f"{self.root}/{check_key(prefix)}") as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []
        except OSError as error:
            _fail(prefix, error)

    def size(self, key: str) -> int | None:
        """Return the length of a file, None if absent."""
        try:
            return os.stat(self.path(key), follow_symlinks=False).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            _fail(key, error)

    def changed(self, folder: str) -> int | None:
        """Return when something last came into a folder or left it (or a file was written), in ns; None if absent."""
        try:
            return os.stat(self.path(folder), follow_symlinks=False).st_mtime_ns
        except FileNotFoundError:
            return None
        except OSError as error:
            _fail(folder, error)

    def trash(self, prefix: str) -> None:
        """Move a folder into `trash/` under a new name."""
        path = f"{self.root}/{check_key(prefix)}"
        if not os.path.isdir(path):
            return
        self.make_folder("trash")
        target = f"{self.root}/trash/{prefix.replace('/', '-')}-{secrets.token_hex(4)}"
        try:
            os.rename(path, target)
        except OSError as error:
            _fail(prefix, error)
        self._checked = {each for each in tuple(self._checked) if not f"{each}/".startswith(f"{prefix}/")}
        self._durable = {each for each in tuple(self._durable) if not f"{each}/".startswith(f"{prefix}/")}
        self.sync_folder("trash")
        self.sync_folder(prefix.rpartition("/")[0])

    def open_append(self, key: str, *, create: bool) -> AppendFile:
        """Open a growing file; with `create` it must not exist yet."""
        if create:
            self.make_folder(key.rpartition("/")[0])
        return AppendFile(self.path(key), key, create=create)

    def shared_word(self, key: str, *, writable: bool) -> SharedWord:
        """Map a shared number; a missing file is created when writable, else refused."""
        if writable:
            self.make_folder(key.rpartition("/")[0])
        return SharedWord(self.path(key), key, writable=writable)
