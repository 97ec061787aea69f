"""Where exported voxels go as Zarr."""

from pathlib import Path
from typing import Any

import zarr
from typing_extensions import override
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, WrapperStore

from dvidzarr.cli.bricks import copy_bricks
from dvidzarr.cli.sinks import NM, Export, Read
from dvidzarr.core.geometry import Box


class SpooledStore(WrapperStore[LocalStore]):
    """A store that remembers why a write failed, and swallows those that follow.

    zarr writes the chunks of a brick side by side. It gives up with the first that fails, while the others go on: into a
    folder that is removed, and with errors of which nobody asks, so that asyncio prints them.
    """

    problem: OSError | None = None

    @override
    async def set(self, key: str, value: Buffer) -> None:
        """Write a value."""
        if self.problem is None:
            try:
                await super().set(key, value)
            except OSError as error:
                self.problem = error  # of those that fail side by side any will do

    def check(self) -> None:
        """Raise what was remembered."""
        if self.problem is not None:
            raise self.problem


def copy_to_zarr(path: Path, export: Export, read: Read) -> None:
    """Write an OME-Zarr 0.5 group (Zarr v3) with the voxels as array `0`."""
    spool = SpooledStore(LocalStore(path))
    group = zarr.open_group(spool, mode="w-", zarr_format=3, attributes=_ome(export))
    spool.check()
    array = group.create_array(
        "0",
        shape=export.box.shape,
        dtype=export.info.dtype,
        chunks=export.info.chunk,
        dimension_names=("z", "y", "x"),
        compressors=BloscCodec(cname="lz4", shuffle="noshuffle"),
        fill_value=0,
    )
    spool.check()

    def copy(brick: Box) -> None:
        array[export.place(brick)] = read(brick)
        spool.check()

    shifted = any(low % size for low, size in zip(export.box.start, export.info.chunk, strict=True))
    # bricks that share a chunk take turns
    copy_bricks(export.bricks(), copy, 1 if shifted else export.workers)


def _ome(export: Export) -> dict[str, Any]:
    size, units = export.info.voxel_size_xyz[::-1], export.info.voxel_units_xyz[::-1]
    axes = [
        {"name": name, "type": "space"} | ({"unit": unit.rstrip("s")} if unit in NM else {})
        for name, unit in zip("zyx", units, strict=True)
    ]
    shift = [start * scale for start, scale in zip(export.box.start, size, strict=True)]
    transforms = [{"type": "scale", "scale": list(size)}, {"type": "translation", "translation": shift}]
    levels = [{"path": "0", "coordinateTransformations": transforms}]
    scales = [{"name": export.info.name, "axes": axes, "datasets": levels}]
    return {"ome": {"version": "0.5", "multiscales": scales}, "dvidzarr": export.attributes}
