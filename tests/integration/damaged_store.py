"""A store with something of everything, for tests that damage it, and how they do."""

import shutil
from pathlib import Path

import numpy as np

import dvidzarr
from dvidzarr.core.geometry import Box
from dvidzarr.core.ids import Author
from dvidzarr.core.settings import Settings
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.repo import Repo
from dvidzarr.storage.writing import put_document

AUTHOR = Author("damage", "test")
WORLD = Box((0, 0, 0), (8, 8, 8))
SETTINGS = Settings.load(env={}, overrides={"storage.rewrite_grace_s": 0, "compute.threads": 1})
DOCUMENTS = {b"small": b"s" * 20, b"logged": b"l" * 1500, b"blob": b"b" * 70_000}


def noise(seed: int, shape: tuple[int, ...] = (8, 8, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def new_store(folder: Path) -> Path:
    """Make two locked versions and an open one, two instances, documents of every size; closed."""
    with dvidzarr.open(folder, "w", SETTINGS) as catalog:
        repo = catalog.create_repo("damage")
        for number, name in enumerate(("gray", "other")):
            repo.create_instance("uint8blk", name, {"BlockSize": "4,4,4"})
            fill(repo, name, 10 * number)
        for step in (1, 2):
            repo.new_version(repo.commit(repo.dag.head("")))
            fill(repo, "gray", step)
        assert catalog.context.housekeeper.settle(120)
    return folder


def fill(repo: Repo, name: str, seed: int) -> None:
    view = repo.instance(name).at()
    view.write(WORLD, noise(seed), AUTHOR)
    view.write(Box((1, 1, 1), (6, 6, 6)), noise(seed + 100, (5, 5, 5)), AUTHOR)
    for key, value in DOCUMENTS.items():
        with view.writing() as dataset:
            put_document(dataset, view.ordinal, key, value + b"%d" % seed, AUTHOR, {})


def flip(path: Path, at: int | None = None) -> None:
    """Change a byte of a file, by default the one in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


def views(catalog: Catalog) -> list[np.ndarray]:
    """Return what the versions show."""
    gray = catalog.repos[0].instance("gray")
    return [gray.at(version).read(WORLD) for version in catalog.repos[0].dag]


def instance_log(folder: Path, catalog: Catalog, name: str) -> Path:
    instance = catalog.repos[0].instance(name)
    return folder / instance.prefix / "log/00000001.log"


def damage_after(folder: Path, name: str, version: int) -> None:
    """Flip a bit of the first record of a version in an instance's log; drop the caches, which know better."""
    with dvidzarr.open(folder, "r", SETTINGS) as catalog:
        repo = catalog.repos[0]
        ids = repo.dag.versions[version].id
        records = [e for e in repo.instance(name).records() if e.header.get("v") == ids]
        path = instance_log(folder, catalog, name)
        at = records[0].offset
    flip(path, at)
    shutil.rmtree(folder / "cache")
