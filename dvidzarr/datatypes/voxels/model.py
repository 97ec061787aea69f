"""Voxel instances: an image volume with its settings, and its extents in every version. No web in here."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from dvidzarr.core.geometry import ZYX, Box
from dvidzarr.core.ids import NO_AUTHOR, Author
from dvidzarr.datatypes.voxels.hierarchy import Hierarchy
from dvidzarr.datatypes.voxels.info import float32_json, indices, points
from dvidzarr.datatypes.voxels.settings import VoxelSettings, parse_settings, parse_voxel_size
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.datatype import DataType
from dvidzarr.repo.instance import Instance
from dvidzarr.storage.codecs import GRAY, ChunkCodec, Compressor
from dvidzarr.storage.frames import Entry, Kind
from dvidzarr.storage.merging import writers_shown

if TYPE_CHECKING:
    from dvidzarr.repo.dag import Ref, Version
    from dvidzarr.repo.repo import Repo
    from dvidzarr.repo.state import InstanceRecord
    from dvidzarr.storage.dataset import Dataset

__all__ = ["VoxelInstance", "VoxelView"]


class VoxelInstance(Instance):
    """An image volume: chunks of one dtype, and extents per version. Subclasses are types."""

    view_class = VoxelView
    dtype: ClassVar[np.dtype[Any]]
    values: ClassVar[tuple[tuple[str, str], ...]]
    """DVID's (DataType, Label) of each channel."""

    compressor: ClassVar[Compressor] = GRAY
    """How its chunks are compressed on the store."""

    interpolable: ClassVar[bool] = True

    def __init__(self, repo: "Repo", record: "InstanceRecord", datatype: DataType) -> None:
        super().__init__(repo, record, datatype)
        self._created_with = self._settings = VoxelSettings.from_json(record.config)
        self._extents: dict[int, Box] = {}
        self._shown: dict[int, Box | None] = {}
        """What versions without extents of their own show; a fresh one whenever extents change."""
        self._latest: Box | None = self._created_with.extents
        """The extents of the last write that grew those of its version."""

        self.hierarchy = Hierarchy(self)

    @classmethod
    def parse_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the settings as JSON."""
        return parse_settings(config, cls.dtype.itemsize).to_json()

    @property
    def chunk(self) -> ZYX:
        """Chunk shape (z, y, x) = DVID's BlockSize."""
        return self._created_with.block_size_zyx

    @property
    def settings(self) -> VoxelSettings:
        """The unversioned properties."""
        _ = self.dataset  # the log may hold changes
        return self._settings

    def at(self, ref: "Ref | None" = None) -> VoxelView:
        """Return the view at a version: a reference, a `Version`, or None for the head of master.

        Raises as `Catalog.resolve`.
        """
        return cast("VoxelView", super().at(ref))

    def declare(self, dataset: "Dataset") -> None:
        """Add the array of scale 0."""
        dataset.add_array(0, ChunkCodec(self.chunk, self.dtype, self.compressor))

    def set_resolution(self, voxel_size_xyz: Iterable[float], author: Author = NO_AUTHOR) -> None:
        """Set the voxel size (x, y, z, in the instance's units) of all versions.

        Raises
        ------
        InvalidInputError
            These are not three finite numbers.
        ForbiddenError, BusyError
            The store was opened for reading; another process writes.
        """
        sizes = parse_voxel_size(list(voxel_size_xyz))
        with self.repo.writing_unversioned(self):
            self.dataset.append(Kind.SETTINGS, None, author, {"voxel_size_xyz": sizes})
        self.hierarchy.write_later()

    def resolved(self, version: "Version", parents: "Sequence[Version]", author: Author) -> None:
        """Take the extents of the first parent that has any where their lines stored different ones."""
        if self.stored_extents(version.ordinal) is None:
            found = (self.stored_extents(parent.ordinal) for parent in parents)
            first = next((box for box in found if box is not None), None)
            if first is not None:
                self.at(version).set_extents(first, author)

    # --- state -----------------------------------------------------------------------------------------------

    def apply(self, entry: Entry, ordinal: int) -> None:
        """Take in a record of its log."""
        super().apply(entry, ordinal)
        header = entry.header
        if entry.kind == Kind.CHUNKS and "grow" in header:
            grown, seen = Box.of(*header["grow"]), self.stored_extents(ordinal)
            grown = grown if seen is None else seen.union(grown)
            if grown != seen:  # else it is not written, as in DVID: a merge shows what another line wrote
                self._latest = grown
                self._set_extents(ordinal, grown)
        elif entry.kind == Kind.EXTENTS:
            self._set_extents(ordinal, Box.of(*header["box"]))
        elif entry.kind == Kind.SETTINGS and "voxel_size_xyz" in header:
            members = {**self._settings.to_json(), "voxel_size_xyz": header["voxel_size_xyz"]}
            self._settings = VoxelSettings.from_json(members)

    def _set_extents(self, ordinal: int, box: Box) -> None:
        self._extents[ordinal] = box
        self._shown = {}

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON."""
        boxes = [[ordinal, box.start, box.stop] for ordinal, box in list(self._extents.items())]
        latest = None if self._latest is None else [self._latest.start, self._latest.stop]
        return {
            **super().snapshot(),
            "extents": boxes,
            "latest": latest,
            "settings": self._settings.to_json(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Set the state to a snapshot; an empty one = as created."""
        super().restore(state)
        settings = state.get("settings")
        self._settings = self._created_with if settings is None else VoxelSettings.from_json(settings)
        latest = state.get("latest")
        self._latest = self._created_with.extents if latest is None else Box.of(*latest)
        self._extents = {ordinal: Box.of(start, stop) for ordinal, start, stop in state.get("extents", ())}
        self._shown = {}

    def stored_extents(self, ordinal: int) -> Box | None:
        """Return the extents stored at a version or its nearest ancestor; None, too, where lines of a merge differ."""
        shown = self._shown  # before the extents, so that nothing outdated is noted in a fresh one
        extents = self._extents
        if ordinal in extents:
            return extents[ordinal]
        if ordinal not in shown:
            writers = writers_shown(self.versions, tuple(extents), ordinal)
            shown[ordinal] = extents[next(iter(writers))] if len(writers) == 1 else None
        return shown[ordinal]

    def extents_at(self, ordinal: int) -> Box | None:
        """Return the extents of a version; where there are none, the last ones grown anywhere (DVID's quirk)."""
        stored = self.stored_extents(ordinal)
        return self._latest if stored is None else stored

    @classmethod
    def samples(cls, plane: np.ndarray) -> np.ndarray:
        """Return what a picture of a plane (y, x) is made of; colours get their channels as a last axis."""
        return plane

    def extended(self, version: "Version") -> dict[str, Any]:
        """Return DVID's "Extended" members: spec-voxels §6.2."""
        return self.properties(self.at(version).extents)

    def properties(self, extents: Box | None) -> dict[str, Any]:
        """Return the settings and these extents as DVID's "Extended" shows them."""
        settings = self.settings
        return {
            "Values": [{"DataType": kind, "Label": label} for kind, label in self.values],
            "Interpolable": self.interpolable,
            "BlockSize": list(settings.block_size_zyx[::-1]),
            "VoxelSize": [float32_json(size) for size in settings.voxel_size_xyz],
            "VoxelUnits": list(settings.voxel_units_xyz),
            **points(extents),
            **indices(extents, self.chunk),
            "Background": settings.background,
            "GridStore": settings.grid_store,
            "ScaleLevel": settings.scale_level,
        }

    def described(self, version: "Version") -> dict[str, Any]:
        """Return "Extended", and "Extents" once more: spec-voxels §6.2."""
        return {**super().described(version), "Extents": points(self.at(version).extents)}

    def opened_as(self, dataset: "Dataset") -> None:
        """Look after what an earlier process left undone."""
        super().opened_as(dataset)
        if dataset.writable and dataset.log.tail.sequence:
            self.hierarchy.write_later()

    def renamed(self, record: "InstanceRecord") -> None:
        """Take over a changed record; the root version's metadata say the name too."""
        changed = record.name != self.name
        super().renamed(record)
        if changed and self.opened:
            self.hierarchy.write_later()

    def derived_files(self) -> dict[str, bytes]:
        """Return the root version's metadata; there is none before anything was recorded."""
        return self.hierarchy.files() if self.dataset.log.tail.sequence else {}

    def finished(self) -> None:
        """Say `locked` in the root version's metadata once its overlay is finished."""
        self.hierarchy.write()

    def reopened(self, version: "Version") -> None:
        """Say `open` in the root version's metadata before a chunk of it changes."""
        if not version.parents:
            self.hierarchy.write()
