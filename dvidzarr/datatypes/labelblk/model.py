"""Labels as Python: a uint64 volume at a version, look-up at points, and half-resolution followers. No web in here."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
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

    def take(self, source: "LabelInstance", version: "Version", coords: np.ndarray, author: Author) -> None:
        """Downsample chunks (n, 3) of a source into a version whose gate the caller has passed."""
        with self.repo.gates.shared(("instance", self.id)):
            if self.repo.instances.get(self.name) is not self:  # deleted meanwhile
                return
            locked = self.versioned and self.repo.dag.versions[version.ordinal].locked
            amending = self.repo.amending(self, version) if locked else nullcontext()
            with amending, self.tickets.open(self.dataset.log.tail.sequence):
                upto = source.tickets.settled(source.dataset.log.tail.sequence)
                view = self.at(version)
                view.written(follow(source.at(version), view, coords, upto, author), author)

    def opened_as(self, dataset: "Dataset") -> None:
        """Look after what an earlier process left undone: also sources written just before it ended."""
        super().opened_as(dataset)
        if dataset.writable:
            for source in self._followed():
                try:
                    self._catch_up(source)
                except DvidzarrError as error:  # the labels themselves can be read and written
                    _logger.warning("%s could not catch up with %s: %s", self.name, source.name, error)

    def _catch_up(self, source: "LabelInstance") -> None:
        """Take in what a source has written last. Locked versions lack nothing: locking waits for followers.

        Unless they were written all the same, in a store opened with `full_write`.
        """
        tail = source.dataset.log.tail.sequence
        seen = self._sources[source.id]
        if seen > tail:  # a power loss took records that this had seen already
            seen = 0
        run = source.dataset.arrays[0].postings.snapshot()
        fresh = run.rows["sequence"] > seen
        written = [self.repo.dag.versions[at] for at in np.unique(run.rows["ordinal"][fresh]).tolist()]
        amended = self.repo.state.amended
        behind = [
            each for each in written if not each.locked or not self.versioned or each.ordinal in amended
        ]
        for version in behind:
            coords = unpack(run.keys[fresh & (run.rows["ordinal"] == version.ordinal)])
            upto = tail if version is behind[-1] else seen
            with ExitStack() as stack:
                if (
                    version.ordinal in amended
                ):  # the gate of an open one may be held by a commit that opens this
                    stack.enter_context(self.repo.gates.shared(("version", version.ordinal)))
                    self.reopened(version)
                follow(source.at(version), self.at(version), coords, upto, _NO_AUTHOR, restart=True)
        self.repo.finish_later(self)

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
