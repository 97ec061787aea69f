"""Writing: one chunk and whole volumes, in process and over HTTP, acknowledged durable or before the flush."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import orjson

import dvidzarr
from benchmarks.process import Client, running, serve
from benchmarks.reads import slices
from benchmarks.served import raw_path
from benchmarks.timing import Case
from benchmarks.volumes import BLOCK, Plan, boxes, ingest, over, settings, voxels_of
from dvidzarr.core.geometry import Box
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.repo import Repo

_CHUNKS = 150
_TOGETHER = 8
_FAR = 1 << 16
"""Number of the first chunk that several threads write: those of one thread lie before it."""
_INGESTS = 3
_MODES = ("full", "fast")
_CONFIG = {"BlockSize": ",".join([str(BLOCK)] * 3)}
_RECORD_BYTES = 256


class Bare:
    """The floor of a durable write: a file and its folder synced, then a record appended and synced."""

    def __init__(self, folder: Path, data: bytes) -> None:
        folder.mkdir()
        self._folder, self._data, self._numbers = folder, data, count()
        self._entries = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self) -> None:
        """Write one object and its record."""
        file = os.open(self._folder / f"{next(self._numbers)}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(file, self._data)
        os.fsync(file)
        os.close(file)
        os.fsync(self._entries)
        os.write(self._log, bytes(_RECORD_BYTES))
        os.fdatasync(self._log)

    def close(self) -> None:
        """Close the files."""
        os.close(self._entries)
        os.close(self._log)


class Fresh:
    """A new, empty instance for each ingest."""

    def __init__(self, repo: Repo) -> None:
        self._repo, self._numbers = repo, count()
        self.view: VoxelView = self._next()

    def _next(self) -> VoxelView:
        name = f"gray{next(self._numbers)}"
        return voxels_of(self._repo.create_instance("uint8blk", name, _CONFIG).at())

    def renew(self) -> None:
        """Make the next one."""
        self.view = self._next()

    def ingest(self, voxels: np.ndarray) -> None:
        """Write the volume into the newest."""
        ingest(self.view, voxels)


def _write(view: VoxelView, chunk: np.ndarray, box: Box) -> None:
    view.write(box, chunk)


def cases(plan: Plan) -> Iterator[list[Case]]:
    """Yield groups of cases that do the same."""
    chunk = np.ascontiguousarray(plan.data.voxels[:BLOCK, :BLOCK, :BLOCK])
    os.sync()  # else the first fsync pays for what the groups before wrote
    yield from _in_process(plan, chunk)
    yield from _over_http(plan, chunk)


def _in_process(plan: Plan, chunk: np.ndarray) -> Iterator[list[Case]]:
    one, rewrite, together, whole = [], [], [], []
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(_TOGETHER))
        for mode in _MODES:
            catalog = stack.enter_context(dvidzarr.open(plan.folder / f"write-{mode}", "w", settings(mode)))
            fresh = Fresh(catalog.create_repo("write"))
            first = fresh.view
            write = partial(_write, first, chunk)
            again = over(boxes(BLOCK * 2, BLOCK, aligned=True), write)
            who = f"dvidzarr, {mode}"
            one.append(Case("write 64³", who, _next_chunk(plan, write), chunk.nbytes, calls=_CHUNKS))
            rewrite.append(Case("write 64³ again", who, again, chunk.nbytes, calls=_CHUNKS))
            several = partial(_at_once, pool, _next_chunk(plan, write, _FAR))
            size = _TOGETHER * chunk.nbytes
            together.append(Case(f"write {_TOGETHER} × 64³ at once", who, several, size, calls=_CHUNKS // 4))
            run = partial(fresh.ingest, plan.data.voxels)
            whole.append(
                Case(f"ingest {plan.size}³", who, run, plan.data.voxels.nbytes, fresh.renew, calls=_INGESTS)
            )
        bare = Bare(plan.folder / "bare", bytes(first.chunks.codec.encode(chunk).data))
        stack.callback(bare.close)
        zarr = ZarrWriter(plan)
        one += [
            Case("write 64³", "file and record, synced", bare.write, chunk.nbytes, calls=_CHUNKS),
            Case(
                "write 64³",
                "zarr-python, not synced",
                _next_chunk(plan, zarr.write_chunk(chunk)),
                chunk.nbytes,
                calls=_CHUNKS,
            ),
        ]
        whole.append(
            Case(
                f"ingest {plan.size}³",
                "zarr-python, not synced",
                zarr.ingest,
                plan.data.voxels.nbytes,
                zarr.renew,
                _INGESTS,
            )
        )
        yield one
        yield rewrite
        yield together
        yield whole


class ZarrWriter:
    """zarr-python with the same chunks and codecs. It never syncs: what `fast` is to be compared with."""

    def __init__(self, plan: Plan) -> None:
        self._folder, self._voxels, self._numbers = plan.folder / "zarr", plan.data.voxels, count()
        self.renew()

    def renew(self) -> None:
        """Make the next, empty array."""
        import zarr  # noqa: PLC0415 - loaded when the benchmark runs, not when tests collect it
        from zarr.codecs import BloscCodec, Crc32cCodec  # noqa: PLC0415

        self._array = zarr.create_array(
            self._folder / str(next(self._numbers)),
            shape=(1 << 20, *self._voxels.shape[1:]),
            chunks=(BLOCK,) * 3,
            dtype=self._voxels.dtype,
            compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="noshuffle", typesize=1), Crc32cCodec()],
        )

    def write_chunk(self, chunk: np.ndarray) -> Callable[[Box], None]:
        """Return a function that writes a chunk at a box."""

        def write(box: Box) -> None:
            self._array[slices(box)] = chunk

        return write

    def ingest(self) -> None:
        """Write the volume in the slabs of `volumes.ingest`."""
        for z in range(0, len(self._voxels), BLOCK):
            self._array[z : z + BLOCK] = self._voxels[z : z + BLOCK]


def _at_once(pool: ThreadPoolExecutor, write: Callable[[], object]) -> None:
    for future in [pool.submit(write) for _ in range(_TOGETHER)]:
        future.result()


def _next_chunk(plan: Plan, write: Callable[[Box], object], first: int = 0) -> Callable[[], object]:
    """Return a function that writes one more chunk at each call: x fastest, as wide as the volume, endless in z."""
    numbers, edge = count(first), plan.size // BLOCK

    def run() -> None:
        number = next(numbers)
        z, y, x = (at * BLOCK for at in (number // edge**2, number // edge % edge, number % edge))
        write(Box((z, y, x), (z + BLOCK, y + BLOCK, x + BLOCK)))

    return run


def _over_http(plan: Plan, chunk: np.ndarray) -> Iterator[list[Case]]:
    one, rewrite, whole = [], [], []
    with ExitStack() as stack:
        for mode in _MODES:
            server = stack.enter_context(running(*serve(plan.folder / f"post-{mode}", mode)))
            poster = Poster(server.url)
            stack.callback(poster.client.close)
            who = f"dvidzarr serve, {mode}"
            write = _next_chunk(plan, poster.write(chunk))
            again = over(boxes(BLOCK * 2, BLOCK, aligned=True), poster.write(chunk))
            one.append(Case("POST 64³", who, write, chunk.nbytes, calls=_CHUNKS))
            rewrite.append(Case("POST 64³ again", who, again, chunk.nbytes, calls=_CHUNKS))
            run = partial(poster.ingest, plan.data.voxels)
            whole.append(
                Case(f"POST {plan.size}³ in slabs", who, run, plan.data.voxels.nbytes, poster.renew, _INGESTS)
            )
        yield one
        yield rewrite
        yield whole


class Poster:
    """A client with a repo of its own on a server, and a new instance for each ingest."""

    def __init__(self, url: str) -> None:
        self.client = Client(url)
        self.root: str = orjson.loads(self.client.send("/api/repos", b'{"alias": "post"}'))["root"]
        self._numbers = count()
        self.renew()

    def renew(self) -> None:
        """Make the next, empty instance."""
        self.name = f"gray{next(self._numbers)}"
        config = {"typename": "uint8blk", "dataname": self.name, **_CONFIG}
        self.client.send(f"/api/repo/{self.root}/instance", orjson.dumps(config))

    def write(self, chunk: np.ndarray) -> Callable[[Box], object]:
        """Return a function that posts a chunk at a box."""
        name, body = self.name, memoryview(chunk).cast("B")
        return lambda box: self.client.send(raw_path(self.root, box, name), body)

    def ingest(self, voxels: np.ndarray) -> None:
        """Post the volume in the slabs of `volumes.ingest`."""
        for z in range(0, len(voxels), BLOCK):
            slab = voxels[z : z + BLOCK]
            box = Box((z, 0, 0), (z + len(slab), *slab.shape[1:]))
            self.client.send(raw_path(self.root, box, self.name), memoryview(slab).cast("B"))
