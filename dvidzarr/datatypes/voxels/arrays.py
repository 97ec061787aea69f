"""A volume at a version as zarr, dask and xarray have it. Loads these libraries, so the model imports it when asked."""

import math
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask.array
import numpy as np
import xarray
import zarr
from dask.base import tokenize

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import ZYX, Box
from dvidzarr.datatypes.voxels.info import float32_json
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.storage.zarrkeys import Reading
from dvidzarr.storage.zarrview import VersionedStore

_ARRAYS = {"0": 0}
_BLOCK_BYTES = 64 << 20
_AXES = ("z", "y", "x")


@dataclass(frozen=True, slots=True)
class VoxelSource:
    """What the Zarr store of a view needs of it; see `dvidzarr.storage.zarrkeys.Source`."""

    view: VoxelView

    @property
    def url(self) -> str:
        """A text that names store, instance and version."""
        view = self.view
        return f"dvidzarr:{view.instance.repo.url}#{view.instance.id}@{view.version.id}"

    @property
    def read_only(self) -> bool:
        """Whether the version is locked, or the store open for reading only."""
        instance = self.view.instance
        return instance.repo.catalog.read_only or instance.locked(self.view.version)

    def reading(self) -> Reading:
        """Return instance and lineage, after reading on in the logs if another process writes."""
        lineage = self.view.lineage()  # first: following may replace the chunk stores
        return self.view.instance.dataset, lineage

    @contextmanager
    def writing(self) -> Iterator[Reading]:
        """Pass the gates of a write; raise if the version is locked."""
        with self.view.writing() as dataset:
            yield dataset, self.view.lineage()
        self.view.instance.hierarchy.write_later()

    def header(self, coord: ZYX | None = None) -> dict[str, Any]:
        """Return the mutation id, and what the extents must grow by to hold the part of a chunk inside the shape."""
        header: dict[str, Any] = {"m": self.view.instance.repo.next_mutation()}
        extents = None if coord is None else self.view.extents
        if coord is None or extents is None:
            return header
        grid = self.view.instance.chunk
        inside = Box.of_chunk(coord, grid).intersect(Box((0, 0, 0), extents.stop))
        if inside is not None and extents.union(inside) != extents:
            header["grow"] = [list(inside.start), list(inside.stop)]
        return header

    def metadata(self) -> Mapping[str, bytes]:
        """Return the derived `zarr.json` documents of the version by key."""
        view = self.view
        view.lineage()
        state = "locked" if view.instance.locked(view.version) else "open"
        attributes = {"state": state, "version": view.version.uuid, "instance": view.instance.name}
        return view.instance.hierarchy.documents(view.ordinal, attributes)

    def resize(self, key: str, shape: tuple[int, ...]) -> None:
        """Let the extents end at a shape."""
        extents = self.view.extents
        low = (0, 0, 0) if extents is None else extents.start
        start = [min(a, b) for a, b in zip(low, shape, strict=True)]
        self.view.set_extents(Box.of(start, shape))


def zarr_store(view: VoxelView) -> VersionedStore:
    """Return the Zarr store of a view: a group with the array "0"."""
    if view.roi is not None:
        raise InvalidInputError(
            "a volume within a region of interest has no Zarr store; read it, or use dask"
        )
    return VersionedStore(VoxelSource(view), _ARRAYS)


def zarr_array(view: VoxelView) -> "zarr.Array[Any]":
    """Return a view as a zarr array, axes (z, y, x); writable while the version is open."""
    store = zarr_store(view)
    return zarr.open_array(store, path="0", mode="r" if store.read_only else "r+")


@dataclass(frozen=True, slots=True)
class LazyVoxels:
    """A view as the array that dask slices: of fixed shape, read box by box."""

    view: VoxelView
    shape: ZYX
    dtype: np.dtype[Any]
    ndim: int = 3

    def __getitem__(self, index: tuple[slice | int, ...]) -> np.ndarray:
        """Read the box around a basic index (dask fuses strides and integers into it), then index that."""
        spans = [_span(part, size) for part, size in zip(index, self.shape, strict=True)]
        box = Box.of(
            *zip(*((min(span, default=0), max(span, default=-1) + 1) for span in spans), strict=True)
        )
        voxels = self.view.read(box) if box.volume else np.zeros(box.shape, self.dtype)
        strides = (slice(None, None, span.step) for span in spans)
        return voxels[
            tuple(0 if isinstance(part, int) else stride for part, stride in zip(index, strides, strict=True))
        ]


def _span(part: slice | int, size: int) -> range:
    """Return the positions that one part of an index means."""
    return range(size)[part] if isinstance(part, slice) else range(part % size, part % size + 1)


def block_shape(shape: ZYX, grid: ZYX, itemsize: int) -> ZYX:
    """Return the shape of dask's blocks: the whole array if small, else whole chunks, about 64 MiB, near to a cube."""
    block = list(grid)
    while True:
        longer = [axis for axis in range(3) if block[axis] < shape[axis]]
        if not longer:
            return shape
        axis = min(longer, key=lambda axis: block[axis])
        doubled = [2 * size if axis == at else size for at, size in enumerate(block)]
        if math.prod(map(min, doubled, shape)) * itemsize > _BLOCK_BYTES:
            return block[0], block[1], block[2]
        block = doubled


def dask_array(view: VoxelView) -> dask.array.Array:
    """Return a view as a dask array; of a locked version the same name each time, so that clusters reuse results."""
    shape, dtype = view.shape, view.instance.dtype
    block = block_shape(shape, view.instance.chunk, dtype.itemsize)
    source = VoxelSource(view)
    sealed = view.instance.sealed(view.version) and view.roi is None
    token = tokenize(source.url, shape, block) if sealed else uuid.uuid4().hex
    array: dask.array.Array = dask.array.from_array(  # type: ignore[no-untyped-call]
        LazyVoxels(view, shape, dtype),
        chunks=block,
        name=f"voxels-{token}",
        fancy=False,
        meta=np.empty((0, 0, 0), dtype),
    )
    return array


def data_array(view: VoxelView) -> xarray.DataArray:
    """Return a view as a lazy DataArray; coordinates are voxel index times voxel size."""
    settings = view.instance.settings
    sizes, units = settings.voxel_size_xyz[::-1], settings.voxel_units_xyz[::-1]
    data = dask_array(view)
    coords = {
        axis: (axis, np.arange(count) * float(float32_json(size)), {"units": unit})
        for axis, count, size, unit in zip(_AXES, data.shape, sizes, units, strict=True)
    }
    attributes = {"name": view.instance.name, "version": view.version.uuid, "units": list(units)}
    return xarray.DataArray(data, coords, _AXES, view.instance.name, attributes)
