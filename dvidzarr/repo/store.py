"""A store opened by this process: which of its repos it holds, and whether it writes or follows. Design: storage §1, §7."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from dvidzarr.compute.schedule import Scheduler
from dvidzarr.core.errors import (
    CorruptionError,
    DvidzarrError,
    ForbiddenError,
    InvalidInputError,
    StorageError,
)
from dvidzarr.core.settings import Settings
from dvidzarr.repo.base import RepoBase
from dvidzarr.repo.blobstore import BlobStore
from dvidzarr.repo.datatype import Registry
from dvidzarr.repo.generation import Generation
from dvidzarr.repo.names import VersionNames
from dvidzarr.repo.repo import Repo
from dvidzarr.repo.storefile import create_store, read_store
from dvidzarr.storage.cache import ChunkCache
from dvidzarr.storage.context import StoreContext
from dvidzarr.storage.housekeeper import Housekeeper
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.locks import WriterLock

if TYPE_CHECKING:
    from dvidzarr.repo.catalog import Catalog

_SETTLED_NS = 1_000_000_000
"""A folder whose time is older than this shows every later change as another time."""

_logger = logging.getLogger("dvidzarr.repo")

Opener = Callable[[str], "Catalog"]


class OpenStore:
    """The owner of what a store shares, and of its repos; `Catalog` adds what users do with them.

    `opening` guards the change from following to writing and the opening of instances, `_refreshing` the table of repos
    of a follower; `names.lock` guards the choice of UUIDs and numbers of versions.

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
        self.writing = False
        self._ready = False  # writing, and all logs are recovered: only then may other threads write
        self.opening = threading.RLock()
        self._refreshing = threading.RLock()
        self.scheduler = Scheduler(settings.compute.thread_count)
        self._closed = False
        self.names = VersionNames()
        self._repos: dict[str, Repo] = {}
        self.broken: dict[str, str] = {}
        """Folders of repos that cannot be opened → why. The others are served."""
        self._listed = 0
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
                try:
                    _ = instance.dataset
                except DvidzarrError as error:  # damaged, or deleted meanwhile: the others still want it
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

    # --- its repos -------------------------------------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """Whether another process may have done something that `refresh` has not seen yet."""
        return not self.writing and self.generation.passed

    def refresh(self) -> None:
        """See what another process did (nothing to do for the writer)."""
        if not self.behind:
            return
        with self._refreshing:
            if self.writing:  # since a moment ago
                return
            number = self.generation.current
            self._discover(told=number is not None)
            for repo in list(self._repos.values()):
                self._follow(repo)
            self.generation.look_at(number)

    def _follow(self, repo: Repo) -> None:
        try:
            repo.follow()
        except StorageError:
            if repo.id in self.context.backend.folders("repos"):
                raise
            self._drop(repo)  # deleted by the writer meanwhile
        else:
            if not repo.exists:
                self._drop(repo)

    def _discover(self, *, told: bool = False) -> None:
        """Open repos that appeared. A folder without a whole first record is no repo.

        The time of the folder tells whether to look, unless the writer said so (`told`).
        """
        changed = self.context.backend.changed("repos")
        if changed is None or (changed == self._listed and not self.writing and not told):
            return
        present = self.context.backend.folders("repos")
        for repo_id in present:
            if repo_id not in self._repos:
                self._open_repo(Repo(cast("Catalog", self), repo_id))
        for repo_id in self.broken.keys() - present:
            del self.broken[repo_id]
        # else a repo may be half made, or two made within one tick
        if time.time_ns() - changed > _SETTLED_NS:
            self._listed = changed

    def _open_repo(self, repo: Repo) -> None:
        """Take in a repo; one whose log is damaged is named in `broken`, and the others are served."""
        try:
            repo.open()
            if not repo.exists and not repo.state.gone and self._has_instances(repo):
                raise CorruptionError(
                    f"{repo.prefix}/log has no records, but {repo.prefix}/data has instances"
                )
        except StorageError as error:
            if self.broken.get(repo.id) != str(error):
                _logger.error("repo %s cannot be opened: %s", repo.id, error)  # noqa: TRY400 - no traceback
            self.broken[repo.id] = str(error)
            self._drop(repo)
            return
        self.broken.pop(repo.id, None)
        if repo.exists:
            self._repos[repo.id] = repo
        elif self.writing:  # its creation or its deletion was interrupted
            self._drop(repo)
            self.context.backend.trash(repo.prefix)

    def _has_instances(self, repo: Repo) -> bool:
        return bool(self.context.backend.folders(f"{repo.prefix}/data"))

    def holds(self, repo: RepoBase) -> bool:
        """Tell whether this object is the one that reads and writes the repo's logs: a repo may be opened anew."""
        return self._repos.get(repo.id) is repo

    def _drop(self, repo: Repo) -> None:
        self._repos.pop(repo.id, None)
        self.names.forget(repo)
        repo.close()
