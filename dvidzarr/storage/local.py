"""A store in a folder.

All file system calls of the engine are here, in `openfiles`, `stretches` and `locks`, so that a simulated disk can stand in.
"""

import logging
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dvidzarr.core.errors import NoSpaceError, StorageError
from dvidzarr.storage.backend import Part, RunAll, check_key, in_turn
from dvidzarr.storage.openfiles import CREATE, AppendFile, SharedWord, fail, sync_path, write_all
from dvidzarr.storage.stretches import begin_writing, drop_pages, for_each, joined, punch

_logger = logging.getLogger(__name__)

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
            with os.fdopen(fd, "rb", buffering=0) as file:
                return file.readall()
        except FileNotFoundError:
            return None
        except OSError as error:
            fail(key, error)

    def read_into(self, key: str, buffer: memoryview, offset: int = 0) -> int | None:
        """Fill `buffer` with one system call; return how many bytes came, None if the file is absent."""
        try:
            fd = os.open(self.path(key), _READ)
            try:
                if offset:
                    os.lseek(fd, offset, os.SEEK_SET)
                return os.readv(fd, [buffer])
            finally:
                os.close(fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            fail(key, error)

    def read_at(self, key: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`."""
        try:
            fd = os.open(self.path(key), _READ)
            try:
                data = os.pread(fd, length, offset)
            finally:
                os.close(fd)
        except OSError as error:
            fail(key, error)
        if len(data) != length:
            raise StorageError(f"{key}: {len(data)} bytes at {offset}, {length} were expected")
        return data

    def create(self, key: str, data: bytes | memoryview, *, sync: bool, soon: bool = False) -> bool:
        """Create a file exclusively; False if it exists. What is to be synced `soon` begins to go to the disk at once."""
        path = self.path(key)
        try:
            try:
                fd = os.open(path, CREATE, 0o644)
            except FileNotFoundError:
                self.make_folder(key.rpartition("/")[0])
                fd = os.open(path, CREATE, 0o644)
        except FileExistsError:
            return False
        except OSError as error:
            fail(key, error)
        try:
            try:
                write_all(fd, data)
                if sync:
                    os.fsync(fd)
                elif soon:
                    begin_writing(fd)
            finally:
                os.close(fd)
        except OSError as error:
            os.unlink(path)
            fail(key, error)
        return True

    def is_empty(self) -> bool:
        """Tell whether the root is missing, or a folder with nothing in it (but what an interrupted creation left)."""
        try:
            with os.scandir(self.root) as entries:
                return all(entry.name == "lock" or entry.name.endswith(".partial") for entry in entries)
        except FileNotFoundError:
            return True
        except OSError as error:
            fail(self.root, error)

    def make_root(self) -> None:
        """Create the root with its ancestors, durably."""
        missing = [self.root]
        while not os.path.isdir(parent := missing[-1].rpartition("/")[0] or "/"):
            missing.append(parent)
        try:
            os.makedirs(self.root, exist_ok=True)
        except OSError as error:
            fail(self.root, error)
        for path in missing:
            sync_path(path.rpartition("/")[0] or "/", path, _FOLDER)

    def make_folder(self, folder: str) -> None:
        """Create a folder with its ancestors; refuse links on the way."""
        with self._making:
            try:
                os.makedirs(f"{self.root}/{folder}", exist_ok=True)
            except OSError as error:
                fail(folder, error)
            self._check_folder(folder)

    def sync(self, keys: Sequence[str], *, contents: bool = False, run_all: RunAll = in_turn) -> None:
        """Sync the folders of these files as `sync_folder` does, each once; with `contents` the files first."""
        if contents:
            run_all(lambda index: sync_path(self.path(keys[index]), keys[index], _READ), len(keys))
        self._sync_folders({key.rpartition("/")[0] for key in keys}, run_all)

    def sync_folder(self, folder: str) -> None:
        """Make the entries of a folder durable, and once per process the names of it and its ancestors."""
        self._sync_folders({folder}, in_turn)

    def _sync_folders(self, folders: set[str], run_all: RunAll) -> None:
        fresh = self._not_durable(folders)
        todo = list(folders.union(folder.rpartition("/")[0] for folder in fresh))
        run_all(lambda index: sync_path(f"{self.root}/{todo[index]}", todo[index], _FOLDER), len(todo))
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
            fail(source, error)
        self._rename(temporary, target)

    def _rename(self, source: str, target: str) -> None:
        folder = target.rpartition("/")[0]
        try:
            os.makedirs(f"{self.root}/{folder}", exist_ok=True)
            os.rename(self.path(source), self.path(target))
        except OSError as error:
            self.remove([source])
            fail(target, error)
        self.sync_folder(folder)

    def remove(self, keys: Sequence[str]) -> None:
        """Remove files; absent ones are passed over."""
        for key in keys:
            try:
                os.unlink(self.path(key))
            except FileNotFoundError:
                continue
            except OSError as error:
                fail(key, error)

    def discard(self, parts: Sequence[Part]) -> None:
        """Remove files, and give back stretches of others; absent ones are passed over."""
        self.remove([part.key for part in parts if not part.length])
        for_each(self.path, [part for part in parts if part.length], os.O_RDWR, punch)

    def forget(self, parts: Sequence[Part]) -> None:
        """Let the page cache drop what hardly anybody will read again."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            for_each(self.path, joined(parts), os.O_RDONLY, drop_pages)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys below a folder; what cannot be listed is not taken for empty."""
        base = len(self.root) + 1

        def unlisted(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                fail(prefix, error)

        for folder, _, names in os.walk(f"{self.root}/{check_key(prefix)}", onerror=unlisted):
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
            fail(prefix, error)

    def size(self, key: str) -> int | None:
        """Return the length of a file, None if absent."""
        status = self._status(key)
        return None if status is None else status.st_size

    def changed(self, folder: str) -> int | None:
        """Return when something last came into a folder or left it (or a file was written), in ns; None if absent."""
        status = self._status(folder)
        return None if status is None else status.st_mtime_ns

    def _status(self, key: str) -> os.stat_result | None:
        try:
            return os.stat(self.path(key), follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            fail(key, error)

    def trash(self, prefix: str) -> None:
        """Move a folder into `trash/` under a new name; where there is no room for that, opening the store does it."""
        try:
            if not self._move_away(prefix):
                return
        except NoSpaceError as error:
            _logger.warning("%s is deleted, and stays in its place for now: %s", prefix, error)
            return
        self._checked = {each for each in tuple(self._checked) if not f"{each}/".startswith(f"{prefix}/")}
        self._durable = {each for each in tuple(self._durable) if not f"{each}/".startswith(f"{prefix}/")}
        self.sync_folder("trash")
        self.sync_folder(prefix.rpartition("/")[0])

    @staticmethod
    def trash_name(prefix: str) -> str:
        """Return what the name of a folder in `trash/` begins with; "-" and what makes it unique follow."""
        return prefix.replace("/", "-")

    def _move_away(self, prefix: str) -> bool:
        path = f"{self.root}/{check_key(prefix)}"
        if not os.path.isdir(path):
            return False
        self.make_folder("trash")
        try:
            os.rename(path, f"{self.root}/trash/{self.trash_name(prefix)}-{secrets.token_hex(4)}")
        except FileNotFoundError:  # another thread was faster
            return False
        except OSError as error:
            fail(prefix, error)
        return True

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
