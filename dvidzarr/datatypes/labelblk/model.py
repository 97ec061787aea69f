"""Labels as Python: a uint64 volume at a version, look-up at points, and half-resolution followers. No web in here."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dvidzarr.core.errors import DvidzarrError, InvalidInputError, NotFoundError
from dvidzarr.core.geometry import CHUNK_LIMIT
from dvidzarr.core.ids import Author
from dvidzarr.datatypes.labelblk.following import Tickets, follow
from dvidzarr.datatypes.voxels.model import VoxelInstance, VoxelView
from dvidzarr.repo.datatype import DataType
from dvidzarr.storage.codecs import LABELS
from dvidzarr.storage.frames import Entry, Kind
from dvidzarr.storage.postings import pack, present, unpack

if TYPE_CHECKING:
    from dvidzarr.repo.dag import Version
    from dvidzarr.repo.repo import Repo
    from dvidzarr.repo.state import InstanceRecord
    from dvidzarr.storage.dataset import Dataset

_NO_AUTHOR = Author()
_logger = logging.getLogger("dvidzarr.datatypes")


class LabelView(VoxelView):
    """Labels at a version: a volume of uint64, (z, y, x)."""

    instance: "LabelInstance"

    def labels_at(self, points: np.ndarray) -> np.ndarray:
        """Return the labels (uint64) at points (n, 3), z, y, x; 0 where nothing was written."""
        points = np.asarray(points, np.int64).reshape(-1, 3)
        grid = np.array(self.instance.chunk)
        chunks, local = np.divmod(points, grid)
        places = np.ravel_multi_index(tuple(local.T), tuple(grid))
        labels = np.zeros(len(points), np.uint64)
        inside = np.flatnonzero(((chunks >= -CHUNK_LIMIT) & (chunks < CHUNK_LIMIT)).all(axis=1))
        keys, which = np.unique(pack(chunks[inside]), return_inverse=True)
        lineage = self.lineage()
        rows = self.chunks.resolve(keys, lineage)
        members = np.split(inside[np.argsort(which, kind="stable")], np.cumsum(np.bincount(which))[:-1])

        def look_up(index: int) -> None:
            if not there[index]:
                return
            chunk = self.chunks.read(packed[index], found[index], lineage, keep=True)
            if chunk is not None:
                labels[members[index]] = chunk.reshape(-1)[places[members[index]]]

        there, packed, found = present(rows).tolist(), keys.tolist(), rows.tolist()
        self.instance.repo.catalog.scheduler.read(look_up, len(packed))
        return labels

    @contextmanager
    def writing(self) -> "Iterator[Dataset]":
        """Pass the gates; until the end, followers do not claim to have seen what is written meanwhile."""
        with super().writing() as dataset, self.instance.tickets.open(dataset.log.tail.sequence):
            yield dataset

    def written(self, coords: np.ndarray, author: Author) -> None:
        """Bring the followers up to date: before the writer is answered, and before the version can be locked."""
        for follower in self.instance.followers():
            follower.take(self.instance, self.version, coords, author)


class LabelInstance(VoxelInstance):
    """Labels of 64 bits, in blocks. It may follow other label instances, as their half resolution (`syncs`)."""

    view_class = LabelView
    dtype = np.dtype("<u8")
    values = (("uint64", "labelblk"),)
    packing = LABELS
    interpolable: ClassVar[bool] = False

    def __init__(self, repo: "Repo", record: "InstanceRecord", datatype: DataType) -> None:
        super().__init__(repo, record, datatype)
        self.tickets = Tickets()
        self._sources: dict[str, int] = {}
        self._missed: dict[str, int] = {}
        """Sources that may have written what is not taken in yet → the last record that surely is."""

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

    def set_syncs(self, names: Iterable[str], author: Author = _NO_AUTHOR, *, replace: bool = False) -> None:
        """Follow the named label instances, as their half resolution, beside those followed now or instead of them.

        What they hold already is not downsampled, as in DVID: only what is written from now on.
        """
        chosen = [self._syncable(name) for name in names]
        with self.repo.writing_unversioned(self):
            kept = {} if replace else self.sources
            fresh = {each.id: each.dataset.log.tail.sequence for each in chosen}
            if replace or fresh.keys() - kept.keys():
                self.dataset.append(Kind.SETTINGS, None, author, {"sources": {**fresh, **kept}})

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
        with self.repo.gates.shared(("instance", self.id)):
            if self.repo.instances.get(self.name) is not self:  # deleted meanwhile
                return
            locked = self.versioned and self.repo.dag.versions[version.ordinal].locked
            amending = self.repo.amending(self, version) if locked else nullcontext()
            with amending, self.tickets.open(self.dataset.log.tail.sequence):
                upto = source.tickets.settled(source.dataset.log.tail.sequence)
                missed = self._missed.get(source.id)
                if missed is not None:
                    upto = min(upto, missed) if complete is None else complete
                view, restart = self.at(version), missed is not None
                taken = follow(source.at(version), view, coords, upto, author, restart=restart)
                view.written(taken, author)

    def prepare(self, dataset: "Dataset") -> None:
        """Note what may be missing before anybody writes: sources may have been written just before a process ended."""
        if dataset.writable:
            labels = self._all_labels()
            self._missed = {each: self._known_of(labels[each]) for each in self._sources if each in labels}

    def opened_as(self, dataset: "Dataset") -> None:
        """Look after what an earlier process left undone.

        Catching up passes gates, and who has passed one may wait until this is open: so it is done later.
        """
        super().opened_as(dataset)
        if dataset.writable and self._missed:
            name = ("catch up", self.id)
            self.repo.context.housekeeper.schedule(0, name, self._catch_up, at_close=False)

    def _known_of(self, source: "LabelInstance") -> int:
        """Return the last record of a source that is taken in: none if a power loss took records seen already."""
        try:
            tail = source.dataset.log.tail.sequence
        except DvidzarrError as error:  # these labels themselves can be read and written
            _logger.warning("%s cannot look at %s: %s", self.name, source.name, error)
            return 0
        seen = self._sources[source.id]
        return seen if seen <= tail else 0

    def completed(self, version: "Version") -> None:
        """Take in what sources have written to a version that is about to be locked, and whose gate is held alone."""
        try:
            _ = self.dataset  # now it is known what was missed
            for source, coords in self._missing(version):
                self.take(source, version, coords, _NO_AUTHOR)
        except DvidzarrError as error:  # damage, for instance: the labels themselves can be read and written
            _logger.warning("%s could not catch up at version %s: %s", self.name, version.uuid, error)

    def _missing(self, version: "Version") -> "Iterator[tuple[LabelInstance, np.ndarray]]":
        """Yield the sources of which something may be missing in a version, with the chunks (n, 3)."""
        for source in self._followed():
            missed = self._missed.get(source.id)
            if missed is None:
                continue
            keys, rows = source.dataset.arrays[0].postings.written_by(version.ordinal)
            fresh = rows["sequence"] > missed
            if fresh.any():
                yield source, unpack(keys[fresh])

    def _catch_up(self) -> None:
        """Take in what the sources have written last."""
        for source in self._followed():
            if source.id in self._missed:
                try:
                    self._catch_up_with(source)
                except DvidzarrError as error:  # the labels themselves can be read and written
                    _logger.warning("%s could not catch up with %s: %s", self.name, source.name, error)

    def _catch_up_with(self, source: "LabelInstance") -> None:
        """Do the part of those who wrote. Locked versions lack nothing: locking completes the followers.

        Unless they were written all the same, in a store opened with `full_write`.
        """
        tail = source.dataset.log.tail.sequence
        run = source.dataset.arrays[0].postings.snapshot()
        fresh = run.rows["sequence"] > self._missed[source.id]
        behind = [at for at in np.unique(run.rows["ordinal"][fresh]).tolist() if not self._is_whole(at)]
        for ordinal in behind:
            coords = unpack(run.keys[fresh & (run.rows["ordinal"] == ordinal)])
            gates = [("version", ordinal)] if self.versioned else []
            with self.repo.gates.shared(("instance", source.id), *gates):
                if not self._is_whole(ordinal):  # else it was locked while this waited
                    complete = tail if ordinal == behind[-1] else None
                    self.take(source, self.repo.dag.versions[ordinal], coords, _NO_AUTHOR, complete)
        del self._missed[source.id]

    def _is_whole(self, ordinal: int) -> bool:
        locked = self.versioned and self.repo.dag.versions[ordinal].locked
        return locked and ordinal not in self.repo.state.amended

    # --- state -----------------------------------------------------------------------------------------------

    def apply(self, entry: Entry, ordinal: int) -> None:
        """Take in a record of its log."""
        super().apply(entry, ordinal)
        header = entry.header
        if entry.kind == Kind.SETTINGS and "sources" in header:
            self._sources = header["sources"]
        elif entry.kind == Kind.CHUNKS and header.get("from") in self._sources:
            name = header["from"]
            seen = 0 if "restart" in header else self._sources[name]
            self._sources = {**self._sources, name: max(seen, header["upto"])}

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON."""
        return {**super().snapshot(), "sources": self._sources}

    def restore(self, state: dict[str, Any]) -> None:
        """Set the state to a snapshot; an empty one = as created."""
        super().restore(state)
        self._sources = state.get("sources", {})


LABELBLK = DataType(
    name="labelblk",
    url="github.com/janelia-flyem/dvid/datatype/labelblk",
    version="0.1",
    instance=LabelInstance,
    endpoints="dvidzarr.datatypes.labelblk.http:ENDPOINTS",
    help="datatypes/labelblk/help.md",
)
