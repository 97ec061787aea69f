"""Labels as Python: instances of uint64 volumes, and half-resolution followers. No web in here."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dvidzarr.core.errors import DvidzarrError, InvalidInputError, NotFoundError
from dvidzarr.core.ids import NO_AUTHOR, Author
from dvidzarr.core.texts import check_list
from dvidzarr.datatypes.labelblk.complaints import Complaints
from dvidzarr.datatypes.labelblk.following import Tickets, follow
from dvidzarr.datatypes.labelblk.gaps import Gap, Gaps
from dvidzarr.datatypes.labelblk.view import LabelView
from dvidzarr.datatypes.voxels.model import VoxelInstance
from dvidzarr.datatypes.voxels.settings import VOXEL_SETTINGS
from dvidzarr.repo.datatype import DataType
from dvidzarr.storage.chunkkeys import unpack
from dvidzarr.storage.codecs import LABELS
from dvidzarr.storage.frames import Entry, Kind

if TYPE_CHECKING:
    from dvidzarr.repo.dag import Version
    from dvidzarr.repo.repo import Repo
    from dvidzarr.repo.state import InstanceRecord
    from dvidzarr.storage.dataset import Dataset

_RETRY_S = 30.0
"""After so long a follower that could not take something in tries again."""
_logger = logging.getLogger("dvidzarr.datatypes")


class LabelInstance(VoxelInstance):
    """Labels of 64 bits, in blocks. It may follow other label instances, as their half resolution (`syncs`)."""

    view_class = LabelView
    dtype = np.dtype("<u8")
    values = (("uint64", "labelblk"),)
    compressor = LABELS
    interpolable: ClassVar[bool] = False

    def __init__(self, repo: "Repo", record: "InstanceRecord", datatype: DataType) -> None:
        super().__init__(repo, record, datatype)
        self.tickets = Tickets()
        self._sources: dict[str, int] = {}
        self._since: dict[str, int] = {}
        """The instances it follows → the last record of each before that began."""
        self._gaps = Gaps()
        self._complaints = Complaints()
        self._opened_at = 0

    # --- what DVID shows -------------------------------------------------------------------------------------

    def extended(self, version: "Version") -> dict[str, Any]:
        """Return DVID's "Extended": with the extents last grown at any version, and without indices (§7.1)."""
        self.at(version).lineage()  # a follower of the store reads on
        return {**self.properties(self._latest), "MinIndex": None, "MaxIndex": None}

    def described(self, version: "Version") -> dict[str, Any]:
        """Return "Extended" alone: spec-voxels §7.1."""
        return {"Extended": self.extended(version)}

    # --- synced instances ------------------------------------------------------------------------------------

    @property
    def sources(self) -> dict[str, int]:
        """The instances it follows: id → the last record of it that is known to be taken in."""
        _ = self.dataset  # the log may hold changes
        return self._sources

    @property
    def syncs(self) -> tuple[str, ...]:
        """Names of the instances it is synced with."""
        return tuple(source.name for source in self._followed())

    def followers(self) -> "list[LabelInstance]":
        """Return the instances that follow this one."""
        return [each for each in self._all_labels().values() if self.id in each.sources]

    def _followed(self) -> "list[LabelInstance]":
        labels = self._all_labels()
        return [labels[source] for source in self.sources if source in labels]

    def _all_labels(self) -> "dict[str, LabelInstance]":
        instances = self.repo.instances.values()
        return {each.id: each for each in instances if isinstance(each, LabelInstance)}

    def follows(self, other: "LabelInstance") -> bool:
        """Tell whether this is another instance, or follows it directly or through others."""
        return self is other or any(source.follows(other) for source in self._followed())

    def set_syncs(self, names: Iterable[str], author: Author = NO_AUTHOR, *, replace: bool = False) -> None:
        """Follow the named label instances, as their half resolution, beside those followed now or instead of them.

        What they hold already is not downsampled, as in DVID: only what is written from now on.
        """
        chosen = [self._syncable(name) for name in check_list(names, "names of data instances")]
        with self.repo.writing_unversioned(self):
            kept = {} if replace else self.sources
            fresh = {each.id: each.dataset.log.tail.sequence for each in chosen}
            if replace or fresh.keys() - kept.keys():
                since = {name: self._since.get(name, seen) for name, seen in kept.items()}
                header = {"sources": {**fresh, **kept}, "since": {**fresh, **since}}
                self.dataset.append(Kind.SETTINGS, None, author, header)
                self._gaps.forget(fresh.keys() - kept.keys())
                synced = " ".join(f"{source}:{{}}" for source in sorted({**fresh, **kept}))
                line = f'Data instance "{self.name}" set to sync with map[{synced}]'
                self.repo.append_log([line], author)

    def _syncable(self, name: str) -> "LabelInstance":
        try:
            source = self.repo.instance(name)
        except NotFoundError as error:
            raise InvalidInputError(f'issue with requested sync name "{name}": {error}') from error
        if not isinstance(source, LabelInstance):
            raise InvalidInputError(
                f'data "{self.name}" cannot be synced with "{name}" of type {source.datatype.name}'
            )
        if source.versioned != self.versioned:
            raise InvalidInputError(f'of "{self.name}" and "{name}", only one is versioned')
        if source.follows(self):
            raise InvalidInputError(f'"{name}" is or follows "{self.name}": nothing can follow itself')
        return source

    def take(
        self,
        source: "LabelInstance",
        version: "Version",
        coords: np.ndarray,
        author: Author,
        complete: int | None = None,
    ) -> None:
        """Downsample chunks (n, 3) of a source into a version whose gate the caller has passed.

        `complete` is the record of the source up to which this was the last that was missing.
        """
        try:
            with self.repo.gates.shared(("instance", self.id)):
                if self._deleted:
                    return
                locked = self.versioned and self.repo.dag.versions[version.ordinal].locked
                amending = self.repo.amending(self, version) if locked else nullcontext()
                with amending, self.tickets.open(self.dataset.log.tail.sequence):
                    upto = source.tickets.settled(source.dataset.log.tail.sequence)
                    gap = self._gap(source)
                    if gap is not None:
                        upto = min(upto, gap.upto) if complete is None else complete
                    view, restart = self.at(version), gap is not None
                    taken = follow(source.at(version), view, coords, upto, author, restart=restart)
                    view.written(taken, author)
        except BaseException:  # the next write must not claim this one
            if source.id in self._sources:
                self._gaps.add(source.id, self._sources[source.id])
                self._catch_up_later(_RETRY_S)
            raise

    @property
    def _deleted(self) -> bool:
        return self.repo.instances.get(self.name) is not self

    def prepare(self, dataset: "Dataset") -> None:
        """Note what may be missing before anybody writes: sources may have been written just before a process ended."""
        self._opened_at = dataset.log.tail.sequence
        if dataset.writable:
            self._gaps.suspect(self._sources)

    def opened_as(self, dataset: "Dataset") -> None:
        """Look after what an earlier process left undone.

        Catching up passes gates, and who has passed one may wait until this is open: so it is done later.
        """
        super().opened_as(dataset)
        if dataset.writable and self._sources:
            self._catch_up_later(0)

    def _gap(self, source: "LabelInstance") -> Gap | None:
        """Return what may be missing of a source; raise if it cannot be opened: nothing is known then."""
        _ = source.dataset
        return self._gaps.find(source.id, source._opened_at, self._since.get(source.id, source._opened_at))

    def completed(self, version: "Version") -> None:
        """Take in what sources have written to a version that is about to be locked, and whose gate is held alone.

        Raises
        ------
        DvidzarrError
            That failed, so the version must not be locked: what it lacks then is never made up.
        """
        try:
            for source, coords in self._missing(version):
                self.take(source, version, coords, NO_AUTHOR)
        except DvidzarrError as error:
            raise type(error)(
                f'version {version.uuid} cannot be locked: data "{self.name}" could not take in what was written '
                f"to the data it is synced with: {error}"
            ) from error

    def _missing(self, version: "Version") -> "Iterator[tuple[LabelInstance, np.ndarray]]":
        """Yield the sources of which something may be missing in a version, with the chunks (n, 3)."""
        for source in self._followed():
            gap = self._gap(source)
            if gap is None:
                continue
            keys, rows = source.dataset.arrays[0].postings.written_by(version.ordinal)
            fresh = rows["sequence"] > gap.upto
            if fresh.any():
                yield source, unpack(keys[fresh])

    def _catch_up_later(self, wait: float) -> None:
        name = ("catch up", self.id)
        self.repo.context.housekeeper.schedule(wait, name, self._catch_up, at_close=False)

    def _catch_up(self) -> None:
        """Take in what the sources have written last; later, what cannot be taken in now."""
        if not self.opened or self._deleted:
            return
        followed = self._followed()
        try:
            for source in followed:
                try:
                    self._catch_up_with(source)
                    self._complaints.withdraw(source.id)
                except (DvidzarrError, OSError) as error:  # the labels themselves can be read and written
                    if self._complaints.is_due(source.id, str(error)):
                        _logger.warning("%s could not catch up with %s: %s", self.name, source.name, error)
        finally:
            if any(source.id in self._gaps for source in followed):
                self._catch_up_later(_RETRY_S)

    def _catch_up_with(self, source: "LabelInstance") -> None:
        """Do the part of those who wrote. Locked versions lack nothing: locking completes the followers.

        Unless they were written all the same, in a store opened with `full_write`.
        """
        gap = self._gap(source)
        if gap is None:
            return
        tail = source.dataset.log.tail.sequence
        run = source.dataset.arrays[0].postings.snapshot()
        fresh = run.rows["sequence"] > gap.upto
        behind = [at for at in np.unique(run.rows["ordinal"][fresh]).tolist() if not self._is_whole(at)]
        for ordinal in behind:
            coords = unpack(run.keys[fresh & (run.rows["ordinal"] == ordinal)])
            gates = [("version", ordinal)] if self.versioned else []
            with self.repo.gates.shared(("instance", source.id), *gates):
                if not self._is_whole(ordinal):  # else it was locked while this waited
                    complete = tail if ordinal == behind[-1] else None
                    self.take(source, self.repo.dag.versions[ordinal], coords, NO_AUTHOR, complete)
        self._gaps.close(source.id, gap)

    def _is_whole(self, ordinal: int) -> bool:
        locked = self.versioned and self.repo.dag.versions[ordinal].locked
        return locked and ordinal not in self.repo.state.amended

    # --- state -----------------------------------------------------------------------------------------------

    def apply(self, entry: Entry, ordinal: int) -> None:
        """Take in a record of its log."""
        super().apply(entry, ordinal)
        header = entry.header
        if entry.kind == Kind.SETTINGS and "sources" in header:
            kept = {name: self._since.get(name, seen) for name, seen in header["sources"].items()}
            self._since = header.get("since", kept)
            self._sources = header["sources"]
        elif entry.kind == Kind.CHUNKS and header.get("from") in self._sources:
            name = header["from"]
            seen = 0 if "restart" in header else self._sources[name]
            self._sources = {**self._sources, name: max(seen, header["upto"])}

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON."""
        return {**super().snapshot(), "sources": self._sources, "since": self._since}

    def restore(self, state: dict[str, Any]) -> None:
        """Set the state to a snapshot; an empty one = as created."""
        super().restore(state)
        self._sources = state.get("sources", {})
        self._since = state.get("since", self._sources)


LABELBLK = DataType(
    name="labelblk",
    url="github.com/janelia-flyem/dvid/datatype/labelblk",
    version="0.1",
    instance=LabelInstance,
    endpoints="dvidzarr.datatypes.labelblk.http:ENDPOINTS",
    help="datatypes/labelblk/help.md",
    settings=VOXEL_SETTINGS,
)
