"""The stores that are measured, and what a group of cases needs to know."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TypeVar

import numpy as np
import orjson

import dvidzarr
from benchmarks.datasets import Dataset
from dvidzarr.core.geometry import Box
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.view import View

T = TypeVar("T")

BLOCK = 64
GRAY = "gray"
_FINISH_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured and how long.

    Attributes
    ----------
    folder
        Everything is written below it.
    seconds
        Time given to each case.
    depths
        Numbers of versions between a chunk, or a key, and its reader.
    keys
        Numbers of keys in an instance.
    """

    folder: Path
    data: Dataset
    seconds: float
    depths: tuple[int, ...] = (1, 100, 1000)
    keys: tuple[int, ...] = (1000, 100_000)

    @property
    def size(self) -> int:
        """Edge of the volume in voxels."""
        return len(self.data.voxels)


@dataclass(frozen=True, slots=True)
class Built:
    """A store with the volume as `gray` in a locked root version, whose folder plain Zarr readers open."""

    store: Path
    root: str
    array: Path


def settings(durability: str = "full") -> Settings:
    """Return the defaults with a durability."""
    return Settings.load(env={}, overrides={"storage.durability": durability})


def build(plan: Plan, name: str = "store") -> Built:
    """Ingest the volume and lock it; return when the root's folder says so."""
    store = plan.folder / name
    with dvidzarr.open(store, "w", settings("fast")) as catalog:
        repo = catalog.create_repo("benchmark")
        instance = repo.create_instance("uint8blk", GRAY, {"BlockSize": ",".join([str(BLOCK)] * 3)})
        ingest(voxels_of(instance.at()), plan.data.voxels)
        repo.commit(repo.dag.root)
        array = store / instance.prefix / "versions" / repo.dag.root.id / "0"
        _await_locked(array)
        return Built(store, repo.root, array)


def ingest(view: VoxelView, voxels: np.ndarray) -> None:
    """Write a volume in slabs of one layer of chunks."""
    for z in range(0, len(voxels), BLOCK):
        slab = voxels[z : z + BLOCK]
        view.write(Box((z, 0, 0), (z + len(slab), *slab.shape[1:])), slab)


def _await_locked(array: Path) -> None:
    deadline = time.monotonic() + _FINISH_PATIENCE_S
    while time.monotonic() < deadline:
        document = array / "zarr.json"
        if document.is_file():
            attributes = orjson.loads(document.read_bytes())["attributes"]["dvidzarr"]
            if attributes["state"] == "locked":
                return
        time.sleep(0.05)
    raise TimeoutError(f"{array} was not finished within {_FINISH_PATIENCE_S} s")


def gray_view(catalog: Catalog, root: str) -> VoxelView:
    """Return the volume of a store that `build` made."""
    return voxels_of(catalog.repo(root).instance(GRAY).at(root))


def voxels_of(view: View) -> VoxelView:
    """Return a view whose instance is known to hold voxels."""
    if not isinstance(view, VoxelView):
        raise TypeError(f"{view!r} holds no voxels")
    return view


def boxes(size: int, edge: int, *, aligned: bool, seed: int = 7) -> list[Box]:
    """Return the boxes that every contestant reads, in this order."""
    draw = random.Random(seed)
    step = BLOCK if aligned else 1
    starts = [[step * draw.randint(0, (size - edge) // step) for _ in range(3)] for _ in range(200)]
    if not aligned and size > edge:
        starts = [
            [at + 1 if at % BLOCK == 0 and at + edge < size else at for at in start] for start in starts
        ]
    return [Box((z, y, x), (z + edge, y + edge, x + edge)) for z, y, x in starts]


def over(places: Sequence[T], do: Callable[[T], object]) -> Callable[[], object]:
    """Return a function that does it with the next of the places at each call."""
    endless = cycle(places)
    return lambda: do(next(endless))
