"""Reading in process: `view.read` beside zarr-python, zarrs, dask, TensorStore and the bare decoder, on the same chunks."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import numpy as np
from numcodecs import blosc

import dvidzarr
from benchmarks.timing import Case
from benchmarks.volumes import BLOCK, Built, Plan, boxes, gray_view, over, settings
from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import Box
from dvidzarr.datatypes.voxels.view import VoxelView

Read = Callable[[Box], object]

_TRAILER = 4
"""Bytes of the crc32c that ends each chunk."""


def slices(box: Box) -> tuple[slice, ...]:
    """Return a box as an index of numpy, zarr, dask and TensorStore."""
    return tuple(map(slice, box.start, box.stop))


def peers(array: Path) -> dict[str, Read]:
    """Return the other readers of a Zarr array; those that are not installed are left out, which is printed."""
    import dask.array  # noqa: PLC0415 - loaded when the benchmark runs, not when tests collect it
    import zarr  # noqa: PLC0415

    plain = zarr.open_array(array, mode="r")
    lazy = dask.array.from_zarr(plain)  # type: ignore[no-untyped-call]
    found: dict[str, Read] = {
        "zarr-python": lambda box: plain[slices(box)],
        "dask from zarr": lambda box: lazy[slices(box)].compute(),
    }
    for who, peer in (("zarrs", _zarrs), ("TensorStore", _tensorstore)):
        try:
            found[who] = peer(array)
        except ImportError as error:
            print(f"{who} is left out: {error}")
    return found


def _zarrs(array: Path) -> Read:
    """Return zarr-python that hands files, codecs and placing to zarrs (Rust, as many threads as cores)."""
    import zarr  # noqa: PLC0415
    import zarrs  # noqa: F401, PLC0415 - found by its name below

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        plain = zarr.open_array(array, mode="r")
    return lambda box: plain[slices(box)]


def _tensorstore(array: Path) -> Read:
    import tensorstore  # noqa: PLC0415

    store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array)}}
    opened = tensorstore.open(store, read=True).result()
    return lambda box: opened[slices(box)].read().result()


class Decoder:
    """The ceiling: the same chunks decoded from memory into scratch, no file, no checksum, no placing."""

    def __init__(self, array: Path) -> None:
        paths = sorted(path for path in (array / "c").glob("*/*/*") if path.is_file())
        self._chunks = [path.read_bytes()[:-_TRAILER] for path in paths]
        self._one = cycle(self._chunks)
        self._scratch = np.empty(BLOCK**3, np.uint8)
        self._threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads)
        blosc.use_threads = False

    def one(self) -> None:
        """Decode the next chunk."""
        blosc.decompress(next(self._one), self._scratch)

    def all(self) -> None:
        """Decode every chunk, in as many threads as there are cores."""
        list(self._pool.map(self._part, range(self._threads)))

    def _part(self, number: int) -> None:
        scratch = np.empty(BLOCK**3, np.uint8)
        for chunk in self._chunks[number :: self._threads]:
            blosc.decompress(chunk, scratch)


def cases(plan: Plan, built: Built) -> Iterator[list[Case]]:
    """Yield groups of cases that do the same."""
    decoder = Decoder(built.array)
    ceilings = {BLOCK: decoder.one, plan.size: decoder.all}
    others = peers(built.array)
    with dvidzarr.open(built.store, "w", settings()) as catalog, dvidzarr.open(built.store, "r") as reader:
        view, followed = gray_view(catalog, built.root), gray_view(reader, built.root)
        for edge, aligned in ((BLOCK, True), (2 * BLOCK, False), (plan.size, True)):
            name = f"read {edge}³ {'aligned' if aligned else 'unaligned'}"
            places = boxes(plan.size, edge, aligned=aligned)
            ours = Case(name, "dvidzarr", over(places, view.read), edge**3, catalog.context.chunk_cache.clear)
            readers = {"dvidzarr, follower with warm cache": followed.read, **others}
            group = [Case(name, who, over(places, read), edge**3) for who, read in readers.items()]
            if aligned:
                group.append(Case(name, "decoding only", ceilings[edge], edge**3))
            if edge == plan.size:
                group.append(_into_given(name, view))
            yield [ours, *group]


def _into_given(name: str, view: VoxelView) -> Case:
    """Return reading into memory that was touched before: what the server does with its slabs."""
    box = view.extents
    if box is None:
        raise InvalidInputError(f"{view!r} is empty")
    out = np.empty(box.shape, view.instance.dtype)
    return Case(name, "dvidzarr, into a given array", lambda: view.reader(box).read(out=out), out.nbytes)
