"""The engine as a simulation runs it: in one thread, with small files, and with caches outside the simulated disk."""

import heapq
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any
from unittest.mock import patch

from dvidzarr.compute.schedule import Scheduler
from dvidzarr.core.errors import DvidzarrError
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes import BUILTIN
from dvidzarr.repo import store
from dvidzarr.repo.catalog import Catalog
from dvidzarr.storage import dataset, log, segmentfile, writing
from dvidzarr.storage.caches import DatasetCaches
from dvidzarr.storage.documents import Documents
from dvidzarr.storage.locks import Stripes

STORE = "/simulated/store"
LOGGED = 100
"""Values above this are blobs here, so that blobs are cheap."""
SEGMENT_SIZE = 3000


class InlineHousekeeper:
    """Background tasks, run when the test says so."""

    def __init__(self) -> None:
        self._tasks: list[tuple[float, int, Hashable, Callable[[], None]]] = []
        self._count = 0

    def schedule(self, delay: float, name: Hashable, task: Callable[[], None], **_: bool) -> None:
        """Keep a task, unless one of that name waits."""
        if all(name != waiting for _, _, waiting, _ in self._tasks):
            self._count += 1
            heapq.heappush(self._tasks, (delay, self._count, name, task))

    def run(self) -> None:
        """Run what waits, the most urgent first; what that schedules waits for the next time."""
        tasks, self._tasks = self._tasks, []
        for _, _, _, task in sorted(tasks):
            with suppress(DvidzarrError):  # logged and forgotten, as by the real one
                task()

    def close(self) -> None:
        """Forget what waits."""
        self._tasks.clear()


class InlineScheduler(Scheduler):
    """Work in the calling thread."""

    def write(self, work: Callable[[int], Any], count: int) -> list[Any]:
        """Call one after the other."""
        return [work(index) for index in range(count)]

    encode = write


def _index_in_memory(caches: DatasetCaches) -> Documents:
    return Documents(":memory:", caches._versions)


@contextmanager
def small_and_calm() -> Iterator[None]:
    """Let files be small and everything happen in one thread."""
    with ExitStack() as stack:
        for target, name, value in (
            (store, "Housekeeper", InlineHousekeeper),
            (store, "Scheduler", InlineScheduler),
            (log, "SEGMENT_SIZE", SEGMENT_SIZE),
            (segmentfile, "AHEAD_LEAST", 300),
            (segmentfile, "AHEAD_MOST", 900),
            (segmentfile, "_FRAMES_AHEAD", 0),
            (writing, "LOGGED", LOGGED),
            (dataset, "Stripes", partial(Stripes, 4)),
            (DatasetCaches, "_open", _index_in_memory),
        ):
            stack.enter_context(patch.object(target, name, value))
        yield


def settings_for(durability: str, cache_dir: str) -> Settings:
    """Return settings with caches outside the simulated disk."""
    overrides = {
        "storage.durability": durability,
        "storage.cache_dir": cache_dir,
        "storage.drain_timeout_s": 0,
        "compute.threads": 1,
        "cache.chunk_cache_mb": 0,
    }
    return Settings.load(env={}, overrides=overrides)


def open_store(settings: Settings, *, full_write: bool = False) -> Catalog:
    """Open the store on the mounted disk for writing."""
    return Catalog(STORE, "w", settings, BUILTIN, None, full_write=full_write)


def abandon(catalog: Catalog) -> None:
    """Let go of what is not on the simulated disk, as the death of the process does."""
    for repo in catalog._repos.values():
        for instance in repo._instances.values():
            if instance.opened:
                instance.dataset.caches.close()
