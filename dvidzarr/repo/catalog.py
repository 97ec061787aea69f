"""A store as its users see it: its repos, and the names of all versions."""

from contextlib import suppress
from typing import TYPE_CHECKING

from dvidzarr.core.errors import ForbiddenError, InvalidInputError, NotFoundError
from dvidzarr.core.ids import NO_AUTHOR, Author, new_id
from dvidzarr.core.texts import check_text
from dvidzarr.repo.dag import Version
from dvidzarr.repo.datatype import DataType
from dvidzarr.repo.repo import Repo
from dvidzarr.repo.store import OpenStore
from dvidzarr.storage.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dvidzarr.repo.verify import Finding


class Catalog(OpenStore):
    """An open store; see `OpenStore` for how it is opened."""

    def __repr__(self) -> str:
        return f"<store {self.context.backend.root}>"

    # --- repos -----------------------------------------------------------------------------------------------

    @property
    def repos(self) -> tuple[Repo, ...]:
        """The repos, sorted by root UUID."""
        self.refresh()
        known = list(self._repos.values())  # another thread may add one meanwhile
        return tuple(sorted((repo for repo in known if repo.exists), key=lambda repo: repo.root))

    def repo(self, ref: str) -> Repo:
        """Return the repo that holds a version. Raises as `resolve`."""
        return self.resolve(ref)[0]

    def datatype(self, name: str) -> DataType:
        """Return a datatype by name; raise `InvalidInputError` if there is none."""
        if check_text(name, "the name of a data type") not in self.registry:
            raise InvalidInputError(f'Data type "{name}" is not supported by current DVID server')
        return self.registry[name]

    def create_repo(
        self,
        alias: str = "",
        description: str = "",
        root: str | None = None,
        passcode: str = "",
        author: Author = NO_AUTHOR,
    ) -> Repo:
        """Create a repo with its root version. Returns it.

        Parameters
        ----------
        alias
            Short name.
        description
            Free text.
        root
            UUID of the root version: 1 to 128 characters without "/", ":", "~" or NUL (default a new one).
        passcode
            Text that deleting the repo will ask for.

        Raises
        ------
        InvalidInputError
            `root` is no such text.
        ConflictError
            The store has a version of that UUID.
        ForbiddenError
            The store was opened for reading.
        BusyError
            Another process writes to the store.
        """
        self.become_writer()
        with self.names.lock:
            if root is not None and (
                not check_text(root, "a UUID") or set(root) & set("/:~\0") or len(root) > 128
            ):
                raise InvalidInputError(
                    f"{root[:80]!r} is no UUID of a repo: 1 to 128 characters without '/', ':', '~' or NUL"
                )
            header = self.names.new_header(root, "", [], "")
            # of a root that is given there may have been a repo that others still follow
            repo = Repo(self, header["id"] if root is None else new_id())
            repo.open()
            about = {"alias": alias, "description": description, "passcode": passcode}
            try:
                repo.append(Kind.REPO, author, about)
            except InvalidInputError:  # a text that no record can hold
                repo.close()
                self.context.backend.trash(repo.prefix)
                raise
            repo.append(Kind.VERSION, author, header)
            self._repos[repo.id] = repo
            return repo

    def delete_repo(self, ref: str, passcode: str = "", author: Author = NO_AUTHOR) -> None:
        """Delete a repo with everything in it; its folder goes into the trash.

        Raises
        ------
        ForbiddenError
            The passcode is not that of the repo, or the store was opened for reading.
        NotFoundError, InvalidInputError
            As `resolve`.
        BusyError
            Another process writes to the store, or writes did not end within `storage.drain_timeout_s`.
        """
        self.become_writer()
        with self.names.lock:
            repo = self.repo(ref)
            if repo.state.passcode != passcode:
                raise ForbiddenError(f"incorrect passcode for repo {repo.root}")
            with repo.without_writers() as instances:
                repo.append(Kind.DELETE_REPO, author, {})
                for instance in instances:
                    instance.close()
                self._drop(repo)
                self.context.trash(repo.prefix, [instance.id for instance in instances])

    # --- names of versions -----------------------------------------------------------------------------------

    def resolve(self, ref: str) -> tuple[Repo, Version]:
        """Find a version by `prefix`, `prefix:branch`, `prefix:branch~N` or `:branch` (spec-server §3.2).

        Raises
        ------
        NotFoundError
            No version, or no branch, is named so.
        InvalidInputError
            Several versions have UUIDs that begin so, or it is no reference.
        """
        prefix, *rest = check_text(ref, "a reference to a version").split(":")
        self.refresh()
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

    # --- all of it -------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """See what another process did to the repos, and to the instances that are open here."""
        self.refresh()
        for repo in list(self._repos.values()):
            for instance in repo.instances.values():
                if instance.opened:
                    with suppress(NotFoundError):  # deleted since a moment ago
                        instance.catch_up()

    def verify(self, *, deep: bool = False, repair: bool = False) -> "Iterator[Finding]":
        """Yield what is wrong with the store or worth knowing.

        Without `deep` the logs are read, and the lengths of chunks compared; with it every checksum and cache. `repair`
        gives up the damaged records of logs; see `dvidzarr.repo.verify.verify`.

        Raises
        ------
        StorageError, BusyError, ForbiddenError
            For `repair`: this catalog writes already; another process does; it was opened for reading.
        """
        from dvidzarr.repo.verify import verify  # noqa: PLC0415 - rarely needed

        return verify(self, deep=deep, repair=repair)
