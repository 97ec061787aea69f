"""Which repos a store holds: found in its folders, followed while another process writes, left out where damaged."""

import logging
import threading
import time
from typing import TYPE_CHECKING, cast

from dvidzarr.core.errors import CorruptionError, StorageError
from dvidzarr.repo.base import RepoBase
from dvidzarr.repo.generation import Generation
from dvidzarr.repo.names import VersionNames
from dvidzarr.repo.repo import Repo
from dvidzarr.storage.context import StoreContext
from dvidzarr.storage.trash import Trash

if TYPE_CHECKING:
    from dvidzarr.repo.catalog import Catalog

_SETTLED_NS = 1_000_000_000
"""A folder whose time is older than this shows every later change as another time."""

_logger = logging.getLogger("dvidzarr.repo")


class RepoTable:
    """The repos of a store by id; `OpenStore` adds who writes to them.

    `_refreshing` guards the table of a follower; `names.lock` guards the choice of UUIDs and numbers of versions.
    """

    context: StoreContext
    generation: Generation

    def __init__(self) -> None:
        self.writing = False
        self.names = VersionNames()
        self.broken: dict[str, str] = {}
        """Folders of repos that cannot be opened → why. The others are served."""
        self._refreshing = threading.RLock()
        self._repos: dict[str, Repo] = {}
        self._listed = 0

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
            repos = list(self._repos.values())
            for repo in repos:
                self._follow(repo)
            self.generation.look_at(number)
        for repo in repos:
            repo.close_departed()

    def _follow(self, repo: Repo) -> None:
        repo.follow()
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
            if not repo.exists and not repo.state.gone and self._has_lost_its_log(repo):
                raise CorruptionError(
                    f"{repo.prefix}/log has no records, but {repo.prefix}/data has instances"
                )
        except StorageError as error:
            if repo.id in self.context.backend.folders("repos"):  # else it was deleted meanwhile
                if self.broken.get(repo.id) != str(error):
                    _logger.error("repo %s cannot be opened: %s", repo.id, error)  # noqa: TRY400 - no traceback
                self.broken[repo.id] = str(error)
            self._drop(repo)
            return
        self.broken.pop(repo.id, None)
        if repo.exists:
            self._repos[repo.id] = repo
            return
        self._drop(repo)
        if self.writing:  # its creation or its deletion was interrupted
            self.context.backend.trash(repo.prefix)

    def _has_lost_its_log(self, repo: Repo) -> bool:
        """Tell whether there are instances that are more than what somebody wrote while the repo was deleted."""
        backend, data = self.context.backend, f"{repo.prefix}/data"
        if not backend.folders(data):
            return False
        # with records it is a repo that was put back from a copy
        if Trash(backend).holds(repo.prefix) and not any(key.endswith(".log") for key in backend.keys(data)):
            return False
        repo.follow()  # its creation may have been completed since the log was read
        return not repo.exists and not repo.state.gone

    def holds(self, repo: RepoBase) -> bool:
        """Tell whether this object is the one that reads and writes the repo's logs: a repo may be opened anew."""
        return self._repos.get(repo.id) is repo

    def _drop(self, repo: Repo) -> None:
        self._repos.pop(repo.id, None)
        self.names.forget(repo)
        repo.close()
