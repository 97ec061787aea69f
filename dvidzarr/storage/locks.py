"""Locks by name: stripes for chunks and keys, gates for versions and instances, and the lock of the writing process."""

import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from operator import methodcaller
from pathlib import Path

import orjson

from dvidzarr.core.errors import BusyError
from dvidzarr.storage.openfiles import fail


class Stripes:
    """A fixed number of locks, shared by all things that hash to them. Taken in sorted order, so nobody deadlocks."""

    def __init__(self, count: int = 256) -> None:
        self._locks = [threading.Lock() for _ in range(count)]

    def hold(self, things: Iterable[Hashable]) -> AbstractContextManager[None]:
        """Hold the locks of all these things."""
        count = len(self._locks)
        return _Held([self._locks[number] for number in sorted({hash(thing) % count for thing in things})])


class _Held(AbstractContextManager[None]):
    """Holds several locks. A class, since a generator and an exit stack would cost a small write a tenth of its time."""

    __slots__ = ("_locks",)

    def __init__(self, locks: Sequence[threading.Lock]) -> None:
        self._locks = locks

    def __enter__(self) -> None:
        held: list[bool] = []
        try:
            # no loop of Python: Ctrl-C could come between a lock and the note that it is held
            held.extend(map(_acquire, self._locks))
        except BaseException:  # while it waited
            _release_all(self._locks[: len(held)])
            raise

    def __exit__(self, *_: object) -> None:
        _release_all(self._locks)


_acquire, _release = methodcaller("acquire"), methodcaller("release")


def _release_all(locks: Iterable[threading.Lock]) -> None:
    deque(map(_release, locks), 0)  # nor here, where it could end the loop early


class Gates:
    """Shared and exclusive passage by name. `_changed` guards the counts."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[Hashable, int] = {}
        self._closing: set[Hashable] = set()

    def shared(self, *names: Hashable) -> AbstractContextManager[None]:
        """Pass these gates together with others; waits outside all of them while somebody has or wants one alone."""
        return _Passage(self, names)

    def enter(self, names: Sequence[Hashable]) -> None:
        """Begin to be inside; `shared` is what callers use."""
        with self._changed:
            while not self._closing.isdisjoint(names):
                self._changed.wait()
            for name in names:
                self._inside[name] = self._inside.get(name, 0) + 1

    def leave(self, names: Sequence[Hashable]) -> None:
        """Be inside no longer."""
        with self._changed:
            for name in names:
                self._inside[name] -= 1
                if not self._inside[name]:
                    del self._inside[name]
            if self._closing:
                self._changed.notify_all()

    @contextmanager
    def exclusive(self, name: Hashable, timeout: float, what: str) -> Iterator[None]:
        """Pass alone, after those inside have left; `BusyError` if they do not within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            free = self._changed.wait_for(lambda: name not in self._closing, timeout)
            if not free:
                raise BusyError(f"{what} is being changed by another request; try again")
            self._closing.add(name)
            if not self._changed.wait_for(lambda: name not in self._inside, deadline - time.monotonic()):
                self._closing.discard(name)
                self._changed.notify_all()
                raise BusyError(f"writes to {what} did not end within {timeout:g} s; try again")
        try:
            yield
        finally:
            with self._changed:
                self._closing.discard(name)
                self._changed.notify_all()


class _Passage(AbstractContextManager[None]):
    """Is inside of gates. A class for the same reason as `_Held`."""

    __slots__ = ("_gates", "_names")

    def __init__(self, gates: Gates, names: Sequence[Hashable]) -> None:
        self._gates = gates
        self._names = names

    def __enter__(self) -> None:
        self._gates.enter(self._names)

    def __exit__(self, *_: object) -> None:
        self._gates.leave(self._names)


@cache
def boot_id() -> str:
    """Return what changes with each start of the machine, "" where nobody tells."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:  # macOS
        return ""


class WriterLock:
    """The lock of the one writing process of a local store. The file is never renamed or removed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._process = os.getpid()
        self._fd: int | None = None
        self.was_clean = True
        """Whether the previous writer closed the store."""

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that made the object: then it is not the one that holds the lock."""
        return os.getpid() != self._process

    def acquire(self) -> None:
        """Take the lock; `BusyError` names the process that has it."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            fail(self._path, error)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = self._note(fd)
            os.close(fd)
            url = holder.get("url")
            way = f"use its address instead: {url}" if url else "close it there first, or read only"
            raise BusyError(
                f"the store is being written by process {holder.get('pid', '?')}; {way}"
            ) from None
        note = self._note(fd)
        self.was_clean = bool(note.get("clean", not note))
        self._fd = fd
        self.announce("")

    @classmethod
    def is_at_rest(cls, path: str) -> bool:
        """Tell whether all that a store shows is durable for sure: closed, or not written since this machine started."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            return isinstance(error, FileNotFoundError)
        try:
            note = cls._note(fd)
            return bool(note.get("clean")) or note.get("boot") != boot_id()
        except OSError:  # it is a folder
            return False
        finally:
            os.close(fd)

    @staticmethod
    def _note(fd: int) -> dict[str, object]:
        try:
            note = orjson.loads(os.pread(fd, 4096, 0) or b"{}")
        except orjson.JSONDecodeError:
            return {"clean": False}
        return note if isinstance(note, dict) else {}

    def announce(self, url: str, *, clean: bool = False) -> None:
        """Note in the lock file who holds it and at which address it serves."""
        if self._fd is not None:
            about = {"pid": os.getpid(), "url": url, "clean": clean, "boot": boot_id()}
            data = orjson.dumps(about)
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))

    def release(self, *, clean: bool) -> None:
        """Let go of the lock."""
        if self._fd is not None:
            self.announce("", clean=clean)
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # to close is not enough while a fork has the file open too
            os.close(self._fd)
            self._fd = None
