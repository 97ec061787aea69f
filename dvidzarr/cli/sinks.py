"""Where exported voxels go: TIFF, HDF5 or Zarr, written under a temporary name until complete."""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from dvidzarr.cli.bricks import bricks
from dvidzarr.cli.target import VolumeInfo
from dvidzarr.cli.unfinished import naming, workplace
from dvidzarr.core.errors import ConflictError, InvalidInputError
from dvidzarr.core.geometry import ZYX, Box

NM = {"nanometers": 1.0, "nanometer": 1.0, "nm": 1.0, "micrometers": 1e3, "micrometer": 1e3, "um": 1e3}
"""Nanometres per unit, for the units that formats with a fixed unit can say."""

Read = Callable[[Box], np.ndarray]


@dataclass(frozen=True, slots=True)
class Export:
    """What is written: the box of a volume, bricks of at most `brick_voxels`."""

    info: VolumeInfo
    box: Box
    brick_voxels: int
    workers: int = 1

    @property
    def attributes(self) -> dict[str, Any]:
        """Return what a reader needs to place the voxels."""
        return {
            "instance": self.info.name,
            "version": self.info.version,
            "offset_xyz": list(self.box.to_xyz()[0]),
            "voxel_size_xyz": list(self.info.voxel_size_xyz),
            "voxel_units_xyz": list(self.info.voxel_units_xyz),
        }

    def bricks(self) -> Iterator[Box]:
        """Tile the box."""
        return bricks(self.box, self.info.chunk, self.brick_voxels)

    def place(self, brick: Box) -> tuple[slice, ...]:
        """Return where a brick lies in the output."""
        return brick.slices(self.box.start)


def write_tiff(path: Path, export: Export, read: Read) -> None:
    """Write one page per z, BigTIFF where it must be, uncompressed so that readers can map it."""
    import tifffile  # noqa: PLC0415 - heavy, and only for this format

    depth, height, width = export.box.shape
    size, units = export.info.voxel_size_xyz, export.info.voxel_units_xyz
    per_cm = tuple(
        1e7 / (value * NM[unit]) for value, unit in zip(size[:2], units[:2], strict=True) if unit in NM
    )
    with tifffile.TiffWriter(
        path, bigtiff=export.box.volume * export.info.dtype.itemsize > 2**32 - 2**25
    ) as file:
        file.write(
            (page for slab in _slabs(export) for page in read(slab)),
            shape=(depth, height, width),
            dtype=export.info.dtype.newbyteorder("<"),
            photometric="minisblack",
            metadata={"axes": "ZYX", "dvidzarr": orjson.dumps(export.attributes).decode()},
            resolution=per_cm if len(per_cm) == 2 else None,
            resolutionunit="CENTIMETER" if len(per_cm) == 2 else None,
        )


def _slabs(export: Export) -> Iterator[Box]:
    """Yield slabs of whole pages; thinner than a block where a layer of blocks is beyond the budget."""
    box, depth = export.box, export.info.chunk[0]
    page = box.shape[1] * box.shape[2]
    if page * depth > export.brick_voxels:
        depth = max(1, export.brick_voxels // page)
        for low in range(box.start[0], box.stop[0], depth):
            yield Box((low, *box.start[1:]), (min(low + depth, box.stop[0]), *box.stop[1:]))
    else:
        yield from box.slabs(export.info.chunk, export.brick_voxels)


def write_npy(path: Path, export: Export, read: Read) -> None:
    """Write a NumPy file."""
    np.lib.format.open_memmap(path, mode="w+", dtype=export.info.dtype, shape=export.box.shape)
    _reserve(path)
    for brick in export.bricks():
        array = np.load(path, mmap_mode="r+")  # mapped anew: else every page written stays in the process
        array[export.place(brick)] = read(brick)


def _reserve(path: Path) -> None:
    """Take the room of a sparse file: to write into a mapped file for which there is none kills the process."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


class Spooled(io.FileIO):
    """A file that remembers why a write failed, and swallows those that follow.

    The HDF5 library cannot close a file that it cannot write, and crashes at the end of the process.
    """

    problem: OSError | None = None

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Write all of it."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest and self.problem is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.problem = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.problem = self.problem or error
            return size or 0

    def check(self) -> None:
        """Raise what was remembered."""
        if self.problem is not None:
            raise self.problem


def write_hdf5(path: Path, export: Export, read: Read) -> None:
    """Write the dataset `volume`, chunked as the instance, gzip level 1."""
    import h5py  # noqa: PLC0415

    with Spooled(path, "x+b") as spool:
        with h5py.File(spool, "w") as file:
            array = file.create_dataset(
                "volume",
                export.box.shape,
                export.info.dtype,
                chunks=_fitting(export),
                compression="gzip",
                compression_opts=1,
            )
            array.attrs.update(export.attributes)
            for brick in export.bricks():
                array[export.place(brick)] = read(brick)
                spool.check()
        spool.check()


def write_zarr(path: Path, export: Export, read: Read) -> None:
    """Write an OME-Zarr 0.5 group (Zarr v3) with the voxels as array `0`."""
    from dvidzarr.cli.zarrsink import copy_to_zarr  # noqa: PLC0415 - heavy, and only for this format

    copy_to_zarr(path, export, read)


def _fitting(export: Export) -> ZYX:
    z, y, x = (min(size, most) for size, most in zip(export.info.chunk, export.box.shape, strict=True))
    return (z, y, x)


WRITERS: tuple[tuple[tuple[str, ...], Callable[[Path, Export, Read], None]], ...] = (
    ((".tif", ".tiff", ".btf"), write_tiff),
    ((".h5", ".hdf5"), write_hdf5),
    ((".zarr",), write_zarr),
    ((".npy",), write_npy),
)


def writer_for(path: Path) -> Callable[[Path, Export, Read], None]:
    """Return the function that writes the format of a file name."""
    for suffixes, writer in WRITERS:
        if path.suffix.lower() in suffixes:
            return writer
    known = ", ".join(suffix for suffixes, _ in WRITERS for suffix in suffixes)
    raise InvalidInputError(f"cannot tell the format of {path.name!r}: the name must end in one of {known}")


_REPLACED = "replaced"
"""The name of the older export while the new one gets its place."""


@contextmanager
def finished(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary name; move what is there to `path` when the block ends well, else remove it."""
    if not path.parent.is_dir():
        raise InvalidInputError(f"there is no folder {path.parent}")
    with workplace(path.parent, path.name, lambda left: _put_back(left, path)) as place:
        if os.path.lexists(path) and not overwrite:
            raise ConflictError(f"{path} exists: choose another name, or say --overwrite")
        partial, replaced = _partial(place, path), place / _REPLACED
        with naming(path):
            yield partial
            # moved away whole, since a part of it would look like zeros after a kill
            if path.is_dir() or (partial.is_dir() and os.path.lexists(path)):
                path.rename(replaced)
            partial.rename(path)
            if replaced.is_dir() and not replaced.is_symlink():  # what that leads to is somebody else's
                shutil.rmtree(replaced)


def _partial(place: Path, path: Path) -> Path:
    return place / f"unfinished{path.suffix}"


def _put_back(left: Path, path: Path) -> None:
    """Give an older export its name again, if a run ended between moving it away and putting the new one in place.

    Not if the new one was put in place, and is somewhere else now: the older one may be half removed.
    """
    replaced = left / _REPLACED
    if os.path.lexists(replaced) and _partial(left, path).exists() and not os.path.lexists(path):
        replaced.rename(path)
