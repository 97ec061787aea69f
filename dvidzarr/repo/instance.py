"""A data instance. Datatypes subclass it, and `View`."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from dvidzarr.core.errors import StorageError
from dvidzarr.core.ids import NO_AUTHOR, Author
from dvidzarr.core.texts import texts_by_name
from dvidzarr.repo.dag import Ref, Version
from dvidzarr.repo.datatype import DataType
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.durability import begin
from dvidzarr.storage.frames import Entry, Kind
from dvidzarr.storage.merging import Unversioned, Versions
from dvidzarr.storage.tidying import tidy

if TYPE_CHECKING:
    from dvidzarr.repo.repo import Repo
    from dvidzarr.repo.state import InstanceRecord
    from dvidzarr.repo.view import View


class Instance:
    """One named, typed dataset of a repo. Its dataset on the store is opened when first needed.

    `_opening` guards that; afterwards the dataset guards itself.
    """

    view_class: "type[View]"
    unites: ClassVar[bool] = False
    """Whether a merge shows the documents of all its parents together, so that none are in conflict."""

    def __init__(self, repo: "Repo", record: "InstanceRecord", datatype: DataType) -> None:
        self.repo = repo
        self.datatype = datatype
        self.id = record.id
        self._record = record
        self._opening = threading.Lock()
        self._tagging = threading.Lock()
        self._dataset: Dataset | None = None
        self._tags = record.tags

    def __repr__(self) -> str:
        return f"<{self.datatype.name} {self.name!r} of repo {self.repo.root}>"

    # --- what it is ------------------------------------------------------------------------------------------

    @classmethod
    def parse_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return what a datatype keeps of DVID's configuration (lower-case keys), as JSON; raise if it is invalid."""
        return {}

    @property
    def name(self) -> str:
        """Its name in the repo."""
        return self._record.name

    @property
    def uuid(self) -> str:
        """DVID's DataUUID."""
        return self.id

    @property
    def versioned(self) -> bool:
        """False: one state for all versions, never locked."""
        return self._record.versioned

    @property
    def compression(self) -> str:
        """DVID's compression setting, such as "lz4" or "gzip:6": it shows on the wire only."""
        return self._record.compression

    @property
    def checksum(self) -> str:
        """DVID's checksum setting."""
        return self._record.checksum

    @property
    def tags(self) -> dict[str, str] | None:
        """DVID's tags, None if never set."""
        _ = self.dataset  # the log may hold changes
        return self._tags

    def set_tags(self, tags: Mapping[str, str], author: Author = NO_AUTHOR, *, replace: bool = False) -> None:
        """Add tags (unversioned), or replace all; raise `ForbiddenError` or `BusyError` where the store takes no writes."""
        given = texts_by_name(tags, "tags")
        with self.repo.writing_unversioned(self), self._tagging:
            merged = given if replace else {**(self.tags or {}), **given}
            self.dataset.append(Kind.SETTINGS, None, author, {"tags": merged})

    @property
    def syncs(self) -> tuple[str, ...]:
        """Names of the instances it is synced with."""
        return ()

    @property
    def created_at(self) -> Version:
        """The version at which it was created."""
        return self.repo.dag.versions[self._record.created_at]

    def renamed(self, record: "InstanceRecord") -> None:
        """Take over a changed record."""
        self._record = record

    def extended(self, version: Version) -> dict[str, Any]:
        """Return DVID's "Extended" JSON members at a version."""
        return {}

    def described(self, version: Version) -> dict[str, Any]:
        """Return the members of DVID's instance JSON beside "Base"."""
        return {"Extended": self.extended(version)}

    def at(self, ref: Ref | None = None) -> "View":
        """Return the view at a version: a reference, a `Version`, or None for the head of master.

        Raises as `Catalog.resolve`.
        """
        version = self.repo.dag.head("") if ref is None else self.repo.version(ref)
        return self.view_class(self, version)

    def locked(self, version: Version) -> bool:
        """Tell whether a version is locked to everybody: not so in a store opened with `full_write`."""
        locked = self.versioned and self.repo.dag.versions[version.ordinal].locked
        return locked and not self.repo.catalog.full_write

    def sealed(self, version: Version) -> bool:
        """Tell whether what this instance shows at a version can never change, nor ever did since it was locked."""
        return self.versioned and self.repo.sealed(version)

    # --- its dataset -----------------------------------------------------------------------------------------

    def declare(self, dataset: Dataset) -> None:
        """Add the arrays of the datatype to a new dataset."""

    @property
    def dataset(self) -> Dataset:
        """The instance on the store, opened if it was not; a follower of the store has read on in its log."""
        dataset = self._dataset
        if dataset is None:
            return self._open_existing()
        dataset.follow()
        return dataset

    def check_exists(self) -> None:
        """Raise `NotFoundError` if it was deleted, also by the process that is followed."""
        self.repo.catalog.refresh()
        self.repo.check_instance(self)

    @property
    def opened(self) -> bool:
        """Whether the dataset is open."""
        return self._dataset is not None

    @property
    def current(self) -> bool:
        """Whether looking at the dataset takes no time: it is open, and nothing is to be read on (or it is ours)."""
        dataset = self._dataset
        if dataset is None:
            return self.repo.writable
        return dataset.writable or not dataset.log.behind

    def catch_up(self) -> None:
        """Open the dataset; as a follower read on in its log."""
        _ = self.dataset

    def _open_existing(self) -> Dataset:
        """Open the dataset. One that another process deletes looks damaged or empty."""
        try:
            dataset = self._open()
        except StorageError:
            self.check_exists()
            raise
        if not dataset.writable:
            self.check_exists()
        return dataset

    def _open(self) -> Dataset:
        with self.repo.catalog.opening, self._opening:
            if self._dataset is None:
                self.repo.catalog.check_usable()
                self.repo.check_instance(self)
                dataset = Dataset(self.repo.context, self.prefix, self.id, self.versions, self)
                self.declare(dataset)
                writable = self.repo.writable
                dataset.log.sealed = self.sealed_upto
                self.restore({})  # it may have been open before
                try:
                    dataset.open(writable=writable)
                    if writable:
                        begin(dataset)
                    self.prepare(dataset)
                except BaseException:
                    dataset.close()
                    raise
                # not before: it may close this instance, which waits for `_opening`
                dataset.check_exists = dataset.caches.check_exists = self.check_exists
                self._dataset = dataset
                self.opened_as(dataset)
            return self._dataset

    def derived_files(self) -> dict[str, bytes]:
        """Return the files that follow from the log, by key; who writes makes them anew when it opens the instance."""
        return {}

    def finished(self) -> None:
        """Note that the overlays of all locked versions lie under their Zarr keys."""

    def reopened(self, version: Version) -> None:
        """Note that a locked version is about to be written."""

    def completed(self, version: Version) -> None:
        """Write what a version must hold before it is locked; the caller holds its gate alone."""

    def resolved(self, version: Version, parents: Sequence[Version], author: Author) -> None:
        """Settle what parents of a merge conflict in besides chunks and keys: the first one that has something wins."""

    def prepare(self, dataset: Dataset) -> None:
        """Note what must be known of a dataset that was opened before anybody uses it."""

    def opened_as(self, dataset: Dataset) -> None:
        """Look after what an earlier process left undone."""
        if dataset.writable:
            self.repo.context.housekeeper.schedule(0, ("tidy", self.id), lambda: tidy(dataset))
            if self.versioned:
                self.repo.overlays.finish_later(self)

    @property
    def versions(self) -> Versions:
        """The versions that its data know: those of the repo, or the one pseudo-version."""
        return self.repo.versions if self.versioned else Unversioned()

    @property
    def sealed_upto(self) -> int:
        """The last record of its log for which a commit vouches, 0 if there is none."""
        return self.repo.state.seals.get(self.id, 0) if self.versioned else 0

    @property
    def prefix(self) -> str:
        """Its folder on the store."""
        return f"{self.repo.prefix}/data/{self.id}"

    def promote(self) -> None:
        """Become writable together with the repo."""
        with self._opening:
            if self._dataset is not None:
                self._dataset.log.sealed = self.sealed_upto
                self._dataset.promote()
                begin(self._dataset)
                self.prepare(self._dataset)
                self.opened_as(self._dataset)

    def records(self) -> Iterator[Entry]:
        """Yield the records of its log."""
        return self.dataset.log.records(self.dataset.log.tail.sequence)

    def close(self) -> None:
        """Close the dataset."""
        with self._opening:
            if self._dataset is not None:
                self._dataset.close()
                self._dataset = None

    # --- Model -----------------------------------------------------------------------------------------------

    def apply(self, entry: Entry, ordinal: int) -> None:
        """Take in a record of its log."""
        if entry.kind == Kind.SETTINGS and "tags" in entry.header:
            self._tags = entry.header["tags"]

    def snapshot(self) -> dict[str, Any]:
        """Return what `restore` needs, as JSON."""
        return {"tags": self._tags}

    def restore(self, state: dict[str, Any]) -> None:
        """Set the state to a snapshot; an empty one = as created."""
        self._tags = state.get("tags", self._record.tags)

    def blank(self) -> Self:
        """Return another one as created, without a dataset."""
        instance = self.datatype.instance(self.repo, self._record, self.datatype)
        return cast("Self", instance)
