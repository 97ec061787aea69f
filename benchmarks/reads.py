"""Reading in process: `view.read` beside zarr-python, dask, TensorStore and the bare decoder, on the same chunks."""

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
from dvidzarr.core.geometry import Box

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
    lazy = dask.array.from_zarr(plain)
    found: dict[str, Read] = {
        "zarr-python": lambda box: plain[slices(box)],
        "dask from zarr": lambda box: lazy[slices(box)].compute(),
    }
    try:
        import tensorstore  # noqa: PLC0415
    except ImportError as error:
        print(f"TensorStore is left out: {error}")
        return found
    store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array)}}
    opened = tensorstore.open(store, read=True).result()
    return found | {"TensorStore": lambda box: opened[slices(box)].read().result()}


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
    size = plan.size
    others = peers(built.array)
    decoder = Decoder(built.array)
    with dvidzarr.open(built.store, "w", settings()) as catalog, dvidzarr.open(built.store, "r") as reader:
        view, followed = gray_view(catalog, built.root), gray_view(reader, built.root)

        def group(edge: int, *, aligned: bool, ours: dict[str, Case], more: tuple[Case, ...] = ()) -> list[Case]:
            places = boxes(size, edge, aligned=aligned)
            name = f"{edge}³ {'aligned' if aligned else 'unaligned'}"
            rest = [Case(name, who, over(places, read), edge**3) for who, read in others.items()]
            return [*ours.values(), *rest, *more]

        def own(edge: int, *, aligned: bool) -> Case:
            name = f"{edge}³ {'aligned' if aligned else 'unaligned'}"
            places = boxes(size, edge, aligned=aligned)
            return Case(name, "dvidzarr", over(places, view.read), edge**3, catalog.context.chunk_cache.clear)

        small = own(BLOCK, aligned=True)
        follower = Case(small.name, "dvidzarr, following", over(boxes(size, BLOCK, aligned=True), followed.read), BLOCK**3)
        one = Case(small.name, "decoding only", decoder.one, BLOCK**3)
        yield group(BLOCK, aligned=True, ours={"": small, "follower": follower}, more=(one,))

        middle = own(2 * BLOCK, aligned=False)
        again = over(boxes(size, 2 * BLOCK, aligned=False), view.read)
        cached = Case(middle.name, "dvidzarr, from its cache", again, (2 * BLOCK) ** 3)
        yield group(2 * BLOCK, aligned=False, ours={"": middle})
        yield [own_again(middle), cached]

        large = own(size, aligned=True)
        out = np.empty((size,) * 3, np.uint8)
        reuse = Case(large.name, "dvidzarr, into a given array", lambda: view.reader(_all(size)).read(out=out), size**3)
        every = Case(large.name, "decoding only", decoder.all, size**3)
        yield group(size, aligned=True, ours={"": large, "reuse": reuse}, more=(every,))


def own_again(case: Case) -> Case:
    return case


def _all(size: int) -> Box:
    return Box((0, 0, 0), (size,) * 3)
