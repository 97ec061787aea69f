"""A repo as its users see it: versions and instances. Everything that changes is changed by a log record."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from dvidzarr.core.errors import ConflictError, InvalidInputError, VersionLockedError
from dvidzarr.core.ids import NO_AUTHOR, Author, new_id
from dvidzarr.core.texts import check_list, check_text
from dvidzarr.repo.base import RepoBase
from dvidzarr.repo.config import check_name, log_text, lowered, parse_common
from dvidzarr.repo.dag import Ref, Version, branch_name, check_uuid
from dvidzarr.repo.instance import Instance
from dvidzarr.repo.merging import Conflicts, conflicts, resolve, to_merge
from dvidzarr.repo.records import stamped
from dvidzarr.repo.seals import seals
from dvidzarr.storage.frames import Kind


class Repo(RepoBase):
    """One repo of a store. Versions are given as a reference (see `Catalog.resolve`) or as a `Version`.

    Beside what each method names, whatever changes the repo raises `ForbiddenError` if the store was opened for reading,
    `BusyError` if another process writes to it, and `StorageError` if the change could not be made durable.
    """

    # --- versions --------------------------------------------------------------------------------------------

    def commit(
        self, version: Ref, note: str = "", log: Sequence[str] = (), author: Author = NO_AUTHOR
    ) -> Version:
        """Lock a version for ever, after running writes have ended. Returns it.

        Raises
        ------
        VersionLockedError
            It is locked.
        BusyError
            Writes did not end within `storage.drain_timeout_s`, or an instance is damaged.
        StorageError
            What the version must hold could not be written (`NoSpaceError` if there is no room): it is not locked.
        """
        self.catalog.become_writer()
        target = self.version(version)
        timeout = self.catalog.settings.storage.drain_timeout_s
        with self.gates.exclusive(("version", target.ordinal), timeout, f"version {target.uuid}"):
            if self.dag.versions[target.ordinal].locked:
                raise VersionLockedError(f"node {target.uuid} already committed")
            for instance in self.instances.values():
                if instance.versioned:
                    instance.completed(target)
            with self._lock:
                header = {
                    "v": target.id,
                    "note": note,
                    "log": stamped(log),
                    "seals": seals(self._instances.values()),
                }
                self.append(Kind.COMMIT, author, header)
        for instance in self._instances.values():
            if instance.opened:
                self.overlays.finish_later(instance)
        return self.dag.versions[target.ordinal]

    def new_version(
        self, parent: Ref, note: str = "", uuid: str | None = None, author: Author = NO_AUTHOR
    ) -> Version:
        """Add a child on the branch of a locked version. Returns it.

        Raises
        ------
        ConflictError
            The parent is not locked, or has a child on its branch already; or the store has a version of this UUID.
        NotFoundError, InvalidInputError
            There is no such parent; `uuid` (default a new one) is not 32 hex digits.
        """
        above = self.version(parent)
        return self._add([above], above.branch, note, uuid, author)

    def branch(
        self, parent: Ref, name: str, note: str = "", uuid: str | None = None, author: Author = NO_AUTHOR
    ) -> Version:
        """Add a child of a locked version on a new branch (or on the parent's own, by its name). Returns it.

        Raises
        ------
        ConflictError, NotFoundError, InvalidInputError
            As `new_version`; there is such a branch; the name is "" or "master".
        """
        if uuid is not None:
            check_uuid(uuid)
        if not branch_name(check_text(name, "a branch")):
            raise InvalidInputError("Cannot create a master branch")
        return self._add([self.version(parent)], name, note, uuid, author)

    def tag(self, parent: Ref, tag: str, note: str = "", author: Author = NO_AUTHOR) -> Version:
        """Add a locked child whose UUID is the tag itself. DVID replaces the note by its own words; so do we.

        Raises as `new_version` and `commit`; `InvalidInputError` if the tag is empty or has "/" or ":".
        """
        if not check_text(tag, "a tag") or "/" in tag or ":" in tag:
            raise InvalidInputError(f"{tag!r} is no tag: it must not be empty or contain '/' or ':'")
        above = self.version(parent)
        words = f'Tag of version {above.uuid} with "{tag}"'
        version = self._add([above], f"tag-{tag}", note, tag, author, free_uuid=True)
        return self.commit(version, note=words, author=author)

    def merge(
        self, parents: Sequence[Ref], note: str = "", author: Author = NO_AUTHOR, uuid: str | None = None
    ) -> Version:
        """Add a version below several locked ones; the first is its lineage. Returns it.

        What their lines changed differently, the new version does not show: see `conflicts` and `resolve_merge`.

        Raises
        ------
        InvalidInputError
            Fewer than two parents, or one of them twice.
        ConflictError, NotFoundError
            As `new_version`.
        """
        return self._add(to_merge(self, parents), "", note, uuid, author)

    def conflicts(self, parents: Sequence[Ref]) -> list[Conflicts]:
        """Return what a merge of these versions would leave in conflict, per instance that has any. Raises as `merge`."""
        above = to_merge(self, parents)
        return [found for each in self._instances.values() if (found := conflicts(each, above))]

    def resolve_merge(
        self, parents: Sequence[Ref], instances: Sequence[str], note: str = "", author: Author = NO_AUTHOR
    ) -> Version:
        """Merge locked versions; of what conflicts in these instances, the first parent that has it wins. Returns it.

        A conflict of an earlier merge stays if no parent shows a value that was not written before it.
        Raises as `merge`; `NotFoundError` for an instance that the repo lacks, too.
        """
        names = check_list(instances, "names of data instances")
        above = to_merge(self, parents)
        self.dag.check_child(above, "")
        return resolve(self, above, [self.instance(name) for name in names], note, author)

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
        with self.catalog.names.lock, self._lock:
            current = [self.dag.versions[parent.ordinal] for parent in parents]
            self.dag.check_child(current, branch)
            header = self.catalog.names.new_header(uuid, branch, [parent.id for parent in current], note)
            self.append(Kind.VERSION, author, header)
            return self.dag.versions[self.dag.by_uuid[header["uuid"]]]

    def set_note(self, version: Ref, text: str, author: Author = NO_AUTHOR, *, overrule: bool = True) -> None:
        """Replace the note of an open version (`overrule`: of any, with `full_write`); else `VersionLockedError`."""
        with self._open_version(version, overrule=overrule) as target:
            self.append(Kind.NOTE, author, {"v": target.id, "note": text})

    def append_version_log(
        self, version: Ref, lines: Sequence[str], author: Author = NO_AUTHOR, *, overrule: bool = True
    ) -> None:
        """Add lines to the log of an open version, as `set_note`."""
        with self._open_version(version, overrule=overrule) as target:
            self.append(Kind.REPO_LOG, author, {"v": target.id, "lines": stamped(lines)})

    @contextmanager
    def _open_version(self, ref: Ref, *, overrule: bool) -> Iterator[Version]:
        self.catalog.become_writer()
        with self._lock:
            version = self.version(ref)
            if version.locked and not (overrule and self.catalog.full_write):
                raise VersionLockedError(f"version {version.uuid} is locked")
            yield version

    # --- the repo itself -------------------------------------------------------------------------------------

    def describe(
        self, alias: str | None = None, description: str | None = None, author: Author = NO_AUTHOR
    ) -> None:
        """Change alias or description."""
        self.catalog.become_writer()
        given = {"alias": alias, "description": description}
        self.append(Kind.ALIAS, author, {name: text for name, text in given.items() if text is not None})

    def append_log(self, lines: Sequence[str], author: Author = NO_AUTHOR) -> None:
        """Add lines to the repo log."""
        self.catalog.become_writer()
        self.append(Kind.REPO_LOG, author, {"lines": stamped(lines)})

    # --- instances -------------------------------------------------------------------------------------------

    def create_instance(
        self,
        type_name: str,
        name: str,
        config: Mapping[str, object] | None = None,
        version: Ref | None = None,
        author: Author = NO_AUTHOR,
        *,
        overrule: bool = True,
    ) -> Instance:
        """Create an instance at an open version.

        Parameters
        ----------
        config
            DVID's settings, such as `{"BlockSize": "64,64,64"}`: text values, any case of the keys.
        version
            Where it is created (default the head of master); it is seen from every version.
        overrule
            The version may be locked, in a store opened with `full_write`.

        Raises
        ------
        InvalidInputError
            An unknown type, a setting that is wrong, or a name that an instance cannot have.
        ConflictError
            The repo has an instance of that name.
        VersionLockedError, NotFoundError
            The version is locked, or not there.
        """
        self.catalog.become_writer()
        datatype = self.catalog.datatype(type_name)
        given = lowered(config)
        common = parse_common(given)
        parsed = datatype.instance.parse_config(given)
        with self._lock:
            at = self.dag.head("") if version is None else self.version(version)
            if at.locked and not (overrule and self.catalog.full_write):
                raise VersionLockedError(f"New data instance cannot be created on locked node {at.uuid}")
            check_name(name)
            if name in self._instances:
                raise ConflictError(f'Data named "{name}" already exists in repo (root {self.root})')
            header: dict[str, Any] = {"id": new_id(), "name": name, "type": type_name, "v": at.id}
            header |= {"config": parsed, **asdict(common)}
            header["line"] = stamped([log_text(given, type_name, name)])[0]
            self.append(Kind.INSTANCE, author, header)
            return self.instance(name)

    def rename_instance(self, old: str, new: str, author: Author = NO_AUTHOR) -> Instance:
        """Give an instance another name; writes go on meanwhile. Raises as `create_instance`, of the name."""
        self.catalog.become_writer()
        with self._lock:
            instance = self.instance(old)
            if check_name(new) in self._instances:
                raise ConflictError(f'Data named "{new}" already exists in repo (root {self.root})')
            line = stamped([f'Renamed data instance "{old}" to "{new}"'])[0]
            self.append(Kind.RENAME, author, {"id": instance.id, "name": new, "line": line})
        self.catalog.look_after(instance)  # the name is in what other readers of Zarr see
        return instance

    def delete_instance(self, name: str, author: Author = NO_AUTHOR) -> None:
        """Delete an instance in all versions, after running writes have ended; its folder goes into the trash.

        Raises `NotFoundError` if there is none, `BusyError` if writes did not end within `storage.drain_timeout_s`.
        """
        self.catalog.become_writer()
        instance = self.instance(name)
        with self._alone(instance):
            with self._lock:
                self.check_instance(instance)
                line = stamped([f'Deleted data instance "{instance.name}"'])[0]
                self.append(Kind.DELETE_INSTANCE, author, {"id": instance.id, "line": line})
            instance.close()
            self.context.trash(instance.prefix, [instance.id])

    @contextmanager
    def without_writers(self) -> Iterator[list[Instance]]:
        """Keep all instances to oneself. `BusyError` if writes did not end within `storage.drain_timeout_s`."""
        instances = list(self._instances.values())
        with ExitStack() as stack:
            for instance in instances:
                stack.enter_context(self._alone(instance))
            yield instances

    def _alone(self, instance: Instance) -> AbstractContextManager[None]:
        timeout = self.catalog.settings.storage.drain_timeout_s
        return self.gates.exclusive(("instance", instance.id), timeout, f"data instance {instance.name!r}")
