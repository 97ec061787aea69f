"""A repo: the owner of its DAG, its log and its instances. Everything that may change is changed by a log record."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from dvidzarr.core.errors import ConflictError, InvalidInputError, NotFoundError, StorageError, VersionLockedError
from dvidzarr.core.ids import Author, is_uuid, new_id, now
from dvidzarr.repo.config import check_name, log_text, parse_common
from dvidzarr.repo.dag import Version, VersionDAG, branch_name, check_uuid
from dvidzarr.repo.instance import Instance
from dvidzarr.repo.state import RepoState
from dvidzarr.repo.versions import RepoVersions
from dvidzarr.storage.dataset import Dataset, StoreContext
from dvidzarr.storage.durability import flush
from dvidzarr.storage.finishing import finish
from dvidzarr.storage.frames import Entry, Kind
from dvidzarr.storage.locks import Gates
from dvidzarr.storage.log import LocalLog

if TYPE_CHECKING:
    from dvidzarr.repo.catalog import Catalog

_IDS_AT_ONCE = 1000
_NO_AUTHOR = Author()


class Repo:
    """One repo of a store.

    `state` is replaced by each record. `_lock` makes "check, then append" one step; `gates` let writers of chunks and
    documents pass together and the commit of a version, or the deletion of an instance, alone.
    """

    def __init__(self, catalog: "Catalog", repo_id: str) -> None:
        self.catalog = catalog
        self.id = repo_id
        self.prefix = f"repos/{repo_id}"
        self.state = RepoState()
        self.gates = Gates()
        self._lock = threading.RLock()
        self._instances: dict[str, Instance] = {}
        self._next_id = 0
        keep = 3 * catalog.settings.cache.lineages
        self.versions = RepoVersions(lambda: self.state.dag, self.follow, keep)
        ids = (catalog.context.store_id, repo_id)
        self._log = LocalLog(catalog.context.backend, f"{self.prefix}/log", ids, self._apply)

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
    def opener(self) -> Callable[[str], Any] | None:
        """What opens the store in another process."""
        return self.catalog.opener

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
        """Return an instance by name."""
        found = self._instances.get(name)
        if found is None:
            raise NotFoundError("invalid data instance name")
        return found

    def version(self, ref: "str | Version") -> Version:
        """Return the current state of a version, given as a reference (`Catalog.resolve`) or a `Version`."""
        if isinstance(ref, Version):
            return self.state.dag.versions[ref.ordinal]
        repo, version = self.catalog.resolve(ref if ref[:1] != ":" else f"{self.root}{ref}")
        if repo is not self:
            raise NotFoundError(f"version {ref!r} belongs to another repo, not to {self.root}")
        return version

    resolve = version

    def branch_versions(self, branch: str) -> list[Version]:
        """Return the versions of a branch, leaf first."""
        return self.state.dag.branch_versions(branch)

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
            raise StorageError(f"the log of repo {self.id} is damaged: {self._log.damage[0]}; `dvidzarr verify` tells more")
        for instance_id in self.state.deleted:
            self.context.backend.trash(f"{self.prefix}/data/{instance_id}")
        for instance in self._instances.values():
            instance.promote()

    def follow(self) -> None:
        """Apply what another process wrote to the repo log (nothing to do for the writer)."""
        self._log.follow()

    def records(self) -> Iterator[Entry]:
        """Yield the records of the repo log."""
        return self._log.records(self._log.tail.sequence)

    def close(self) -> None:
        """Close the instances and the log."""
        for instance in self._instances.values():
            if instance.opened and self.writable:
                flush(instance.dataset)
                instance.dataset.save_caches()
            instance.close()
        self._log.close()

    def check_instance(self, instance: Instance) -> None:
        """Raise if an instance was deleted."""
        if self._instances.get(instance.name) is not instance:
            raise NotFoundError("invalid data instance name")

    # --- records ---------------------------------------------------------------------------------------------

    def append(self, kind: Kind, author: Author, header: dict[str, Any]) -> None:
        """Append a record to the repo log: durable and applied on return."""
        self._log.append(kind, {"t": now(), "u": author.user, "a": author.app, **header})

    def _apply(self, entry: Entry) -> None:
        self.state = self.state.applied(entry)
        if entry.kind in {Kind.INSTANCE, Kind.RENAME, Kind.DELETE_INSTANCE}:
            self._match_instances()
        if entry.kind == Kind.VERSION:
            self.catalog.note_version(self, self.state.dag.versions[len(self.state.dag) - 1])

    def _match_instances(self) -> None:
        known = {instance.id: instance for instance in self._instances.values()}
        matched = {}
        for name, record in self.state.instances.items():
            instance = known.get(record.id)
            if instance is None:
                datatype = self.catalog.datatype(record.type_name)
                instance = datatype.instance(self, record, datatype)
            else:
                instance.renamed(record)
            matched[name] = instance
        self._instances = matched

    def next_mutation(self) -> int:
        """Return the next mutation id; ids are reserved in ranges, so one never comes back after a crash."""
        with self._lock:
            if not self._next_id or self._next_id >= self.state.ids_upto:
                self._next_id = self._next_id or self.state.ids_upto
                self.append(Kind.IDS, _NO_AUTHOR, {"upto": self._next_id + _IDS_AT_ONCE})
            self._next_id += 1
            return self._next_id - 1

    # --- writing data ----------------------------------------------------------------------------------------

    @contextmanager
    def writing(self, instance: Instance, version: Version) -> Iterator[None]:
        """Hold the gates that a write of an instance at a version needs; raise if the version is locked."""
        self.catalog.become_writer()
        with ExitStack() as stack:
            stack.enter_context(self.gates.shared(("instance", instance.id)))
            self.check_instance(instance)
            if instance.versioned:
                stack.enter_context(self.gates.shared(("version", version.ordinal)))
                if self.dag.versions[version.ordinal].locked:
                    raise VersionLockedError(f"version {version.uuid} is locked; write to a child version")
            yield

    @contextmanager
    def writing_unversioned(self, instance: Instance) -> Iterator[None]:
        """Hold the gate that a change of an instance as a whole needs."""
        self.catalog.become_writer()
        with self.gates.shared(("instance", instance.id)):
            self.check_instance(instance)
            yield

    # --- versions --------------------------------------------------------------------------------------------

    def commit(
        self, version: "str | Version", note: str = "", log: Sequence[str] = (), author: Author = _NO_AUTHOR
    ) -> Version:
        """Lock a version for ever, after running writes have ended. Returns it.

        Raises
        ------
        VersionLockedError
            It is locked.
        BusyError
            Writes did not end within `storage.drain_timeout_s`.
        """
        self.catalog.become_writer()
        target = self.version(version)
        timeout = self.catalog.settings.storage.drain_timeout_s
        with self.gates.exclusive(("version", target.ordinal), timeout, f"version {target.uuid}"), self._lock:
            if self.dag.versions[target.ordinal].locked:
                raise VersionLockedError(f"node {target.uuid} already committed")
            header = {"v": target.id, "note": note, "log": _stamped(log), "seals": self._seals()}
            self.append(Kind.COMMIT, author, header)
        for instance in self._instances.values():
            if instance.opened:
                self.finish_later(instance)
        return self.dag.versions[target.ordinal]

    def _seals(self) -> dict[str, list[int]]:
        """Return, per instance written since the last commit, the last sequence and that record's checksum."""
        seals = {}
        for instance in self._instances.values():
            if not instance.versioned:
                continue
            flush(instance.dataset)
            tail = instance.dataset.log.tail
            before = self.state.seals.get(instance.id, ())
            if tail.sequence != (before[-1][1] if before else 0):
                seals[instance.id] = [tail.sequence, tail.checksum]
        return seals

    def finish_later(self, instance: Instance) -> None:
        """Put the overlays of locked versions under their Zarr keys, in the background."""
        self.context.housekeeper.schedule(0, ("finish", instance.id), lambda: self._finish(instance))

    def _finish(self, instance: Instance) -> None:
        if not instance.opened:
            return
        dataset = instance.dataset
        for ordinal in self._unfinished(dataset, instance):
            finish(dataset, ordinal)
        instance.finished()

    def _unfinished(self, dataset: Dataset, instance: Instance) -> list[int]:
        sealed = self.state.seals.get(instance.id, ())
        if not sealed:
            return []
        written = {ordinal for store in dataset.arrays.values() for ordinal in store.postings.writers()}
        return sorted(ordinal for ordinal in written - dataset.finished if self.dag.versions[ordinal].locked)

    def new_version(
        self, parent: "str | Version", note: str = "", uuid: str | None = None, author: Author = _NO_AUTHOR
    ) -> Version:
        """Add a child on the branch of a locked version. Returns it."""
        above = self.version(parent)
        return self._add([above], above.branch, note, uuid, author)

    def branch(
        self,
        parent: "str | Version",
        name: str,
        note: str = "",
        uuid: str | None = None,
        author: Author = _NO_AUTHOR,
    ) -> Version:
        """Add a child of a locked version on a new branch (or on the parent's own, by its name). Returns it."""
        if uuid is not None:
            check_uuid(uuid)
        if not branch_name(name):
            raise InvalidInputError("Cannot create a master branch")
        return self._add([self.version(parent)], name, note, uuid, author)

    def tag(self, parent: "str | Version", tag: str, note: str = "", author: Author = _NO_AUTHOR) -> Version:
        """Add a locked child whose UUID is the tag itself. DVID replaces the note by its own words; so do we."""
        if not tag or "/" in tag or ":" in tag:
            raise InvalidInputError(f"{tag!r} is no tag: it must not be empty or contain '/' or ':'")
        above = self.version(parent)
        words = f'Tag of version {above.uuid} with "{tag}"'
        version = self._add([above], f"tag-{tag}", note, tag, author, free_uuid=True)
        return self.commit(version, note=words, author=author)

    def merge(self, parents: "Sequence[str | Version]", note: str = "", author: Author = _NO_AUTHOR) -> Version:
        """Add a version below several locked ones; the first is its lineage. Returns it."""
        above = [self.version(parent) for parent in parents]
        if len({version.ordinal for version in above}) != len(above) or len(above) < 2:  # noqa: PLR2004
            raise InvalidInputError("Must specify at least two parent UUIDs using 'parents' field, each once")
        return self._add(above, "", note, None, author)

    def _add(
        self,
        parents: list[Version],
        branch: str,
        note: str,
        uuid: str | None,
        author: Author,
        *,
        free_uuid: bool = False,
    ) -> Version:
        self.catalog.become_writer()
        if uuid is not None and not free_uuid:
            check_uuid(uuid)
        with self.catalog.naming, self._lock:
            current = [self.dag.versions[parent.ordinal] for parent in parents]
            self.dag.check_child(current, branch)
            header = version_header(self.catalog, uuid, branch, [parent.id for parent in current], note)
            self.append(Kind.VERSION, author, header)
            return self.dag.versions[self.dag.by_uuid[header["uuid"]]]

    def set_note(self, version: "str | Version", text: str, author: Author = _NO_AUTHOR) -> None:
        """Replace the note of an open version."""
        with self._open_version(version) as target:
            self.append(Kind.NOTE, author, {"v": target.id, "note": text})

    def append_version_log(self, version: "str | Version", lines: Sequence[str], author: Author = _NO_AUTHOR) -> None:
        """Add lines to the log of an open version."""
        with self._open_version(version) as target:
            self.append(Kind.REPO_LOG, author, {"v": target.id, "lines": _stamped(lines)})

    @contextmanager
    def _open_version(self, ref: "str | Version") -> Iterator[Version]:
        self.catalog.become_writer()
        with self._lock:
            version = self.version(ref)
            if version.locked:
                raise VersionLockedError(f"version {version.uuid} is locked")
            yield version

    # --- the repo itself -------------------------------------------------------------------------------------

    def describe(
        self, alias: str | None = None, description: str | None = None, author: Author = _NO_AUTHOR
    ) -> None:
        """Change alias or description."""
        self.catalog.become_writer()
        given = {"alias": alias, "description": description}
        self.append(Kind.ALIAS, author, {name: text for name, text in given.items() if text is not None})

    def append_log(self, lines: Sequence[str], author: Author = _NO_AUTHOR) -> None:
        """Add lines to the repo log."""
        self.catalog.become_writer()
        self.append(Kind.REPO_LOG, author, {"lines": _stamped(lines)})

    # --- instances -------------------------------------------------------------------------------------------

    def create_instance(
        self,
        type_name: str,
        name: str,
        config: Mapping[str, object] | None = None,
        version: "str | Version | None" = None,
        author: Author = _NO_AUTHOR,
    ) -> Instance:
        """Create an instance at an open version.

        Parameters
        ----------
        config
            DVID's settings, such as `{"BlockSize": "64,64,64"}`: text values, any case of the keys.
        version
            Where it is created (default the head of master); it is seen from every version.
        """
        self.catalog.become_writer()
        datatype = self.catalog.datatype(type_name)
        given = {key.lower(): value for key, value in (config or {}).items()}
        common = parse_common(given)
        parsed = datatype.instance.parse_config(given)
        with self._lock:
            at = self.dag.head("") if version is None else self.version(version)
            if at.locked:
                raise VersionLockedError(f"New data instance cannot be created on locked node {at.uuid}")
            check_name(name)
            if name in self._instances:
                raise ConflictError(f'Data named "{name}" already exists in repo (root {self.root})')
            header = {"id": new_id(), "name": name, "type": type_name, "v": at.id, "config": parsed}
            header |= {"versioned": common.versioned, "compression": common.compression}
            header |= {"checksum": common.checksum, "tags": common.tags}
            header["line"] = _stamped([log_text(given, type_name, name)])[0]
            self.append(Kind.INSTANCE, author, header)
            return self.instance(name)

    def rename_instance(self, old: str, new: str, author: Author = _NO_AUTHOR) -> Instance:
        """Give an instance another name; writes go on meanwhile."""
        self.catalog.become_writer()
        with self._lock:
            instance = self.instance(old)
            if check_name(new) in self._instances:
                raise ConflictError(f'Data named "{new}" already exists in repo (root {self.root})')
            line = _stamped([f'Renamed data instance "{old}" to "{new}"'])[0]
            self.append(Kind.RENAME, author, {"id": instance.id, "name": new, "line": line})
            return instance

    def delete_instance(self, name: str, author: Author = _NO_AUTHOR) -> None:
        """Delete an instance in all versions, after running writes have ended; its folder goes into the trash."""
        self.catalog.become_writer()
        instance = self.instance(name)
        timeout = self.catalog.settings.storage.drain_timeout_s
        with self.gates.exclusive(("instance", instance.id), timeout, f"data instance {name!r}"):
            with self._lock:
                self.check_instance(instance)
                line = _stamped([f'Deleted data instance "{instance.name}"'])[0]
                self.append(Kind.DELETE_INSTANCE, author, {"id": instance.id, "line": line})
            instance.close()
            self.context.backend.trash(instance.prefix)


def _stamped(lines: Sequence[str]) -> list[str]:
    time = now()
    return [f"{time}  {line}" for line in lines]


def version_header(
    catalog: "Catalog", uuid: str | None, branch: str, parents: Sequence[str], note: str
) -> dict[str, Any]:
    """Return the header of a `version` record; the caller holds `catalog.naming`.

    Raises
    ------
    ConflictError
        The UUID names a version of this store already.
    """
    if uuid is None:
        uuid = new_id()
    elif catalog.knows(uuid):
        raise ConflictError("UUID already exists in datastore")
    plain = is_uuid(uuid) and uuid == uuid.lower()
    header = {"uuid": uuid, "id": uuid if plain else new_id(), "number": catalog.next_number()}
    return {**header, "branch": branch, "parents": list(parents), "note": note}
