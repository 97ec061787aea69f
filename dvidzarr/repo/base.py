"""What a repo owns: its log, the state that follows from it, its instances, and the gates that writers pass."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from dvidzarr.core.errors import NotFoundError, StorageError, VersionLockedError
from dvidzarr.core.ids import NO_AUTHOR, Author
from dvidzarr.core.texts import check_text
from dvidzarr.repo.dag import Ref, Version, VersionDAG
from dvidzarr.repo.instance import Instance
from dvidzarr.repo.overlays import Overlays
from dvidzarr.repo.records import signed
from dvidzarr.repo.state import IDS_AT_ONCE, RepoState
from dvidzarr.repo.versions import RepoVersions
from dvidzarr.storage.context import StoreContext
from dvidzarr.storage.durability import flush
from dvidzarr.storage.frames import Entry, Kind
from dvidzarr.storage.locks import Gates
from dvidzarr.storage.log import LocalLog

if TYPE_CHECKING:
    from dvidzarr.repo.catalog import Catalog
    from dvidzarr.repo.repo import Repo

_logger = logging.getLogger("dvidzarr.repo")


class RepoBase:
    """The owner of a repo's log and state; `Repo` adds what users do with it.

    `state` is replaced by each record. `_lock` makes "check, then append" one step; `gates` let writers of chunks and
    documents pass together and the commit of a version, or the deletion of an instance, alone.
    """

    def __init__(self, catalog: "Catalog", repo_id: str) -> None:
        self.catalog = catalog
        self.id = repo_id
        self.prefix = f"repos/{repo_id}"
        self.state = RepoState()
        self.gates = Gates()
        self.overlays = Overlays(cast("Repo", self))
        self._lock = threading.RLock()
        self._instances: dict[str, Instance] = {}
        self._departed: list[Instance] = []
        self._next_id = 0
        self._reopened: set[tuple[str, int]] = set()
        keep = 3 * catalog.settings.cache.lineages
        self.versions = RepoVersions(lambda: self.state, self.follow, keep)
        ids = (catalog.context.store_id, repo_id)
        self._log = LocalLog(catalog.context.backend, f"{self.prefix}/log", ids, self._apply)

    def __repr__(self) -> str:
        return f"<repo {self.root if self.exists else self.id} {self.alias!r}>"

    # --- what it is ------------------------------------------------------------------------------------------

    @property
    def context(self) -> StoreContext:
        """What everything in the store shares."""
        return self.catalog.context

    @property
    def url(self) -> str:
        """Where the store is."""
        return self.catalog.url

    @property
    def writable(self) -> bool:
        """Whether this process is the writer."""
        return self.catalog.writing

    @property
    def dag(self) -> VersionDAG:
        """The versions."""
        return self.state.dag

    @property
    def root(self) -> str:
        """UUID of the root version, the name of the repo."""
        return self.state.dag.root.uuid

    alias = property(lambda self: self.state.alias, doc="Short name.")
    description = property(lambda self: self.state.description, doc="Free text.")
    log = property(lambda self: self.state.log, doc="Lines of the repo log, each with its time.")
    created = property(lambda self: self.state.created, doc="RFC 3339.")
    updated = property(lambda self: self.state.updated, doc="RFC 3339.")
    saved_mutation_id = property(lambda self: self.state.ids_upto, doc="Ids below this may be in use.")

    @property
    def mutation_id(self) -> int:
        """The id that the next mutation gets."""
        return self._next_id or self.state.ids_upto

    @property
    def instances(self) -> Mapping[str, Instance]:
        """The instances by name."""
        return dict(self._instances)

    def instance(self, name: str) -> Instance:
        """Return an instance by name; raise `NotFoundError` if there is none."""
        found = self._instances.get(check_text(name, "the name of a data instance"))
        if found is None:
            raise NotFoundError("invalid data instance name")
        return found

    def version(self, ref: Ref) -> Version:
        """Return the current state of a version, given as a reference or a `Version`. Raises as `Catalog.resolve`."""
        if isinstance(ref, Version):
            ordinal = self.versions.ordinal_of(ref.id)
            if ordinal is not None:
                return self.state.dag.versions[ordinal]
            ref = ref.uuid
        else:
            text = check_text(ref, "a reference to a version")
            repo, version = self.catalog.resolve(f"{self.root}{text}" if text.startswith(":") else text)
            if repo is self:
                return version
        raise NotFoundError(f"version {ref!r} is not one of repo {self.root}")

    resolve = version

    def branch_versions(self, branch: str) -> list[Version]:
        """Return the versions of a branch, leaf first."""
        return self.state.dag.branch_versions(check_text(branch, "a branch"))

    # --- life ------------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether its creation was completed, and it was not deleted."""
        return bool(len(self.state.dag)) and not self.state.gone

    def open(self) -> None:
        """Read the log; as the writer recover it and redo interrupted deletions."""
        if self.writable:
            self.promote()
        else:
            self._log.follow()

    def promote(self) -> None:
        """Become writable; the catalog holds the writer lock."""
        self._log.recover()
        if self._log.damage:
            raise StorageError(
                f"the log of repo {self.id} is damaged: {self._log.damage[0]}; `dvidzarr verify` tells more"
            )
        for instance_id in self.state.deleted:
            self.context.trash_now(f"{self.prefix}/data/{instance_id}", [instance_id])
        for instance in self._instances.values():
            instance.promote()

    def demote(self) -> None:
        """Follow again: this process does not become the writer after all. Instances are opened anew when needed."""
        for instance in self._instances.values():
            instance.close()
        self._log.demote()

    def follow(self) -> None:
        """Apply what another process wrote to the repo log (nothing to do for the writer)."""
        try:
            self._log.follow()
        except StorageError:
            if "log" in self.context.backend.folders(self.prefix):
                raise
            # deleted: the log left before the record that says so was read
            self.state = replace(self.state, gone=True, instances={})
            self._match_instances()

    def records(self) -> Iterator[Entry]:
        """Yield the records of the repo log."""
        return self._log.records(self._log.tail.sequence)

    def close(self) -> None:
        """Close the instances and the log."""
        for instance in self._instances.values():
            if instance.opened and self.writable:
                try:
                    flush(instance.dataset)
                    instance.dataset.save_caches()
                except StorageError as error:
                    # said to those who wrote; the others must be closed all the same
                    _logger.error("%s: %s", instance.prefix, error)  # noqa: TRY400 - no traceback
            instance.close()
        self._log.close()

    def check_instance(self, instance: Instance) -> None:
        """Raise if an instance was deleted, or if another object owns the logs of this repo by now."""
        if self._instances.get(instance.name) is not instance:
            raise NotFoundError("invalid data instance name")
        if not self.catalog.holds(self):
            raise StorageError(f"repo {self.id} was closed or opened anew since; ask the store for it again")

    # --- records ---------------------------------------------------------------------------------------------

    def append(self, kind: Kind, author: Author, header: dict[str, Any]) -> None:
        """Append a record to the repo log: durable and applied on return."""
        self._log.append(kind, signed(author, header))
        self.catalog.generation.advance()

    def _apply(self, entry: Entry) -> None:
        """Take in a record; one that Ctrl-C interrupted comes again, and what was done of it is not done twice."""
        if entry.sequence > self.state.sequence:
            self.state = self.state.applied(entry)
        if entry.kind in {Kind.INSTANCE, Kind.RENAME, Kind.DELETE_INSTANCE, Kind.DELETE_REPO}:
            self._match_instances()
        if entry.kind == Kind.VERSION:
            self.catalog.names.add(cast("Repo", self), self.state.dag.versions[len(self.state.dag) - 1])

    def _match_instances(self) -> None:
        known = {instance.id: instance for instance in self._instances.values()}
        matched = {}
        for name, record in self.state.instances.items():
            instance = known.get(record.id)
            if instance is None:
                datatype = self.catalog.datatype(record.type_name)
                instance = datatype.instance(cast("Repo", self), record, datatype)
            else:
                instance.renamed(record)
            matched[name] = instance
            known.pop(record.id, None)
        self._instances = matched
        if not self.writable:  # who writes closes them itself
            self._departed += known.values()

    def close_departed(self) -> None:
        """Close the instances that another process deleted. The caller holds no lock."""
        departed, self._departed = self._departed, []
        for instance in departed:
            instance.close()

    def next_mutation(self) -> int:
        """Return the next mutation id; ids are reserved in ranges, so one never comes back after a crash."""
        with self._lock:
            if not self._next_id or self._next_id >= self.state.ids_upto:
                self._next_id = self._next_id or self.state.ids_upto
                self.append(Kind.IDS, NO_AUTHOR, {"upto": self._next_id + IDS_AT_ONCE})
            self._next_id += 1
            return self._next_id - 1

    # --- writing data ----------------------------------------------------------------------------------------

    @contextmanager
    def writing(self, instance: Instance, version: Version, *, overrule: bool = True) -> Iterator[None]:
        """Hold the gates that a write of an instance at a version needs; raise if the version is locked.

        With `overrule` the lock does not count in a store opened with `full_write`.
        """
        self.catalog.become_writer()
        versioned = instance.versioned
        gates = [("version", version.ordinal)] if versioned else []
        with self.gates.shared(("instance", instance.id), *gates):
            self.check_instance(instance)
            if not versioned or not self.dag.versions[version.ordinal].locked:
                yield
                return
            if not (overrule and self.catalog.full_write):
                raise VersionLockedError(f"version {version.uuid} is locked; write to a child version")
            with self.amending(instance, version):
                yield

    @contextmanager
    def amending(self, instance: Instance, version: Version) -> Iterator[None]:
        """Let a locked version be written, whose gate the caller holds: from now on it counts as changeable."""
        with self._lock:
            if version.ordinal not in self.state.amended:
                self.append(Kind.AMEND, NO_AUTHOR, {"v": version.id})
            if (instance.id, version.ordinal) not in self._reopened:
                instance.reopened(version)
                self._reopened.add((instance.id, version.ordinal))
        try:
            yield
        finally:
            self._amended(instance)

    def _amended(self, instance: Instance) -> None:
        """Flush what was written, as at a commit: a child that was made afterwards must not show less."""
        flush(instance.dataset)
        self.overlays.finish_amended_later(instance)

    @contextmanager
    def writing_unversioned(self, instance: Instance) -> Iterator[None]:
        """Hold the gate that a change of an instance as a whole needs."""
        self.catalog.become_writer()
        with self.gates.shared(("instance", instance.id)):
            self.check_instance(instance)
            yield

    # --- locked versions ---------------------------------------------------------------------------------------

    def sealed(self, version: Version) -> bool:
        """Tell whether what versioned instances show at a version can never change, nor ever did since it was locked."""
        if self.catalog.full_write or not self.dag.versions[version.ordinal].locked:
            return False
        amended = self.state.amended
        return not amended or amended.isdisjoint(self.versions.ancestors(version.ordinal))
