"""A store opened by this process: which of its repos it holds, and whether it writes or follows. Design: storage §1, §7."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from dvidzarr.compute.schedule import Scheduler
from dvidzarr.core.errors import DvidzarrError, ForbiddenError, InvalidInputError
from dvidzarr.core.settings import Settings
from dvidzarr.repo.blobstore import BlobStore
from dvidzarr.repo.datatype import Registry
from dvidzarr.repo.generation import Generation
from dvidzarr.repo.instance import Instance
from dvidzarr.repo.repotable import RepoTable
from dvidzarr.repo.storefile import create_store, read_store
from dvidzarr.storage.cache import ChunkCache
from dvidzarr.storage.context import StoreContext
from dvidzarr.storage.housekeeper import Housekeeper
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.locks import WriterLock

if TYPE_CHECKING:
    from dvidzarr.repo.catalog import Catalog

_logger = logging.getLogger("dvidzarr.repo")

Opener = Callable[[str], "Catalog"]


class OpenStore(RepoTable):
    """The owner of what a store shares, and of its repos; `Catalog` adds what users do with them.

    `opening` guards the change from following to writing and the opening of instances.

    Parameters
    ----------
    path
        Folder of the store.
    mode
        "r" follows another process and never locks; "a" reads, and takes the writer lock at the first change; "w"
        takes it now. "a" and "w" create the store if the folder is missing or empty.
    registry
        The datatypes by name.
    opener
        Picklable function that opens the store for reading in another process.
    full_write
        Locked versions may be written, here or (mode "r") by the process that is followed: nothing is immutable.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        mode: str,
        settings: Settings,
        registry: Registry,
        opener: Opener | None,
        *,
        full_write: bool = False,
    ) -> None:
        if mode not in {"r", "a", "w"}:
            raise InvalidInputError(f"mode {mode!r} is none of 'r', 'a', 'w'")
        self.settings = settings
        self.registry = registry
        self.opener = opener
        self.read_only = mode == "r"
        self.full_write = full_write
        super().__init__()
        self._ready = False  # writing, and all logs are recovered: only then may other threads write
        self.opening = threading.RLock()
        self.scheduler = Scheduler(settings.compute.thread_count)
        self._closed = False
        backend = LocalBackend(path)
        self._lock = WriterLock(f"{backend.root}/lock")
        self.generation = Generation(backend)
        self.context = self._context(Path(path), backend)
        self.blobs = BlobStore(cast("Catalog", self))
        if mode == "w":
            self.become_writer()
        else:
            self.refresh()

    def _context(self, path: Path, backend: LocalBackend) -> StoreContext:
        """Return what everything in the store shares; make the store if there is none."""
        store_id = read_store(backend) or create_store(backend, self._lock, create=not self.read_only)
        cache_dir = Path(self.settings.storage.cache_dir or path / "cache") / store_id
        cache = ChunkCache(self.settings.cache.chunk_bytes)
        return StoreContext(
            backend, store_id, self.settings, cache_dir, cache, Housekeeper(), self.scheduler.write
        )

    @property
    def closed(self) -> bool:
        """Whether `close` was called: nothing is opened any more."""
        return self._closed

    @property
    def url(self) -> str:
        """Where the store is."""
        return self.context.backend.url

    # --- who writes ------------------------------------------------------------------------------------------

    def become_writer(self) -> None:
        """Take the writer lock and everything another process wrote; nothing to do if this process has it.

        Raises
        ------
        BusyError
            Another process writes; the message names it and the way to go.
        ForbiddenError
            The store was opened for reading, or by the process of which this one is a fork.
        """
        if self._lock.forked:
            raise self._in_a_fork()
        if self._ready:
            return
        if self.read_only or self._closed:
            raise ForbiddenError(
                f"the store {self.url} is {'closed' if self._closed else 'open for reading only'}"
            )
        with self.opening, self._refreshing:
            if self._lock.held:
                return
            self._lock.acquire()
            try:
                self.writing = True
                for repo in list(self._repos.values()):
                    self._open_repo(repo)
                self._discover()
                self.generation.begin()
                self._ready = True
            except BaseException:
                self._follow_again()
                raise
        if not self._lock.was_clean:
            self.context.housekeeper.schedule(0.5, "look after", self._look_after, at_close=False)

    def check_usable(self) -> None:
        """Raise unless instances can be opened: the store is closed, or a fork would recover what its parent is writing."""
        if self._closed:
            raise ForbiddenError(f"the store {self.url} is closed")
        if self.writing and self._lock.forked:
            raise self._in_a_fork()

    def _in_a_fork(self) -> ForbiddenError:
        return ForbiddenError(
            f"the store {self.url} was opened by another process, of which this one is a fork: "
            f"open it anew here to read, and leave all writing to one process"
        )

    def _follow_again(self) -> None:
        """Be a follower as before, then let go of the lock: other processes may write from then on."""
        self.writing = False
        for repo in self._repos.values():
            repo.demote()
        self.generation.close()
        self._listed = 0
        try:
            self.blobs.close()
        finally:
            self._lock.release(clean=False)

    def _look_after(self) -> None:
        """After a crash: open every instance once, so that interrupted finishing goes on."""
        for repo in list(self._repos.values()):
            for instance in repo.instances.values():
                self.look_after(instance)

    def look_after(self, instance: Instance) -> None:
        """Open an instance, for what is done then; if it is damaged, who uses it will hear of that."""
        try:
            _ = instance.dataset
        except DvidzarrError as error:  # or deleted meanwhile
            _logger.warning("%s cannot be looked after: %s", instance.prefix, error)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Hold the writer lock with nothing opened for writing (for repairs), then forget what was read before."""
        if self.read_only:
            raise ForbiddenError(f"the store {self.url} is open for reading only")
        with self.opening, self._refreshing:
            self._lock.acquire()
            try:
                for repo in self._repos.values():
                    repo.close()
                self.blobs.close()
                yield
            finally:
                for repo in self._repos.values():
                    self.names.forget(repo)
                self._repos, self._listed, self.broken = {}, 0, {}
                self.generation.look_at(None)
                self._lock.release(clean=False)

    def announce(self, url: str) -> None:
        """Tell other processes at which address this one serves the store."""
        self._lock.announce(url)

    def close(self) -> None:
        """Write caches, let go of the lock. Acknowledged writes are durable before this."""
        with self.opening:
            if self._closed:
                return
            self._closed, self._ready = True, False
        if self._lock.forked:  # caches, logs and lock are the parent's, and so are the threads
            return
        self.context.housekeeper.close()
        for repo in self._repos.values():
            repo.close()
        self.blobs.close()
        self.scheduler.close()
        self.generation.close()
        self._lock.release(clean=True)
        self.writing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
