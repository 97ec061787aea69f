"""A store can be read by the words of api/formats/store.md alone: what such a reader finds is what the API gives."""

import ast
import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.geometry import Box
from dvidzarr.core.settings import Settings
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.repo import Repo
from tests.integration import plain_reader
from tests.integration.plain_reader import PlainStore

EDGE = 4
CORNERS = [(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
WORLD = Box((0, 0, 0), (2 * EDGE, 2 * EDGE, 2 * EDGE))
VOLUMES = {"gray": "uint8blk", "deep": "uint16blk", "labels": "labelblk", "heights": "float32blk"}
SETTINGS = Settings.load(env={}, overrides={"storage.rewrite_grace_s": 0})


def noise(seed: int, box: Box = WORLD) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 200, box.shape, np.uint8)


def box_of(coord: tuple[int, ...]) -> Box:
    z, y, x = (EDGE * at for at in coord)
    return Box((z, y, x), (z + EDGE, y + EDGE, x + EDGE))


def write(repo: Repo, seed: int) -> None:
    """Write the volumes of the head of master once, one chunk twice more; keys in records, batches and blobs."""
    for name in VOLUMES:
        view: Any = repo.instance(name).at()
        dtype = view.instance.dtype
        view[0:8, 0:8, 0:8] = noise(seed).astype(dtype)
        for again in (1, 2):
            view[0:4, 4:8, 0:4] = noise(seed + again, box_of((0, 1, 0))).astype(dtype)
        asyncio.run(view.store().delete(f"0/c/0/0/{seed % 2}"))
    for name in ("notes", "loose"):
        keys: Any = repo.instance(name).at()
        keys.update(
            {"a": b"%d" % seed, "é/ü": b"", f"only {seed}": b"x" * 2000, "large": bytes(70_000 + seed)}
        )
        keys["b"] = b"b" * seed
        keys["blob"] = b"%d" % seed * 80_000
        keys.remove(["a", "never there"] if seed % 2 else ["b"])
        if seed > 10:
            del keys["é/ü"]


def compare(folder: Path, catalog: Catalog) -> None:
    """Compare all that a plain reader finds in a folder with what an open store shows."""
    plain, repo = PlainStore(folder), catalog.repos[0]
    assert [(v.id, v.locked) for v in plain.versions.values()] == [(v.id, v.locked) for v in repo.dag]
    assert set(plain.data) == set(repo.instances)
    for version in repo.dag:
        for name in VOLUMES:
            for coord in CORNERS:
                want: Any = repo.instance(name).at(version).read(box_of(coord))  # type: ignore[attr-defined]
                got = plain.voxels(name, version.id, coord)
                np.testing.assert_array_equal(np.zeros_like(want) if got is None else got, want)
                assert got is None or got.dtype == want.dtype
        for name in ("notes", "loose"):
            view: Any = repo.instance(name).at(version)
            assert plain.items(name, version.id) == dict(view), (name, version.uuid)


def fresh(folder: Path) -> Catalog:
    """Make a store with one open version, written to."""
    catalog = dvidzarr.open(folder, "w", SETTINGS)
    repo = catalog.create_repo("format")
    for name, kind in VOLUMES.items():
        repo.create_instance(kind, name, {"BlockSize": f"{EDGE},{EDGE},{EDGE}"})
    repo.create_instance("keyvalue", "notes")
    repo.create_instance("keyvalue", "loose", {"versioned": "false"})
    write(repo, 2)
    return catalog


def grow(catalog: Catalog) -> None:
    """Lock the version, write into a child, two branches and a merge; rename one instance."""
    repo = catalog.repos[0]
    repo.new_version(repo.commit(repo.dag.head("")))
    write(repo, 11)
    middle = repo.commit(repo.dag.head(""))
    lines = [repo.branch(middle, name) for name in ("left", "right")]
    for number, line in enumerate(lines):
        notes: Any = repo.instance("notes").at(line)
        gray: Any = repo.instance("gray").at(line)
        notes.update({"both": b"%d" % number, f"line {number}": b"1"})
        del notes["b" if number else f"only {2}"]
        gray[0:4, 0:4, 0:4] = 7 + number  # a conflict
        gray[0:4, 0:4, 4:8] = 9  # once more on one line only
        if number:
            asyncio.run(gray.store().delete("0/c/0/0/1"))
        repo.commit(line)
    merged: Any = repo.instance("gray").at(repo.merge(lines))
    merged[4:8, 4:8, 4:8] = 3


@pytest.mark.parametrize("settled", [False, True], ids=["as it is", "finished"])
def test_a_plain_reader_finds_what_the_api_shows(tmp_path: Path, settled: bool) -> None:
    folder, copy = tmp_path / "store", tmp_path / "copy"
    with fresh(folder) as catalog:
        shutil.copytree(folder, copy)  # packs, and zeros behind the frames
        assert list(copy.rglob("rewrites/*/*")), "chunks that were written again lie in packs"
        compare(copy, catalog)
        grow(catalog)
        if settled:
            assert catalog.context.housekeeper.settle(120)
    with dvidzarr.open(folder, "r", SETTINGS) as catalog:
        compare(folder, catalog)


def test_packs_of_locked_versions_go(tmp_path: Path) -> None:
    with fresh(tmp_path / "store") as catalog:
        repo = catalog.repos[0]
        root = repo.commit(repo.dag.head(""))
        assert catalog.context.housekeeper.settle(120)
        assert not list((tmp_path / "store").rglob(f"rewrites/{root.id}/*"))
        compare(tmp_path / "store", catalog)


def test_the_plain_reader_knows_nothing_of_the_package() -> None:
    tree = ast.parse(Path(plain_reader.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = {"json", "struct", "pathlib", "typing", "dataclasses", "numpy", "crc32c", "numcodecs"}
    assert names <= {*allowed, "collections.abc"}
