"""Labels as Python: a uint64 volume at a version, look-up at points, and half-resolution followers. No web in here."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import CHUNK_LIMIT
from dvidzarr.core.ids import Author
from dvidzarr.datatypes.labelblk.following import Source, Tickets, follow
from dvidzarr.datatypes.voxels.model import VoxelInstance, VoxelView
from dvidzarr.repo.datatype import DataType
from dvidzarr.storage.codecs import LABELS
from dvidzarr.storage.frames import Entry, Kind
from dvidzarr.storage.postings import pack, present

if TYPE_CHECKING:
    from dvidzarr.repo.dag import Version
    from dvidzarr.repo.repo import Repo
    from dvidzarr.repo.state import InstanceRecord
    from dvidzarr.storage.dataset import Dataset

_NO_AUTHOR = Author()


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
        inside = np.flatnonzero((np.abs(chunks) < CHUNK_LIMIT).all(axis=1))
        keys, which = np.unique(pack(chunks[inside]), return_inverse=True)
        lineage = self.lineage()
        rows = self.chunks.resolve(keys, lineage)
        members = np.split(inside[np.argsort(which, kind="stable")], np.cumsum(np.bincount(which))[:-1])

        def look_up(start: int, stop: int) -> None:
            for index in range(start, stop):
                if not there[index]:
                    continue
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
        self._sources: dict[str, Source] = {}

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
    def sources(self) -> dict[str, Source]:
        """The instances it follows, by id."""
        _ = self.dataset  # the log may hold changes
        return self._sources

    @property
    def syncs(self) -> tuple[str, ...]:
        """Names of the instances it is synced with."""
        names = {instance.id: name for name, instance in self.repo.instances.items()}
        return tuple(names[source] for source in self.sources if source in names)

    def followers(self) -> "list[LabelInstance]":
        """Return the instances that follow this one."""
        labels = [each for each in self.repo.instances.values() if isinstance(each, LabelInstance)]
        return [each for each in labels if self.id in each.sources]

    def set_syncs(self, names: Iterable[str], author: Author = _NO_AUTHOR, *, replace: bool = False) -> None:
        """Follow the named label instances, as their half resolution, beside those followed now or instead of them.

        What they hold already is not downsampled, as in DVID: only what is written from now on.
        """
        chosen = [self._syncable(name) for name in names]
        with self.repo.writing_unversioned(self):
            kept = {} if replace else dict(self.sources)
            fresh = {each.id: Source(each.dataset.log.tail.sequence) for each in chosen}
            sources = {**fresh, **kept}
            if replace or fresh.keys() - kept.keys():
                header = {"sources": {name: source.upto for name, source in sources.items()}}
                self.dataset.append(Kind.SETTINGS, None, author, header)

    def _syncable(self, name: str) -> "LabelInstance":
        try:
            source = self.repo.instance(name)
        except LookupError as error:
            raise InvalidInputError(f'issue with requested sync name "{name}": {error}') from error
        if not isinstance(source, LabelInstance):
            raise InvalidInputError(
                f'data "{self.name}" cannot be synced with "{name}" of type {source.datatype.name}'
            )
        if source.versioned != self.versioned:
            raise InvalidInputError(f'of "{self.name}" and "{name}", only one is versioned')
        if source.depends_on(self):
            raise InvalidInputError(f'"{name}" is "{self.name}", or follows it: nothing can follow itself')
        return source

    def depends_on(self, other: "LabelInstance") -> bool:
        """Tell whether this is another instance, or follows it directly or not."""
        return self is other or any(source.depends_on(self) for source in other.followers())

    def take(self, source: "LabelInstance", version: "Version", coords: np.ndarray, author: Author) -> None:
        """Downsample chunks (n, 3) of a source into a version; the caller has passed the version's gate."""
        with (
            self.repo.writing_unversioned(self),
            self.tickets.open(self.dataset.log.tail.sequence),
        ):
            view = self.at(version)
            upto = source.tickets.settled(source.dataset.log.tail.sequence, source.at(version).ordinal)
            touched = follow(source.at(version), view, coords, upto, author)
            view.written(touched, author)

    def opened_as(self, dataset: "Dataset") -> None:
        """Look after what an earlier process left undone: also sources written just before it ended."""
        super().opened_as(dataset)
        if dataset.writable:
            self._catch_up()

    def _catch_up(self) -> None:
        """Take in what sources wrote last; locked versions lack nothing, for locking waits for followers."""
        instances = {each.id: each for each in self.repo.instances.values()}
        for source_id, cursor in self._sources.items():
            source = instances.get(source_id)
            if not isinstance(source, LabelInstance):
                continue
            upto = source.dataset.log.tail.sequence
            for ordinal, coords in source.written_since(cursor.upto if cursor.upto <= upto else 0).items():
                version = self.repo.dag.versions[ordinal]
                if not self.sealed(version):
                    follow(source.at(version), self.at(version), coords, upto, _NO_AUTHOR)
