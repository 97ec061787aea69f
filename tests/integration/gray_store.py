"""A store with a small gray volume of eight chunks, for tests that look at what lies on the disk."""

from pathlib import Path

import numpy as np

import dvidzarr
from dvidzarr.core.geometry import Box
from dvidzarr.core.ids import Author
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.view import View
from dvidzarr.storage.writing import put_document

AUTHOR = Author("durability", "test")
BOX = Box((0, 0, 0), (8, 8, 8))


def settings_for(durability: str, interval: float = 1000) -> Settings:
    overrides = {"storage.durability": durability, "storage.rewrite_grace_s": 0, "compute.threads": 1}
    return Settings.load(env={}, overrides={**overrides, "storage.flush_interval_s": interval})


FULL, FAST = settings_for("full"), settings_for("fast")


def write(view: VoxelView, value: int, box: Box = BOX) -> None:
    view.write(box, np.full(box.shape, value, np.uint8), AUTHOR)


def put(view: View, value: bytes, key: bytes = b"key") -> None:
    with view.writing() as dataset:
        put_document(dataset, view.ordinal, key, value, AUTHOR, {})


def gray(catalog: Catalog, name: str = "gray") -> VoxelView:
    return catalog.repos[0].instance(name).at()


def new_store(folder: Path, settings: Settings, *names: str) -> None:
    with dvidzarr.open(folder, "w", settings) as catalog:
        repo = catalog.create_repo("durability")
        for name in names or ("gray",):
            repo.create_instance("uint8blk", name, {"BlockSize": "4,4,4"})
            write(gray(catalog, name), 1)
