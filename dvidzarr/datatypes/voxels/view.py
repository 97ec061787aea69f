"""A volume at a version: boxes of numpy arrays. No web in here."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dvidzarr.compute.read import Encode, Reader, encoded_chunk, lz4_chunk, read_inside
from dvidzarr.compute.write import BoxWrite, chunks_of_box, write_chunk_arrays
from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import ZYX, Box, ChunkSpan
from dvidzarr.core.ids import NO_AUTHOR, Author
from dvidzarr.datatypes.voxels.indexing import box_of_index, coordinates, given_box, native, voxels_of
from dvidzarr.datatypes.voxels.masking import MaskedReader
from dvidzarr.repo.view import View
from dvidzarr.storage.chunkkeys import pack_one
from dvidzarr.storage.chunks import ChunkStore
from dvidzarr.storage.frames import Kind
from dvidzarr.storage.writing import write_together

if TYPE_CHECKING:
    import dask.array
    import xarray
    import zarr
    from typing_extensions import Buffer

    from dvidzarr.datatypes.voxels.model import VoxelInstance
    from dvidzarr.storage.zarrview import VersionedStore


class VoxelView(View):
    """A volume at a version. Everything is (z, y, x), in voxels; voxels that were never written read 0.

    Arrays have the dtype `instance.dtype`. A chunk that is not as it was written raises `CorruptionError` where it is read.
    """

    instance: "VoxelInstance"
    roi: View | None = None
    """The region of interest to which reads and writes are restricted; see `masked`."""

    def masked(self, roi: View | str) -> Self:
        """Return this volume within a region of interest: a view of it, or its name.

        By name the region is that of the same version; for unversioned data that of the root, where they lie.

        Whole blocks count, and image and region are compared block by block whatever their block sizes. Reads show
        Background (types of one byte) or 0 outside; writes leave what is outside as it is. `NotFoundError` if there is
        no instance of that name; one that is no region raises `InvalidInputError` when it is used.
        """
        if not isinstance(roi, View | str):
            raise InvalidInputError(f"a region is a view of it or its name, not {type(roi).__name__}")
        view = type(self)(self.instance, self.version)
        view.overrule = self.overrule
        repo = self.instance.repo
        if isinstance(roi, str):
            roi = repo.instance(roi).at(self.version if self.instance.versioned else repo.dag.root)
        view.roi = roi
        return view

    @property
    def chunks(self) -> ChunkStore:
        """The chunked array of scale 0."""
        return self.instance.dataset.arrays[0]

    def reader(self, box: Box) -> Reader:
        """Return a reader of one state of a box: for answers that are sent slab by slab."""
        mask = None if self.roi is None else self.roi.block_mask(given_box(box))
        lineage, scheduler = self.lineage(), self.instance.repo.catalog.scheduler
        if mask is None:
            return Reader(self.chunks, box, lineage, scheduler)
        blank = self.instance.settings.background if self.instance.dtype.itemsize == 1 else 0
        return MaskedReader(self.chunks, box, lineage, scheduler, mask, blank)

    def read(self, box: Box, roi: View | str | None = None, *, shared: bool = False) -> np.ndarray:
        """Return the voxels of a box, axes (z, y, x), of its shape; with `roi` as `masked` shows them.

        With `shared` the result may be memory that others read too; it is read-only then.

        Raises
        ------
        InvalidInputError
            The box is empty, or touches more than 2²² chunks (`TooLargeError`).
        CorruptionError
            A chunk is damaged.
        BusyError
            It awaits the recovery of the store, or the box is written again and again meanwhile.
        """
        # `is None`, since an empty view is false: a key-value instance without keys is no region all the same
        view = self if roi is None else self.masked(roi)
        coord = None if view.roi is not None else given_box(box).only_chunk(self.instance.chunk)
        if coord is None:
            return view.reader(box).read()
        return read_inside(self.chunks, coord, box, self.lineage(), shared=shared)

    def encoded(self, box: Box, name: str, encode: Encode) -> bytes | memoryview:
        """Return what `encode` makes of a box; of one whole chunk it is kept under that name, for who asks again."""
        coord = self._whole_chunk(box)
        packed = None
        if coord is not None:
            packed = encoded_chunk(self.chunks, coord, self.lineage(), name, encode)
        return encode(self.read(box, shared=True)) if packed is None else memoryview(packed)

    def kept(self, box: Box, name: str) -> memoryview | None:
        """Return what `encoded` would, if that is kept already: for event loops."""
        coord = self._whole_chunk(box)
        packed = None if coord is None else self.chunks.kept_as(name, pack_one(coord), self.lineage())
        return None if packed is None else memoryview(packed)

    def _whole_chunk(self, box: Box) -> ZYX | None:
        whole = self.roi is None and box.shape == self.instance.chunk
        return box.only_chunk(self.instance.chunk) if whole else None

    @property
    def is_ready(self) -> bool:
        """Whether looking up chunks costs nothing but that: for event loops."""
        return self.chunks.is_complete(self.ordinal)

    def blocks(self, span: ChunkSpan) -> Iterator[tuple[ZYX, np.ndarray | None]]:
        """Yield (chunk coordinate (z, y, x), decoded chunk or None if absent) for a span, x fastest."""
        return self.reader(span.box(self.instance.chunk)).blocks()

    def encoded_blocks(
        self, span: ChunkSpan, name: str, encode: Encode
    ) -> Iterator[tuple[ZYX, np.ndarray | None]]:
        """Yield (chunk coordinate (z, y, x), the bytes that `encode` makes of it or None if absent), x fastest.

        They are kept under the name of the encoding, for who asks again.
        """
        return self.reader(span.box(self.instance.chunk)).encoded_blocks(name, encode)

    def lz4_blocks(self, span: ChunkSpan) -> Iterator[tuple[ZYX, "Buffer | None"]]:
        """Yield (chunk coordinate (z, y, x), chunk as one bare LZ4 block or None if absent) for a span, x fastest."""
        if self.roi is not None or span.count != 1 or not span.is_writable:
            return self.reader(span.box(self.instance.chunk)).lz4_blocks()
        key, lineage = pack_one(span.start), self.lineage()
        row = self.chunks.find(key, lineage)
        return iter([(span.start, None if row is None else lz4_chunk(self.chunks, key, row, lineage))])

    def write(self, box: Box, voxels: np.ndarray, author: Author = NO_AUTHOR) -> None:
        """Write a box as one request, all of it or nothing; chunks covered in part keep their other voxels.

        Raises
        ------
        VersionLockedError
            The version is locked.
        InvalidInputError
            The box is empty; shape or dtype do not fit.
        ForbiddenError
            The store was opened for reading.
        BusyError
            Another process writes to the store.
        StorageError
            It could not be made durable (`NoSpaceError` if there is no room): nothing was changed.
        """
        self.write_all([BoxWrite(given_box(box), native(voxels), author)])

    def write_all(self, writes: Sequence[BoxWrite]) -> None:
        """Write what several requests want, in order, one log record each, at the price of one. Raises as `write`.

        More than one box must consist of whole chunks: none is read to be changed in part.
        """
        chunk = self.instance.chunk
        if len(writes) > 1 and not all(write.box.is_aligned(chunk) for write in writes):
            raise InvalidInputError(
                f"boxes that are written together must consist of whole chunks of {chunk}"
            )
        places = [self._writable(write.box.check().chunks(chunk).check().coords()) for write in writes]
        with self.writing() as dataset:
            store, lineage = self.chunks, self.lineage()
            parts = [
                chunks_of_box(store, lineage, write, coords, self._about(write.box))
                for write, coords in zip(writes, places, strict=True)
            ]
            run_all = self.instance.repo.catalog.scheduler.encode
            write_together(dataset, store, lineage.ordinal, parts, run_all)
            for write, coords in zip(writes, places, strict=True):
                self.written(coords, write.author)
        self.instance.hierarchy.write_later()

    def _about(self, box: Box) -> dict[str, Any]:
        return {"m": self.instance.repo.next_mutation(), "grow": [list(box.start), list(box.stop)]}

    def _writable(self, coords: np.ndarray) -> np.ndarray:
        """Return those chunks (n, 3) that may be written: all, or those within the region of interest."""
        return coords if self.roi is None else coords[self._inside(coords, self.roi)]

    def write_blocks(self, coords: np.ndarray, blocks: np.ndarray, author: Author = NO_AUTHOR) -> None:
        """Write whole chunks as one request; the extents stay as they are.

        Parameters
        ----------
        coords : ndarray of int, shape (n, 3)
            Chunk coordinates (z, y, x); of equal ones the last wins.
        blocks : ndarray, shape (n, z, y, x)

        Raises as `write`.
        """
        coords, blocks = coordinates(coords), native(blocks)
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
        self.instance.hierarchy.write_later()

    def _inside(self, coords: np.ndarray, roi: View) -> np.ndarray:
        """Tell of chunks (n, 3) whether a region of interest lets them be written."""
        if not len(coords):
            return np.zeros(0, bool)
        low, high = coords.min(axis=0), coords.max(axis=0) + 1
        grid = np.array(self.instance.chunk)
        box = Box.of((low * grid).tolist(), (high * grid).tolist())
        return roi.block_mask(box).contains(coords)

    def written(self, coords: np.ndarray, author: Author) -> None:
        """React to a write of these chunks (n, 3), while the version cannot be locked yet. For subclasses."""

    # --- extents ---------------------------------------------------------------------------------------------

    @property
    def extents(self) -> Box | None:
        """The box that was written, as DVID counts it (spec-voxels §4.3), None if there is none."""
        self.lineage()
        return self.instance.extents_at(self.ordinal)

    def set_extents(self, box: Box, author: Author = NO_AUTHOR) -> None:
        """Replace the extents of this version by a box of voxels. Raises as `write`, of what concerns no voxels."""
        with self.writing() as dataset:
            header = {"box": [list(box.start), list(box.stop)], "m": self.instance.repo.next_mutation()}
            dataset.append(Kind.EXTENTS, self.ordinal, author, header)
        self.instance.hierarchy.write_later()

    @property
    def shape(self) -> ZYX:
        """Shape of the Zarr array: up to the extents, or up to the last chunk where one lies beyond them."""
        self.lineage()  # a follower of the store reads on
        return self.instance.hierarchy.shape(self.ordinal)

    # --- as numpy, zarr, dask, xarray ------------------------------------------------------------------------

    def __getitem__(self, index: object) -> np.ndarray:
        """Return `view[z0:z1, y0:y1, x0:x1]`; an integer drops its axis, open ends mean those of `shape`.

        Numbers are coordinates, as everywhere here: −1 is the voxel before 0. Raises as `read`.
        """
        box, dropped = box_of_index(index, lambda: self.shape)
        return self.read(box)[tuple(0 if drop else slice(None) for drop in dropped)]

    def __setitem__(self, index: object, voxels: object) -> None:
        """Write `view[z0:z1, y0:y1, x0:x1] = array`; a number fills the box. Raises as `write`."""
        box, dropped = box_of_index(index, lambda: self.shape)
        box.check()
        shape = tuple(size for size, drop in zip(box.shape, dropped, strict=True) if not drop)
        self.write(box, voxels_of(voxels, self.instance.dtype, shape).reshape(box.shape))

    # else Python asks for view[0], view[1], … without end: all coordinates can be read
    __iter__ = __contains__ = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: ANN401 - numpy's
        """Return `view[...]`, for `np.asarray(view)`; `ValueError` for `copy=False`, since it is always read."""
        if copy is False:
            raise ValueError("a volume is read from its store: there is no array of it without a copy")
        return np.asarray(self[...], dtype=dtype)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self.roi is None:
            return super().__reduce__()
        return VoxelView.masked, (type(self)(self.instance, self.version), self.roi)

    def store(self) -> "VersionedStore":
        """Return the Zarr store of this version (group with array "0"); `InvalidInputError` for a `masked` view."""
        from dvidzarr.datatypes.voxels.arrays import zarr_store  # noqa: PLC0415 - loads zarr

        return zarr_store(self)

    def array(self) -> "zarr.Array[Any]":
        """Return the volume as a zarr array of `shape`, axes (z, y, x); writable while the version is. Raises as `store`."""
        from dvidzarr.datatypes.voxels.arrays import zarr_array  # noqa: PLC0415 - loads zarr

        return zarr_array(self)

    def dask(self) -> "dask.array.Array":
        """Return the volume as a dask array of `shape`, axes (z, y, x); works on threads, processes and clusters."""
        from dvidzarr.datatypes.voxels.arrays import dask_array  # noqa: PLC0415 - loads dask

        return dask_array(self)

    def xarray(self) -> "xarray.DataArray":
        """Return the volume as an xarray.DataArray over dask, dims z, y, x, with coordinates in units of the voxel size."""
        from dvidzarr.datatypes.voxels.arrays import data_array  # noqa: PLC0415 - loads xarray

        return data_array(self)
