"""A store opened by this process: its repos, the names of all versions, and who may write. Design: storage §1, §7."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dvidzarr.compute.schedule import Scheduler
from dvidzarr.core.errors import DvidzarrError, ForbiddenError, InvalidInputError, StorageError
from dvidzarr.core.ids import Author, is_uuid, new_id
from dvidzarr.core.settings import Settings
from dvidzarr.repo.base import RepoBase
from dvidzarr.repo.blobstore import BlobStore
from dvidzarr.repo.dag import Version
from dvidzarr.repo.datatype import DataType, Registry
from dvidzarr.repo.generation import Generation
from dvidzarr.repo.names import VersionNames
from dvidzarr.repo.repo import Repo, version_header
from dvidzarr.repo.storefile import create_store, read_store
from dvidzarr.storage.cache import ChunkCache
from dvidzarr.storage.context import StoreContext
from dvidzarr.storage.frames import Kind
from dvidzarr.storage.housekeeper import Housekeeper
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.locks import WriterLock

if TYPE_CHECKING:
    from dvidzarr.repo.verify import Finding

_NO_AUTHOR = Author()

_SETTLED_NS = 1_000_000_000
"""A folder whose time is older than this shows every later change as another time."""

_logger = logging.getLogger("dvidzarr.repo")

Opener = Callable[[str], "Catalog"]


class Catalog:
    """An open store.

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
        store_id = read_store(backend) or create_store(backend, self._lock, create=mode != "r")
        cache_dir = Path(settings.storage.cache_dir or Path(path) / "cache") / store_id
        cache = ChunkCache(settings.cache.chunk_bytes)
        self.context = StoreContext(
            backend, store_id, settings, cache_dir, cache, Housekeeper(), self.scheduler.write
        )
        self.blobs = BlobStore(self)
        if mode == "w":
            self.become_writer()
        else:
            self.refresh()

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
            The store was opened for reading.
        """
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
        for repo in self.repos:
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

    def verify(self, *, deep: bool = False, repair: bool = False) -> "Iterator[Finding]":
        """Check the store; see `dvidzarr.repo.verify`."""
        from dvidzarr.repo.verify import verify  # noqa: PLC0415 - rarely needed

        return verify(self, deep=deep, repair=repair)

    # --- repos -----------------------------------------------------------------------------------------------

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

    def catch_up(self) -> None:
        """See what another process did to the repos, and to the instances that are open here."""
        self.refresh()
        for repo in list(self._repos.values()):
            for instance in repo.instances.values():
                if instance.opened:
                    instance.catch_up()

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
                self._open_repo(Repo(self, repo_id))
        for repo_id in self.broken.keys() - present:
            del self.broken[repo_id]
        if (
            time.time_ns() - changed > _SETTLED_NS
        ):  # else a repo may be half made, or two made within one tick
            self._listed = changed

    def _open_repo(self, repo: Repo) -> None:
        """Take in a repo; one whose log is damaged is named in `broken`, and the others are served."""
        try:
            repo.open()
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

    def holds(self, repo: RepoBase) -> bool:
        """Tell whether this object is the one that reads and writes the repo's logs: a repo may be opened anew."""
        return self._repos.get(repo.id) is repo

    def _drop(self, repo: Repo) -> None:
        self._repos.pop(repo.id, None)
        self.names.forget(repo)
        repo.close()

    @property
    def repos(self) -> tuple[Repo, ...]:
        """The repos, sorted by root UUID."""
        self.refresh()
        return tuple(
            sorted((repo for repo in self._repos.values() if repo.exists), key=lambda repo: repo.root)
        )

    def repo(self, ref: str) -> Repo:
        """Return the repo that holds a version."""
        return self.resolve(ref)[0]

    def datatype(self, name: str) -> DataType:
        """Return a datatype by name."""
        if name not in self.registry:
            raise InvalidInputError(f'Data type "{name}" is not supported by current DVID server')
        return self.registry[name]

    def create_repo(
        self,
        alias: str = "",
        description: str = "",
        root: str | None = None,
        passcode: str = "",
        author: Author = _NO_AUTHOR,
    ) -> Repo:
        """Create a repo with its root version.

        Parameters
        ----------
        root
            UUID of the root version, any text without "/" and ":" (default a new one).
        passcode
            Text that deleting the repo will ask for.
        """
        self.become_writer()
        with self.names.lock:
            if root is not None and (not root or set(root) & set("/:~\0") or len(root) > 128):
                raise InvalidInputError(
                    f"{root[:80]!r} is no UUID of a repo: 1 to 128 characters without '/', ':' or '~'"
                )
            header = version_header(self, root, "", [], "")
            free = is_uuid(header["id"]) and header["id"] not in self._repos
            repo = Repo(self, header["id"] if free else new_id())
            repo.open()
            about = {"alias": alias, "description": description, "passcode": passcode}
            repo.append(Kind.REPO, author, about)
            repo.append(Kind.VERSION, author, header)
            self._repos[repo.id] = repo
            return repo

    def delete_repo(self, ref: str, passcode: str = "", author: Author = _NO_AUTHOR) -> None:
        """Delete a repo with everything in it; its folder goes into the trash."""
        self.become_writer()
        with self.names.lock:
            repo = self.repo(ref)
            if repo.state.passcode != passcode:
                raise ForbiddenError(f"incorrect passcode for repo {repo.root}")
            for name in repo.instances:
                repo.delete_instance(name, author)
            repo.append(Kind.DELETE_REPO, author, {})
            self._drop(repo)
            self.context.backend.trash(repo.prefix)

    # --- names of versions -----------------------------------------------------------------------------------

    def resolve(self, ref: str) -> tuple[Repo, Version]:
        """Find a version by `prefix`, `prefix:branch`, `prefix:branch~N` or `:branch` (spec-server §3.2).

        Raises
        ------
        NotFoundError, InvalidInputError
            With DVID's words.
        """
        self.refresh()
        prefix, *rest = ref.split(":")
        if len(rest) > 1:
            raise InvalidInputError(f'bad UUID specification "{ref}"')
        if prefix:
            repo, ordinal = self.names.match(prefix)
        elif len(self._repos) == 1:
            repo, ordinal = next(iter(self._repos.values())), 0
        else:
            raise InvalidInputError("UUID must be specified if more than one repo exists")
        if rest and (rest[0] or not prefix):
            return repo, repo.dag.on_branch(rest[0])
        return repo, repo.dag.versions[ordinal]
