"""A cache that survives a power loss holds nothing that the log lost: `fast` applies records before they are synced."""

import errno
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dvidzarr.core.errors import StorageError
from dvidzarr.repo.catalog import Catalog
from dvidzarr.storage.caches import DatasetCaches
from dvidzarr.storage.durability import flush
from dvidzarr.storage.logreader import Cursor
from tests.simulation.engine import abandon, open_store, settings_for, small_and_calm
from tests.simulation.simdisk import Disk
from tests.simulation.simos import Fault, SimOs, mounted
from tests.simulation.workload import AUTHOR
from tests.simulation.worlds import REGIONS

BOX = REGIONS[0]
_open_index = DatasetCaches._open


@contextmanager
def running(system: SimOs, cache_dir: Path) -> Iterator[Catalog]:
    """Open the store on a simulated disk, with all its caches in a folder that loses nothing."""
    with small_and_calm(), mounted(system), pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatasetCaches, "_open", _open_index)
        catalog = open_store(settings_for("fast", str(cache_dir)))
        yield catalog
        abandon(catalog)


def view_of(catalog: Catalog) -> Any:  # noqa: ANN401 - of voxels or documents
    return catalog.repos[0].instance("data").at()


def put(catalog: Catalog, value: int) -> None:
    view = view_of(catalog)
    if hasattr(view, "put"):
        view.put("key", bytes([value]))
    else:
        view.write(BOX, np.full(BOX.shape, value, np.uint8), AUTHOR)


def shown(catalog: Catalog) -> int:
    view = view_of(catalog)
    # a listing needs the index: a key alone is answered from the memory
    (value,) = set(dict(view)["key"] if hasattr(view, "put") else view.read(BOX).tobytes())
    return int(value)


def save_while_writing(catalog: Catalog, system: SimOs, *, failing: bool) -> None:
    """Write the caches as the background does; requests come between their stamp and what they hold."""
    dataset = view_of(catalog).instance.dataset
    stamp = dataset.caches.stamp

    def stamp_and_write(cursor: Cursor) -> dict[str, Any]:
        made: dict[str, Any] = stamp(cursor)
        for _ in range(3):
            put(catalog, 2)
        if failing:
            system.faults.append(Fault("fsync", 1, errno.EIO))
            with pytest.raises(StorageError):
                flush(dataset)
        return made

    dataset.caches.stamp = stamp_and_write
    with suppress(StorageError):
        dataset.save_caches()


@pytest.mark.parametrize("failing", [False, True], ids=["works", "fails"])
@pytest.mark.parametrize("kind", ["uint8blk", "keyvalue"])
def test_no_cache_is_ahead_of_the_log(tmp_path: Path, kind: str, failing: bool) -> None:
    system = SimOs(Disk())
    with running(system, tmp_path / "caches") as catalog:
        catalog.create_repo("first").create_instance(kind, "data", {"BlockSize": "8,8,8"})
        put(catalog, 1)
        flush(view_of(catalog).instance.dataset)
        save_while_writing(catalog, system, failing=failing)
    (tmp_path / "caches").mkdir(exist_ok=True)  # not there if none were written
    chance = random.Random(7)
    for number in range(40):
        caches = tmp_path / str(number)
        shutil.copytree(tmp_path / "caches", caches)
        left = SimOs(Disk.after(system.disk.survivors(chance)))
        with running(left, caches) as catalog:
            assert shown(catalog) in {1, 2}
            put(catalog, 3)
            assert shown(catalog) == 3
        with running(left, caches) as catalog:
            assert shown(catalog) == 3
