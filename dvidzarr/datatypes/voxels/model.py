"""Voxel instances as Python: boxes of numpy arrays at a version. No web in here."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from dvidzarr.compute.read import Reader
from dvidzarr.compute.write import write_box, write_chunk_arrays
from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import ZYX, Box, ChunkSpan
from dvidzarr.core.ids import Author
from dvidzarr.datatypes.voxels.info import float32_json, indices, points
from dvidzarr.datatypes.voxels.masking import MaskedReader
from dvidzarr.datatypes.voxels.settings import VoxelSettings, parse_settings, parse_voxel_size
from dvidzarr.repo.datatype import DataType
from dvidzarr.repo.instance import Instance, View
from dvidzarr.storage.chunks import ChunkStore
from dvidzarr.storage.codecs import GRAY, ChunkCodec, Packing
from dvidzarr.storage.frames import Entry, Kind
from dvidzarr.storage.zarrmeta import array_document, encoded, group_document, ngff

if TYPE_CHECKING:
    import dask.array
    import xarray
    import zarr

    from dvidzarr.repo.dag import Version
    from dvidzarr.repo.repo import Repo
    from dvidzarr.repo.state import InstanceRecord
    from dvidzarr.storage.dataset import Dataset
    from dvidzarr.storage.zarrview import VersionedStore

_NO_AUTHOR = Author()
_METADATA_DELAY_S = 1.0  # zarr.json is derived state: written at most once a second


class VoxelView(View):
    """A volume at a version. Everything is (z, y, x); voxels that were never written read 0."""

    instance: "VoxelInstance"
    roi: View | None = None
    """The region of interest to which reads and writes are restricted; see `masked`."""

    def masked(self, roi: View | str) -> Self:
        """Return this volume within a region of interest: a view of it, or its name (the same version then).

        Whole blocks count, and image and region are compared block by block whatever their block sizes. Reads show
        Background (types of one byte) or 0 outside; writes leave what is outside as it is.
        """
        view = type(self)(self.instance, self.version)
        view.roi = self.instance.repo.instance(roi).at(self.version) if isinstance(roi, str) else roi
        return view

    @property
    def chunks(self) -> ChunkStore:
        """The chunked array of scale 0."""
        return self.instance.dataset.arrays[0]

    def reader(self, box: Box) -> Reader:
        """Return a reader of one state of a box: for answers that are sent slab by slab."""
        mask = None if self.roi is None else self.roi.block_mask(box)
        lineage, scheduler = self.lineage(), self.instance.repo.catalog.scheduler
        if mask is None:
            return Reader(self.chunks, box, lineage, scheduler)
        blank = self.instance.settings.background if self.instance.dtype.itemsize == 1 else 0
        return MaskedReader(self.chunks, box, lineage, scheduler, mask, blank)

    def read(self, box: Box, roi: View | str | None = None) -> np.ndarray:
        """Return the voxels of a box, axes (z, y, x); with `roi` as `masked` shows them."""
        view = self if roi is None else self.masked(roi)
        return view.reader(box).read()

    def blocks(self, span: ChunkSpan) -> Iterator[tuple[ZYX, np.ndarray | None]]:
        """Yield (chunk coordinate (z, y, x), decoded chunk or None if absent) for a span, x fastest."""
        grid = self.instance.chunk
        start, stop = (
            [at * size for at, size in zip(edge, grid, strict=True)] for edge in (span.start, span.stop)
        )
        return self.reader(Box(tuple(start), tuple(stop))).blocks()  # type: ignore[arg-type]

    def write(self, box: Box, voxels: np.ndarray, author: Author = _NO_AUTHOR) -> None:
        """Write a box as one request, all of it or nothing; chunks covered in part keep their other voxels.

        Raises
        ------
        VersionLockedError
            The version is locked.
        InvalidInputError
            Shape or dtype do not fit.
        BusyError
            Another process writes to the store.
        """
        places = None
        if self.roi is not None:
            places = box.chunks(self.instance.chunk).check().coords()
            places = places[self._inside(places, self.roi)]
        with self.writing() as dataset:
            header = {"m": self.instance.repo.next_mutation(), "grow": [list(box.start), list(box.stop)]}
            lineage, scheduler = self.lineage(), self.instance.repo.catalog.scheduler
            write_box(
                dataset,
                self.chunks,
                lineage,
                box,
                np.asarray(voxels),
                scheduler,
                author=author,
                header=header,
                places=places,
            )
            self.written(box.chunks(self.instance.chunk).coords() if places is None else places, author)
        self.instance.metadata_later()

    def write_blocks(self, coords: np.ndarray, blocks: np.ndarray, author: Author = _NO_AUTHOR) -> None:
        """Write whole chunks as one request; the extents stay as they are.

        Parameters
        ----------
        coords : ndarray of int, shape (n, 3)
            Chunk coordinates (z, y, x); of equal ones the last wins.
        blocks : ndarray, shape (n, z, y, x)
        """
        if self.roi is not None and len(coords):
            inside = self._inside(coords, self.roi)
            coords, blocks = coords[inside], blocks[inside]
        with self.writing() as dataset:
            header = {"m": self.instance.repo.next_mutation()}
            scheduler = self.instance.repo.catalog.scheduler
            write_chunk_arrays(
                dataset, self.chunks, self.ordinal, coords, blocks, scheduler, author=author, header=header
            )
            self.written(coords, author)
        self.instance.metadata_later()

    def _inside(self, coords: np.ndarray, roi: View) -> np.ndarray:
        """Tell of chunks (n, 3) whether a region of interest lets them be written."""
        if not len(coords):
            return np.zeros(0, bool)
        low, high = coords.min(axis=0), coords.max(axis=0) + 1
        grid = np.array(self.instance.chunk)
        return roi.block_mask(_box(((low * grid).tolist(), (high * grid).tolist()))).contains(coords)

    def written(self, coords: np.ndarray, author: Author) -> None:
        """React to a write of these chunks (n, 3), while the version cannot be locked yet. For subclasses."""

    # --- extents ---------------------------------------------------------------------------------------------

    @property
    def extents(self) -> Box | None:
        """The box that was written, as DVID counts it (spec-voxels §4.3), None if there is none."""
        self.lineage()
        return self.instance.extents_at(self.ordinal)

    def set_extents(self, box: Box, author: Author = _NO_AUTHOR) -> None:
        """Replace the extents of this version."""
        with self.writing() as dataset:
            header = {"box": [list(box.start), list(box.stop)], "m": self.instance.repo.next_mutation()}
            dataset.append(Kind.EXTENTS, self.ordinal, author, header)
        self.instance.metadata_later()

    @property
    def shape(self) -> ZYX:
        """Shape of the Zarr array: up to the extents, or up to the last chunk where one lies beyond them."""
        return self.instance.shape_at(self.ordinal)

    # --- as numpy, zarr, dask, xarray ------------------------------------------------------------------------

    def __getitem__(self, index: object) -> np.ndarray:
        """Return `view[z0:z1, y0:y1, x0:x1]`; an integer drops its axis, open ends mean those of `shape`."""
        box, dropped = self._box(index)
        return self.read(box)[tuple(0 if drop else slice(None) for drop in dropped)]

    def __setitem__(self, index: object, voxels: object) -> None:
        """Write `view[z0:z1, y0:y1, x0:x1] = array`; a scalar fills the box."""
        box, dropped = self._box(index)
        shape = [size for size, drop in zip(box.shape, dropped, strict=True) if not drop]
        given = np.asarray(voxels)
        if given.ndim == 0:
            given = given.astype(self.instance.dtype)
        self.write(box, np.ascontiguousarray(np.broadcast_to(given, shape)).reshape(box.shape))

    def _box(self, index: object) -> tuple[Box, list[bool]]:
        parts = list(index) if isinstance(index, tuple) else [index]
        parts += [slice(None)] * (3 - len(parts))
        shape = self.shape if any(isinstance(p, slice) and p.stop is None for p in parts) else (0, 0, 0)
        edges, dropped = [], []
        for part, size in zip(parts, shape, strict=True):
            if isinstance(part, slice) and part.step in {None, 1}:
                edges.append((part.start or 0, size if part.stop is None else part.stop))
                dropped.append(False)
            elif isinstance(part, (int, np.integer)):
                edges.append((int(part), int(part) + 1))
                dropped.append(True)
            else:
                raise InvalidInputError(f"index {part!r} is neither an integer nor a slice of step 1")
        (z0, z1), (y0, y1), (x0, x1) = edges
        return Box((int(z0), int(y0), int(x0)), (int(z1), int(y1), int(x1))), dropped

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self.roi is None:
            return super().__reduce__()
        return VoxelView.masked, (type(self)(self.instance, self.version), self.roi)

    def store(self) -> "VersionedStore":
        """Return the Zarr store of this version (group with array "0")."""
        from dvidzarr.datatypes.voxels.arrays import zarr_store  # noqa: PLC0415 - loads zarr

        return zarr_store(self)

    def array(self) -> "zarr.Array[Any]":
        """Return the volume as a zarr array, axes (z, y, x)."""
        from dvidzarr.datatypes.voxels.arrays import zarr_array  # noqa: PLC0415 - loads zarr

        return zarr_array(self)

    def dask(self) -> "dask.array.Array":
        """Return the volume as a dask array, axes (z, y, x); works on threads, processes and clusters."""
        from dvidzarr.datatypes.voxels.arrays import dask_array  # noqa: PLC0415 - loads dask

        return dask_array(self)

    def xarray(self) -> "xarray.DataArray":
        """Return the volume as an xarray.DataArray over dask, with coordinates in units of the voxel size."""
        from dvidzarr.datatypes.voxels.arrays import data_array  # noqa: PLC0415 - loads xarray

        return data_array(self)


class VoxelInstance(Instance):
    """An image volume: chunks of one dtype, and extents per version. Subclasses are types."""

    view_class = VoxelView
    dtype: ClassVar[np.dtype[Any]]
    values: ClassVar[tuple[tuple[str, str], ...]]
    """DVID's (DataType, Label) of each channel."""

    packing: ClassVar[Packing] = GRAY
    """How its chunks are compressed on the store."""

    interpolable: ClassVar[bool] = True

    def __init__(self, repo: "Repo", record: "InstanceRecord", datatype: DataType) -> None:
        super().__init__(repo, record, datatype)
        self._created_with = self._settings = VoxelSettings.from_json(record.config)
        self._extents: dict[int, Box] = {}
        self._latest: Box | None = self._created_with.extents
        self._shapes: dict[int, tuple[int, ZYX]] = {}

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

    def at(self, ref: "str | Version | None" = None) -> VoxelView:
        """Return the view at a version: a reference, a `Version`, or None for the head of master."""
        view = super().at(ref)
        if not isinstance(view, VoxelView):
            raise InvalidInputError(f"{view!r} holds no voxels")
        return view

    def declare(self, dataset: "Dataset") -> None:
        """Add the array of scale 0."""
        dataset.add_array(0, ChunkCodec(self.chunk, self.dtype, self.packing))

    def set_resolution(self, voxel_size_xyz: Iterable[float], author: Author = _NO_AUTHOR) -> None:
        """Set the voxel size (x, y, z) of all versions."""
        sizes = parse_voxel_size(list(voxel_size_xyz))
        with self.repo.writing_unversioned(self):
            self.dataset.append(Kind.SETTINGS, None, author, {"voxel_size_xyz": sizes})
        self.metadata_later()

    # --- state -----------------------------------------------------------------------------------------------

    def apply(self, entry: Entry, ordinal: int) -> None:
        """Take in a record of its log."""
        super().apply(entry, ordinal)
        header = entry.header
        if entry.kind == Kind.CHUNKS and "grow" in header:
            grown, seen = _box(header["grow"]), self._inherited(ordinal)
            grown = grown if seen is None else seen.union(grown)
            self._extents[ordinal] = self._latest = grown
        elif entry.kind == Kind.EXTENTS:
            self._extents[ordinal] = _box(header["box"])
        elif entry.kind == Kind.SETTINGS and "voxel_size_xyz" in header:
            members = {**self._settings.to_json(), "voxel_size_xyz": header["voxel_size_xyz"]}
            self._settings = VoxelSettings.from_json(members)

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
        self._latest = self._created_with.extents if latest is None else _box(latest)
        self._extents = {ordinal: _box((start, stop)) for ordinal, start, stop in state.get("extents", ())}

    def _inherited(self, ordinal: int) -> Box | None:
        """Return the extents stored at a version or its nearest ancestor."""
        extents = self._extents
        if ordinal in extents:
            return extents[ordinal]
        ordinals = np.array(list(extents), np.int64)
        nearest = self.versions.lineage(ordinal).nearest(ordinals)
        return None if nearest is None else extents[int(ordinals[nearest])]

    def extents_at(self, ordinal: int) -> Box | None:
        """Return the extents of a version; where its line wrote none, the last ones grown anywhere (DVID's quirk)."""
        stored = self._inherited(ordinal)
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

    # --- as a Zarr hierarchy ---------------------------------------------------------------------------------

    def shape_at(self, ordinal: int) -> ZYX:
        """Return the shape (z, y, x) of the Zarr array of a version; of a locked one it is worked out once."""
        locked = self.versioned and self.repo.dag.versions[ordinal].locked
        state = -1 if locked else self.dataset.log.tail.sequence
        known = self._shapes.get(ordinal)
        if known is None or known[0] != state:
            known = self._shapes[ordinal] = (state, self._hull(ordinal))
        return known[1]

    def _hull(self, ordinal: int) -> ZYX:
        extents = self._inherited(ordinal)
        shape = (0, 0, 0) if extents is None else extents.stop
        store, versions = self.dataset.arrays[0], self.versions
        store.derive(ordinal)
        hull = store.postings.hull(versions.lineage(ordinal), versions.ancestors(ordinal))
        z, y, x = (
            max(size, 0) if -(-size // step) >= top else top * step
            for size, top, step in zip(shape, hull.tolist(), self.chunk, strict=True)
        )
        return z, y, x

    def zarr_documents(self, ordinal: int, attributes: dict[str, Any]) -> dict[str, bytes]:
        """Return the metadata of a version's hierarchy: relative key → `zarr.json`."""
        settings = self.settings
        multiscale = ngff(self.name, settings.voxel_size_xyz, settings.voxel_units_xyz)
        codec = self.dataset.arrays[0].codec
        return {
            "zarr.json": encoded(group_document({"ome": multiscale, "dvidzarr": attributes})),
            "0/zarr.json": encoded(array_document(self.shape_at(ordinal), codec, {"dvidzarr": attributes})),
        }

    def metadata_later(self) -> None:
        """Write the metadata of the root version's folder soon."""
        name = ("metadata", self.id)
        self.repo.context.housekeeper.schedule(_METADATA_DELAY_S, name, self._write_metadata)

    def opened_as(self, dataset: "Dataset") -> None:
        """Look after what an earlier process left undone."""
        super().opened_as(dataset)
        if dataset.writable and dataset.log.tail.sequence:
            self.metadata_later()

    def finished(self) -> None:
        """Say `locked` in the root version's metadata once its overlay is finished."""
        self._write_metadata()

    def _write_metadata(self) -> None:
        if not self.opened or not self.dataset.writable:
            return
        root = self.dag_root()
        done = self.versioned and root.locked and root.ordinal in self.dataset.finished
        attributes = {"state": "locked" if done else "open", "version": root.uuid, "instance": self.name}
        folder = f"{self.prefix}/versions/{self.dataset.versions.id_of(0)}"
        backend = self.dataset.context.backend
        for name, document in self.zarr_documents(0, attributes).items():
            if backend.get(f"{folder}/{name}") != document:
                backend.replace(f"{folder}/{name}", document)

    def dag_root(self) -> "Version":
        """Return the root version, whose folder is a plain Zarr hierarchy."""
        return self.repo.dag.root


def _box(edges: Sequence[Iterable[int]]) -> Box:
    start, stop = edges
    return Box(tuple(start), tuple(stop))  # type: ignore[arg-type]
