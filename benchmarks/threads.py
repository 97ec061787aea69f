"""Reading in process with one thread and with one per core, by the size of the chunks: where threads begin to pay."""

from collections.abc import Iterator
from unittest.mock import patch

import dvidzarr
from benchmarks.timing import Case
from benchmarks.volumes import Plan, ingest, voxels_of
from dvidzarr.compute import schedule
from dvidzarr.core.geometry import Box
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes.voxels.view import VoxelView

_BLOCKS = (48, 56, 64, 96, 128)


def cases(plan: Plan) -> Iterator[list[Case]]:
    """Yield both for each size of chunks; nothing is kept in memory."""
    settings = Settings.load(env={}, overrides={"cache.chunk_cache_mb": 0, "storage.durability": "fast"})
    with dvidzarr.open(plan.folder / "threads", "w", settings) as catalog:
        repo = catalog.create_repo("benchmark")
        whole = Box((0, 0, 0), (plan.size,) * 3)
        for edge in _BLOCKS:
            instance = repo.create_instance(
                "uint8blk", f"chunks{edge}", {"BlockSize": f"{edge},{edge},{edge}"}
            )
            view = voxels_of(instance.at())
            ingest(view, plan.data.voxels)
            name = f"read {plan.size}³ from chunks of {edge}³"
            yield [
                Case(name, f"dvidzarr, {who}", _Reading(view, whole, threads=threads), plan.size**3)
                for who, threads in (("one thread", False), ("a thread per core", True))
            ]


class _Reading:
    """Reads a box into memory that was touched before, with threads or without."""

    def __init__(self, view: VoxelView, box: Box, *, threads: bool) -> None:
        self._view = view
        self._box = box
        self._threads = threads
        self._out = view.read(box)

    def __call__(self) -> None:
        """Read it once."""
        least = 0 if self._threads else self._out.nbytes + 1
        with patch.multiple(schedule, _WORTH_THREADS=least, _ALWAYS_WORTH_THREADS=least):
            self._view.reader(self._box).read(out=self._out)
